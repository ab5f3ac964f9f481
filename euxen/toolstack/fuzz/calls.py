"""Hypercalls at random: what a guest might ask for that means harm, or does not know what it asks for."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from euxen.abi import callback, event_channel, grant_table, memory, physdev, sched, vcpu, version, xen
from euxen.abi.structure import Structure, Union

PAGE_SHIFT = 12
ALL_ONES = (1 << 64) - 1
SPECIAL = (0, 1, 2, 3, 0xFFF, 0x1000, 1 << 31, 1 << 32, 1 << 47, 1 << 63, ALL_ONES, 0xFFFF_FFFF, 0x8000_0001,
           0xFFFF_8000_0000_0000, 0xFFFF_8800_0000_0000, 0x8000_0000_0000)  # fmt: skip
DOMIDS = (xen.DOMID_SELF, xen.DOMID_SELF, xen.DOMID_SELF, 0, 1, 2, xen.DOMID_IO, xen.DOMID_XEN, xen.DOMID_COW,
          xen.DOMID_INVALID, 0xFFFF)  # fmt: skip
PTE_FLAGS = (0x25, 0x27, 0x65, 0x67, 0xE7, 0x3, 0x1, 0x125, 0x167, 0x77)
NX = 1 << 63


@dataclass(frozen=True)
class Call:
    """One hypercall, and what its arguments point to."""

    number: int
    arguments: tuple[int, int, int, int, int]
    memory: bytes = b""
    """What lies in the call's own part of the area."""

    def __str__(self) -> str:
        name = NAMES.get(self.number, f"hypercall {self.number:#x}")
        arguments = ", ".join(f"{argument:#x}" for argument in self.arguments)
        return f"{name}({arguments}) with {self.memory.hex() or 'nothing'}"


@dataclass(frozen=True)
class Surroundings:
    """What the guest knows of itself."""

    frames: tuple[int, ...]
    """Its machine frames, by pfn."""
    tables: tuple[int, ...]
    """Those of them that are page tables."""
    addresses: tuple[int, ...]
    """Linear addresses of pages."""
    slot_size: int
    """Bytes for each call's memory."""
    context: int = 0
    """The linear address of a struct vcpu_guest_context."""
    others: tuple[int, ...] = ()
    """Domains that it may do with what it likes."""
    other_frames: tuple[int, ...] = ()
    """Their machine frames, the page tables first."""


def _names() -> dict[int, str]:
    return {
        number: name.removeprefix("HYPERVISOR_") for name, number in vars(xen).items() if name.startswith("HYPERVISOR_")
    }


NAMES = {number: name for number, name in _names().items() if isinstance(number, int) and number < 64}


@dataclass(frozen=True)
class Family:
    """A hypercall with operations, each of which takes a structure."""

    number: int
    module: ModuleType
    prefix: str
    structures: str
    """How the names of its structures begin."""
    command: int = 0
    """Which argument says the operation, and which is the structure's address."""
    pointer: int = 1
    count: int | None = None
    """Which says how many structures there are."""

    def operations(self) -> list[tuple[int, type[Structure] | None]]:
        """The operations and their structures."""
        found: list[tuple[int, type[Structure] | None]] = []
        for name, number in vars(self.module).items():
            if name.startswith(self.prefix) and isinstance(number, int):
                words = name.removeprefix(self.prefix).split("_")
                kind = getattr(self.module, self.structures + "".join(word.capitalize() for word in words), None)
                found.append((number, kind))
        return found


