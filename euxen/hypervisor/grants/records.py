"""The records of grant tables: struct grant_table, active_grant_entry and others of xen/common/grant_table.c.

Every field is 64 bits wide.
"""

from __future__ import annotations

from euxen.abi.grant_table import GnttabCopy, GnttabMapGrantRef
from euxen.abi.structure import Structure, array, u64

GNTTAB_UNMAP_BATCH_SIZE = 32
INITIAL_NR_GRANT_FRAMES = 1
MAPTRACK_PER_PAGE = 256
V1_PER_PAGE, V2_PER_PAGE, STATUS_PER_PAGE = 512, 256, 2048
"""How many entries are in a frame of the shared table, and how many words in one of status words."""

NO_HANDLE = -1

# ActiveEntry.pin: four counters of a byte each, of mappings by CPUs (host) and devices.
GNTPIN_hstw_inc, GNTPIN_hstr_inc, GNTPIN_devw_inc, GNTPIN_devr_inc = 1 << 0, 1 << 8, 1 << 16, 1 << 24
GNTPIN_hstw_mask, GNTPIN_hstr_mask, GNTPIN_devw_mask, GNTPIN_devr_mask = 0xFF, 0xFF00, 0xFF_0000, 0xFF00_0000
GNTPIN_writable = GNTPIN_hstw_mask | GNTPIN_devw_mask
GNTPIN_oflow_shift = 7
"""An increment, shifted by that, is the top bit of its counter: while it is set nothing is added."""


class ActiveEntry(Structure):
    """A grant in use (struct active_grant_entry)."""

    pin: int = u64()
    domid: int = u64()  # who uses it
    src_domid: int = u64()  # whose frame it is
    trans_gref: int = u64()  # and by which grant of that domain's
    mfn: int = u64()
    start: int = u64()  # the part of the frame that is granted, in bytes
    length: int = u64()
    is_sub_page: int = u64()


class GrantMapping(Structure):
    """A mapping that a domain has made, by its handle (struct grant_mapping)."""

    ref: int = u64()  # or, in one that is free, the next free one
    flags: int = u64()  # GNTMAP_*, 0: free
    domid: int = u64()
    unused: int = u64()


class UnmapCommon(Structure):
    """An unmapping between its two halves (struct gnttab_unmap_common)."""

    host_addr: int = u64()
    dev_bus_addr: int = u64()
    new_addr: int = u64()
    handle: int = u64()
    status: int = u64()
    done: int = u64()  # GNTMAP_*
    mfn: int = u64()
    rd: int = u64()  # the granter, held
    ref: int = u64()


class CopyBuf(Structure):
    """One side of a copy, kept from one operation of a batch to the next (struct gnttab_copy_buf)."""

    domid: int = u64()  # as the caller named it
    domain: int = u64()  # held, or 0
    what: int = u64()  # the grant reference or the frame that the caller named
    start: int = u64()  # the part of the frame that may be used, in bytes
    length: int = u64()
    mfn: int = u64()
    page: int = u64()  # PageInfo, held, or 0
    read_only: int = u64()
    have_grant: int = u64()
    have_type: int = u64()
    is_ready: int = u64()


class GrantTableRecord(Structure):
    """struct grant_table."""

    lock: int = u64()
    domain: int = u64()  # DomainRecord
    version: int = u64()  # gt_version
    max_version: int = u64()
    max_grant_frames: int = u64()
    max_maptrack_frames: int = u64()
    nr_grant_frames: int = u64()
    nr_status_frames: int = u64()
    shared: int = u64()  # machine frame numbers, a word each
    status: int = u64()
    active: int = u64()  # ActiveEntry, as many as max_grant_frames hold of version 1
    maptrack: int = u64()  # GrantMapping, as many as max_maptrack_frames hold
    maptrack_limit: int = u64()
    maptrack_head: int = u64()  # the free ones: taken from the head, put to the tail
    maptrack_tail: int = u64()
    # What belongs to the operation that this domain's vCPU is making.
    op: int = array(u64(), max(GnttabCopy.size, GnttabMapGrantRef.size) // 8)
    source: int = array(u64(), CopyBuf.size // 8)
    dest: int = array(u64(), CopyBuf.size // 8)
    common: int = array(u64(), GNTTAB_UNMAP_BATCH_SIZE * UnmapCommon.size // 8)
