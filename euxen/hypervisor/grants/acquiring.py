"""Taking a grant into use for a copy, and giving it back.

Source: acquire_grant_for_copy and release_grant_for_copy in xen/common/grant_table.c. A transitive grant stands for
one in a third domain, which is then in use as well; the tables of the two are locked in turn.
"""

from __future__ import annotations

from euxen.abi.grant_table import (
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_page,
    GNTST_general_error,
    GNTST_okay,
    GTF_sub_page,
    GTF_transitive,
    GTF_type_mask,
)
from euxen.cpu.native.language import load16, load32, load64, native, store64, ult
from euxen.cpu.native.spinlock import lock, unlock
from euxen.hypervisor.domain_list import get_domain_by_id, put_domain
from euxen.hypervisor.grants.entries import (
    V2_FRAME,
    active_entry,
    flags_of,
    nr_grant_entries,
    reduce_status_for_pin,
    set_status,
    shared_entry,
    status_of,
    table_of,
)
from euxen.hypervisor.grants.mapping import frame_in_entry
from euxen.hypervisor.grants.records import (
    ActiveEntry,
    CopyBuf,
    GNTPIN_hstr_inc,
    GNTPIN_hstw_inc,
    GNTPIN_oflow_shift,
    GNTPIN_writable,
    GrantTableRecord,
)
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.p2m import get_page_from_gfn
from euxen.hypervisor.mm.page import frame_of, get_page_owner, page_of, put_page
from euxen.hypervisor.records import DomainRecord

SUB_PAGE_START, SUB_PAGE_LENGTH = 4, 6
TRANS_DOMID, TRANS_GREF = 4, 8
"""Where entries of version 2 say which part they lend, and which grant of whom they stand for."""
AGAIN = 1
"""Instead of a GNTST_*: the entry changed meanwhile, the operation has to be made again."""


@native
def _increment(readonly: int) -> int:
    return GNTPIN_hstr_inc if readonly else GNTPIN_hstw_inc


@native
def _release_one(rd: int, ref: int, readonly: int) -> int:
    """Count a copy no more; for a transitive grant, the domid and the grant behind it, else -1."""
    table = table_of(rd)
    lock(table)
    active = active_entry(table, ref)
    behind = -1
    source = load64(active + ActiveEntry.src_domid)
    if source != load64(rd + DomainRecord.domain_id):
        behind = (source << 32) | load64(active + ActiveEntry.trans_gref)
    store64(active + ActiveEntry.pin, load64(active + ActiveEntry.pin) - _increment(readonly))
    reduce_status_for_pin(active, status_of(table, ref), readonly)
    unlock(table)
    return behind


@native
def release_grant_for_copy(rd: int, ref: int, readonly: int) -> int:
    """Undo ``acquire_grant_for_copy``, but for the reference to the page."""
    behind = _release_one(rd, ref, readonly)
    if behind >= 0:
        # A page of that domain's is held, so it is still there.
        td = get_domain_by_id(load64(rd + DomainRecord.machine), behind >> 32)
        if td:
            _release_one(td, behind & 0xFFFF_FFFF, readonly)
            put_domain(td)
    return 0


@native
def _describe(rd: int, table: int, ref: int, user: int, buf: int) -> int:
    """Find the frame of a grant that is not in use, refer to it, and note both in the active entry: GNTST_*."""
    shared = shared_entry(table, ref)
    start = 0
    length = pg.PAGE_SIZE
    sub_page = 0
    if load64(table + GrantTableRecord.version) == 1:
        frame = frame_in_entry(table, ref)
    else:
        frame = load64(shared + V2_FRAME)
        if flags_of(shared) & GTF_sub_page:
            sub_page = 1
            start = load16(shared + SUB_PAGE_START) & 0x7FFF
            length = load16(shared + SUB_PAGE_LENGTH)
    page = get_page_from_gfn(rd, frame)
    if not page:
        return GNTST_bad_page
    active = active_entry(table, ref)
    store64(active + ActiveEntry.domid, user)
    store64(active + ActiveEntry.src_domid, load64(rd + DomainRecord.domain_id))
    store64(active + ActiveEntry.trans_gref, ref)
    store64(active + ActiveEntry.mfn, frame_of(load64(rd + DomainRecord.machine), page))
    store64(active + ActiveEntry.start, start)
    store64(active + ActiveEntry.length, length)
    store64(active + ActiveEntry.is_sub_page, sub_page)
    store64(buf + CopyBuf.page, page)
    return GNTST_okay


