"""HYPERVISOR_grant_table_op: what is not done often. Source: xen/common/grant_table.c."""

from __future__ import annotations

import struct
from collections.abc import Callable

from euxen.abi import grant_table as abi
from euxen.abi.errno import XEN_EFAULT, XEN_EINVAL, XEN_ENOSYS, XEN_EOPNOTSUPP, XEN_EPERM, XEN_ESRCH
from euxen.abi.xen import DOMID_SELF
from euxen.cpu.native.language import signed
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import Continuation, GrantError, GuestFault, XenError
from euxen.hypervisor.grants import entries, tables, transferring
from euxen.hypervisor.grants.operations import MAX_COUNT
from euxen.hypervisor.mm import heap, p2m, reservation
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.records import PAGE_SHIFT, PAGE_SIZE
from euxen.hypervisor.vcpu import Vcpu

CONTINUATION_ARG_SHIFT = 12
COMMAND_MASK = (1 << CONTINUATION_ARG_SHIFT) - 1
"""The bits above say how far GNTTABOP_cache_flush got."""
AT_ONCE = 64
"""Transfers and exchanges of entries that are done before others get their turn."""


FOR_HVM_GUESTS = {
    *(abi.GNTTABOP_query_size, abi.GNTTABOP_setup_table, abi.GNTTABOP_set_version, abi.GNTTABOP_get_version),
    *(abi.GNTTABOP_copy, abi.GNTTABOP_map_grant_ref, abi.GNTTABOP_unmap_grant_ref, abi.GNTTABOP_swap_grant_ref),
}


def grant_table_op(vcpu: Vcpu, command: int, argument: int, count: int, *_rest: int) -> int:
    """An operation on ``count`` structures; each has a status of its own, GNTST_*."""
    command, count = command & 0xFFFF_FFFF, count & 0xFFFF_FFFF
    if vcpu.hvm is not None and command not in FOR_HVM_GUESTS:
        raise XenError(XEN_ENOSYS)
    if count > MAX_COUNT:
        raise XenError(XEN_EINVAL)
    if command & COMMAND_MASK == abi.GNTTABOP_cache_flush:
        return _cache_flush(vcpu, argument, count, command & ~COMMAND_MASK)
    if command & ~COMMAND_MASK:
        raise XenError(XEN_EINVAL)
    if command in (
        abi.GNTTABOP_map_grant_ref,
        abi.GNTTABOP_unmap_grant_ref,
        abi.GNTTABOP_unmap_and_replace,
        abi.GNTTABOP_copy,
    ):
        raise XenError(XEN_EFAULT)  # done natively, unless the array can't be one
    if command not in OPERATIONS:
        raise XenError(XEN_ENOSYS)
    return OPERATIONS[command](vcpu, argument, count)


def _domain_of(vcpu: Vcpu, domid: int) -> Domain:
    """The domain whose table the caller may manage: its own, or any if it is privileged. Raises GrantError."""
    caller = vcpu.domain
    if domid in (DOMID_SELF, caller.domid):
        return caller
    domain = caller.event_channels.domain_at(domid)
    if domain is None:
        raise GrantError(abi.GNTST_bad_domain)
    if not caller.privileged:
        raise GrantError(abi.GNTST_permission_denied)
    return domain


def _array(vcpu: Vcpu, address: int) -> None:
    """Check where an array begins that a caller names (guest_handle_okay)."""
    if not vcpu.handle_okay(address):
        raise GuestFault


def _setup_table(vcpu: Vcpu, argument: int, count: int) -> int:
    """GNTTABOP_setup_table: make it as long as wanted, and tell its frames."""
    if count != 1:
        raise XenError(XEN_EINVAL)
    op = abi.GnttabSetupTable.unpack_from(vcpu.read(argument, abi.GnttabSetupTable.size))
    _array(vcpu, op.frame_list)
    try:
        table = _domain_of(vcpu, op.dom).grant_table
        table.grow(op.nr_frames)
        _tell(vcpu, op.frame_list, _shown(vcpu.domain, table.frames[: op.nr_frames]))
        op.status = abi.GNTST_okay
    except GrantError as error:
        op.status = error.status
    _answer(vcpu, argument, op)
    return 0


def _shown(domain: Domain, frames: list[int]) -> list[int]:
    """Frames of Xen's as a domain knows them: an HVM one by where it has them mapped, or as ~0 (gnttab_shared_gfn)."""
    if not domain.is_hvm:
        return frames
    return [p2m.gfn_of(domain.record.address, frame) & ~(~0 << 64) for frame in frames]


