"""CPU policies as their managers read and write them: lists of CPUID leaves and of MSRs.

Source: xen/lib/x86/cpuid.c, msr.c and policy.c, and update_domain_cpu_policy in xen/arch/x86/domctl.c.
"""

from __future__ import annotations

from euxen.abi.arch_x86_xen import XEN_CPUID_NO_SUBLEAF, XenCpuidLeaf, XenMsrEntry
from euxen.abi.cpufeatureset import FEATURESET_WORDS
from euxen.abi.domctl import XEN_CPUID_INPUT_UNUSED
from euxen.abi.errno import XEN_E2BIG, XEN_EINVAL, XEN_ENOBUFS, XEN_EOVERFLOW, XEN_ERANGE
from euxen.cpu.cpuid import ANY_SUBLEAF, Leaf
from euxen.cpu.policy import MAX_BASIC_LEAF, MAX_EXTENDED_LEAF, PV_FEATURES, cpu_leaves, find
from euxen.hypervisor.caller import Caller
from euxen.hypervisor.errors import XenError

MSR_INTEL_PLATFORM_INFO, MSR_ARCH_CAPABILITIES = 0xCE, 0x10A
MSRS = (MSR_INTEL_PLATFORM_INFO, MSR_ARCH_CAPABILITIES)
"""Those of a policy: Intel's, so that both are 0."""
CPUID_MAX_SERIALISED_LEAVES = 120
"""As many as Xen's own policy can have."""
FIRST_XEN_LEAF, LAST_XEN_LEAF = 0x4000_0000, 0x4000_FFFF
FIRST_EXTENDED_LEAF = 0x8000_0000
HIGHEST_LEAVES = {0: MAX_BASIC_LEAF, FIRST_EXTENDED_LEAF: MAX_EXTENDED_LEAF}
assert ANY_SUBLEAF == XEN_CPUID_NO_SUBLEAF


class PolicyError(XenError):
    """A policy that cannot be, and what is wrong with it."""

    def __init__(
        self,
        errno: int,
        leaf: int = XEN_CPUID_INPUT_UNUSED,
        subleaf: int = XEN_CPUID_INPUT_UNUSED,
        msr: int = XEN_CPUID_INPUT_UNUSED,
    ) -> None:
        super().__init__(errno)
        self.leaf, self.subleaf, self.msr = leaf, subleaf, msr


def _is_xens(leaf: int) -> bool:
    return FIRST_XEN_LEAF <= leaf <= LAST_XEN_LEAF


def copy_to_caller(caller: Caller, policy: list[Leaf], address: int, room: int) -> int:
    """Write the CPU's own leaves, if there is room; how many there are (x86_cpuid_copy_to_buffer)."""
    leaves = sorted((leaf.leaf, leaf.subleaf, leaf) for leaf in policy if not _is_xens(leaf.leaf))
    if address:
        if len(leaves) > room:
            raise XenError(XEN_ENOBUFS)
        packed = (XenCpuidLeaf(leaf=n, subleaf=s, a=i.eax, b=i.ebx, c=i.ecx, d=i.edx) for n, s, i in leaves)
        caller.write(address, b"".join(map(bytes, packed)))
    return len(leaves)


def copy_msrs(caller: Caller, address: int, room: int) -> int:
    """The same for the MSRs (x86_msr_copy_to_buffer)."""
    if address:
        if len(MSRS) > room:
            raise XenError(XEN_ENOBUFS)
        caller.write(address, b"".join(bytes(XenMsrEntry(idx=msr)) for msr in MSRS))
    return len(MSRS)


def merged(
    caller: Caller, policy: list[Leaf], address: int, count: int, possible: frozenset[int] = PV_FEATURES
) -> list[Leaf]:
    """A policy with a caller's leaves in it, but for features that are not ``possible``. Raises PolicyError."""
    if count > CPUID_MAX_SERIALISED_LEAVES:
        raise PolicyError(XEN_E2BIG)
    leaves = {(leaf.leaf, leaf.subleaf): leaf for leaf in policy}
    for number in range(count):
        new = XenCpuidLeaf.unpack_from(caller.read(address + number * XenCpuidLeaf.size, XenCpuidLeaf.size))
        if _is_xens(new.leaf):
            continue
        if not (new.leaf <= MAX_BASIC_LEAF or FIRST_EXTENDED_LEAF <= new.leaf <= MAX_EXTENDED_LEAF):
            raise PolicyError(XEN_ERANGE, new.leaf, new.subleaf)
        if new.a > HIGHEST_LEAVES.get(new.leaf, new.a):
            raise PolicyError(XEN_EINVAL, new.leaf)
        leaves[new.leaf, new.subleaf] = _reduced(Leaf(new.leaf, new.a, new.b, new.c, new.d, new.subleaf), possible)
    return list(leaves.values())


def _reduced(leaf: Leaf, possible: frozenset[int]) -> Leaf:
    """A leaf without the features that are not possible."""
    words = {name: getattr(leaf, name) for name in ("eax", "ebx", "ecx", "edx")}
    most = find(cpu_leaves(possible), leaf.leaf, leaf.subleaf)
    for number, subleaf, register in FEATURESET_WORDS.values():
        if number == leaf.leaf and leaf.subleaf in (ANY_SUBLEAF, subleaf):
            words[register] &= getattr(most, register)
    return Leaf(leaf.leaf, **words, subleaf=leaf.subleaf)


def check_msrs(caller: Caller, address: int, count: int) -> None:
    """Whether a caller's MSRs are those that every policy has. Raises PolicyError."""
    if count > len(MSRS):
        raise PolicyError(XEN_E2BIG)
    for number in range(count):
        entry = XenMsrEntry.unpack_from(caller.read(address + number * XenMsrEntry.size, XenMsrEntry.size))
        if entry.flags:
            raise PolicyError(XEN_EINVAL, msr=entry.idx)
        if entry.idx not in MSRS:
            raise PolicyError(XEN_ERANGE, msr=entry.idx)
        if entry.val:
            raise PolicyError(XEN_EOVERFLOW, msr=entry.idx)
