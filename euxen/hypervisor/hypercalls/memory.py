"""HYPERVISOR_memory_op. Source: xen/common/memory.c and xen/arch/x86/mm.c (arch_memory_op).

An extent of order n is 2**n frames in a row, aligned.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from euxen.abi import memory as abi
from euxen.abi.arch_x86_xen import MACH2PHYS_NR_ENTRIES, MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START
from euxen.abi.errno import XEN_EFAULT, XEN_EINVAL, XEN_ENOSYS, XEN_EPERM, XEN_ESRCH
from euxen.abi.xen import DOMID_SELF
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import GuestFault, XenError
from euxen.hypervisor.mm import reservation
from euxen.hypervisor.vcpu import Vcpu

COMMAND_BITS = 6
MAX_ORDER = 9
"""The largest extent that a domain without devices may ask for (CONFIG_DOMU_MAX_ORDER)."""

WORD = struct.Struct("<Q")


def memory_op(vcpu: Vcpu, command: int, argument: int, *_rest: int) -> int:
    """The command is in the low six bits; the others say how many extents are already done."""
    start = (command & 0xFFFF_FFFF) >> COMMAND_BITS
    command &= (1 << COMMAND_BITS) - 1
    if command in RESERVATIONS:
        op = abi.XenMemoryReservation.unpack_from(vcpu.read(argument, abi.XenMemoryReservation.size))
        return _reservation(vcpu, op, start, RESERVATIONS[command])
    if command in QUERIES:
        return QUERIES[command](vcpu, argument)
    raise XenError(XEN_ENOSYS)


def _domain_named(vcpu: Vcpu, domid: int) -> Domain:
    """The domain that a caller may name: itself."""
    if domid in (DOMID_SELF, vcpu.domain.domid):
        return vcpu.domain
    if vcpu.domain.event_channels.domain_at(domid) is None:
        raise XenError(XEN_ESRCH)
    raise XenError(XEN_EPERM)


Extent = Callable[[Vcpu, Domain, int, abi.XenMemoryReservation], bool]


def _reservation(vcpu: Vcpu, op: abi.XenMemoryReservation, start: int, extent: Extent) -> int:
    """Handle extent after extent until one fails; returns how many are done."""
    if op.nr_extents > (1 << 58) or op.extent_order > 18:
        return start
    domain = _domain_named(vcpu, op.domid)
    if op.extent_order > MAX_ORDER and extent is not _decrease:
        return start
    for number in range(start, op.nr_extents):
        try:
            done = extent(vcpu, domain, op.extent_start + 8 * number, op)
        except GuestFault:
            done = False
        if not done:
            return number
    return int(op.nr_extents)


def _read_word(vcpu: Vcpu, address: int) -> int:
    (value,) = WORD.unpack(vcpu.read(address, 8))
    return int(value)


def _increase(vcpu: Vcpu, domain: Domain, slot: int, op: abi.XenMemoryReservation) -> bool:
    """XENMEM_increase_reservation: allocate an extent."""
    frames = domain.allocate_extent(op.extent_order)
    if frames is None:
        return False
    if op.extent_start:
        vcpu.write(slot, WORD.pack(frames[0]))
    return True


def _populate(vcpu: Vcpu, domain: Domain, slot: int, op: abi.XenMemoryReservation) -> bool:
    """XENMEM_populate_physmap: put frames where the guest has none."""
    pfn = _read_word(vcpu, slot)
    frames = domain.allocate_extent(op.extent_order)
    if frames is None:
        return False
    for number, frame in enumerate(frames):
        domain.machine.m2p[frame] = (pfn + number) & (1 << 64) - 1
    vcpu.write(slot, WORD.pack(frames[0]))
    return True


def _decrease(vcpu: Vcpu, domain: Domain, slot: int, op: abi.XenMemoryReservation) -> bool:
    """XENMEM_decrease_reservation: take frames back."""
    frame = _read_word(vcpu, slot)
    return all(
        reservation.guest_remove_page(domain.record.address, frame + number) for number in range(1 << op.extent_order)
    )


RESERVATIONS: dict[int, Extent] = {
    abi.XENMEM_increase_reservation: _increase,
    abi.XENMEM_decrease_reservation: _decrease,
    abi.XENMEM_populate_physmap: _populate,
}


def _maximum_ram_page(vcpu: Vcpu, argument: int) -> int:
    return vcpu.domain.machine.frames - 1


def _domid_at(vcpu: Vcpu, argument: int) -> Domain:
    return _domain_named(vcpu, int.from_bytes(vcpu.read(argument, 2), "little"))


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
    packed = b"".join(struct.pack("<QQI", *entry) for entry in entries[:count])
    vcpu.write(op.buffer, packed)
    op.nr_entries = count
    vcpu.write(argument, bytes(op))
    return 0


def _privileged_only(vcpu: Vcpu, argument: int) -> int:
    raise XenError(XEN_ENOSYS if vcpu.domain.privileged else XEN_EPERM)


def _exchange(vcpu: Vcpu, argument: int) -> int:
    """XENMEM_exchange: give frames back and get others, in one step."""
    op = abi.XenMemoryExchange.unpack_from(vcpu.read(argument, abi.XenMemoryExchange.size))
    inside, outside = op.in_, op.out
    too_large = inside.extent_order > MAX_ORDER or outside.extent_order > MAX_ORDER
    if too_large or inside.nr_extents > 1 << 31 or outside.nr_extents > 1 << 31:
        raise XenError(XEN_EPERM)
    if inside.nr_extents << inside.extent_order != outside.nr_extents << outside.extent_order:
        raise XenError(XEN_EINVAL)
    if inside.domid not in (DOMID_SELF, vcpu.domain.domid) or outside.domid != inside.domid:
        raise XenError(XEN_EPERM)
    if op.nr_exchanged:
        raise XenError(XEN_EINVAL)
    return _exchange_chunks(vcpu, op, argument)


def _exchange_chunks(vcpu: Vcpu, op: abi.XenMemoryExchange, argument: int) -> int:
    """Exchange as many extents at once as make one of the larger kind."""
    domain = vcpu.domain
    inside, outside = op.in_, op.out
    order = max(inside.extent_order, outside.extent_order)
    give, take = 1 << (order - inside.extent_order), 1 << (order - outside.extent_order)
    for chunk in range(inside.nr_extents // give):
        old = [_read_word(vcpu, inside.extent_start + 8 * (chunk * give + number)) for number in range(give)]
        new = [domain.allocate_extent(outside.extent_order, over_limit=True) for _ in range(take)]
        if any(frames is None for frames in new):
            raise XenError(XEN_EFAULT)
        pfns: list[int] = []
        for first in old:
            for frame in range(first, first + (1 << inside.extent_order)):
                if frame < domain.machine.frames:
                    pfns.append(domain.machine.m2p[frame])
                if not reservation.guest_remove_page(domain.record.address, frame):
                    raise XenError(XEN_EINVAL)
        allocated = [frame for frames in new if frames for frame in frames]
        for frame, pfn in zip(allocated, pfns, strict=True):
            domain.machine.m2p[frame] = pfn
        for number in range(take):
            frame = allocated[number << outside.extent_order]
            vcpu.write(outside.extent_start + 8 * (chunk * take + number), WORD.pack(frame))
        op.nr_exchanged = (chunk + 1) * give
    vcpu.write(argument, bytes(op))
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
    abi.XENMEM_exchange: _exchange,
    abi.XENMEM_machine_memory_map: _privileged_only,
    abi.XENMEM_set_memory_map: _privileged_only,
    abi.XENMEM_claim_pages: _privileged_only,
}


def foreign_mmu(vcpu: Vcpu, *_arguments: int) -> int:
    """mmu_update that names another domain."""
    domid = _arguments[3] & 0xFFFF
    _domain_named(vcpu, domid)
    raise XenError(XEN_EPERM)


foreign_mmuext = foreign_mmu


def update_va_mapping_otherdomain(vcpu: Vcpu, address: int, value: int, flags: int, domid: int, *_rest: int) -> int:
    """HYPERVISOR_update_va_mapping_otherdomain, for one's own domain."""
    from euxen.hypervisor.mm.mmu import do_update_va_mapping

    _domain_named(vcpu, domid & 0xFFFF)
    return do_update_va_mapping(vcpu.block, address, value, flags)
