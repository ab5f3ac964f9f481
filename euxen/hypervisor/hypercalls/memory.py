"""HYPERVISOR_memory_op. Source: xen/common/memory.c and xen/arch/x86/mm.c (arch_memory_op)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from euxen.abi import memory as abi
from euxen.abi.arch_x86_xen import MACH2PHYS_NR_ENTRIES, MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START
from euxen.abi.errno import XEN_EACCES, XEN_EINVAL, XEN_ENOSYS, XEN_EOPNOTSUPP, XEN_EPERM, XEN_ESRCH
from euxen.abi.hvm_start_info import XEN_HVM_MEMMAP_TYPE_RAM as E820_RAM
from euxen.cpu.native.language import signed
from euxen.cpu.native.memory import Memory
from euxen.hypervisor import xsm
from euxen.hypervisor.caller import Caller
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import Continuation, GuestFault, XenError
from euxen.hypervisor.hypercalls import memory_exchange, physmap
from euxen.hypervisor.hypercalls.extents import MAX_ORDER, WORD, changing, domain_named, propagate_node, read_word
from euxen.hypervisor.mm import heap, populate, reservation
from euxen.hypervisor.mm.page import PAGE_SHIFT, PAGE_SIZE

COMMAND_BITS = 6
COMMAND_MASK = (1 << COMMAND_BITS) - 1
MAX_EXTENTS = 0xFFFF_FFFF >> COMMAND_BITS
"""As many as fit beside the command where a preempted call says how far it has come."""
E820MAX = 1024
E820_ENTRY = struct.Struct("<QQI")
"""struct e820entry: address, bytes, E820_*."""
FRAMES_AT_ONCE = 2048
"""After so many, which takes some ms, others go first."""


def memory_op(caller: Caller, command: int, argument: int, *_rest: int) -> int:
    """The command is in the low six bits; the others say how many extents are already done."""
    start, operation = command >> COMMAND_BITS, command & COMMAND_MASK
    if operation in RESERVATIONS:
        return _reservation(caller, operation, argument, start)
    if operation in physmap.OPERATIONS:
        return physmap.OPERATIONS[operation](caller, argument, start)
    if operation in QUERIES:
        if start:
            raise XenError(XEN_EINVAL)
        return QUERIES[operation](caller, argument)
    raise XenError(XEN_ENOSYS)


Extent = Callable[[Caller, Domain, int, abi.XenMemoryReservation], bool]


def _reservation(caller: Caller, operation: int, argument: int, start: int) -> int:
    """Handle extent after extent until one fails. Whatever goes wrong, the answer is how many are done."""
    try:
        op = abi.XenMemoryReservation.unpack_from(caller.read(argument, abi.XenMemoryReservation.size))
        domain = domain_named(caller, op.domid, xsm.memory_adjust_reservation)
    except XenError:
        return start
    address_bits = op.mem_flags & 0xFF
    too_low = address_bits and address_bits <= PAGE_SHIFT
    if op.nr_extents > MAX_EXTENTS or op.extent_order > MAX_ORDER or too_low:
        return start
    if not op.mem_flags & abi.XENMEMF_vnode and not propagate_node(caller, op.mem_flags):
        return start
    if operation == abi.XENMEM_populate_physmap and op.mem_flags & abi.XENMEMF_populate_on_demand:
        # Nobody may ask for that for himself, and for other PV guests nothing comes of it.
        return start if domain is caller.domain else max(start, int(op.nr_extents))
    with changing(caller, domain, start << COMMAND_BITS | operation, argument):
        return _extents(caller, domain, operation, op, start, argument)


def _extents(
    caller: Caller, domain: Domain, operation: int, op: abi.XenMemoryReservation, start: int, argument: int
) -> int:
    number = pause = start
    while number < op.nr_extents:
        if number - pause << op.extent_order >= FRAMES_AT_ONCE:
            if caller.hypercall_preempt_check() or caller.domain is domain:
                raise Continuation(number << COMMAND_BITS | operation, argument)
            domain.machine.let_others()
            pause = number
        on_demand = op.mem_flags & abi.XENMEMF_populate_on_demand
        if operation == abi.XENMEM_populate_physmap and op.extent_order == 0 and not on_demand:
            number = _populate_many(caller, domain, op, number)
            if number == op.nr_extents:
                break
        try:
            done = RESERVATIONS[operation](caller, domain, op.extent_start + 8 * number, op)
        except GuestFault:
            done = False
        if not done:
            return number
        number += 1
    return max(start, int(op.nr_extents))


def _populate_many(caller: Caller, domain: Domain, op: abi.XenMemoryReservation, number: int) -> int:
    """Populate single frames, as many as are listed in one page of the caller's; the number of the next.

    It stops before one that fails, so that it fails by itself.
    """
    slot = op.extent_start + 8 * number
    count = min(op.nr_extents - number, (PAGE_SIZE - slot % PAGE_SIZE) // 8)
    if not count:  # the next lies across two pages
        return number
    try:
        pfns = caller.read(slot, 8 * count)
        if not domain.is_hvm:
            caller.write(slot, pfns)  # a list that cannot be written to costs one frame, not all
    except GuestFault:
        return number
    frames = Memory(8 * count)
    frames.view[:] = pfns
    done = populate.populate(domain.record.address, frames.address, count)
    if not domain.is_hvm:
        caller.write(slot, bytes(frames.view[: 8 * done]))
    return number + done


def _increase(caller: Caller, domain: Domain, slot: int, op: abi.XenMemoryReservation) -> bool:
    """XENMEM_increase_reservation: allocate an extent."""
    first = domain.allocate_extent(op.extent_order)
    if first is None:
        return False
    if op.extent_start and not domain.is_hvm:
        caller.write(slot, WORD.pack(first))
    return True


def _populate(caller: Caller, domain: Domain, slot: int, op: abi.XenMemoryReservation) -> bool:
    """XENMEM_populate_physmap: put frames where the guest has none."""
    pfn = read_word(caller, slot)
    if op.mem_flags & abi.XENMEMF_populate_on_demand and domain.is_hvm:
        return False  # memory is there, or it is not
    first = domain.allocate_extent(op.extent_order)
    if first is None:
        return False
    if domain.is_hvm:
        return physmap.add_extent(domain, pfn, first, 1 << op.extent_order)
    domain.machine.set_pfns(first, pfn, 1 << op.extent_order)
    caller.write(slot, WORD.pack(first))
    return True


def _decrease(caller: Caller, domain: Domain, slot: int, op: abi.XenMemoryReservation) -> bool:
    """XENMEM_decrease_reservation: take frames back."""
    first = signed(read_word(caller, slot))
    return all(
        reservation.guest_remove_page(domain.record.address, first + number) for number in range(1 << op.extent_order)
    )


RESERVATIONS: dict[int, Extent] = {
    abi.XENMEM_increase_reservation: _increase,
    abi.XENMEM_decrease_reservation: _decrease,
    abi.XENMEM_populate_physmap: _populate,
}


def _maximum_ram_page(caller: Caller, argument: int) -> int:
    return caller.domain.machine.frames


def _domid_at(caller: Caller, argument: int, check: xsm.Check = xsm.memory_stat_reservation) -> Domain:
    return domain_named(caller, int.from_bytes(caller.read(argument, 2), "little"), check)


def _current_reservation(caller: Caller, argument: int) -> int:
    return int(_domid_at(caller, argument).record["tot_pages"])


def _maximum_reservation(caller: Caller, argument: int) -> int:
    return int(_domid_at(caller, argument).record["max_pages"])


def _maximum_gpfn(caller: Caller, argument: int) -> int:
    return _domid_at(caller, argument).max_pfn


def _machphys_mapping(caller: Caller, argument: int) -> int:
    if caller.domain.is_hvm:
        raise XenError(XEN_ENOSYS)
    mapping = abi.XenMachphysMapping(
        v_start=MACH2PHYS_VIRT_START, v_end=MACH2PHYS_VIRT_END, max_mfn=MACH2PHYS_NR_ENTRIES - 1
    )
    caller.write(argument, bytes(mapping))
    return 0


def _memory_map(caller: Caller, argument: int) -> int:
    """XENMEM_memory_map: the map that the toolstack gave."""
    entries = caller.domain.memory_map
    if not entries:
        raise XenError(XEN_ENOSYS)
    op = abi.XenMemoryMap.unpack_from(caller.read(argument, abi.XenMemoryMap.size))
    count = min(op.nr_entries, len(entries))
    packed = b"".join(E820_ENTRY.pack(*entry) for entry in entries[:count])
    caller.write(op.buffer, packed)
    op.nr_entries = count
    caller.write(argument, bytes(op))
    return 0


def _machine_memory_map(caller: Caller, argument: int) -> int:
    """XENMEM_machine_memory_map: all of it is memory."""
    xsm.machine_memory_map(caller.domain)
    op = abi.XenMemoryMap.unpack_from(caller.read(argument, abi.XenMemoryMap.size))
    if not op.nr_entries:
        raise XenError(XEN_EINVAL)
    caller.write(op.buffer, E820_ENTRY.pack(0, caller.domain.machine.frames * PAGE_SIZE, E820_RAM))
    op.nr_entries = 1
    caller.write(argument, bytes(op))
    return 0


def _set_memory_map(caller: Caller, argument: int) -> int:
    """XENMEM_set_memory_map: a domain may change its own as well."""
    op = abi.XenForeignMemoryMap.unpack_from(caller.read(argument, abi.XenForeignMemoryMap.size))
    if op.map.nr_entries > E820MAX:
        raise XenError(XEN_EINVAL)
    domain = domain_named(caller, op.domid, xsm.domain_memory_map)
    packed = caller.read(op.map.buffer, op.map.nr_entries * E820_ENTRY.size)
    domain.memory_map = list(E820_ENTRY.iter_unpack(packed))
    return 0


def _claim_pages(caller: Caller, argument: int) -> int:
    """XENMEM_claim_pages: promise a domain that it can have so many pages in all."""
    op = abi.XenMemoryReservation.unpack_from(caller.read(argument, abi.XenMemoryReservation.size))
    domain = caller.domain.event_channels.domain_at(op.domid)
    if op.extent_start or op.extent_order or op.mem_flags or domain is None:
        raise XenError(XEN_EINVAL)
    xsm.claim_pages(caller.domain, domain)
    if domain.is_dying:
        raise XenError(XEN_EINVAL)
    error = heap.set_outstanding_pages(domain.record.address, op.nr_extents)
    if error:
        raise XenError(-error)
    return 0


def _no_vnuma(caller: Caller, argument: int) -> int:
    _domid_at(caller, argument, xsm.get_vnumainfo)
    raise XenError(XEN_EOPNOTSUPP)


def _nothing_shared(caller: Caller, argument: int) -> int:
    return 0


def _machphys_mfn_list(caller: Caller, argument: int) -> int:
    """XENMEM_machphys_mfn_list: the frames that hold the machine-to-physical table, one per 2 MiB."""
    op = abi.XenMachphysMfnList.unpack_from(caller.read(argument, abi.XenMachphysMfnList.size))
    frames = caller.domain.machine.m2p_frames()[: op.max_extents]
    caller.write(op.extent_start, struct.pack(f"<{len(frames)}Q", *frames))
    op.nr_extents = len(frames)
    caller.write(argument, bytes(op))
    return 0


def _acquire_resource(caller: Caller, argument: int) -> int:
    """XENMEM_acquire_resource: the frames of something that another domain has, so that they can be mapped."""
    if caller.domain.is_hvm:  # arch_acquire_resource_check
        raise XenError(XEN_EACCES)
    op = abi.XenMemAcquireResource.unpack_from(caller.read(argument, abi.XenMemAcquireResource.size))
    if op.pad or (op.frame + op.nr_frames) >> 32:
        raise XenError(XEN_EINVAL)
    domain = caller.domain.event_channels.domain_at(op.domid)
    if domain is None:
        raise XenError(XEN_ESRCH)
    if domain is caller.domain:
        raise XenError(XEN_EPERM)
    xsm.domain_resource_map(caller.domain, domain)
    if op.type not in (abi.XENMEM_resource_grant_table, abi.XENMEM_resource_ioreq_server):
        raise XenError(XEN_EINVAL if op.type == abi.XENMEM_resource_vmtrace_buf else XEN_EOPNOTSUPP)
    most = domain.grant_table.resource_max_frames(op.id) if op.type == abi.XENMEM_resource_grant_table else 0
    if not most:
        raise XenError(XEN_EINVAL)
    if not op.frame_list:
        if op.nr_frames:
            raise XenError(XEN_EINVAL)
        op.nr_frames = most
        caller.write(argument, bytes(op))
        return 0
    if not 0 < op.nr_frames <= MAX_EXTENTS or domain.is_dying:
        raise XenError(XEN_EINVAL)
    frames = domain.grant_table.acquire_resource(op.id, op.frame, op.nr_frames)
    caller.write(op.frame_list, struct.pack(f"<{len(frames)}Q", *frames))
    return 0


QUERIES: dict[int, Callable[[Caller, int], int]] = {
    abi.XENMEM_maximum_ram_page: _maximum_ram_page,
    abi.XENMEM_current_reservation: _current_reservation,
    abi.XENMEM_maximum_reservation: _maximum_reservation,
    abi.XENMEM_maximum_gpfn: _maximum_gpfn,
    abi.XENMEM_machphys_mapping: _machphys_mapping,
    abi.XENMEM_machphys_mfn_list: _machphys_mfn_list,
    abi.XENMEM_memory_map: _memory_map,
    abi.XENMEM_exchange: memory_exchange.memory_exchange,
    abi.XENMEM_get_vnumainfo: _no_vnuma,
    abi.XENMEM_get_sharing_freed_pages: _nothing_shared,
    abi.XENMEM_get_sharing_shared_pages: _nothing_shared,
    abi.XENMEM_machine_memory_map: _machine_memory_map,
    abi.XENMEM_set_memory_map: _set_memory_map,
    abi.XENMEM_claim_pages: _claim_pages,
    abi.XENMEM_acquire_resource: _acquire_resource,
}