FAMILIES = (
    Family(xen.HYPERVISOR_event_channel_op, event_channel, "EVTCHNOP_", "Evtchn"),
    Family(xen.HYPERVISOR_grant_table_op, grant_table, "GNTTABOP_", "Gnttab", count=2),
    Family(xen.HYPERVISOR_memory_op, memory, "XENMEM_", "XenMemory"),
    Family(xen.HYPERVISOR_vcpu_op, vcpu, "VCPUOP_", "Vcpu", pointer=2),
    Family(xen.HYPERVISOR_sched_op, sched, "SCHEDOP_", "Sched"),
    Family(xen.HYPERVISOR_callback_op, callback, "CALLBACKOP_", "Callback"),
    Family(xen.HYPERVISOR_physdev_op, physdev, "PHYSDEVOP_", "Physdev"),
    Family(xen.HYPERVISOR_xen_version, version, "XENVER_", "Xen"),
)
RESERVATIONS = (
    memory.XENMEM_increase_reservation,
    memory.XENMEM_decrease_reservation,
    memory.XENMEM_populate_physmap,
)
ENDS = {sched.SCHEDOP_block, sched.SCHEDOP_poll, sched.SCHEDOP_shutdown}
"""Operations of sched_op after which nothing more would come of a batch."""
SCHED_OPS = {xen.HYPERVISOR_sched_op, xen.HYPERVISOR_sched_op_compat}
CORPUS = 500
"""How many calls are remembered that succeeded."""
MUTATED, ENDING, WILD = 0.3, 0.01, 0.1
"""How many of the calls are nearly as one of those, may end a batch, or make no sense at all."""


