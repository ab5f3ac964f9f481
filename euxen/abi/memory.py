"""HYPERVISOR_memory_op: a domain's memory. xen/include/public/memory.h

mfn is a machine frame, gfn a guest frame of a translated guest; "GMFN" means mfn for PV, gfn for others;
"GPFN" means pfn for PV, gfn for others. An extent is 2 ** extent_order frames in a row.
"""

from __future__ import annotations

from euxen.abi.physdev import PhysdevPciDevice
from euxen.abi.structure import Structure, Union, nested, u16, u32, u64

XENMEM_increase_reservation = 0  # XenMemoryReservation; returns extents done
XENMEM_decrease_reservation = 1  # XenMemoryReservation; returns extents done
XENMEM_maximum_ram_page = 2  # no argument; returns the highest mfn of RAM
XENMEM_current_reservation = 3  # XenMemoryDomain; returns pages
XENMEM_maximum_reservation = 4  # XenMemoryDomain; returns pages
XENMEM_machphys_mfn_list = 5  # XenMachphysMfnList
XENMEM_populate_physmap = 6  # XenMemoryReservation; returns extents done
XENMEM_add_to_physmap = 7  # XenAddToPhysmap
XENMEM_memory_map = 9  # XenMemoryMap: what XENMEM_set_memory_map gave
XENMEM_machine_memory_map = 10  # XenMemoryMap: the host's; privileged
XENMEM_exchange = 11  # XenMemoryExchange; PV guests only
XENMEM_machphys_mapping = 12  # XenMachphysMapping
XENMEM_set_memory_map = 13  # XenForeignMemoryMap
XENMEM_maximum_gpfn = 14  # XenMemoryDomain; returns the highest gfn
XENMEM_remove_from_physmap = 15  # XenRemoveFromPhysmap
XENMEM_set_pod_target = 16  # XenPodTarget
XENMEM_get_pod_target = 17  # XenPodTarget
XENMEM_get_sharing_freed_pages = 18
XENMEM_get_sharing_shared_pages = 19
XENMEM_paging_op = 20
XENMEM_access_op = 21
XENMEM_sharing_op = 22
XENMEM_add_to_physmap_batch = 23  # XenAddToPhysmapBatch
XENMEM_claim_pages = 24  # XenMemoryReservation: promise pages without choosing them; 0 takes a promise back
XENMEM_machphys_compat_mfn_list = 25  # XenMachphysMfnList
XENMEM_get_vnumainfo = 26  # XenVnumaTopologyInfo
XENMEM_reserved_device_memory_map = 27  # XenReservedDeviceMemoryMap
XENMEM_acquire_resource = 28  # XenMemAcquireResource

# xen_memory_reservation.mem_flags: the low 8 bits are the width of the address that must reach the memory, 0 for any.
XENMEMF_populate_on_demand = 1 << 16
XENMEMF_exact_node_request = 1 << 17  # from the node given and no other
XENMEMF_vnode = 1 << 18  # the node given is a virtual one


def XENMEMF_address_bits(bits: int) -> int:
    """The flags that ask for memory below ``2 ** bits`` bytes. xen/include/public/memory.h"""
    return bits


def XENMEMF_get_address_bits(mem_flags: int) -> int:
    """The address width in bits that ``mem_flags`` ask for; 0 for any. xen/include/public/memory.h"""
    return mem_flags & 0xFF


def XENMEMF_node(node: int) -> int:
    """The flags that prefer a NUMA node. xen/include/public/memory.h"""
    return (node + 1) << 8


def XENMEMF_get_node(mem_flags: int) -> int:
    """The NUMA node in ``mem_flags``; 0xff for none. xen/include/public/memory.h"""
    return ((mem_flags >> 8) - 1) & 0xFF


def XENMEMF_exact_node(node: int) -> int:
    """The flags that insist on a NUMA node. xen/include/public/memory.h"""
    return XENMEMF_node(node) | XENMEMF_exact_node_request


class XenMemoryReservation(Structure):
    """struct xen_memory_reservation. xen/include/public/memory.h"""

    extent_start: int = u64()
    """Guest pointer to xen_pfn_t[nr_extents].

    increase_reservation: OUT, mfn allocated. decrease_reservation: IN, GMFN to free. populate_physmap: IN, GPFN
    to populate; OUT, GMFN allocated. claim_pages: must be 0.
    """
    nr_extents: int = u64()
    extent_order: int = u32()
    mem_flags: int = u32()  # XENMEMF_*
    domid: int = u16()


