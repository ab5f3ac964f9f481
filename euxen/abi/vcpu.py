"""HYPERVISOR_vcpu_op(cmd, vcpuid, extra_args). xen/include/public/vcpu.h"""

from __future__ import annotations

from euxen.abi.structure import Structure, Union, array, nested, s32, u32, u64

VCPUOP_initialise = 0  # VcpuGuestContext (PV) or struct vcpu_hvm_context (HVM, PVH); once for each vCPU
VCPUOP_up = 1  # no argument: make it runnable
VCPUOP_down = 2  # no argument: may return before the vCPU stops
VCPUOP_is_up = 3  # no argument: returns 1 or 0
VCPUOP_get_runstate_info = 4  # VcpuRunstateInfo
VCPUOP_register_runstate_memory_area = 5  # VcpuRegisterRunstateMemoryArea
VCPUOP_set_periodic_timer = 6  # VcpuSetPeriodicTimer
VCPUOP_stop_periodic_timer = 7  # no argument
VCPUOP_set_singleshot_timer = 8  # VcpuSetSingleshotTimer
VCPUOP_stop_singleshot_timer = 9  # no argument
VCPUOP_register_vcpu_info = 10  # VcpuRegisterVcpuInfo; once for each vCPU
VCPUOP_send_nmi = 11  # no argument
VCPUOP_get_physid = 12  # VcpuGetPhysid; pinned vCPUs only
VCPUOP_register_vcpu_time_memory_area = 13  # VcpuRegisterTimeMemoryArea

RUNSTATE_running = 0  # on a pCPU
RUNSTATE_runnable = 1  # waits for a pCPU
RUNSTATE_blocked = 2  # waits for an event
RUNSTATE_offline = 3  # neither: not up, or paused

XEN_RUNSTATE_UPDATE = 1 << 63  # set in state_entry_time during an update; see VMASST_TYPE_runstate_update_flag


class VcpuRunstateInfo(Structure):
    """struct vcpu_runstate_info. xen/include/public/vcpu.h"""

    state: int = s32()  # RUNSTATE_*
    state_entry_time: int = u64()  # system time in ns
    time: tuple[int, ...] = array(u64(), 4)  # ns spent in each RUNSTATE_*


class VcpuRegisterRunstateMemoryAreaAddr(Union):
    """addr of struct vcpu_register_runstate_memory_area. xen/include/public/vcpu.h"""

    h: int = u64()  # guest pointer to VcpuRunstateInfo
    v: int = u64()  # virtual address of it
    p: int = u64()  # physical address of it


class VcpuRegisterRunstateMemoryArea(Structure):
    """struct vcpu_register_runstate_memory_area. xen/include/public/vcpu.h"""

    addr: VcpuRegisterRunstateMemoryAreaAddr = nested(VcpuRegisterRunstateMemoryAreaAddr)


class VcpuSetPeriodicTimer(Structure):
    """struct vcpu_set_periodic_timer. xen/include/public/vcpu.h"""

    period_ns: int = u64()


VCPU_SSHOTTMR_future = 1 << 0  # fail with -ETIME where the time has passed


class VcpuSetSingleshotTimer(Structure):
    """struct vcpu_set_singleshot_timer. xen/include/public/vcpu.h"""

    timeout_abs_ns: int = u64()  # system time in ns
    flags: int = u32()  # VCPU_SSHOTTMR_*


class VcpuRegisterVcpuInfo(Structure):
    """struct vcpu_register_vcpu_info. xen/include/public/vcpu.h

    Moves a vCPU's VcpuInfo out of shared_info; it may not cross a page boundary.
    """

    mfn: int = u64()
    offset: int = u32()  # within the page, in bytes
    rsvd: int = u32()


class VcpuGetPhysid(Structure):
    """struct vcpu_get_physid. xen/include/public/vcpu.h"""

    phys_id: int = u64()  # OUT: APIC id in the low 32 bits, ACPI id in the high ones


def xen_vcpu_physid_to_x86_apicid(physid: int) -> int:
    """The APIC id in a ``phys_id``. xen/include/public/vcpu.h"""
    return physid & 0xFFFFFFFF


def xen_vcpu_physid_to_x86_acpiid(physid: int) -> int:
    """The ACPI id in a ``phys_id``. xen/include/public/vcpu.h"""
    return physid >> 32


class VcpuRegisterTimeMemoryAreaAddr(Union):
    """addr of struct vcpu_register_time_memory_area. xen/include/public/vcpu.h"""

    h: int = u64()  # guest pointer to VcpuTimeInfo
    v: int = u64()  # virtual address of it
    p: int = u64()  # physical address of it


class VcpuRegisterTimeMemoryArea(Structure):
    """struct vcpu_register_time_memory_area. xen/include/public/vcpu.h

    A second copy of a vCPU's VcpuTimeInfo, which the guest may show to user space.
    """

    addr: VcpuRegisterTimeMemoryAreaAddr = nested(VcpuRegisterTimeMemoryAreaAddr)
