"""The operations of memory_op that change where things are in an HVM domain's guest-physical space.

Source: xenmem_add_to_physmap and XENMEM_remove_from_physmap in xen/common/memory.c, xenmem_add_to_physmap_one in
xen/arch/x86/mm/p2m.c, gnttab_map_frame in xen/common/grant_table.c.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator

from euxen.abi import memory as abi
from euxen.abi.errno import (
    XEN_EACCES,
    XEN_EDOM,
    XEN_EFAULT,
    XEN_EILSEQ,
    XEN_EINVAL,
    XEN_ENOENT,
    XEN_ENOSYS,
    XEN_EOPNOTSUPP,
    XEN_EOVERFLOW,
    XEN_EPERM,
    XEN_EXDEV,
)
from euxen.cpu.native.language import signed
from euxen.hypervisor import xsm
from euxen.hypervisor.caller import Caller
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import Continuation, XenError
from euxen.hypervisor.hypercalls.extents import changing, domain_named, read_word
from euxen.hypervisor.mm import p2m
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.records import PageInfo

COMMAND_BITS = 6
INVALID_GFN = (1 << 64) - 1
MOST = 0xFFFF
AT_ONCE = 64
"""After so many, others go first."""
ERROR = struct.Struct("<i")


def add_extent(domain: Domain, gfn: int, first: int, count: int) -> bool:
    """Put frames, in a row from ``first`` on, at guest frames; whether all found a place."""
    return all(not _add(domain, gfn + number, first + number) for number in range(count))


def _add(domain: Domain, gfn: int, mfn: int) -> int:
    """p2m_add_page: 0 or a negative errno."""
    error = p2m.add_page(domain.record.address, signed(gfn), mfn, p2m.p2m_ram_rw)
    if error == -XEN_EPERM:
        domain.crash("The guest puts memory where it has mapped what is lent to it, without unmapping that first.")
    return error


def _check(error: int) -> None:
    if error < 0:
        raise XenError(-error)


def _permitted(caller: Caller, domid: int, space: int) -> Domain:
    """The domain that is meant, if the caller may change its map (xatp_permission_check). Raises XenError."""

    def check(source: Domain, target: Domain) -> None:
        if not target.is_hvm or space == abi.XENMAPSPACE_dev_mmio:
            raise XenError(XEN_EACCES)
        xsm.add_to_physmap(source, target)

    return domain_named(caller, domid, check)


def _add_to_physmap(caller: Caller, argument: int, start: int) -> int:
    """XENMEM_add_to_physmap."""
    if start > MOST:
        raise XenError(XEN_EDOM)
    op = abi.XenAddToPhysmap.unpack_from(caller.read(argument, abi.XenAddToPhysmap.size))
    if op.space == abi.XENMAPSPACE_gmfn_foreign:
        raise XenError(XEN_ENOSYS)
    domain = _permitted(caller, op.domid, op.space)
    if op.gpfn == INVALID_GFN:
        raise XenError(XEN_EINVAL)
    with changing(caller, domain, start << COMMAND_BITS | abi.XENMEM_add_to_physmap, argument):
        if op.space != abi.XENMAPSPACE_gmfn_range:
            _add_one(domain, op.space, op.idx, op.gpfn)
            return 0
        if op.size_ < start:
            raise XenError(XEN_EILSEQ)
        if max(op.gpfn, op.idx) + op.size_ > INVALID_GFN:
            raise XenError(XEN_EOVERFLOW)
        for number in range(start, op.size_):
            _preempt(caller, abi.XENMEM_add_to_physmap, argument, start, number)
            _add_one(domain, abi.XENMAPSPACE_gmfn, op.idx + number, op.gpfn + number)
    return 0


def _preempt(caller: Caller, command: int, argument: int, start: int, number: int) -> None:
    """Let others go first, when a part is done."""
    if number > start and (number - start >= AT_ONCE or caller.hypercall_preempt_check()):
        raise Continuation(number << COMMAND_BITS | command, argument)


def _add_to_physmap_batch(caller: Caller, argument: int, start: int) -> int:
    """XENMEM_add_to_physmap_batch: each has an error of its own."""
    if start > MOST:
        raise XenError(XEN_EDOM)
    op = abi.XenAddToPhysmapBatch.unpack_from(caller.read(argument, abi.XenAddToPhysmapBatch.size))
    if op.space == abi.XENMAPSPACE_gmfn_range:
        raise XenError(XEN_EOPNOTSUPP)
    domain = _permitted(caller, op.domid, op.space)
    if op.size_ < start or (op.size_ == start and start):
        raise XenError(XEN_EILSEQ)
    if op.size_ == start:
        return 0
    if not all(caller.handle_okay(handle) for handle in (op.idxs, op.gpfns, op.errs)):
        raise XenError(XEN_EFAULT)
    with changing(caller, domain, start << COMMAND_BITS | abi.XENMEM_add_to_physmap_batch, argument):
        for number in range(start, op.size_):
            _preempt(caller, abi.XENMEM_add_to_physmap_batch, argument, start, number)
            idx, gpfn = read_word(caller, op.idxs + 8 * number), read_word(caller, op.gpfns + 8 * number)
            if gpfn == INVALID_GFN:
                raise XenError(XEN_EINVAL)
            error = 0
            try:
                _add_one(domain, op.space, idx, gpfn)
            except XenError as refused:
                error = -refused.errno
            caller.write(op.errs + ERROR.size * number, ERROR.pack(error))
    return 0


@contextlib.contextmanager
def _source(domain: Domain, space: int, idx: int) -> Iterator[int]:
    """The machine frame that a space has at an index, referred to meanwhile. Raises XenError."""
    machine, record = domain.machine.record.address, domain.record.address
    if space == abi.XENMAPSPACE_shared_info and idx == 0:
        yield domain.shared_info_frame
        return
    page = 0
    if space == abi.XENMAPSPACE_grant_table:
        page = pg.get_page_from_mfn(record, _grant_frame(domain, idx))
    elif space == abi.XENMAPSPACE_gmfn:
        page = p2m.get_page_from_gfn(record, signed(idx))
    elif space == abi.XENMAPSPACE_gmfn_foreign:
        raise XenError(XEN_EPERM)  # arch_acquire_resource_check: it would have to be the hardware domain
    if not page:
        raise XenError(XEN_EINVAL)
    try:
        yield pg.frame_of(machine, page)
    finally:
        pg.put_page(page)


def _grant_frame(domain: Domain, idx: int) -> int:
    """A frame of the domain's grant table, which grows if need be (gnttab_map_frame)."""
    table, resource = domain.grant_table, abi.XENMEM_resource_grant_table_id_shared
    if idx & abi.XENMAPIDX_grant_table_status and table.record["version"] == 2:
        resource, idx = abi.XENMEM_resource_grant_table_id_status, idx & ~abi.XENMAPIDX_grant_table_status
    return table.acquire_resource(resource, idx, 1)[0]


