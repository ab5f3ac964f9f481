"""The CPU that guests see: what it offers works, what it does not offer is not there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bare import DATA, PAGE_FAULT, SYSCALL, TRAP, BareEngine, Outcome

from euxen.abi import cpufeatureset as cpu
from euxen.abi.cpufeatureset import FEATURESET_WORDS
from euxen.cpu.cpuid import Leaf
from euxen.cpu.policy import PV_FEATURES, Tsc, cpu_leaves, default_policy, find, has_feature, xen_leaves
from euxen.cpu.unicorn import layout

TSC = Tsc(khz=2_000_000, to_system_mul=0x8000_0000, shift=0)
MAX_MFN = 0xFFFF
INVALID_OPCODE = 6
RAX, RBX, RCX, RDX = 0, 3, 1, 2

NAMES = {value: name[16:] for name, value in vars(cpu).items() if name.startswith("XEN_X86_FEATURE_")}

ONES = "pcmpeqd %xmm1,%xmm1;"
XMM0 = "mov $0x1122334455667788,%rax; movq %rax,%xmm0;"

# For each feature that comes with instructions: some of them, and what they leave in RAX.
INSTRUCTIONS = {
    cpu.XEN_X86_FEATURE_FPU: ("fld1; fld1; faddp; fistpl -8(%rsp); mov -8(%rsp),%eax", 2),
    cpu.XEN_X86_FEATURE_TSC: ("rdtsc", 0x1234),
    cpu.XEN_X86_FEATURE_CX8: ("movq $9,-8(%rsp); mov $9,%eax; mov $7,%ebx; cmpxchg8b -8(%rsp); mov -8(%rsp),%eax", 7),
    cpu.XEN_X86_FEATURE_CMOV: ("mov $3,%ebx; cmp %eax,%eax; cmove %ebx,%eax; fld1; fcmove %st(0),%st", 3),
    cpu.XEN_X86_FEATURE_CLFLUSH: ("clflush -8(%rsp); mov $1,%eax", 1),
    cpu.XEN_X86_FEATURE_MMX: ("mov $21,%eax; movd %eax,%mm0; paddd %mm0,%mm0; movd %mm0,%eax; emms", 42),
    cpu.XEN_X86_FEATURE_FXSR: (
        "mov $5,%eax; movd %eax,%xmm0; fxsave 0x400000; pxor %xmm0,%xmm0; fxrstor 0x400000;movd %xmm0,%eax",
        5,
    ),
    cpu.XEN_X86_FEATURE_SSE: ("mov $3,%eax; cvtsi2ss %eax,%xmm0; addss %xmm0,%xmm0; cvttss2si %xmm0,%eax; sfence", 6),
    cpu.XEN_X86_FEATURE_SSE2: (
        "mov $3,%eax; cvtsi2sd %eax,%xmm0; mulsd %xmm0,%xmm0; cvttsd2si %xmm0,%eax; mfence;movnti %eax,-8(%rsp)",
        9,
    ),
    cpu.XEN_X86_FEATURE_SSE3: (
        "mov $3,%eax; cvtsi2sd %eax,%xmm0; movddup %xmm0,%xmm0; haddpd %xmm0,%xmm0;cvttsd2si %xmm0,%eax",
        6,
    ),
    cpu.XEN_X86_FEATURE_PCLMULQDQ: ("mov $5,%eax; movq %rax,%xmm0; pclmulqdq $0,%xmm0,%xmm0; movq %xmm0,%rax", 0x11),
    cpu.XEN_X86_FEATURE_SSSE3: ("mov $-7,%eax; movd %eax,%xmm0; pabsd %xmm0,%xmm0; movd %xmm0,%eax", 7),
    cpu.XEN_X86_FEATURE_CX16: (
        "xor %edx,%edx; movq $0,0x400000; movq $0,0x400008; mov $7,%ebx; cmpxchg16b 0x400000;mov 0x400000,%rax",
        7,
    ),
    cpu.XEN_X86_FEATURE_SSE4_1: ("mov $6,%eax; movd %eax,%xmm0; pmulld %xmm0,%xmm0; pextrd $0,%xmm0,%eax", 36),
    cpu.XEN_X86_FEATURE_SSE4_2: ("mov $1,%ebx; crc32l %ebx,%eax", 0xDD45AAB8),
    cpu.XEN_X86_FEATURE_MOVBE: ("movl $0x11223344,-8(%rsp); movbe -8(%rsp),%eax", 0x44332211),
    cpu.XEN_X86_FEATURE_POPCNT: ("mov $0xff0f,%ebx; popcnt %ebx,%eax", 12),
    cpu.XEN_X86_FEATURE_AESNI: ("pxor %xmm0,%xmm0; pxor %xmm1,%xmm1; aesenc %xmm1,%xmm0; movd %xmm0,%eax", 0x63636363),
    cpu.XEN_X86_FEATURE_SYSCALL: ("mov $1,%eax", 1),
    cpu.XEN_X86_FEATURE_MMXEXT: (
        "mov $0x30002,%eax; movd %eax,%mm0; pshufw $1,%mm0,%mm0; movd %mm0,%eax; emms;and $0xffff,%eax",
        3,
    ),
    cpu.XEN_X86_FEATURE_RDTSCP: ("rdtscp", 0x1234),
    cpu.XEN_X86_FEATURE_LM: ("mov $1,%rax; shl $40,%rax", 1 << 40),
    cpu.XEN_X86_FEATURE_LAHF_LM: ("cmp %eax,%eax; lahf; movzbl %ah,%eax", 0x46),
    cpu.XEN_X86_FEATURE_ABM: ("mov $1,%ebx; lzcnt %ebx,%eax", 31),
    cpu.XEN_X86_FEATURE_SSE4A: (XMM0 + "extrq $8,$16,%xmm0; movq %xmm0,%rax", 0x6677),
    cpu.XEN_X86_FEATURE_3DNOWPREFETCH: ("prefetchw -8(%rsp); prefetch -8(%rsp); mov $1,%eax", 1),
    cpu.XEN_X86_FEATURE_FSGSBASE: (
        "mov $0x1234,%ebx; wrfsbase %rbx; wrgsbase %rbx; rdgsbase %rbx; rdfsbase %rax",
        0x1234,
    ),
    cpu.XEN_X86_FEATURE_BMI1: (
        "mov $0xf0,%ebx; mov $0xff,%ecx; andn %ecx,%ebx,%eax; tzcnt %ebx,%ebx;add %ebx,%eax; blsr %eax,%eax",
        0x12,
    ),
    cpu.XEN_X86_FEATURE_BMI2: (
        "mov $5,%ebx; mov $0xf0f0,%ecx; pdep %ecx,%ebx,%eax; mov $4,%ecx;shlx %ecx,%eax,%eax; rorx $4,%eax,%eax",
        0x50,
    ),
    cpu.XEN_X86_FEATURE_ADX: ("stc; mov $2,%ebx; adcx %ebx,%eax; adox %ebx,%eax", 5),
    cpu.XEN_X86_FEATURE_CLFLUSHOPT: ("clflushopt -8(%rsp); mov $1,%eax", 1),
    cpu.XEN_X86_FEATURE_CLWB: ("clwb -8(%rsp); mov $1,%eax", 1),
    cpu.XEN_X86_FEATURE_LFENCE_DISPATCH: ("lfence; mov $1,%eax", 1),
}

WITHOUT_INSTRUCTIONS = {
    # What Xen shows to PV guests of the CPU that it runs on: facts about paging, registers and where we are.
    cpu.XEN_X86_FEATURE_DE,
    cpu.XEN_X86_FEATURE_MSR,
    cpu.XEN_X86_FEATURE_PAE,
    cpu.XEN_X86_FEATURE_MCE,
    cpu.XEN_X86_FEATURE_MCA,
    cpu.XEN_X86_FEATURE_APIC,
    cpu.XEN_X86_FEATURE_PAT,
    cpu.XEN_X86_FEATURE_HYPERVISOR,
    # Tested each by itself, below.
    cpu.XEN_X86_FEATURE_NX,
    cpu.XEN_X86_FEATURE_NSCB,
}

# Features without which the translator does not decode their instructions.
DECODED_BY_FEATURE = [
    cpu.XEN_X86_FEATURE_CX8,
    cpu.XEN_X86_FEATURE_CMOV,
    cpu.XEN_X86_FEATURE_CLFLUSH,
    cpu.XEN_X86_FEATURE_FXSR,
    cpu.XEN_X86_FEATURE_PCLMULQDQ,
    cpu.XEN_X86_FEATURE_SSSE3,
    cpu.XEN_X86_FEATURE_CX16,
    cpu.XEN_X86_FEATURE_SSE4_1,
    cpu.XEN_X86_FEATURE_SSE4_2,
    cpu.XEN_X86_FEATURE_MOVBE,
    cpu.XEN_X86_FEATURE_POPCNT,
    cpu.XEN_X86_FEATURE_AESNI,
    cpu.XEN_X86_FEATURE_RDTSCP,
    cpu.XEN_X86_FEATURE_LAHF_LM,
    cpu.XEN_X86_FEATURE_FSGSBASE,
    cpu.XEN_X86_FEATURE_BMI1,
    cpu.XEN_X86_FEATURE_BMI2,
    cpu.XEN_X86_FEATURE_ADX,
    cpu.XEN_X86_FEATURE_CLFLUSHOPT,
    cpu.XEN_X86_FEATURE_CLWB,
]

# The translator knows no better than to take XOP and TBM for POP, RTM for MOV, and AVX on XMM registers for SSE.
ABSENT = {
    "AVX": "vaddps %ymm0,%ymm1,%ymm2",
    "AVX2": "vpaddd %ymm0,%ymm1,%ymm2",
    "AVX512F": "vpaddd %zmm0,%zmm1,%zmm2",
    "FMA": "vfmadd132ps %xmm0,%xmm1,%xmm2",
    "F16C": "vcvtph2ps %xmm0,%xmm1",
    "XSAVE": "xsave 0x400000",
    "XRSTOR": "xrstor 0x400000",
    "XGETBV": "xor %ecx,%ecx; xgetbv",
    "XSETBV": "xor %ecx,%ecx; xsetbv",
    "XSAVEOPT": "xsaveopt 0x400000",
    "XSAVEC": "xsavec 0x400000",
    "RDRAND": "rdrand %eax",
    "RDSEED": "rdseed %eax",
    "SHA": "sha1msg1 %xmm0,%xmm1",
    "INVPCID": "invpcid 0x400000,%rax",
    "PKU": "xor %ecx,%ecx; rdpkru",
    "RDPID": "rdpid %rax",
    "CLZERO": "clzero",
    "MOVDIRI": "movdiri %eax,0x400000",
    "GFNI": "gf2p8mulb %xmm0,%xmm1",
    "SERIALIZE": "serialize",
    "MONITOR": "monitor",
    "MWAIT": "mwait",
    "MONITORX": "monitorx",
    "SMAP": "stac",
    "SVM": "vmrun",
    "VMX": "vmcall",
    "3DNow": "pfadd %mm0,%mm1",
    "SYSENTER in 64-bit code, on AMD": "sysenter",
}


def policy_of(features: frozenset[int]) -> list[Leaf]:
    return [*cpu_leaves(features), *xen_leaves(TSC, MAX_MFN, rdtscp=cpu.XEN_X86_FEATURE_RDTSCP in features)]


@pytest.fixture(scope="module")
def policy() -> list[Leaf]:
    return default_policy(TSC, MAX_MFN)


@pytest.fixture
def machine(native: None, policy: list[Leaf]) -> Iterator[BareEngine]:
    bare = BareEngine(policy)
    bare.ticks = 0x1234
    yield bare
    bare.close()


def invalid_opcode(outcome: Outcome) -> bool:
    return (outcome.kind, outcome.vector) == (TRAP, INVALID_OPCODE)


def test_every_feature_is_known_to_these_tests() -> None:
    assert INSTRUCTIONS.keys() | WITHOUT_INSTRUCTIONS >= PV_FEATURES


@pytest.mark.parametrize("feature", sorted(PV_FEATURES & INSTRUCTIONS.keys()), ids=lambda number: NAMES[number])
@pytest.mark.parametrize("cpl", [1, 3], ids=["kernel", "user"])
def test_an_offered_feature_works(machine: BareEngine, feature: int, cpl: int) -> None:
    code, result = INSTRUCTIONS[feature]
    assert machine.run(f"{code}; syscall", cpl) == Outcome(SYSCALL)
    assert machine.registers[RAX] == result


@pytest.mark.parametrize("feature", DECODED_BY_FEATURE, ids=lambda number: NAMES[number])
def test_a_feature_taken_from_the_policy_is_gone(machine: BareEngine, feature: int) -> None:
    machine.set_policy(policy_of(PV_FEATURES - {feature}))
    code, _ = INSTRUCTIONS[feature]
    assert invalid_opcode(machine.run(f"{code}; syscall"))


@pytest.mark.parametrize("code", ABSENT.values(), ids=ABSENT.keys())
@pytest.mark.parametrize("cpl", [1, 3], ids=["kernel", "user"])
def test_what_is_not_offered_is_not_there(machine: BareEngine, code: str, cpl: int) -> None:
    assert invalid_opcode(machine.run(f"{code}; syscall", cpl))


def test_bit_counts_without_their_features_are_bit_scans(machine: BareEngine) -> None:
    machine.set_policy(policy_of(PV_FEATURES - {cpu.XEN_X86_FEATURE_ABM}))
    assert machine.run("mov $1,%ebx; lzcnt %ebx,%eax; syscall") == Outcome(SYSCALL)
    assert machine.registers[RAX] == 0


def test_pages_can_be_made_not_executable(machine: BareEngine) -> None:
    assert find(default_policy(TSC, MAX_MFN), 0x8000_0001).edx >> 20 & 1
    words = machine.memory.cast("Q")
    words[0x3000 // 8 + DATA // (2 << 20)] |= 1 << 63
    outcome = machine.run(f"mov ${DATA},%eax; jmp *%rax")
    present_and_fetched = 0x11
    assert outcome == Outcome(PAGE_FAULT, 14, present_and_fetched, DATA)


@pytest.mark.parametrize("segment", ["fs", "gs"])
def test_a_null_selector_clears_the_base(machine: BareEngine, segment: str) -> None:
    code = f"mov $0x123456,%ebx; wr{segment}base %rbx; xor %eax,%eax; mov %eax,%{segment}; rd{segment}base %rax"
    assert machine.run(f"{code}; syscall") == Outcome(SYSCALL)
    assert machine.registers[RAX] == 0


def test_a_32_bit_program_works(machine: BareEngine) -> None:
    assert machine.run("movl $7,%eax; imull $6,%eax; syscall", cpl=3, bits=32) == Outcome(SYSCALL)
    assert machine.registers[RAX] == 42


def test_cpuid_answers_the_policy(machine: BareEngine, policy: list[Leaf]) -> None:
    for leaf in policy:
        subleaf = leaf.subleaf & 0xFF
        code = f"mov ${leaf.leaf},%eax; mov ${subleaf},%ecx; mov $-1,%rbx; mov $-1,%rdx; cpuid; syscall"
        # User mode keeps RCX: a system call would change it.
        assert machine.run(code, cpl=3) == Outcome(SYSCALL)
        answer = tuple(machine.registers[number] for number in (RAX, RBX, RCX, RDX))
        assert answer == (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx), f"{leaf.leaf:#x}:{subleaf}"


@pytest.mark.parametrize(
    ("leaf", "subleaf"),
    [
        (2, 0),
        (4, 0),
        (7, 1),
        (0xD, 0),
        (0xD, 1),
        (0x4000_0004, 0),
        (0x4000_0006, 0),
        (0x8000_000A, 0),
        (0x7FFF_FFFF, 0),
        (0xFFFF_FFFF, 0),
    ],
)
def test_other_leaves_are_zero(machine: BareEngine, leaf: int, subleaf: int) -> None:
    code = f"mov ${leaf},%eax; mov ${subleaf},%ecx; mov $-1,%rbx; mov $-1,%rdx; cpuid; syscall"
    assert machine.run(code) == Outcome(SYSCALL)
    assert [machine.registers[number] for number in (RAX, RBX, RCX, RDX)] == [0, 0, 0, 0]


def test_vendor_and_brand_read_as_text(policy: list[Leaf]) -> None:
    first = find(policy, 0)
    vendor = b"".join(word.to_bytes(4, "little") for word in (first.ebx, first.edx, first.ecx))
    brand = b""
    for number in (0x8000_0002, 0x8000_0003, 0x8000_0004):
        leaf = find(policy, number)
        brand += b"".join(word.to_bytes(4, "little") for word in (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx))
    assert vendor == b"AuthenticAMD"
    assert brand.rstrip(b"\0") == b"euxen Virtual CPU"


def test_the_policy_is_xens_pv_default_on_qemu64_and_more(policy: list[Leaf]) -> None:
    """What Xen 4.17 shows to PV guests on QEMU's qemu64, as its own xen-cpuid -p prints it, is all there."""
    xen = {0x1: (0x0789C3F5, 0x80002001), 0x8000_0001: (0x20100800, 0x00000001)}
    for number, (edx, ecx) in xen.items():
        leaf = find(policy, number)
        assert leaf.edx & edx == edx
        assert leaf.ecx & ecx == ecx
    assert find(policy, 0).eax == 0xD
    assert find(policy, 0x1).eax == find(policy, 0x8000_0001).eax == 0x00060FB1
    assert find(policy, 0x8000_0000).eax == 0x8000_0021
    assert find(policy, 0x8000_0008).eax == 0x00003028
    assert find(policy, 0x8000_0021).eax & 0x4