class Calls:
    """An endless stream of calls, the same for the same seed and the same results."""

    def __init__(self, seed: int, surroundings: Surroundings) -> None:
        self._random = random.Random(seed)
        self.surroundings = surroundings
        self._operations = {family: family.operations() for family in FAMILIES}
        self._makers: list[Callable[[int], Call]] = [
            *(3 * [self._operation]),
            *(2 * [self._table_updates]),
            self._extended,
            self._mapping,
            self._several,
            *(2 * [self._simple]),
        ]
        """What makes calls, each as often as it is there."""
        self._corpus: list[tuple[int, Call]] = []
        """Calls that succeeded, with the address of their memory: what is nearly the same may go deeper."""

    def learn(self, slot: int, call: Call, result: int) -> None:
        """A call had a result."""
        if result < 1 << 63:
            if len(self._corpus) < CORPUS:
                self._corpus.append((slot, call))
            else:
                self._corpus[self._random.randrange(CORPUS)] = slot, call

    def next(self, slot: int) -> Call:
        """A call whose memory is at the linear address ``slot``."""
        while True:
            if self._corpus and self._random.random() < MUTATED:
                call = self._mutated(*self._random.choice(self._corpus), slot)
            elif self._random.random() < WILD:
                call = Call(self._wild_number(), self._words(), self._filled(slot, None))
            else:
                call = self._random.choice(self._makers)(slot)
            if self.is_fit(call):
                return call

    def is_fit(self, call: Call) -> bool:
        """Whether a call is one to be made: nothing more would come of a batch after some."""
        return call.number != xen.HYPERVISOR_iret and (not _ends(call) or self._random.random() < ENDING)

    # Numbers

    def _wild_number(self) -> int:
        return self._random.choice((self._random.randrange(64), self._random.choice(SPECIAL)))

    def _words(self) -> tuple[int, int, int, int, int]:
        return self._word(), self._word(), self._word(), self._word(), self._word()

    def _frame(self) -> int:
        """A machine frame: the guest's, often a page table of it, or somebody else's."""
        kind = self._random.randrange(8)
        if kind < 5:
            return self._random.choice(self.surroundings.frames)
        if kind < 7:
            return self._random.choice(self.surroundings.tables)
        return self._random.randrange(2 * self.surroundings.frames[-1])

    def _pte(self) -> int:
        """A page-table entry."""
        flags = self._random.choice(PTE_FLAGS) | self._random.choice((0, 0, 0, NX))
        if self._random.random() < 0.1:
            flags ^= 1 << self._random.randrange(64)
        return self._frame() << PAGE_SHIFT | flags

    def _entry_address(self) -> int:
        """The machine address of an entry of a page table."""
        table = self._random.choice(self.surroundings.tables)
        return table << PAGE_SHIFT | self._random.randrange(512) << 3

    def _word(self) -> int:
        """Any number, often one that means something."""
        random = self._random
        match random.randrange(12):
            case 0 | 1:
                return random.choice(SPECIAL)
            case 2 | 3:
                return random.randrange(64)
            case 4:
                return self._frame()
            case 5:
                return random.randrange(len(self.surroundings.frames))
            case 6:
                return self._pte()
            case 7:
                return self._entry_address() | random.randrange(4)
            case 8:
                return random.choice(DOMIDS)
            case 9 | 10:
                return random.choice(self.surroundings.addresses) + random.choice((0, 8, 0xFF8, 0xFFC, 0xFFF))
        return random.getrandbits(64)

    def _number(self, size: int) -> int:
        """A number for a field of ``size`` bytes."""
        if size == 8:
            return self._word()
        kind = self._random.randrange(4)
        if kind == 0:
            value = self._word()
        elif kind == 1:
            value = self._random.choice(DOMIDS)
        else:
            value = self._random.randrange(8)
        return value & (1 << 8 * size) - 1

    # Memory

    def _structure(self, kind: type[Structure], slot: int) -> bytes:
        """A structure of random fields; where a pointer could be, it often is one to the second half of the slot."""
        packed = bytearray(kind.size)
        names = list(kind.fields)
        for name in [self._random.choice(names)] if issubclass(kind, Union) else names:
            field = kind.fields[name]
            for number in range(1 if field.count is None else field.count):
                at = kind.offsets[name] + number * field.stride
                if field.inner is not None:
                    packed[at : at + field.inner.size] = self._structure(field.inner, slot)
                    continue
                size = field.size // (field.count or 1)
                if size == 8 and self._random.random() < 0.3:
                    value = slot + self.surroundings.slot_size // 2
                else:
                    value = self._number(min(size, 8))
                packed[at : at + min(size, 8)] = value.to_bytes(min(size, 8), "little")
        return bytes(packed)

    def _filled(self, slot: int, kind: type[Structure] | None, count: int = 1) -> bytes:
        """The memory of a call: structures in the first half, and frames, indexes or anything in the second."""
        half = self.surroundings.slot_size // 2
        if kind is None:
            first = struct.pack("<8Q", *(self._word() for _ in range(8)))
        else:
            first = b"".join(self._structure(kind, slot) for _ in range(count))
        make = self._random.choice((self._frame, self._word, lambda: self._random.randrange(2048)))
        second = struct.pack("<8Q", *(make() for _ in range(8)))
        return first[:half].ljust(half, b"\0") + second

    # Calls

    def _operation(self, slot: int) -> Call:
        """One of the hypercalls that have operations."""
        family = self._random.choice(FAMILIES)
        operation, kind = self._random.choice(self._operations[family])
        arguments = [self._number(4) for _ in range(5)]
        arguments[family.command] = operation
        count = self._random.choice((1, 1, 1, 2, 3))
        if family.number == xen.HYPERVISOR_memory_op:
            kind = memory.XenMemoryReservation if operation in RESERVATIONS else kind
            kind = memory.XenMemoryExchange if operation == memory.XENMEM_exchange else kind
        arguments[family.pointer] = slot if self._random.random() < 0.95 else self._word()
        if family.count is not None:
            arguments[family.count] = count
        if family.number == xen.HYPERVISOR_vcpu_op:
            arguments[1] = self._random.choice((0, 0, 0, 1, 64, 0xFFFF_FFFF))
        a, b, c, d, e = arguments
        return Call(family.number, (a, b, c, d, e), self._filled(slot, kind, count))

    def _table_updates(self, slot: int) -> Call:
        """mmu_update."""
        count = self._random.randrange(1, 8)
        updates = b"".join(
            struct.pack("<QQ", self._entry_address() | self._random.choice((0, 0, 0, 1, 2, 3)), self._pte())
            for _ in range(count)
        )
        return Call(xen.HYPERVISOR_mmu_update, (slot, count, *self._tail()), updates)

    def _tail(self) -> tuple[int, int, int]:
        """What mmu_update and mmuext_op take behind their list: where to count, and whose memory."""
        pdone = self._random.choice((0, 0, self._word()))
        return pdone, self._random.choice((xen.DOMID_SELF, xen.DOMID_SELF, xen.DOMID_SELF, self._word())), 0

    def _extended(self, slot: int) -> Call:
        """mmuext_op."""
        count = self._random.randrange(1, 5)
        operations = b"".join(
            struct.pack(
                "<QQQ", self._random.randrange(22), self._random.choice((self._frame, self._word))(), self._word()
            )
            for _ in range(count)
        )
        return Call(xen.HYPERVISOR_mmuext_op, (slot, count, *self._tail()), operations)

    def _mapping(self, _slot: int) -> Call:
        """update_va_mapping."""
        address = self._random.choice(self.surroundings.addresses)
        flags = self._random.choice((xen.UVMF_NONE, xen.UVMF_INVLPG, xen.UVMF_TLB_FLUSH, self._word()))
        number = self._random.choice((xen.HYPERVISOR_update_va_mapping, xen.HYPERVISOR_update_va_mapping_otherdomain))
        return Call(number, (address, self._pte(), flags, self._random.choice(DOMIDS), 0))

    def _several(self, slot: int) -> Call:
        """multicall."""
        count = self._random.randrange(1, 5)
        entries = b""
        for _ in range(count):
            call = self._random.choice((self._mapping, self._simple, self._extended))(
                slot + self.surroundings.slot_size // 2
            )
            number = call.number if not _ends(call) and call.number != xen.HYPERVISOR_iret else 0
            entries += struct.pack("<8Q", number, 0, *call.arguments, 0)
        return Call(xen.HYPERVISOR_multicall, (slot, count, 0, 0, 0), entries)

    def _simple(self, slot: int) -> Call:
        """One of those that have no operations, or that take theirs as numbers."""
        number = self._random.choice(SIMPLE)
        first = self._random.choice((slot, self._word(), self._random.randrange(16)))
        second = self._random.choice((slot, self._word(), self._random.randrange(16)))
        return Call(number, (first, second, self._word(), self._word(), 0), self._filled(slot, None))

    def _mutated(self, old_slot: int, call: Call, slot: int) -> Call:
        """The same call with its memory at ``slot``, and one thing changed."""
        size = self.surroundings.slot_size

        def moved(word: int) -> int:
            return word - old_slot + slot if old_slot <= word < old_slot + size else word

        packed = bytearray(call.memory)
        for at in range(0, len(packed) - 7, 8):
            (word,) = struct.unpack_from("<Q", packed, at)
            struct.pack_into("<Q", packed, at, moved(word))
        arguments = [moved(argument) for argument in call.arguments]
        if packed and self._random.random() < 0.6:
            at = self._random.randrange(0, len(packed), 4)
            packed[at : at + 4] = self._number(4).to_bytes(4, "little")[: len(packed) - at]
        else:
            arguments[self._random.randrange(5)] = self._word()
        a, b, c, d, e = arguments
        return Call(call.number, (a, b, c, d, e), bytes(packed))


def _ends(call: Call) -> bool:
    """Whether nothing more would come of a batch."""
    return call.number in SCHED_OPS and call.arguments[0] & 0xFFFF_FFFF in ENDS


SIMPLE = (
    xen.HYPERVISOR_set_trap_table,
    xen.HYPERVISOR_set_gdt,
    xen.HYPERVISOR_stack_switch,
    xen.HYPERVISOR_set_callbacks,
    xen.HYPERVISOR_fpu_taskswitch,
    xen.HYPERVISOR_sched_op_compat,
    xen.HYPERVISOR_platform_op,
    xen.HYPERVISOR_set_debugreg,
    xen.HYPERVISOR_get_debugreg,
    xen.HYPERVISOR_update_descriptor,
    xen.HYPERVISOR_set_timer_op,
    xen.HYPERVISOR_event_channel_op_compat,
    xen.HYPERVISOR_console_io,
    xen.HYPERVISOR_physdev_op_compat,
    xen.HYPERVISOR_vm_assist,
    xen.HYPERVISOR_set_segment_base,
    xen.HYPERVISOR_nmi_op,
    xen.HYPERVISOR_sysctl,
    xen.HYPERVISOR_domctl,
)
