"""HYPERVISOR_hvm_op: what HVM and PVH domains ask of Xen. xen/include/public/hvm/hvm_op.h

Every command has its number here; those that euxen knows have their structure.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, array, u8, u16, u32, u64

HVMOP_set_param = 0  # XenHvmParam
HVMOP_get_param = 1  # XenHvmParam
HVMOP_flush_tlbs = 5  # no argument: of all vCPUs
HVMOP_pagetable_dying = 9  # XenHvmPagetableDying: a hint
HVMOP_get_time = 10  # XenHvmGetTime
HVMOP_xentrace = 11
HVMOP_set_mem_access = 12
HVMOP_get_mem_access = 13
HVMOP_get_mem_type = 15  # XenHvmGetMemType
HVMOP_set_evtchn_upcall_vector = 23  # XenHvmEvtchnUpcallVector
HVMOP_guest_request_vm_event = 24
HVMOP_altp2m = 25


class XenHvmParam(Structure):
    """struct xen_hvm_param. xen/include/public/hvm/hvm_op.h"""

    domid: int = u16()
    pad: int = u16()
    index: int = u32()  # HVM_PARAM_*
    value: int = u64()  # IN or OUT


class XenHvmPagetableDying(Structure):
    """struct xen_hvm_pagetable_dying. xen/include/public/hvm/hvm_op.h"""

    domid: int = u16()
    pad: tuple[int, ...] = array(u16(), 3)
    gpa: int = u64()  # guest physical address of the top page table


class XenHvmGetTime(Structure):
    """struct xen_hvm_get_time. xen/include/public/hvm/hvm_op.h"""

    now: int = u64()  # OUT: system time in ns


# hvmmem_type_t
HVMMEM_ram_rw = 0
HVMMEM_ram_ro = 1  # writes are discarded
HVMMEM_mmio_dm = 2  # accesses go to the device model
HVMMEM_unused = 3
HVMMEM_ioreq_server = 4


class XenHvmGetMemType(Structure):
    """struct xen_hvm_get_mem_type. xen/include/public/hvm/hvm_op.h"""

    domid: int = u16()
    mem_type: int = u16()  # OUT: HVMMEM_*
    pad: tuple[int, ...] = array(u16(), 2)
    pfn: int = u64()


class XenHvmEvtchnUpcallVector(Structure):
    """struct xen_hvm_evtchn_upcall_vector. xen/include/public/hvm/hvm_op.h

    Events reach this vCPU by ``vector`` instead of HVM_PARAM_CALLBACK_IRQ.
    """

    vcpu: int = u32()
    vector: int = u8()