def test_nothing_that_a_pv_kernel_cannot_use_is_offered(policy: list[Leaf]) -> None:
    for name in ("VME", "PSE", "PGE", "MTRR", "PSE36", "SEP", "X2APIC", "PCID", "TSC_DEADLINE", "XSAVE", "OSXSAVE",
                 "AVX", "SMEP", "SMAP", "UMIP", "PKU", "INVPCID", "PAGE1GB", "SVM", "MONITOR", "TSC_ADJUST",
                 "ARCH_CAPS", "IBRSB", "ITSC", "HTT", "ERMS", "FSRM"):  # fmt: skip
        assert not has_feature(policy, getattr(cpu, f"XEN_X86_FEATURE_{name}")), name


def test_invariant_tsc_only_on_request() -> None:
    assert not has_feature(default_policy(TSC, MAX_MFN), cpu.XEN_X86_FEATURE_ITSC)
    assert has_feature(default_policy(TSC, MAX_MFN, invariant_tsc=True), cpu.XEN_X86_FEATURE_ITSC)


def test_amd_repeats_features_of_leaf_1(policy: list[Leaf]) -> None:
    common = 0x0183F3FF
    assert find(policy, 0x8000_0001).edx & common == find(policy, 1).edx & common


@pytest.mark.parametrize("feature", sorted(PV_FEATURES), ids=lambda number: NAMES[number])
def test_has_feature_finds_each(policy: list[Leaf], feature: int) -> None:
    assert has_feature(policy, feature)
    assert not has_feature(policy_of(PV_FEATURES - {feature}), feature)