@native
def _refer(rd: int, active: int, buf: int) -> int:
    """Refer to the frame of a grant that is in use: GNTST_*."""
    page = page_of(load64(rd + DomainRecord.machine), load64(active + ActiveEntry.mfn))
    owner = get_page_owner(page)
    if owner != rd or load64(rd + DomainRecord.is_dying):
        if owner:
            put_page(page)
        return GNTST_bad_domain
    store64(buf + CopyBuf.page, page)
    return GNTST_okay


@native
def _count(table: int, active: int, readonly: int, buf: int) -> int:
    """Count a copy, and say which part of which frame it may use."""
    store64(active + ActiveEntry.pin, load64(active + ActiveEntry.pin) + _increment(readonly))
    store64(buf + CopyBuf.start, load64(active + ActiveEntry.start))
    store64(buf + CopyBuf.length, load64(active + ActiveEntry.length))
    store64(buf + CopyBuf.mfn, load64(active + ActiveEntry.mfn))
    return GNTST_okay


@native
def _wants_status(pin: int, readonly: int) -> int:
    """Whether the shared entry has to be marked for what is asked for now."""
    return 1 if not pin or (not readonly and not pin & GNTPIN_writable) else 0


@native
def _may_pin(table: int, ref: int, user: int, readonly: int) -> int:
    """Whether a grant can be used by a domain once more: GNTST_*."""
    if not ult(ref, nr_grant_entries(table)):
        return GNTST_bad_gntref
    active = active_entry(table, ref)
    pin = load64(active + ActiveEntry.pin)
    full = pin & (_increment(readonly) << GNTPIN_oflow_shift)
    if pin and (load64(active + ActiveEntry.domid) != user or full):
        return GNTST_general_error
    return GNTST_okay


@native
def _is_transitive(rd: int, table: int, ref: int) -> int:
    """Whether a grant stands for one in a third domain. One that is in use is what it was."""
    if load64(table + GrantTableRecord.version) == 1:
        return 0
    active = active_entry(table, ref)
    if load64(active + ActiveEntry.pin):
        return 1 if load64(active + ActiveEntry.src_domid) != load64(rd + DomainRecord.domain_id) else 0
    return 1 if flags_of(shared_entry(table, ref)) & GTF_type_mask == GTF_transitive else 0


@native
def _acquire_direct(rd: int, ref: int, user: int, readonly: int, buf: int, may_be_transitive: int) -> int:
    """Take a grant into use for a copy: GNTST_*, or AGAIN for a transitive one."""
    table = table_of(rd)
    lock(table)
    status = _may_pin(table, ref, user, readonly)
    if status == GNTST_okay:
        active = active_entry(table, ref)
        pin = load64(active + ActiveEntry.pin)
        wants = _wants_status(pin, readonly)
        transitive = _is_transitive(rd, table, ref)
        if transitive and may_be_transitive:
            unlock(table)
            return AGAIN
        if wants:
            status = set_status(table, ref, readonly, 0, user)
        if status == GNTST_okay:
            if transitive:
                status = GNTST_general_error
            elif pin:
                # What is in use is what it was: the guest may have written another frame into the entry.
                status = _refer(rd, active, buf)
            else:
                status = _describe(rd, table, ref, user, buf)
            if status == GNTST_okay:
                _count(table, active, readonly, buf)
            else:
                reduce_status_for_pin(active, status_of(table, ref), readonly)
    unlock(table)
    return status