def _get_status_frames(vcpu: Vcpu, argument: int, count: int) -> int:
    """GNTTABOP_get_status_frames: tell where the status words of version 2 are."""
    if count != 1:
        raise XenError(XEN_EINVAL)
    op = abi.GnttabGetStatusFrames.unpack_from(vcpu.read(argument, abi.GnttabGetStatusFrames.size))
    _array(vcpu, op.frame_list)
    try:
        frames = _domain_of(vcpu, op.dom).grant_table.status_frames
        if op.nr_frames > len(frames):
            raise GrantError(abi.GNTST_general_error)
        _tell(vcpu, op.frame_list, frames[: op.nr_frames])
        op.status = abi.GNTST_okay
    except GrantError as error:
        op.status = error.status
    _answer(vcpu, argument, op)
    return 0


def _tell(vcpu: Vcpu, address: int, frames: list[int]) -> None:
    """Write frame numbers where the caller wants them. Raises GrantError."""
    try:
        vcpu.write(address, struct.pack(f"<{len(frames)}Q", *frames))
    except GuestFault:
        raise GrantError(abi.GNTST_bad_virt_addr) from None


Answered = abi.GnttabSetupTable | abi.GnttabGetStatusFrames | abi.GnttabTransfer | abi.GnttabSwapGrantRef


def _answer(vcpu: Vcpu, argument: int, op: Answered) -> None:
    """Write the status of an operation, and nothing else."""
    vcpu.write(argument + op.offsets["status"], struct.pack("<h", op.status))


def _query_size(vcpu: Vcpu, argument: int, count: int) -> int:
    """GNTTABOP_query_size: how long the table is, and how long it can be."""
    if count != 1:
        raise XenError(XEN_EINVAL)
    op = abi.GnttabQuerySize.unpack_from(vcpu.read(argument, abi.GnttabQuerySize.size))
    try:
        table = _domain_of(vcpu, op.dom).grant_table
        op.nr_frames, op.max_nr_frames = table.record["nr_grant_frames"], table.record["max_grant_frames"]
        op.status = abi.GNTST_okay
    except GrantError as error:
        op.status = error.status
    vcpu.write(argument, bytes(op))
    return 0


def _set_version(vcpu: Vcpu, argument: int, _count: int) -> int:
    """GNTTABOP_set_version. The answer says which version it is now, whatever was asked for."""
    op = abi.GnttabSetVersion.unpack_from(vcpu.read(argument, abi.GnttabSetVersion.size))
    table = vcpu.domain.grant_table
    result = tables.set_version(table.record.address, op.version)
    op.version = table.record["version"]
    vcpu.write(argument, bytes(op))
    return result


def _get_version(vcpu: Vcpu, argument: int, _count: int) -> int:
    """GNTTABOP_get_version."""
    op = abi.GnttabGetVersion.unpack_from(vcpu.read(argument, abi.GnttabGetVersion.size))
    try:
        domain = _domain_of(vcpu, op.dom)
    except GrantError as error:
        raise XenError(XEN_ESRCH if error.status == abi.GNTST_bad_domain else XEN_EPERM) from None
    op.version = domain.grant_table.record["version"]
    vcpu.write(argument + op.offsets["version"], struct.pack("<I", op.version))
    return 0


def _swap_grant_ref(vcpu: Vcpu, argument: int, count: int) -> int:
    """GNTTABOP_swap_grant_ref: exchange two entries that nobody uses."""
    _array(vcpu, argument)
    table = vcpu.domain.grant_table.record.address
    for number in range(min(count, AT_ONCE)):
        at = argument + number * abi.GnttabSwapGrantRef.size
        op = abi.GnttabSwapGrantRef.unpack_from(vcpu.read(at, abi.GnttabSwapGrantRef.size))
        op.status = tables.swap_grant_ref(table, op.ref_a, op.ref_b)
        _answer(vcpu, at, op)
    return _rest(abi.GNTTABOP_swap_grant_ref, argument, count, abi.GnttabSwapGrantRef.size)


def _rest(command: int, argument: int, count: int, size: int) -> int:
    """After AT_ONCE operations, have the others made by another call."""
    if count > AT_ONCE:
        raise Continuation(command, argument + AT_ONCE * size, count - AT_ONCE)
    return 0


