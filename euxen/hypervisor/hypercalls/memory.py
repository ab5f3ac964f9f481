"""HYPERVISOR_memory_op. Source: xen/common/memory.c and xen/arch/x86/mm.c (arch_memory_op)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from euxen.abi import memory as abi
from euxen.abi.arch_x86_xen import MACH2PHYS_NR_ENTRIES, MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START
from euxen.abi.errno import XEN_EACCES, XEN_EINVAL, XEN_ENOSYS, XEN_EOPNOTSUPP, XEN_ESRCH
from euxen.abi.xen import DOMID_SELF
from euxen.cpu.native.language import signed
from euxen.hypervisor import xsm
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import Continuation, GuestFault, XenError
from euxen.hypervisor.hypercalls import memory_exchange
from euxen.hypervisor.hypercalls.extents import MAX_ORDER, WORD, domain_named, propagate_node, read_word
from euxen.hypervisor.mm import reservation
from euxen.hypervisor.mm.mmu import do_update_va_mapping
from euxen.hypervisor.mm.page import PAGE_SHIFT
from euxen.hypervisor.vcpu import Vcpu

COMMAND_BITS = 6
COMMAND_MASK = (1 << COMMAND_BITS) - 1
MAX_EXTENTS = 0xFFFF_FFFF >> COMMAND_BITS
"""As many as fit beside the command where a preempted call says how far it has come."""
E820MAX = 1024
E820_ENTRY = struct.Struct("<QQI")
"""struct e820entry: address, bytes, E820_*."""
EXTENTS_AT_ONCE = 256
"""After so many, others go first."""


def memory_op(vcpu: Vcpu, command: int, argument: int, *_rest: int) -> int:
    """The command is in the low six bits; the others say how many extents are already done."""
    start, operation = command >> COMMAND_BITS, command & COMMAND_MASK
    if operation in RESERVATIONS:
        return _reservation(vcpu, operation, argument, start)
    if operation in QUERIES:
        if start:
            raise XenError(XEN_EINVAL)
        return QUERIES[operation](vcpu, argument)
    raise XenError(XEN_ENOSYS)


Extent = Callable[[Vcpu, Domain, int, abi.XenMemoryReservation], bool]


def _reservation(vcpu: Vcpu, operation: int, argument: int, start: int) -> int:
    """Handle extent after extent until one fails. Whatever goes wrong, the answer is how many are done."""
    try:
        op = abi.XenMemoryReservation.unpack_from(vcpu.read(argument, abi.XenMemoryReservation.size))
        domain = domain_named(vcpu, op.domid, xsm.memory_adjust_reservation)
    except XenError:
        return start
    address_bits = op.mem_flags & 0xFF
    too_low = address_bits and address_bits <= PAGE_SHIFT
    if op.nr_extents > MAX_EXTENTS or op.extent_order > MAX_ORDER or too_low:
        return start
    if not op.mem_flags & abi.XENMEMF_vnode and not propagate_node(vcpu, op.mem_flags):
        return start
    for number in range(start, op.nr_extents):
        if number == start + EXTENTS_AT_ONCE:
            raise Continuation(number << COMMAND_BITS | operation, argument)
        try:
            done = RESERVATIONS[operation](vcpu, domain, op.extent_start + 8 * number, op)
        except GuestFault:
            done = False
        if not done:
            return number
    return max(start, int(op.nr_extents))


def _increase(vcpu: Vcpu, domain: Domain, slot: int, op: abi.XenMemoryReservation) -> bool:
    """XENMEM_increase_reservation: allocate an extent."""
    first = domain.allocate_extent(op.extent_order)
    if first is None:
        return False
    if op.extent_start:
        vcpu.write(slot, WORD.pack(first))
    return True


def _populate(vcpu: Vcpu, domain: Domain, slot: int, op: abi.XenMemoryReservation) -> bool:
    """XENMEM_populate_physmap: put frames where the guest has none."""
    pfn = read_word(vcpu, slot)
    first = domain.allocate_extent(op.extent_order)
    if first is None:
        return False
    domain.machine.set_pfns(first, pfn, 1 << op.extent_order)
    vcpu.write(slot, WORD.pack(first))
    return True


def _decrease(vcpu: Vcpu, domain: Domain, slot: int, op: abi.XenMemoryReservation) -> bool:
    """XENMEM_decrease_reservation: take frames back."""
    first = signed(read_word(vcpu, slot))
    return all(
        reservation.guest_remove_page(domain.record.address, first + number) for number in range(1 << op.extent_order)
    )


RESERVATIONS: dict[int, Extent] = {
    abi.XENMEM_increase_reservation: _increase,
    abi.XENMEM_decrease_reservation: _decrease,
    abi.XENMEM_populate_physmap: _populate,
}


def _maximum_ram_page(vcpu: Vcpu, argument: int) -> int:
    return vcpu.domain.machine.frames


def _domid_at(vcpu: Vcpu, argument: int, check: xsm.Check = xsm.memory_stat_reservation) -> Domain:
    return domain_named(vcpu, int.from_bytes(vcpu.read(argument, 2), "little"), check)


def _current_reservation(vcpu: Vcpu, argument: int) -> int:
    return int(_domid_at(vcpu, argument).record["tot_pages"])


def _maximum_reservation(vcpu: Vcpu, argument: int) -> int:
    return int(_domid_at(vcpu, argument).record["max_pages"])


def _maximum_gpfn(vcpu: Vcpu, argument: int) -> int:
    return _domid_at(vcpu, argument).max_pfn


def _machphys_mapping(vcpu: Vcpu, argument: int) -> int:
    mapping = abi.XenMachphysMapping(
        v_start=MACH2PHYS_VIRT_START, v_end=MACH2PHYS_VIRT_END, max_mfn=MACH2PHYS_NR_ENTRIES - 1
    )
    vcpu.write(argument, bytes(mapping))
    return 0


def _memory_map(vcpu: Vcpu, argument: int) -> int:
    """XENMEM_memory_map: the map that the toolstack gave."""
    entries = vcpu.domain.memory_map
    if not entries:
        raise XenError(XEN_ENOSYS)
    op = abi.XenMemoryMap.unpack_from(vcpu.read(argument, abi.XenMemoryMap.size))
    count = min(op.nr_entries, len(entries))
    packed = b"".join(E820_ENTRY.pack(*entry) for entry in entries[:count])
    vcpu.write(op.buffer, packed)
    op.nr_entries = count
    vcpu.write(argument, bytes(op))
    return 0


def _machine_memory_map(vcpu: Vcpu, argument: int) -> int:
    xsm.machine_memory_map(vcpu.domain)
    raise XenError(XEN_ENOSYS)


def _set_memory_map(vcpu: Vcpu, argument: int) -> int:
    """XENMEM_set_memory_map: a domain may change its own as well."""
    op = abi.XenForeignMemoryMap.unpack_from(vcpu.read(argument, abi.XenForeignMemoryMap.size))
    if op.map.nr_entries > E820MAX:
        raise XenError(XEN_EINVAL)
    domain = domain_named(vcpu, op.domid, xsm.domain_memory_map)
    packed = vcpu.read(op.map.buffer, op.map.nr_entries * E820_ENTRY.size)
    domain.memory_map = list(E820_ENTRY.iter_unpack(packed))
    return 0


def _claim_pages(vcpu: Vcpu, argument: int) -> int:
    """XENMEM_claim_pages, which is for those who build domains."""
    op = abi.XenMemoryReservation.unpack_from(vcpu.read(argument, abi.XenMemoryReservation.size))
    domain = vcpu.domain.event_channels.domain_at(op.domid)
    if op.extent_start or op.extent_order or op.mem_flags or domain is None:
        raise XenError(XEN_EINVAL)
    xsm.claim_pages(vcpu.domain, domain)
    raise XenError(XEN_ENOSYS)


def _without_p2m(vcpu: Vcpu, argument: int) -> int:
    """What changes the map of guest frames: a PV guest has none in Xen."""
    _domid_at(vcpu, argument, xsm.remove_from_physmap)
    raise XenError(XEN_EACCES)


def _add_to_physmap(vcpu: Vcpu, argument: int) -> int:
    op = abi.XenAddToPhysmap.unpack_from(vcpu.read(argument, abi.XenAddToPhysmap.size))
    if op.space == abi.XENMAPSPACE_gmfn_foreign:
        raise XenError(XEN_ENOSYS)
    domain_named(vcpu, op.domid, xsm.add_to_physmap)
    raise XenError(XEN_EACCES)


def _no_vnuma(vcpu: Vcpu, argument: int) -> int:
    _domid_at(vcpu, argument, xsm.get_vnumainfo)
    raise XenError(XEN_EOPNOTSUPP)


def _nothing_shared(vcpu: Vcpu, argument: int) -> int:
    return 0


def _machphys_mfn_list(vcpu: Vcpu, argument: int) -> int:
    """XENMEM_machphys_mfn_list: the frames that hold the machine-to-physical table, one per 2 MiB."""
    op = abi.XenMachphysMfnList.unpack_from(vcpu.read(argument, abi.XenMachphysMfnList.size))
    frames = vcpu.domain.machine.m2p_frames()[: op.max_extents]
    vcpu.write(op.extent_start, struct.pack(f"<{len(frames)}Q", *frames))
    op.nr_extents = len(frames)
    vcpu.write(argument, bytes(op))
    return 0


QUERIES: dict[int, Callable[[Vcpu, int], int]] = {
    abi.XENMEM_maximum_ram_page: _maximum_ram_page,
    abi.XENMEM_current_reservation: _current_reservation,
    abi.XENMEM_maximum_reservation: _maximum_reservation,
    abi.XENMEM_maximum_gpfn: _maximum_gpfn,
    abi.XENMEM_machphys_mapping: _machphys_mapping,
    abi.XENMEM_machphys_mfn_list: _machphys_mfn_list,
    abi.XENMEM_memory_map: _memory_map,
    abi.XENMEM_exchange: memory_exchange.memory_exchange,
    abi.XENMEM_add_to_physmap: _add_to_physmap,
    abi.XENMEM_add_to_physmap_batch: _without_p2m,
    abi.XENMEM_remove_from_physmap: _without_p2m,
    abi.XENMEM_get_vnumainfo: _no_vnuma,
    abi.XENMEM_get_sharing_freed_pages: _nothing_shared,
    abi.XENMEM_get_sharing_shared_pages: _nothing_shared,
    abi.XENMEM_machine_memory_map: _machine_memory_map,
    abi.XENMEM_set_memory_map: _set_memory_map,
    abi.XENMEM_claim_pages: _claim_pages,
}


def _foreign_owner(vcpu: Vcpu, domid: int, check: xsm.Check) -> None:
    """A domain that is named as owner of pages; only DOMID_SELF is oneself (get_pg_owner)."""
    if domid != DOMID_SELF:
        owner = vcpu.domain.event_channels.domain_at(domid)
        if owner is None or owner is vcpu.domain:
            raise XenError(XEN_ESRCH)
        check(vcpu.domain, owner)


def foreign_mmu(vcpu: Vcpu, _requests: int, _count: int, _done: int, foreign: int, *_rest: int) -> int:
    """mmu_update for page tables of another domain, or with pages of one."""
    tables = foreign >> 16 & 0xFFFF
    owner = vcpu.domain.event_channels.domain_at(tables - 1) if tables else vcpu.domain
    if owner is None:
        raise XenError(XEN_ESRCH)
    _foreign_owner(vcpu, foreign & 0xFFFF, xsm.mmu_update)
    xsm.mmu_update(vcpu.domain, owner)
    raise XenError(XEN_ENOSYS)


def foreign_mmuext(vcpu: Vcpu, _operations: int, _count: int, _done: int, foreign: int, *_rest: int) -> int:
    """mmuext_op for another domain."""
    _foreign_owner(vcpu, foreign & 0xFFFF, xsm.mmuext_op)
    raise XenError(XEN_ENOSYS)


def update_va_mapping_otherdomain(vcpu: Vcpu, address: int, value: int, flags: int, domid: int, *_rest: int) -> int:
    """HYPERVISOR_update_va_mapping_otherdomain, for one's own domain."""
    _foreign_owner(vcpu, domid & 0xFFFF, xsm.update_va_mapping)
    return do_update_va_mapping(vcpu.block, address, value, flags)