class XenMemoryExchange(Structure):
    """struct xen_memory_exchange. xen/include/public/memory.h

    Both sides name one domain and as many frames, and their lists do not overlap.
    """

    in_: XenMemoryReservation = nested(XenMemoryReservation)  # GMFN to give
    out: XenMemoryReservation = nested(XenMemoryReservation)  # IN: GPFN to populate; OUT: GMFN allocated
    nr_exchanged: int = u64()  # IN: must be 0; OUT: extents of ``in_`` that were given


class XenMemoryDomain(Structure):
    """struct xen_memory_domain. xen/include/public/memory.h"""

    domid: int = u16()


class XenMachphysMfnList(Structure):
    """struct xen_machphys_mfn_list. xen/include/public/memory.h"""

    max_extents: int = u32()
    extent_start: int = u64()  # guest pointer to xen_pfn_t[max_extents]: OUT, the first mfn of each 2 MiB of the M2P
    nr_extents: int = u32()  # OUT


class XenMachphysMapping(Structure):
    """struct xen_machphys_mapping. xen/include/public/memory.h"""

    v_start: int = u64()
    v_end: int = u64()
    max_mfn: int = u64()


# xen_add_to_physmap.space
XENMAPSPACE_shared_info = 0
XENMAPSPACE_grant_table = 1  # idx is the frame of the table, with XENMAPIDX_grant_table_status of the status table
XENMAPSPACE_gmfn = 2
XENMAPSPACE_gmfn_range = 3  # XENMEM_add_to_physmap only
XENMAPSPACE_gmfn_foreign = 4  # XENMEM_add_to_physmap_batch only
XENMAPSPACE_dev_mmio = 5  # ARM only

XENMAPIDX_grant_table_status = 0x80000000


class XenAddToPhysmap(Structure):
    """struct xen_add_to_physmap. xen/include/public/memory.h"""

    domid: int = u16()
    size_: int = u16()  # pages, for XENMAPSPACE_gmfn_range
    space: int = u32()  # XENMAPSPACE_*
    idx: int = u64()  # what to map, by the space's own count
    gpfn: int = u64()  # where


class XenAddToPhysmapBatchExtra(Union):
    """union xen_add_to_physmap_batch_extra. xen/include/public/memory.h"""

    foreign_domid: int = u16()  # XENMAPSPACE_gmfn_foreign
    res0: int = u16()  # others: must be 0


class XenAddToPhysmapBatch(Structure):
    """struct xen_add_to_physmap_batch. xen/include/public/memory.h"""

    domid: int = u16()
    space: int = u16()  # XENMAPSPACE_*
    size_: int = u16()  # length of the three arrays
    u: XenAddToPhysmapBatchExtra = nested(XenAddToPhysmapBatchExtra)
    idxs: int = u64()  # guest pointer to xen_ulong_t[size]
    gpfns: int = u64()  # guest pointer to xen_pfn_t[size]
    errs: int = u64()  # guest pointer to int[size]: OUT


class XenRemoveFromPhysmap(Structure):
    """struct xen_remove_from_physmap. xen/include/public/memory.h"""

    domid: int = u16()
    gpfn: int = u64()


class E820Entry(Structure, packed=True):
    """struct e820entry, as the BIOS's INT 0x15 with EAX 0xE820 gives it. Xen's public headers only refer to it."""

    addr: int = u64()
    size_: int = u64()  # in bytes
    type: int = u32()  # as XEN_HVM_MEMMAP_TYPE_*


class XenMemoryMap(Structure):
    """struct xen_memory_map. xen/include/public/memory.h"""

    nr_entries: int = u32()  # IN: room in buffer; OUT: entries written
    buffer: int = u64()  # guest pointer to E820Entry[nr_entries]


class XenForeignMemoryMap(Structure):
    """struct xen_foreign_memory_map. xen/include/public/memory.h"""

    domid: int = u16()
    map: XenMemoryMap = nested(XenMemoryMap)


