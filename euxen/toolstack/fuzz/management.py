"""Hypercalls of those who manage domains, at random: well-formed ones, and such as are a little or quite wrong."""

from __future__ import annotations

import struct
from types import ModuleType

from euxen.abi import domctl, memory, platform, sched, sysctl, xen
from euxen.abi.arch_x86_xen import VcpuGuestContext
from euxen.abi.structure import Structure, Union
from euxen.toolstack.fuzz.calls import NX, PAGE_SHIFT, PTE_FLAGS, SPECIAL, Call, Calls, Surroundings

DOMCTL_HEADER, SYSCTL_HEADER = struct.Struct("<IIHHHH"), struct.Struct("<II")
SOUND, SPOILED = 0.4, 0.4
"""How many of the structures are as they should be, and how many with one thing wrong. The others are at random."""
DOMAIN_0 = 0
ASKING = {
    domctl.XEN_DOMCTL_getdomaininfo,
    domctl.XEN_DOMCTL_getvcpuinfo,
    domctl.XEN_DOMCTL_getvcpuaffinity,
    domctl.XEN_DOMCTL_getnodeaffinity,
    domctl.XEN_DOMCTL_gettscinfo,
    domctl.XEN_DOMCTL_get_address_size,
    domctl.XEN_DOMCTL_get_cpu_policy,
    domctl.XEN_DOMCTL_getpageframeinfo3,
}
"""What the fuzzer asks for of Domain 0, without which nobody would learn what came of all this."""
KEPT = {domctl.XEN_DOMCTL_createdomain: 0.5, domctl.XEN_DOMCTL_destroydomain: 0.1}
"""How many are kept of those commands that take long, or after which much is gone."""
REFERENCES = [VcpuGuestContext.offsetof(field) for field in ("flags", "ldt_base", "ldt_ents", "gdt_ents")] + [
    VcpuGuestContext.offsetof(field) + 8 * number for field in ("gdt_frames", "ctrlreg") for number in range(4)
]
"""Where a vCPU's state says what it refers to."""
ABOUT_DOMAINS = (
    memory.XENMEM_populate_physmap,
    memory.XENMEM_increase_reservation,
    memory.XENMEM_decrease_reservation,
    memory.XENMEM_claim_pages,
    memory.XENMEM_current_reservation,
    memory.XENMEM_maximum_reservation,
    memory.XENMEM_maximum_gpfn,
    memory.XENMEM_exchange,
    memory.XENMEM_acquire_resource,
    memory.XENMEM_set_memory_map,
    memory.XENMEM_add_to_physmap,
    memory.XENMEM_machphys_mfn_list,
    memory.XENMEM_machine_memory_map,
)


def _commands(module: ModuleType, prefix: str, union: type[Union]) -> list[tuple[int, type[Structure] | None]]:
    """Every command of an interface, and its structure: the member of the union that has its name, or part of it."""
    found = []
    for name, number in vars(module).items():
        if not name.startswith(prefix) or not isinstance(number, int) or "INTERFACE" in name:
            continue
        command = name.removeprefix(prefix)
        if not command[0].islower():
            continue  # a flag
        members = [command, command.removeprefix("get"), command.removeprefix("set")]
        members += [member.removeprefix("_") for member in members]
        field = next((union.fields[member] for member in members if member in union.fields), None)
        found.append((number, field.inner if field is not None else None))
    return found


DOMCTLS = _commands(domctl, "XEN_DOMCTL_", domctl.XenDomctlU)
_FAVOURITES = (
    *(4 * [domctl.XEN_DOMCTL_setvcpucontext]),
    domctl.XEN_DOMCTL_getvcpucontext,
    domctl.XEN_DOMCTL_max_vcpus,
    domctl.XEN_DOMCTL_max_mem,
    domctl.XEN_DOMCTL_hypercall_init,
    domctl.XEN_DOMCTL_getpageframeinfo3,
    domctl.XEN_DOMCTL_pausedomain,
    domctl.XEN_DOMCTL_unpausedomain,
    domctl.XEN_DOMCTL_resumedomain,
)
FAVOURITES = [(command, dict(DOMCTLS)[command]) for command in _FAVOURITES]
"""Those that hold references, or decide whether somebody runs."""
SYSCTLS = _commands(sysctl, "XEN_SYSCTL_", sysctl.XenSysctlU)
PLATFORM_OPS = _commands(platform, "XENPF_", platform.XenPlatformOpU)