def _transfer(vcpu: Vcpu, argument: int, count: int) -> int:
    """GNTTABOP_transfer: give frames away."""
    _array(vcpu, argument)
    for number in range(min(count, AT_ONCE)):
        at = argument + number * abi.GnttabTransfer.size
        op = abi.GnttabTransfer.unpack_from(vcpu.read(at, abi.GnttabTransfer.size))
        op.status = _transfer_one(vcpu.domain, op)
        _answer(vcpu, at, op)
    return _rest(abi.GNTTABOP_transfer, argument, count, abi.GnttabTransfer.size)


def _transfer_one(domain: Domain, op: abi.GnttabTransfer) -> int:
    """Give one frame away: GNTST_*. It is lost to the domain, unless the frame is a bad one."""
    machine = domain.machine.record.address
    frame = signed(op.mfn)
    if not pg.mfn_valid(machine, frame) or not reservation.steal_page(domain.record.address, frame):
        return abi.GNTST_bad_page
    reservation.release_stolen_page(domain.record.address)
    taker = domain.event_channels.domain_at(op.domid)
    status = abi.GNTST_bad_domain if taker is None else _give(domain, taker, op.ref, frame)
    if status != abi.GNTST_okay:
        heap.free_frame(machine, frame)
    return status


def _give(giver: Domain, taker: Domain, ref: int, frame: int) -> int:
    """Give a stolen frame to a domain: GNTST_*."""
    if taker.is_hvm:
        return abi.GNTST_general_error  # its p2m changes only while it does not run
    if taker.grant_table.record["version"] == 1 and frame >> 32:
        return abi.GNTST_address_too_big
    if not transferring.reserve_page(taker.record.address):
        return abi.GNTST_general_error
    if not transferring.give(taker.record.address, ref, giver.domid, frame):
        transferring.unreserve_page(taker.record.address)
        return abi.GNTST_general_error
    return abi.GNTST_okay


def _cache_flush(vcpu: Vcpu, argument: int, count: int, reached: int) -> int:
    """GNTTABOP_cache_flush: caches are coherent here, so only the request is checked.

    ``reached``: from which grant on a frame's is looked for, in an operation that was preempted.
    """
    _array(vcpu, argument)
    for number in range(count):
        at = argument + number * abi.GnttabCacheFlush.size
        if number == AT_ONCE:
            raise Continuation(abi.GNTTABOP_cache_flush, at, count - number)
        op = abi.GnttabCacheFlush.unpack_from(vcpu.read(at, abi.GnttabCacheFlush.size))
        _flush_one(vcpu.domain, op, reached)
        reached = 0
    return 0


def _flush_one(domain: Domain, op: abi.GnttabCacheFlush, reached: int) -> None:
    """Check one request. Raises XenError."""
    if op.offset >= PAGE_SIZE or op.length > PAGE_SIZE or op.offset + op.length > PAGE_SIZE:
        raise XenError(XEN_EINVAL)
    if op.op & ~(abi.GNTTAB_CACHE_INVAL | abi.GNTTAB_CACHE_CLEAN):
        raise XenError(XEN_EINVAL)
    if not op.length or not op.op:
        return
    machine, frame = domain.machine.record.address, op.a.dev_bus_addr >> PAGE_SHIFT
    if not pg.mfn_valid(machine, frame):
        raise XenError(XEN_EINVAL)
    owner = pg.get_page_owner(pg.page_of(machine, frame))
    if not owner:
        raise XenError(XEN_EPERM)
    try:
        if not entries.table_of(owner):  # Xen's own
            raise XenError(XEN_EPERM)
        if owner != domain.record.address and not _uses(domain, owner, frame, reached):
            raise XenError(XEN_EINVAL)
        if op.op == abi.GNTTAB_CACHE_INVAL:
            raise XenError(XEN_EOPNOTSUPP)  # x86 can't drop what is in a cache
    finally:
        pg.put_page(pg.page_of(machine, frame))


def _uses(domain: Domain, owner: int, frame: int, reached: int) -> bool:
    """Whether a domain uses another's frame by a grant."""
    table = entries.table_of(owner)
    end = entries.nr_grant_entries(table)
    return tables.find_mapping(table, domain.domid, frame, reached, end) >= 0


OPERATIONS: dict[int, Callable[[Vcpu, int, int], int]] = {
    abi.GNTTABOP_setup_table: _setup_table,
    abi.GNTTABOP_transfer: _transfer,
    abi.GNTTABOP_query_size: _query_size,
    abi.GNTTABOP_set_version: _set_version,
    abi.GNTTABOP_get_status_frames: _get_status_frames,
    abi.GNTTABOP_get_version: _get_version,
    abi.GNTTABOP_swap_grant_ref: _swap_grant_ref,
}
