"""GNTTABOP_copy. Source: gnttab_copy in xen/common/grant_table.c.

Each side of a copy is a part of a frame, by a grant or as a frame of the caller's own. What was found out about a
side is kept while the next operation of the batch names the same.
"""

from __future__ import annotations

from euxen.abi.grant_table import (
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTST_bad_copy_arg,
    GNTST_bad_domain,
    GNTST_bad_page,
    GNTST_general_error,
    GNTST_okay,
    GNTST_permission_denied,
    GnttabCopy,
    GnttabCopyPtr,
)
from euxen.abi.xen import DOMID_SELF
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call3, copy, load16, load32, load64, native, store16, store64
from euxen.hypervisor.domain_list import get_domain_by_id, put_domain
from euxen.hypervisor.grants.acquiring import AGAIN, acquire_grant_for_copy, release_grant_for_copy
from euxen.hypervisor.grants.entries import (
    table_of,
)
from euxen.hypervisor.grants.records import (
    CopyBuf,
    GrantTableRecord,
)
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.outside_writes import close_window, open_window
from euxen.hypervisor.mm.p2m import get_page_from_gfn
from euxen.hypervisor.mm.page import frame_of, host_of, put_page
from euxen.hypervisor.mm.pagetable import get_page_type, put_page_type
from euxen.hypervisor.records import DomainRecord, PageInfo

SOURCE = GnttabCopy.offsetof("source")
DEST = GnttabCopy.offsetof("dest")
WHAT = GnttabCopyPtr.offsetof("u")


@native
def release_buf(buf: int) -> int:
    """Let go of one side, but for the domain (gnttab_copy_release_buf)."""
    store64(buf + CopyBuf.is_ready, 0)
    if load64(buf + CopyBuf.have_grant):
        domain = load64(buf + CopyBuf.domain)
        release_grant_for_copy(domain, load64(buf + CopyBuf.what), load64(buf + CopyBuf.read_only))
        store64(buf + CopyBuf.have_grant, 0)
    page = load64(buf + CopyBuf.page)
    if load64(buf + CopyBuf.have_type):
        put_page_type(page)
        store64(buf + CopyBuf.have_type, 0)
    if page:
        put_page(page)
        store64(buf + CopyBuf.page, 0)
    return 0


@native
def release_domain(buf: int) -> int:
    """Let go of the domain of one side."""
    domain = load64(buf + CopyBuf.domain)
    if domain:
        put_domain(domain)
        store64(buf + CopyBuf.domain, 0)
    return 0


@native
def _find_domain(ld: int, domid: int, buf: int) -> int:
    """Look the domain of one side up: GNTST_* (gnttab_copy_lock_domain)."""
    own = load64(ld + DomainRecord.domain_id)
    domain = get_domain_by_id(load64(ld + DomainRecord.machine), own if domid == DOMID_SELF else domid)
    if not domain:
        return GNTST_bad_domain
    store64(buf + CopyBuf.domain, domain)
    store64(buf + CopyBuf.domid, domid)
    return GNTST_okay


@native
def _claim(ld: int, ptr: int, is_gref: int, readonly: int, buf: int) -> int:
    """Find the frame of one side and refer to it: GNTST_* or AGAIN (gnttab_copy_claim_buf)."""
    store64(buf + CopyBuf.read_only, readonly)
    domain = load64(buf + CopyBuf.domain)
    if is_gref:
        what = load32(ptr + WHAT)
        status = acquire_grant_for_copy(domain, what, load64(ld + DomainRecord.domain_id), readonly, buf)
        if status != GNTST_okay:
            return status
        store64(buf + CopyBuf.have_grant, 1)
    else:
        what = load64(ptr + WHAT)
        page = get_page_from_gfn(domain, what)
        if not page:
            return GNTST_bad_page
        store64(buf + CopyBuf.page, page)
        store64(buf + CopyBuf.mfn, frame_of(load64(domain + DomainRecord.machine), page))
        store64(buf + CopyBuf.start, 0)
        store64(buf + CopyBuf.length, pg.PAGE_SIZE)
    store64(buf + CopyBuf.what, what)
    if not readonly:
        if get_page_type(load64(buf + CopyBuf.page), pg.PGT_writable_page):
            return GNTST_general_error
        store64(buf + CopyBuf.have_type, 1)
    store64(buf + CopyBuf.is_ready, 1)
    return GNTST_okay


@native
def _is_valid(ptr: int, is_gref: int, buf: int) -> int:
    """Whether one side is what it was in the last operation."""
    if not load64(buf + CopyBuf.is_ready):
        return 0
    if is_gref:
        return 1 if load64(buf + CopyBuf.have_grant) and load32(ptr + WHAT) == load64(buf + CopyBuf.what) else 0
    return 1 if not load64(buf + CopyBuf.have_grant) and load64(ptr + WHAT) == load64(buf + CopyBuf.what) else 0