class ManagementCalls(Calls):
    """The same stream, with calls in it that a privileged domain may make."""

    def __init__(self, seed: int, surroundings: Surroundings) -> None:
        super().__init__(seed, surroundings)
        self._makers += [
            *(3 * [self._domctl]),
            self._sysctl,
            self._platform,
            *(2 * [self._foreign_updates]),
            self._foreign_operations,
            self._foreign_mapping,
            *(2 * [self._foreign_memory]),
            self._foreign_end,
        ]

    def is_fit(self, call: Call) -> bool:
        """Whether a call is one to be made: Domain 0 is left as it is, and other domains mostly there."""
        if call.number == xen.HYPERVISOR_domctl and len(call.memory) >= DOMCTL_HEADER.size:
            command, _version, domid, *_ = DOMCTL_HEADER.unpack_from(call.memory)
            if domid == DOMAIN_0 and command not in ASKING and command != domctl.XEN_DOMCTL_createdomain:
                return False
            if self._random.random() > KEPT.get(command, 1):
                return False
        return super().is_fit(call)

    # Numbers

    def _domid(self) -> int:
        """A domain: mostly the one to play with, perhaps another one, or none."""
        others = self.surroundings.others
        if others and self._random.random() < 0.8:
            return self._random.choice(others)
        return self._random.choice((0, 1, 2, 3, 4, 5, xen.DOMID_SELF, xen.DOMID_XEN, xen.DOMID_IO, 0x7000))

    def _foreign_frame(self) -> int:
        """A frame of somebody else's, often a page table."""
        frames = self.surroundings.other_frames
        if not frames or self._random.random() < 0.2:
            return self._frame()
        return self._random.choice(frames[: self._random.choice((4, 8, len(frames)))])

    def _foreign_entry(self) -> int:
        flags = self._random.choice(PTE_FLAGS) | self._random.choice((0, 0, 0, NX))
        return self._foreign_frame() << PAGE_SHIFT | flags

    # Structures

    def spoiled(self, context: bytes) -> bytes:
        """A vCPU's state, sometimes with one or two words of it changed."""
        packed = bytearray(context)
        for _ in range(self._random.randrange(3) if packed else 0):
            at, value = self._random.randrange(0, len(packed) - 7, 8), self._word()
            if self._random.random() < 0.5:
                at = self._random.choice(REFERENCES)
                value = self._random.choice((0, 1, 512, self._foreign_frame(), self._foreign_frame() << PAGE_SHIFT))
            packed[at : at + 8] = value.to_bytes(8, "little")
        return bytes(packed)

    def _sound(self, kind: type[Structure], slot: int) -> bytes:
        """A structure with pointers to memory, small numbers, and frames of others."""
        packed = bytearray(kind.size)
        names = list(kind.fields)
        for name in [self._random.choice(names)] if issubclass(kind, Union) and names else names:
            field = kind.fields[name]
            for number in range(1 if field.count is None else field.count):
                at = kind.offsets[name] + number * field.stride
                if field.inner is not None:
                    packed[at : at + field.inner.size] = self._sound(field.inner, slot)
                    continue
                size = min(field.size // (field.count or 1), 8)
                value = self._plausible(size, name, slot)
                packed[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        return bytes(packed)

    def _plausible(self, size: int, name: str, slot: int) -> int:
        """What a field of so many bytes could well be."""
        random = self._random
        if name == "ctxt":
            return random.choice((self.surroundings.context, self.surroundings.context, 0))
        if "mfn" in name:
            return self._foreign_frame()
        if name.startswith(("dom", "target")) and size == 2:
            return self._domid()
        if name == "size_":
            return random.choice((8, 16, 32, 64, 128))
        if name in ("vcpu", "num"):
            return random.choice((0, 0, 0, 1, 3))
        if size == 8:
            pointer = slot + self.surroundings.slot_size // 2
            return random.choice((pointer, pointer, pointer, 0, random.randrange(1 << 12), self.surroundings.context))
        return random.choice((0, 0, 0, 1, 1, 2, 4, 8, 64))

    def _part(self, kind: type[Structure] | None, slot: int) -> bytes:
        """A command's own part: right, nearly right, or wrong."""
        how = self._random.random()
        if kind is None:
            return struct.pack("<8Q", *(self._word() for _ in range(8)))
        if how > SOUND + SPOILED:
            return self._structure(kind, slot)
        packed = bytearray(self._sound(kind, slot))
        if how > SOUND and packed:
            at = self._random.randrange(0, len(packed), 4)
            word = self._random.choice((self._number(4), self._random.choice(SPECIAL) & 0xFFFF_FFFF))
            packed[at : at + 4] = word.to_bytes(4, "little")[: len(packed) - at]
        return bytes(packed)

    def _with_header(self, number: int, slot: int, header: bytes, part: bytes) -> Call:
        half = self.surroundings.slot_size // 2
        make = self._random.choice((self._foreign_frame, self._word, lambda: self._random.randrange(64)))
        second = struct.pack("<8Q", *(make() for _ in range(8)))
        return Call(number, (slot, 0, 0, 0, 0), (header + part)[:half].ljust(half, b"\0") + second)

    def _version(self, right: int) -> int:
        return right if self._random.random() < 0.98 else self._number(4)

    # Calls

    def _domctl(self, slot: int) -> Call:
        """domctl, of any command."""
        command, kind = self._random.choice(self._random.choice((DOMCTLS, FAVOURITES)))
        part = self._part(kind, slot)
        domid = self._domid()
        if command == domctl.XEN_DOMCTL_createdomain:
            domid = self._random.choice((0, 0, domid))
            if self._random.random() < SOUND + SPOILED:
                part = bytes(self._new_domain())
        version = self._version(domctl.XEN_DOMCTL_INTERFACE_VERSION)
        return self._with_header(
            xen.HYPERVISOR_domctl, slot, DOMCTL_HEADER.pack(command, version, domid, 0, 0, 0), part
        )

    def _new_domain(self) -> domctl.XenDomctlCreatedomain:
        """What a domain is created with."""
        config = domctl.XenDomctlCreatedomain(
            max_vcpus=1, max_evtchn_port=1023, max_grant_frames=-1, max_maptrack_frames=-1, grant_opts=2
        )
        if self._random.random() < 0.5:
            name = self._random.choice(("flags", "max_vcpus", "max_evtchn_port", "grant_opts", "cpupool_id"))
            setattr(config, name, self._number(4))
        return config

    def _sysctl(self, slot: int) -> Call:
        """sysctl, of any command."""
        command, kind = self._random.choice(SYSCTLS)
        header = SYSCTL_HEADER.pack(command, self._version(sysctl.XEN_SYSCTL_INTERFACE_VERSION))
        return self._with_header(xen.HYPERVISOR_sysctl, slot, header, self._part(kind, slot))

    def _platform(self, slot: int) -> Call:
        """platform_op, of any command."""
        command, kind = self._random.choice(PLATFORM_OPS)
        header = SYSCTL_HEADER.pack(command, self._version(platform.XENPF_INTERFACE_VERSION))
        return self._with_header(xen.HYPERVISOR_platform_op, slot, header, self._part(kind, slot))

    def _foreign_updates(self, slot: int) -> Call:
        """mmu_update with pages of others, in page tables of one's own or of others."""
        count = self._random.randrange(1, 6)
        tables = self._domid() + 1 if self._random.random() < 0.3 else 0
        updates = b""
        for _ in range(count):
            place = self._foreign_frame() << PAGE_SHIFT | self._random.randrange(512) << 3 if tables else 0
            pointer = (place or self._entry_address()) | self._random.choice((0, 0, 0, 1, 2, 3))
            updates += struct.pack("<QQ", pointer, self._random.choice((0, self._foreign_entry(), self._pte())))
        foreign = (tables & 0xFFFF) << 16 | self._domid()
        return Call(xen.HYPERVISOR_mmu_update, (slot, count, 0, foreign, 0), updates)

    def _foreign_operations(self, slot: int) -> Call:
        """mmuext_op on pages of others."""
        count = self._random.randrange(1, 5)
        operations = b"".join(
            struct.pack("<QQQ", self._random.randrange(22), self._foreign_frame(), self._foreign_frame())
            for _ in range(count)
        )
        return Call(xen.HYPERVISOR_mmuext_op, (slot, count, 0, self._domid(), 0), operations)

    def _foreign_mapping(self, _slot: int) -> Call:
        """update_va_mapping_otherdomain."""
        address = self._random.choice(self.surroundings.addresses)
        flags = self._random.choice((xen.UVMF_NONE, xen.UVMF_INVLPG, xen.UVMF_TLB_FLUSH))
        entry = self._random.choice((0, self._foreign_entry(), self._foreign_entry()))
        return Call(xen.HYPERVISOR_update_va_mapping_otherdomain, (address, entry, flags, self._domid(), 0))

    def _foreign_memory(self, slot: int) -> Call:
        """memory_op for others."""
        half = self.surroundings.slot_size // 2
        command = self._random.choice(ABOUT_DOMAINS)
        parts: dict[int, Structure] = {
            memory.XENMEM_exchange: memory.XenMemoryExchange(),
            memory.XENMEM_acquire_resource: memory.XenMemAcquireResource(
                domid=self._domid(), nr_frames=self._random.randrange(5), frame_list=slot + half
            ),
            memory.XENMEM_set_memory_map: memory.XenForeignMemoryMap(domid=self._domid()),
            memory.XENMEM_add_to_physmap: memory.XenAddToPhysmap(domid=self._domid()),
        }
        reservation = memory.XenMemoryReservation(
            extent_start=self._random.choice((slot + half, slot + half, 0)),
            nr_extents=self._random.randrange(9),
            extent_order=self._random.choice((0, 0, 0, 1, 2)),
            domid=self._domid(),
        )
        packed = bytes(parts.get(command, reservation))
        if command in (memory.XENMEM_current_reservation, memory.XENMEM_maximum_reservation):
            packed = self._domid().to_bytes(2, "little")
        make = self._random.choice((self._foreign_frame, lambda: self._random.randrange(64)))
        second = struct.pack("<8Q", *(make() for _ in range(8)))
        return Call(xen.HYPERVISOR_memory_op, (command, slot, 0, 0, 0), packed.ljust(half, b"\0") + second)

    def _foreign_end(self, slot: int) -> Call:
        """Shut another domain down, or bind to its ports, as device models and daemons do."""
        if self._random.random() < 0.5:
            op = bytes(sched.SchedRemoteShutdown(domain_id=self._domid(), reason=self._random.randrange(8)))
            return Call(xen.HYPERVISOR_sched_op, (sched.SCHEDOP_remote_shutdown, slot, 0, 0, 0), op)
        command, port = self._random.choice(((0, 1), (5, 1), (6, 0), (10, 0)))
        packed = struct.pack("<HHI", self._domid(), self._domid() if command == 6 else 0, port)
        return Call(xen.HYPERVISOR_event_channel_op, (command, slot, 0, 0, 0), packed)
