"""Grant tables: memory lent between domains. xen/include/public/grant_table.h

A grant reference (grant_ref_t, uint32_t) is an index into the granter's table. HYPERVISOR_grant_table_op(cmd,
args, count) takes an array of ``count`` structures.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, Union, nested, s16, u16, u32, u64


class GrantEntryV1(Structure):
    """struct grant_entry_v1. xen/include/public/grant_table.h"""

    flags: int = u16()  # GTF_*
    domid: int = u16()  # who may use it
    frame: int = u32()  # GTF_permit_access: the GMFN lent. GTF_accept_transfer: the pfn to fill, at last its new mfn


GNTTAB_NR_RESERVED_ENTRIES = 8  # kept across GNTTABOP_set_version; tools fill them before the guest starts
GNTTAB_RESERVED_CONSOLE = 0
GNTTAB_RESERVED_XENSTORE = 1

# flags: the type ...
GTF_invalid = 0 << 0
GTF_permit_access = 1 << 0
GTF_accept_transfer = 2 << 0
GTF_transitive = 3 << 0  # version 2: stands for a grant in a third domain
GTF_type_mask = 3 << 0

# ... of GTF_permit_access and GTF_transitive, and the last four of GTF_permit_access only
GTF_readonly = 1 << 2
GTF_reading = 1 << 3  # Xen's: mapped
GTF_writing = 1 << 4  # Xen's: mapped writable
GTF_PWT = 1 << 5
GTF_PCD = 1 << 6
GTF_PAT = 1 << 7
GTF_sub_page = 1 << 8  # version 2: lends part of the page, for copying only

# ... of GTF_accept_transfer
GTF_transfer_committed = 1 << 2  # Xen's: the entry must not be touched until ...
GTF_transfer_completed = 1 << 3  # Xen's: ... the frame was written


class GrantEntryHeader(Structure):
    """struct grant_entry_header. xen/include/public/grant_table.h"""

    flags: int = u16()
    domid: int = u16()


class GrantEntryV2FullPage(Structure):
    """full_page of union grant_entry_v2. xen/include/public/grant_table.h"""

    hdr: GrantEntryHeader = nested(GrantEntryHeader)
    pad0: int = u32()
    frame: int = u64()


class GrantEntryV2SubPage(Structure):
    """sub_page of union grant_entry_v2. xen/include/public/grant_table.h"""

    hdr: GrantEntryHeader = nested(GrantEntryHeader)
    page_off: int = u16()  # in bytes
    length: int = u16()  # in bytes
    frame: int = u64()


class GrantEntryV2Transitive(Structure):
    """transitive of union grant_entry_v2. xen/include/public/grant_table.h"""

    hdr: GrantEntryHeader = nested(GrantEntryHeader)
    trans_domid: int = u16()
    pad0: int = u16()
    gref: int = u32()


class GrantEntryV2(Union):
    """union grant_entry_v2. xen/include/public/grant_table.h"""

    hdr: GrantEntryHeader = nested(GrantEntryHeader)
    full_page: GrantEntryV2FullPage = nested(GrantEntryV2FullPage)
    sub_page: GrantEntryV2SubPage = nested(GrantEntryV2SubPage)
    transitive: GrantEntryV2Transitive = nested(GrantEntryV2Transitive)


GNTTABOP_map_grant_ref = 0
GNTTABOP_unmap_grant_ref = 1
GNTTABOP_setup_table = 2
GNTTABOP_dump_table = 3
GNTTABOP_transfer = 4
GNTTABOP_copy = 5
GNTTABOP_query_size = 6
GNTTABOP_unmap_and_replace = 7
GNTTABOP_set_version = 8
GNTTABOP_get_status_frames = 9
GNTTABOP_get_version = 10
GNTTABOP_swap_grant_ref = 11
GNTTABOP_cache_flush = 12

# gnttab_map_grant_ref.flags
GNTMAP_device_map = 1 << 0  # for devices: dev_bus_addr is given
GNTMAP_host_map = 1 << 1  # for CPUs: at host_addr
GNTMAP_readonly = 1 << 2
GNTMAP_application_map = 1 << 3  # for the current program too
GNTMAP_contains_pte = 1 << 4  # host_addr is the machine address of a page-table entry, not a virtual address
GNTMAP_guest_avail_mask = 0xFFFF0000  # bits to place in the entry's available bits


class GnttabMapGrantRef(Structure):
    """struct gnttab_map_grant_ref. xen/include/public/grant_table.h"""

    host_addr: int = u64()  # as GNTMAP_contains_pte says
    flags: int = u32()  # GNTMAP_*
    ref: int = u32()
    dom: int = u16()  # the granter
    status: int = s16()  # OUT: GNTST_*
    handle: int = u32()  # OUT: what GNTTABOP_unmap_grant_ref takes
    dev_bus_addr: int = u64()  # OUT


class GnttabUnmapGrantRef(Structure):
    """struct gnttab_unmap_grant_ref. xen/include/public/grant_table.h"""

    host_addr: int = u64()  # 0 where there is none to unmap
    dev_bus_addr: int = u64()  # 0 where there is none to unmap
    handle: int = u32()
    status: int = s16()  # OUT: GNTST_*


class GnttabSetupTable(Structure):
    """struct gnttab_setup_table. xen/include/public/grant_table.h"""

    dom: int = u16()
    nr_frames: int = u32()  # how long the table is to be at least
    status: int = s16()  # OUT: GNTST_*
    frame_list: int = u64()  # guest pointer to xen_pfn_t[nr_frames]: OUT


class GnttabDumpTable(Structure):
    """struct gnttab_dump_table. xen/include/public/grant_table.h

    Prints the table on Xen's console.
    """

    dom: int = u16()
    status: int = s16()  # OUT: GNTST_*


class GnttabTransfer(Structure):
    """struct gnttab_transfer. xen/include/public/grant_table.h

    PV guests only. The page is lost to the caller even by failure, unless that is GNTST_bad_page.
    """

    mfn: int = u64()
    domid: int = u16()
    ref: int = u32()
    status: int = s16()  # OUT: GNTST_*


# gnttab_copy.flags: whether u holds a grant reference or a GMFN
GNTCOPY_source_gref = 1 << 0
GNTCOPY_dest_gref = 1 << 1


class GnttabCopyPtrU(Union):
    """u of struct gnttab_copy_ptr. xen/include/public/grant_table.h"""

    ref: int = u32()
    gmfn: int = u64()


class GnttabCopyPtr(Structure):
    """struct gnttab_copy_ptr. xen/include/public/grant_table.h"""

    u: GnttabCopyPtrU = nested(GnttabCopyPtrU)
    domid: int = u16()
    offset: int = u16()  # in the page, in bytes


class GnttabCopy(Structure):
    """struct gnttab_copy. xen/include/public/grant_table.h"""

    source: GnttabCopyPtr = nested(GnttabCopyPtr)
    dest: GnttabCopyPtr = nested(GnttabCopyPtr)
    len: int = u16()  # in bytes; neither side may cross its page
    flags: int = u16()  # GNTCOPY_*
    status: int = s16()  # OUT: GNTST_*


class GnttabQuerySize(Structure):
    """struct gnttab_query_size. xen/include/public/grant_table.h"""

    dom: int = u16()
    nr_frames: int = u32()  # OUT
    max_nr_frames: int = u32()  # OUT
    status: int = s16()  # OUT: GNTST_*


class GnttabUnmapAndReplace(Structure):
    """struct gnttab_unmap_and_replace. xen/include/public/grant_table.h

    The entry that maps ``new_addr`` moves to ``host_addr`` and leaves nothing behind.
    """

    host_addr: int = u64()
    new_addr: int = u64()
    handle: int = u32()
    status: int = s16()  # OUT: GNTST_*


class GnttabSetVersion(Structure):
    """struct gnttab_set_version. xen/include/public/grant_table.h"""

    version: int = u32()  # IN: 1 or 2; OUT: what it is now


class GnttabGetStatusFrames(Structure):
    """struct gnttab_get_status_frames. xen/include/public/grant_table.h"""

    nr_frames: int = u32()
    dom: int = u16()
    status: int = s16()  # OUT: GNTST_*
    frame_list: int = u64()  # guest pointer to uint64_t[nr_frames]: OUT


class GnttabGetVersion(Structure):
    """struct gnttab_get_version. xen/include/public/grant_table.h"""

    dom: int = u16()
    pad: int = u16()
    version: int = u32()  # OUT


class GnttabSwapGrantRef(Structure):
    """struct gnttab_swap_grant_ref. xen/include/public/grant_table.h"""

    ref_a: int = u32()
    ref_b: int = u32()
    status: int = s16()  # OUT: GNTST_*


class GnttabCacheFlushA(Union):
    """a of struct gnttab_cache_flush. xen/include/public/grant_table.h"""

    dev_bus_addr: int = u64()
    ref: int = u32()


# gnttab_cache_flush.op
GNTTAB_CACHE_CLEAN = 1 << 0
GNTTAB_CACHE_INVAL = 1 << 1
GNTTAB_CACHE_SOURCE_GREF = 1 << 31  # a holds ref


class GnttabCacheFlush(Structure):
    """struct gnttab_cache_flush. xen/include/public/grant_table.h"""

    a: GnttabCacheFlushA = nested(GnttabCacheFlushA)
    offset: int = u16()  # from the grant's start, in bytes
    length: int = u16()  # in bytes
    op: int = u32()  # GNTTAB_CACHE_*


GNTST_okay = 0
GNTST_general_error = -1
GNTST_bad_domain = -2
GNTST_bad_gntref = -3
GNTST_bad_handle = -4
GNTST_bad_virt_addr = -5
GNTST_bad_dev_addr = -6
GNTST_no_device_space = -7
GNTST_permission_denied = -8
GNTST_bad_page = -9
GNTST_bad_copy_arg = -10
GNTST_address_too_big = -11
GNTST_eagain = -12
GNTST_no_space = -13

GNTTABOP_error_msgs = (
    "okay",
    "undefined error",
    "unrecognised domain id",
    "invalid grant reference",
    "invalid mapping handle",
    "invalid virtual address",
    "invalid device address",
    "no spare translation slot in the I/O MMU",
    "permission denied",
    "bad page",
    "copy arguments cross page boundary",
    "page address size too large",
    "operation not done; try again",
    "out of space",
)
"""What a GNTST_* means: ``GNTTABOP_error_msgs[-status]``."""
