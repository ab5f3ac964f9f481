"""Structures as a 32-bit guest has them, where that is not as a 64-bit one does.

Pointers, ``unsigned long`` and frame numbers have 32 bits, and 64-bit numbers are aligned to 4 bytes. Of HVM guests:
there are no 32-bit PV guests. xen/include/public/xen.h and others.
"""

from __future__ import annotations

from typing import Any

from euxen.abi.arch_x86_xen import XEN_LEGACY_MAX_VCPUS
from euxen.abi.structure import Field, Structure, Union, array, nested, s16, s32, u8, u16, u32
from euxen.abi.xen import VcpuTimeInfo


def _u64() -> Any:
    """An unsigned 64-bit integer as the i386 System V ABI aligns it."""
    return Field("Q", 8, 4, 0)


class CompatVcpuInfo(Structure):
    """struct vcpu_info. xen/include/public/xen.h"""

    evtchn_upcall_pending: int = u8()
    evtchn_upcall_mask: int = u8()
    evtchn_pending_sel: int = u32()
    arch: tuple[int, ...] = array(u32(), 6)
    time: tuple[int, ...] = array(u32(), VcpuTimeInfo.size // 4)  # VcpuTimeInfo


class CompatArchSharedInfo(Structure):
    """struct arch_shared_info. xen/include/public/arch-x86/xen.h"""

    max_pfn: int = u32()
    pfn_to_mfn_frame_list_list: int = u32()
    nmi_reason: int = u32()
    p2m_cr3: int = u32()
    p2m_vaddr: int = u32()
    p2m_generation: int = u32()
    wc_sec_hi: int = u32()


class CompatSharedInfo(Structure):
    """struct shared_info. xen/include/public/xen.h"""

    vcpu_info: tuple[CompatVcpuInfo, ...] = array(nested(CompatVcpuInfo), XEN_LEGACY_MAX_VCPUS)
    evtchn_pending: tuple[int, ...] = array(u32(), 32)
    evtchn_mask: tuple[int, ...] = array(u32(), 32)
    wc_version: int = u32()
    wc_sec: int = u32()
    wc_nsec: int = u32()
    arch: CompatArchSharedInfo = nested(CompatArchSharedInfo)


class CompatMulticallEntry(Structure):
    """struct multicall_entry. xen/include/public/xen.h"""

    op: int = u32()
    result: int = u32()
    args: tuple[int, ...] = array(u32(), 6)


class CompatVcpuRunstateInfo(Structure):
    """struct vcpu_runstate_info. xen/include/public/vcpu.h"""

    state: int = s32()
    state_entry_time: int = _u64()
    time: tuple[int, ...] = array(_u64(), 4)


class CompatVcpuSetSingleshotTimer(Structure):
    """struct vcpu_set_singleshot_timer. xen/include/public/vcpu.h"""

    timeout_abs_ns: int = _u64()
    flags: int = u32()


class CompatSchedPoll(Structure):
    """struct sched_poll. xen/include/public/sched.h"""

    ports: int = u32()
    nr_ports: int = u32()
    timeout: int = _u64()


class CompatPlatformParameters(Structure):
    """struct xen_platform_parameters. xen/include/public/version.h"""

    virt_start: int = u32()


class CompatMemoryReservation(Structure):
    """struct xen_memory_reservation. xen/include/public/memory.h"""

    extent_start: int = u32()
    nr_extents: int = u32()
    extent_order: int = u32()
    mem_flags: int = u32()
    domid: int = u16()


class CompatMemoryExchange(Structure):
    """struct xen_memory_exchange. xen/include/public/memory.h"""

    in_: CompatMemoryReservation = nested(CompatMemoryReservation)
    out: CompatMemoryReservation = nested(CompatMemoryReservation)
    nr_exchanged: int = u32()


class CompatMachphysMfnList(Structure):
    """struct xen_machphys_mfn_list. xen/include/public/memory.h"""

    max_extents: int = u32()
    extent_start: int = u32()
    nr_extents: int = u32()


class CompatAddToPhysmap(Structure):
    """struct xen_add_to_physmap. xen/include/public/memory.h"""

    domid: int = u16()
    size_: int = u16()
    space: int = u32()
    idx: int = u32()
    gpfn: int = u32()


class CompatAddToPhysmapBatch(Structure):
    """struct xen_add_to_physmap_batch. xen/include/public/memory.h"""

    domid: int = u16()
    space: int = u16()
    size_: int = u16()
    u: int = u16()  # XenAddToPhysmapBatchExtra
    idxs: int = u32()
    gpfns: int = u32()
    errs: int = u32()


class CompatRemoveFromPhysmap(Structure):
    """struct xen_remove_from_physmap. xen/include/public/memory.h"""

    domid: int = u16()
    gpfn: int = u32()


class CompatMemoryMap(Structure):
    """struct xen_memory_map. xen/include/public/memory.h"""

    nr_entries: int = u32()
    buffer: int = u32()


class CompatForeignMemoryMap(Structure):
    """struct xen_foreign_memory_map. xen/include/public/memory.h"""

    domid: int = u16()
    map: CompatMemoryMap = nested(CompatMemoryMap)


class CompatGnttabSetupTable(Structure):
    """struct gnttab_setup_table. xen/include/public/grant_table.h"""

    dom: int = u16()
    nr_frames: int = u32()
    status: int = s16()
    frame_list: int = u32()


class CompatGnttabCopyPtrU(Union):
    """u of struct gnttab_copy_ptr. xen/include/public/grant_table.h"""

    ref: int = u32()
    gmfn: int = u32()


class CompatGnttabCopyPtr(Structure):
    """struct gnttab_copy_ptr. xen/include/public/grant_table.h"""

    u: CompatGnttabCopyPtrU = nested(CompatGnttabCopyPtrU)
    domid: int = u16()
    offset: int = u16()


class CompatGnttabCopy(Structure):
    """struct gnttab_copy. xen/include/public/grant_table.h"""

    source: CompatGnttabCopyPtr = nested(CompatGnttabCopyPtr)
    dest: CompatGnttabCopyPtr = nested(CompatGnttabCopyPtr)
    len: int = u16()
    flags: int = u16()
    status: int = s16()
