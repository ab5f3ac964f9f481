"""A hypervisor that only writes down what a builder asks of it: the guest's memory, and the hypercalls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from euxen.abi.arch_x86_hvm_save import (
    HVM_SAVE_CODE_CPU,
    HVM_SAVE_CODE_END,
    HVM_SAVE_CODE_HEADER,
    HVM_SAVE_CODE_MTRR,
    HvmHwCpu,
    HvmHwMtrr,
    HvmSaveDescriptor,
    HvmSaveHeader,
)
from euxen.abi.errno import XEN_ENOMEM
from euxen.abi.structure import Structure
from euxen.cpu.native.memory import Memory
from euxen.hypervisor.errors import XenError

PAGE_SIZE = 4096


def hvm_context(vcpus: int) -> bytes:
    """What Xen says of a domain that was just made."""

    def record(code: int, instance: int, content: Structure | None) -> bytes:
        data = b"" if content is None else bytes(content)
        return bytes(HvmSaveDescriptor(typecode=code, instance=instance, length=len(data))) + data

    header = HvmSaveHeader(changeset=0x1234, cpuid=0x20F10, gtsc_khz=2_000_000)
    mtrr = HvmHwMtrr(msr_pat_cr=0x0007040600070406, msr_mtrr_cap=0x508)
    parts = [record(HVM_SAVE_CODE_HEADER, 0, header)]
    parts += [record(HVM_SAVE_CODE_CPU, vcpu, HvmHwCpu(rip=0xFFF0)) for vcpu in range(vcpus)]
    parts += [record(HVM_SAVE_CODE_MTRR, vcpu, mtrr) for vcpu in range(vcpus)]
    return b"".join([*parts, record(HVM_SAVE_CODE_END, 0, None)])


@dataclass
class Recorder:
    """Stands in for Control."""

    pages: int = 1 << 22
    """How many the machine has."""
    vcpus: int = 1
    memory: dict[int, bytearray] = field(default_factory=dict)
    """Pages that were written to, by gfn."""
    populated: set[int] = field(default_factory=set)
    params: dict[int, int] = field(default_factory=dict)
    contexts: list[bytes] = field(default_factory=list)
    memory_map: list[tuple[int, int, int]] = field(default_factory=list)
    grant_table: bytearray = field(default_factory=lambda: bytearray(PAGE_SIZE))

    def populate_physmap(self, _domid: int, first: int, count: int) -> memoryview:
        if len(self.populated) + count > self.pages:
            raise XenError(XEN_ENOMEM)
        gfns = range(first, first + count)
        assert not self.populated.intersection(gfns)
        self.populated.update(gfns)
        answer = Memory(8 * count)
        words = answer.words()
        for number, gfn in enumerate(gfns):
            words[number] = gfn
        return words

    def set_memory_map(self, _domid: int, entries: list[tuple[int, int, int]]) -> None:
        self.memory_map = entries

    def copy_to_foreign(self, _domid: int, frame: int, data: bytes | memoryview, offset: int = 0) -> None:
        view = memoryview(data)
        done = 0
        while done < len(view):
            gfn, inside = divmod(frame * PAGE_SIZE + offset + done, PAGE_SIZE)
            assert gfn in self.populated
            part = view[done : done + PAGE_SIZE - inside]
            self.memory.setdefault(gfn, bytearray(PAGE_SIZE))[inside : inside + len(part)] = part
            done += len(part)

    def read(self, address: int, size: int) -> bytes:
        """What the guest would find."""
        first, last = address // PAGE_SIZE, (address + size - 1) // PAGE_SIZE
        pages = b"".join(self.memory.get(gfn, bytes(PAGE_SIZE)) for gfn in range(first, last + 1))
        return pages[address % PAGE_SIZE : address % PAGE_SIZE + size]

    def set_hvm_param(self, _domid: int, index: int, value: int) -> None:
        self.params[index] = value

    def get_hvm_context(self, _domid: int) -> bytes:
        return hvm_context(self.vcpus)

    def set_hvm_context(self, _domid: int, records: bytes) -> None:
        self.contexts.append(records)

    @contextlib.contextmanager
    def map_grant_table(self, _domid: int) -> Iterator[memoryview]:
        yield memoryview(self.grant_table)