@native
def _outside(offset: int, length: int, buf: int) -> int:
    """Whether bytes are not in the part of a frame that may be used."""
    start = load64(buf + CopyBuf.start)
    return 1 if offset < start or offset + length > start + load64(buf + CopyBuf.length) else 0


@native
def _copy_bytes(ld: int, op: int, length: int, source: int, dest: int) -> int:
    """Copy between two frames: GNTST_* (gnttab_copy_buf)."""
    machine = load64(ld + DomainRecord.machine)
    source_offset = load16(op + SOURCE + GnttabCopyPtr.offset)
    dest_offset = load16(op + DEST + GnttabCopyPtr.offset)
    if source_offset + length > pg.PAGE_SIZE or dest_offset + length > pg.PAGE_SIZE:
        return GNTST_bad_copy_arg
    if _outside(source_offset, length, source) or _outside(dest_offset, length, dest):
        return GNTST_general_error
    frame = load64(dest + CopyBuf.mfn)
    target = host_of(machine, frame) + dest_offset
    origin = host_of(machine, load64(source + CopyBuf.mfn)) + source_offset
    owner = load64(load64(dest + CopyBuf.page) + PageInfo.owner)
    block = load64(ld + DomainRecord.block)
    if owner != ld:
        open_window(owner, frame)
    elif block:
        call3(load64(block + CpuBlock.invalidate_code), block, (frame << pg.PAGE_SHIFT) + dest_offset, length)
    copy(target, origin, length)
    if owner != ld:
        close_window(machine, frame)
    return GNTST_okay


@native
def _prepare(ld: int, op: int, flags: int, source: int, dest: int) -> int:
    """Have both sides ready: GNTST_* or AGAIN."""
    source_gref = flags & GNTCOPY_source_gref
    dest_gref = flags & GNTCOPY_dest_gref
    source_domid = load16(op + SOURCE + GnttabCopyPtr.domid)
    dest_domid = load16(op + DEST + GnttabCopyPtr.domid)
    # In every operation: what was found before may have been found by a grant.
    if (source_domid != DOMID_SELF and not source_gref) or (dest_domid != DOMID_SELF and not dest_gref):
        return GNTST_permission_denied
    known = load64(source + CopyBuf.domain) and load64(source + CopyBuf.domid) == source_domid
    if not known or not load64(dest + CopyBuf.domain) or load64(dest + CopyBuf.domid) != dest_domid:
        release_both(source, dest)
        status = _find_domain(ld, source_domid, source)
        if status == GNTST_okay:
            status = _find_domain(ld, dest_domid, dest)
        if status != GNTST_okay:
            return status
    if not _is_valid(op + SOURCE, source_gref, source):
        release_buf(source)
        status = _claim(ld, op + SOURCE, source_gref, 1, source)
        if status != GNTST_okay:
            return status
    if not _is_valid(op + DEST, dest_gref, dest):
        release_buf(dest)
        return _claim(ld, op + DEST, dest_gref, 0, dest)
    return GNTST_okay


@native
def release_both(source: int, dest: int) -> int:
    """Let go of all that a batch holds."""
    release_buf(source)
    release_buf(dest)
    release_domain(source)
    return release_domain(dest)


@native
def copy_between(ld: int, op: int, source: int, dest: int) -> int:
    """Do a struct gnttab_copy at a host address for a domain: GNTST_*, or AGAIN with nothing done.

    What it has found stays in ``source`` and ``dest``, a CopyBuf each, for the next; ``release_both`` lets go of it.
    """
    length = load16(op + GnttabCopy.len)
    status = GNTST_okay
    if length:
        status = _prepare(ld, op, load16(op + GnttabCopy.flags), source, dest)
        if status == GNTST_okay:
            status = _copy_bytes(ld, op, length, source, dest)
    if status == AGAIN:
        return AGAIN
    if status != GNTST_okay:
        release_buf(source)
        release_buf(dest)
    store16(op + GnttabCopy.status, status)
    return status


@native
def copy_one(ld: int, op: int) -> int:
    """The same with what belongs to the domain's vCPU; ``copy_end`` lets go."""
    table = table_of(ld)
    return copy_between(ld, op, table + GrantTableRecord.source, table + GrantTableRecord.dest)


@native
def copy_end(ld: int) -> int:
    """The end of a batch of copies."""
    table = table_of(ld)
    return release_both(table + GrantTableRecord.source, table + GrantTableRecord.dest)