@native
def _changed(active: int, pin: int, user: int, td: int, gref: int, buf: int) -> int:
    """Whether an entry is no more what it was before its table was unlocked."""
    if load64(active + ActiveEntry.pin) != pin:
        return 1
    if not pin:
        return 0
    same = (
        load64(active + ActiveEntry.domid) == user
        and load64(active + ActiveEntry.mfn) == load64(buf + CopyBuf.mfn)
        and load64(active + ActiveEntry.start) == load64(buf + CopyBuf.start)
        and load64(active + ActiveEntry.length) == load64(buf + CopyBuf.length)
        and load64(active + ActiveEntry.src_domid) == load64(td + DomainRecord.domain_id)
        and load64(active + ActiveEntry.trans_gref) == gref
        and load64(active + ActiveEntry.is_sub_page)
    )
    return 0 if same else 1


@native
def _finish_transitive(rd: int, ref: int, user: int, readonly: int, buf: int, td: int, gref: int, pin: int) -> int:
    """With the grant behind it in use, take a transitive grant into use: GNTST_* or AGAIN."""
    table = table_of(rd)
    lock(table)
    active = active_entry(table, ref)
    if load64(table + GrantTableRecord.version) != 2 or _changed(active, pin, user, td, gref, buf):
        unlock(table)
        _release_one(td, gref, readonly)
        lock(table)
        reduce_status_for_pin(active, status_of(table, ref), readonly)
        unlock(table)
        put_page(load64(buf + CopyBuf.page))
        store64(buf + CopyBuf.page, 0)
        return AGAIN
    if not pin:
        store64(active + ActiveEntry.domid, user)
        store64(active + ActiveEntry.start, load64(buf + CopyBuf.start))
        store64(active + ActiveEntry.length, load64(buf + CopyBuf.length))
        store64(active + ActiveEntry.src_domid, load64(td + DomainRecord.domain_id))
        store64(active + ActiveEntry.trans_gref, gref)
        store64(active + ActiveEntry.mfn, load64(buf + CopyBuf.mfn))
        # Whatever is behind it: a transitive grant can't be mapped.
        store64(active + ActiveEntry.is_sub_page, 1)
    _count(table, active, readonly, buf)
    unlock(table)
    return GNTST_okay


@native
def _reduce(rd: int, ref: int, readonly: int) -> int:
    """Take back what was marked in a shared entry for nothing."""
    table = table_of(rd)
    lock(table)
    reduce_status_for_pin(active_entry(table, ref), status_of(table, ref), readonly)
    unlock(table)
    return 0


@native
def _acquire_transitive(rd: int, ref: int, user: int, readonly: int, buf: int) -> int:
    """Take a grant into use that stands for one in a third domain: GNTST_* or AGAIN. The tables are locked in turn."""
    table = table_of(rd)
    lock(table)
    status = _may_pin(table, ref, user, readonly)
    pin = 0
    if status == GNTST_okay:
        pin = load64(active_entry(table, ref) + ActiveEntry.pin)
        if not _is_transitive(rd, table, ref):
            status = AGAIN
        elif _wants_status(pin, readonly):
            status = set_status(table, ref, readonly, 0, user)
    if status != GNTST_okay:
        unlock(table)
        return status
    if pin:
        active = active_entry(table, ref)
        trans_domid = load64(active + ActiveEntry.src_domid)
        gref = load64(active + ActiveEntry.trans_gref)
    else:
        shared = shared_entry(table, ref)
        trans_domid = load16(shared + TRANS_DOMID)
        gref = load32(shared + TRANS_GREF)
    unlock(table)
    own = load64(rd + DomainRecord.domain_id)
    td = 0 if trans_domid == own else get_domain_by_id(load64(rd + DomainRecord.machine), trans_domid)
    if not td:
        _reduce(rd, ref, readonly)
        return GNTST_general_error
    status = _acquire_direct(td, gref, own, readonly, buf, 0)
    if status == GNTST_okay:
        status = _finish_transitive(rd, ref, user, readonly, buf, td, gref, pin)
    else:
        _reduce(rd, ref, readonly)
    put_domain(td)
    return status


@native
def acquire_grant_for_copy(rd: int, ref: int, user: int, readonly: int, buf: int) -> int:
    """Take a grant into use for a copy and refer to its page:  GNTST_* or AGAIN."""
    status = _acquire_direct(rd, ref, user, readonly, buf, 1)
    return _acquire_transitive(rd, ref, user, readonly, buf) if status == AGAIN else status
