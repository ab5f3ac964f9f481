"""HYPERVISOR_grant_table_op: setting a table up and asking about it. Source: xen/common/grant_table.c."""

from __future__ import annotations

import struct
from collections.abc import Callable

from euxen.abi import grant_table as abi
from euxen.abi.errno import XEN_EINVAL, XEN_ENOSYS, XEN_EPERM, XEN_ESRCH
from euxen.abi.xen import DOMID_SELF
from euxen.hypervisor.errors import GrantError, GuestFault, XenError
from euxen.hypervisor.grant_table import MAX_FRAMES, VERSION, GrantTable
from euxen.hypervisor.vcpu import Vcpu

COMMAND_MASK = 0xFFFFF
"""The bits above are for continuations of GNTTABOP_cache_flush."""
MAX_COUNT = 0x7FFF_FFFF


def grant_table_op(vcpu: Vcpu, command: int, argument: int, count: int, *_rest: int) -> int:
    """An operation on ``count`` structures; each has a status of its own, GNTST_*."""
    command, count = command & 0xFFFF_FFFF, count & 0xFFFF_FFFF
    if count > MAX_COUNT or command & ~COMMAND_MASK:
        raise XenError(XEN_EINVAL)
    if command not in OPERATIONS:
        raise XenError(XEN_ENOSYS)
    return OPERATIONS[command](vcpu, argument, count)


def _table_of(vcpu: Vcpu, domid: int) -> GrantTable:
    """The table of a domain that the caller may manage: its own. Raises GrantError."""
    if domid in (DOMID_SELF, vcpu.domain.domid):
        return vcpu.domain.grant_table
    known = vcpu.domain.event_channels.domain_at(domid) is not None
    raise GrantError(abi.GNTST_permission_denied if known else abi.GNTST_bad_domain)


def _setup_table(vcpu: Vcpu, argument: int, count: int) -> int:
    """GNTTABOP_setup_table: make it as long as wanted, and tell its frames."""
    if count != 1:
        raise XenError(XEN_EINVAL)
    op = abi.GnttabSetupTable.unpack_from(vcpu.read(argument, abi.GnttabSetupTable.size))
    try:
        table = _table_of(vcpu, op.dom)
        table.grow(op.nr_frames)
        frames = table.frames[: op.nr_frames]
        vcpu.write(op.frame_list, struct.pack(f"<{len(frames)}Q", *frames))
        op.status = abi.GNTST_okay
    except GrantError as error:
        op.status = error.status
    except GuestFault:
        op.status = abi.GNTST_bad_virt_addr
    vcpu.write(argument, bytes(op))
    return 0


def _query_size(vcpu: Vcpu, argument: int, count: int) -> int:
    """GNTTABOP_query_size: how long the table is, and how long it can be."""
    if count != 1:
        raise XenError(XEN_EINVAL)
    op = abi.GnttabQuerySize.unpack_from(vcpu.read(argument, abi.GnttabQuerySize.size))
    try:
        table = _table_of(vcpu, op.dom)
        table.grow()
        op.nr_frames, op.max_nr_frames, op.status = len(table.frames), MAX_FRAMES, abi.GNTST_okay
    except GrantError as error:
        op.status = error.status
    vcpu.write(argument, bytes(op))
    return 0


def _set_version(vcpu: Vcpu, argument: int, _count: int) -> int:
    """GNTTABOP_set_version: there is one. The answer says which, whatever was asked for."""
    wanted = abi.GnttabSetVersion.unpack_from(vcpu.read(argument, abi.GnttabSetVersion.size)).version
    vcpu.write(argument, bytes(abi.GnttabSetVersion(version=VERSION)))
    if wanted == VERSION:
        return 0
    raise XenError(XEN_ENOSYS if wanted == 2 else XEN_EINVAL)


def _get_version(vcpu: Vcpu, argument: int, _count: int) -> int:
    """GNTTABOP_get_version."""
    op = abi.GnttabGetVersion.unpack_from(vcpu.read(argument, abi.GnttabGetVersion.size))
    try:
        _table_of(vcpu, op.dom)
    except GrantError as error:
        raise XenError(XEN_ESRCH if error.status == abi.GNTST_bad_domain else XEN_EPERM) from None
    op.version = VERSION
    vcpu.write(argument, bytes(op))
    return 0


OPERATIONS: dict[int, Callable[[Vcpu, int, int], int]] = {
    abi.GNTTABOP_setup_table: _setup_table,
    abi.GNTTABOP_query_size: _query_size,
    abi.GNTTABOP_set_version: _set_version,
    abi.GNTTABOP_get_version: _get_version,
}
