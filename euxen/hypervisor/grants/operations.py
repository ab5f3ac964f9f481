"""HYPERVISOR_grant_table_op, as far as it is answered natively: batches of mappings, unmappings and copies.

A batch that takes long is preempted between two operations and made again for the rest. Each operation has a status
of its own; the call fails only where the guest's structures can't be read or written. Source: xen/common/grant_table.c.
"""

from __future__ import annotations

from euxen.abi.errno import XEN_EFAULT
from euxen.abi.grant_table import (
    GnttabCopy,
    GnttabMapGrantRef,
    GNTTABOP_copy,
    GNTTABOP_map_grant_ref,
    GNTTABOP_unmap_and_replace,
    GNTTABOP_unmap_grant_ref,
    GnttabUnmapAndReplace,
    GnttabUnmapGrantRef,
)
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import load16, load32, load64, native, store16, store32, store64
from euxen.hypervisor.continuation import DEFER, PREEMPTED, create_continuation
from euxen.hypervisor.grants.acquiring import AGAIN
from euxen.hypervisor.grants.copying import copy_end, copy_one
from euxen.hypervisor.grants.entries import table_of
from euxen.hypervisor.grants.mapping import map_grant_ref
from euxen.hypervisor.grants.records import GNTTAB_UNMAP_BATCH_SIZE, GrantTableRecord, UnmapCommon
from euxen.hypervisor.grants.unmapping import unmap_and_replace, unmap_common_complete, unmap_grant_ref
from euxen.hypervisor.guest_access import copy_from_guest, copy_to_guest, handle_okay
from euxen.hypervisor.mm.page import flush_domain_tlb
from euxen.hypervisor.records import VcpuRecord

MAX_COUNT = 0x7FFF_FFFF
ANYWHERE = 4096
"""Where a domain maps a frame that has all of the host's memory before it: any address but 0."""
COPY_STATUS = GnttabCopy.offsetof("status")
UNMAP_STATUS = GnttabUnmapGrantRef.offsetof("status")
REPLACE_STATUS = GnttabUnmapAndReplace.offsetof("status")


@native
def _map_batch(block: int, vcpu: int, domain: int, operations: int, count: int, fourth: int) -> int:
    op = table_of(domain) + GrantTableRecord.op
    for i in range(count):
        if i and load64(block + CpuBlock.kicked):
            return create_continuation(vcpu, GNTTABOP_map_grant_ref, operations, count - i, fourth)
        if copy_from_guest(block, op, operations, GnttabMapGrantRef.size):
            return -XEN_EFAULT
        map_grant_ref(domain, op)
        if copy_to_guest(block, operations, op, GnttabMapGrantRef.size):
            return -XEN_EFAULT
        operations += GnttabMapGrantRef.size
    return 0


@native
def _complete(domain: int, done: int) -> int:
    """The second half of so many unmappings, once no translation of theirs can be used."""
    flush_domain_tlb(domain)
    common = table_of(domain) + GrantTableRecord.common
    for i in range(done):
        unmap_common_complete(domain, common + i * UnmapCommon.size)
    return 0


@native
def _unmap_some(block: int, domain: int, command: int, operations: int, count: int) -> int:
    """Unmap up to GNTTAB_UNMAP_BATCH_SIZE grants: 0 or -EFAULT."""
    table = table_of(domain)
    op = table + GrantTableRecord.op
    replace = 1 if command == GNTTABOP_unmap_and_replace else 0
    size = GnttabUnmapAndReplace.size if replace else GnttabUnmapGrantRef.size
    status = REPLACE_STATUS if replace else UNMAP_STATUS
    error = 0
    done = 0
    while done < count and not error:
        if copy_from_guest(block, op, operations, size):
            error = -XEN_EFAULT
        else:
            common = table + GrantTableRecord.common + done * UnmapCommon.size
            if replace:
                unmap_and_replace(domain, op, common)
            else:
                unmap_grant_ref(domain, op, common)
            done += 1
            if copy_to_guest(block, operations + status, op + status, 2):
                error = -XEN_EFAULT
            operations += size
    _complete(domain, done)
    return error