def test_xens_signature_and_version(policy: list[Leaf]) -> None:
    first = find(policy, 0x4000_0000)
    signature = b"".join(word.to_bytes(4, "little") for word in (first.ebx, first.ecx, first.edx))
    assert (first.eax, signature) == (0x4000_0005, b"XenVMMXenVMM")
    assert find(policy, 0x4000_0001).eax == 4 << 16 | 17


def test_xens_features_of_a_pv_guest(policy: list[Leaf]) -> None:
    leaf = find(policy, 0x4000_0002)
    one_page, msr_base, preserve_ad = 1, 0x4000_0000, 1
    assert (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) == (one_page, msr_base, preserve_ad, 0)


def test_xens_time_leaves() -> None:
    tsc = Tsc(khz=3_000_000, to_system_mul=0xAAAA_AAAA, shift=-1, mode=2, offset=0x1_2345_6789, incarnation=3)
    leaves = xen_leaves(tsc, MAX_MFN, rdtscp=True)
    mode, scale, host = (find(leaves, 0x4000_0003, subleaf) for subleaf in range(3))
    assert (mode.eax, mode.ebx, mode.ecx, mode.edx) == (1 << 2, 2, 3_000_000, 3)
    assert (scale.eax, scale.ebx, scale.ecx, scale.edx) == (0x2345_6789, 1, 0xAAAA_AAAA, 0xFFFF_FFFF)
    assert host.eax == 3_000_000


@pytest.mark.parametrize(("max_mfn", "bits"), [(0xFFFF, 28), (0x10000, 29), (0x7_FFFF, 31), (0xFF_FFFF_FFFF, 52)])
def test_width_of_machine_addresses(max_mfn: int, bits: int) -> None:
    assert find(xen_leaves(TSC, max_mfn, rdtscp=False), 0x4000_0005).ebx == bits


def test_the_translators_feature_words_name_the_leaves_of_a_featureset() -> None:
    """Every word by which the translator decides is one that Xen has a word for, or the leaf of SVM."""
    known = set(FEATURESET_WORDS.values()) | {(0x8000_000A, 0, "edx")}
    assert set(layout.FEATURE_WORDS.values()) <= known