class XenPodTarget(Structure):
    """struct xen_pod_target. xen/include/public/memory.h"""

    target_pages: int = u64()  # IN
    tot_pages: int = u64()  # OUT
    pod_cache_pages: int = u64()  # OUT
    pod_entries: int = u64()  # OUT
    domid: int = u16()


class XenReservedDeviceMemory(Structure):
    """struct xen_reserved_device_memory. xen/include/public/memory.h"""

    start_pfn: int = u64()
    nr_pages: int = u64()


XENMEM_RDM_ALL = 1  # of all devices, not just dev


class XenReservedDeviceMemoryMapDev(Union):
    """dev of struct xen_reserved_device_memory_map. xen/include/public/memory.h"""

    pci: PhysdevPciDevice = nested(PhysdevPciDevice)


class XenReservedDeviceMemoryMap(Structure):
    """struct xen_reserved_device_memory_map. xen/include/public/memory.h"""

    flags: int = u32()  # XENMEM_RDM_ALL
    nr_entries: int = u32()  # IN: room in buffer; OUT: entries there are; -ERANGE where that is more
    buffer: int = u64()  # guest pointer to XenReservedDeviceMemory: OUT
    dev: XenReservedDeviceMemoryMapDev = nested(XenReservedDeviceMemoryMapDev)


# xen_mem_acquire_resource.type
XENMEM_resource_ioreq_server = 0
XENMEM_resource_grant_table = 1
XENMEM_resource_vmtrace_buf = 2

# xen_mem_acquire_resource.id, of XENMEM_resource_grant_table
XENMEM_resource_grant_table_id_shared = 0
XENMEM_resource_grant_table_id_status = 1

# xen_mem_acquire_resource.frame, of XENMEM_resource_ioreq_server
XENMEM_resource_ioreq_server_frame_bufioreq = 0


def XENMEM_resource_ioreq_server_frame_ioreq(n: int) -> int:
    """The frame of an ioreq server's n-th page of requests. xen/include/public/memory.h"""
    return 1 + n


class XenMemAcquireResource(Structure):
    """struct xen_mem_acquire_resource. xen/include/public/memory.h

    With no ``frame_list`` and ``nr_frames`` 0, asks for the resource's length in frames.
    """

    domid: int = u16()
    type: int = u16()  # XENMEM_resource_*
    id: int = u32()
    nr_frames: int = u32()  # IN and OUT
    pad: int = u32()  # must be 0
    frame: int = u64()  # the first frame
    frame_list: int = u64()  # guest pointer to xen_pfn_t[nr_frames]: OUT, mfn, for a PV caller; IN, gfn, for others


class XenVmemrange(Structure):
    """struct xen_vmemrange. xen/include/public/memory.h"""

    start: int = u64()
    end: int = u64()
    flags: int = u32()
    nid: int = u32()


class XenVnumaTopologyInfoVdistance(Union):
    """vdistance of struct xen_vnuma_topology_info. xen/include/public/memory.h"""

    h: int = u64()  # guest pointer to unsigned int[nr_vnodes * nr_vnodes]
    pad: int = u64()


class XenVnumaTopologyInfoVcpuToVnode(Union):
    """vcpu_to_vnode of struct xen_vnuma_topology_info. xen/include/public/memory.h"""

    h: int = u64()  # guest pointer to unsigned int[nr_vcpus]
    pad: int = u64()


class XenVnumaTopologyInfoVmemrange(Union):
    """vmemrange of struct xen_vnuma_topology_info. xen/include/public/memory.h"""

    h: int = u64()  # guest pointer to XenVmemrange[nr_vmemranges]
    pad: int = u64()


class XenVnumaTopologyInfo(Structure):
    """struct xen_vnuma_topology_info. xen/include/public/memory.h"""

    domid: int = u16()
    pad: int = u16()
    nr_vnodes: int = u32()  # IN: room; OUT: what there is
    nr_vcpus: int = u32()  # likewise
    nr_vmemranges: int = u32()  # likewise
    vdistance: XenVnumaTopologyInfoVdistance = nested(XenVnumaTopologyInfoVdistance)
    vcpu_to_vnode: XenVnumaTopologyInfoVcpuToVnode = nested(XenVnumaTopologyInfoVcpuToVnode)
    vmemrange: XenVnumaTopologyInfoVmemrange = nested(XenVnumaTopologyInfoVmemrange)