def _add_one(domain: Domain, space: int, idx: int, gpfn: int) -> None:
    """Map one frame somewhere; what was there is given back (xenmem_add_to_physmap_one). Raises XenError."""
    record, gfn = domain.record.address, signed(gpfn)
    with _source(domain, space, idx) as mfn:
        old = p2m.gfn_of(record, mfn)
        if space == abi.XENMAPSPACE_gmfn and old != signed(idx):
            raise XenError(XEN_EXDEV)
        before = p2m.get_entry(record, gfn)
        if before:
            there = p2m.mfn_of(before)
            if _is_xens(domain, there):
                _check(p2m.remove_page(record, gfn, there))
            elif there != mfn and not p2m.guest_remove_page(record, gfn):
                raise XenError(XEN_EINVAL)
        if old not in (p2m.INVALID_M2P_ENTRY, gfn):
            _check(p2m.remove_page(record, old, mfn))
        _check(_add(domain, gpfn, mfn))


def _is_xens(domain: Domain, mfn: int) -> bool:
    """Whether a frame is one of Xen's, which stays when nobody has it mapped (is_special_page)."""
    words = domain.machine.frame_table.words()
    return bool(words[mfn * (PageInfo.size // 8)] & pg.PGC_xen_heap)


def _remove_from_physmap(caller: Caller, argument: int, start: int) -> int:
    """XENMEM_remove_from_physmap: the frame stays the domain's."""
    if start:
        raise XenError(XEN_EINVAL)
    op = abi.XenRemoveFromPhysmap.unpack_from(caller.read(argument, abi.XenRemoveFromPhysmap.size))

    def check(source: Domain, target: Domain) -> None:
        if not target.is_hvm:
            raise XenError(XEN_EACCES)
        xsm.remove_from_physmap(source, target)

    domain = domain_named(caller, op.domid, check)
    with changing(caller, domain, abi.XENMEM_remove_from_physmap, argument):
        record, gfn = domain.record.address, signed(op.gpfn)
        page = 0 if p2m.is_grant(p2m.get_entry(record, gfn)) else p2m.get_page_from_gfn(record, gfn)
        if not page:
            raise XenError(XEN_ENOENT)
        try:
            _check(p2m.remove_page(record, gfn, pg.frame_of(domain.machine.record.address, page)))
        finally:
            pg.put_page(page)
    return 0


OPERATIONS: dict[int, Callable[[Caller, int, int], int]] = {
    abi.XENMEM_add_to_physmap: _add_to_physmap,
    abi.XENMEM_add_to_physmap_batch: _add_to_physmap_batch,
    abi.XENMEM_remove_from_physmap: _remove_from_physmap,
}
