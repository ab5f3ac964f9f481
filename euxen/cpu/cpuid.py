"""The CPUID policy: which CPU a guest sees.

A believable CPU that offers just what the engine can do. A policy is a list of leaves; native code
answers CPUID from a copy of it, for guest kernels and programs alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from euxen.abi.structure import Structure, u64
from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import load32, load64, native, store64, ult
from euxen.cpu.native.memory import Memory

ANY_SUBLEAF = 0xFFFF_FFFF
LOW = 0xFFFF_FFFF


class CpuidEntry(Structure):
    """One leaf as native code reads it."""

    leaf: int = u64()
    subleaf: int = u64()  # or ANY_SUBLEAF
    eax: int = u64()
    ebx: int = u64()
    ecx: int = u64()
    edx: int = u64()


@dataclass(frozen=True)
class Leaf:
    """One leaf of a policy."""

    leaf: int
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0
    subleaf: int = ANY_SUBLEAF


@native
def lookup(block: int, env: int) -> int:
    """Execute CPUID: answers in EAX, EBX, ECX and EDX; zeroes for a leaf that is not there."""
    leaf = load64(env + state.RAX) & LOW
    subleaf = load64(env + state.RCX) & LOW
    entry = load64(block + CpuBlock.cpuid)
    end = entry + load64(block + CpuBlock.cpuid_entries) * CpuidEntry.size
    found = 0
    while found == 0 and ult(entry, end):
        wanted = load64(entry + CpuidEntry.subleaf)
        if wanted == ANY_SUBLEAF:
            wanted = subleaf
        if load64(entry + CpuidEntry.leaf) == leaf and wanted == subleaf:
            found = entry
        entry += CpuidEntry.size
    store64(env + state.RAX, load32(found + CpuidEntry.eax) if found else 0)
    store64(env + state.RBX, load32(found + CpuidEntry.ebx) if found else 0)
    store64(env + state.RCX, load32(found + CpuidEntry.ecx) if found else 0)
    store64(env + state.RDX, load32(found + CpuidEntry.edx) if found else 0)
    return 0


def install(leaves: list[Leaf]) -> Memory:
    """Write a policy where native code finds it. The caller keeps what is returned."""
    memory = Memory(CpuidEntry.size * len(leaves))
    for number, leaf in enumerate(leaves):
        entry = CpuidEntry(leaf=leaf.leaf, subleaf=leaf.subleaf, eax=leaf.eax, ebx=leaf.ebx, ecx=leaf.ecx, edx=leaf.edx)
        entry.pack_into(memory.view, number * CpuidEntry.size)
    return memory