@native
def _unmap_batch(block: int, vcpu: int, domain: int, command: int, operations: int, count: int, fourth: int) -> int:
    size = GnttabUnmapAndReplace.size if command == GNTTABOP_unmap_and_replace else GnttabUnmapGrantRef.size
    while count > 0:
        some = min(count, GNTTAB_UNMAP_BATCH_SIZE)
        error = _unmap_some(block, domain, command, operations, some)
        if error:
            return error
        count -= some
        operations += some * size
        if count and load64(block + CpuBlock.kicked):
            return create_continuation(vcpu, command, operations, count, fourth)
    return 0


@native
def _copy_batch(block: int, vcpu: int, domain: int, operations: int, count: int, fourth: int) -> int:
    op = table_of(domain) + GrantTableRecord.op
    result = 0
    i = 0
    while i < count and not result:
        if i and load64(block + CpuBlock.kicked):
            result = PREEMPTED
        elif copy_from_guest(block, op, operations, GnttabCopy.size):
            result = -XEN_EFAULT
        elif copy_one(domain, op) == AGAIN:
            result = PREEMPTED
        elif copy_to_guest(block, operations + COPY_STATUS, op + COPY_STATUS, 2):
            result = -XEN_EFAULT
        else:
            operations += GnttabCopy.size
            i += 1
    copy_end(domain)
    if result == PREEMPTED:
        return create_continuation(vcpu, GNTTABOP_copy, operations, count - i, fourth)
    return result


# The same for a domain whose kernel is this program, and whose memory is the host's.


@native
def map_refs(domain: int, domid: int, flags: int, words: int, count: int) -> int:
    """Map ``count`` grants of one domain. Of three words each, the first is the reference.

    In their place come the status, the handle and the frame's machine address.
    """
    op = table_of(domain) + GrantTableRecord.op
    for i in range(count):
        at = words + i * 24
        store64(op + GnttabMapGrantRef.host_addr, ANYWHERE)
        store32(op + GnttabMapGrantRef.flags, flags)
        store32(op + GnttabMapGrantRef.ref, load64(at))
        store16(op + GnttabMapGrantRef.dom, domid)
        map_grant_ref(domain, op)
        status = load16(op + GnttabMapGrantRef.status)
        store64(at, status - ((status & 0x8000) << 1))
        store64(at + 8, load32(op + GnttabMapGrantRef.handle))
        store64(at + 16, load64(op + GnttabMapGrantRef.dev_bus_addr))
    return 0


@native
def unmap_handles(domain: int, words: int, count: int) -> int:
    """Unmap ``count`` grants by their handles, a word each; their statuses come in their place."""
    table = table_of(domain)
    op = table + GrantTableRecord.op
    done = 0
    for i in range(count):
        store64(op + GnttabUnmapGrantRef.host_addr, ANYWHERE)
        store64(op + GnttabUnmapGrantRef.dev_bus_addr, 0)
        store32(op + GnttabUnmapGrantRef.handle, load64(words + i * 8))
        common = table + GrantTableRecord.common + done * UnmapCommon.size
        unmap_grant_ref(domain, op, common)
        store64(words + i * 8, load64(common + UnmapCommon.status))
        done += 1
        if done == GNTTAB_UNMAP_BATCH_SIZE or i == count - 1:
            _complete(domain, done)
            done = 0
    return 0


@native
def copy_host_array(domain: int, operations: int, count: int) -> int:
    """Do ``count`` struct gnttab_copy."""
    for i in range(count):
        while copy_one(domain, operations + i * GnttabCopy.size) == AGAIN:
            copy_end(domain)
    return copy_end(domain)


@native
def do_grant_table_op(block: int, vcpu: int, command: int, operations: int, count: int, fourth: int) -> int:
    """The operations that happen often; DEFER for the others, and for what is wrong with the call."""
    command &= 0xFFFF_FFFF
    count &= 0xFFFF_FFFF
    if count > MAX_COUNT:
        return DEFER
    domain = load64(vcpu + VcpuRecord.domain)
    # Only where the array begins is looked at (guest_handle_okay); where it leads to is found out later.
    if not handle_okay(block, operations):
        return DEFER
    if command == GNTTABOP_map_grant_ref:
        return _map_batch(block, vcpu, domain, operations, count, fourth)
    if command == GNTTABOP_unmap_grant_ref:
        return _unmap_batch(block, vcpu, domain, command, operations, count, fourth)
    if command == GNTTABOP_unmap_and_replace:
        return _unmap_batch(block, vcpu, domain, command, operations, count, fourth)
    if command == GNTTABOP_copy:
        return _copy_batch(block, vcpu, domain, operations, count, fourth)
    return DEFER
