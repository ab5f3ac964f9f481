"""What PV guests get when they execute privileged instructions: from code in the guest to registers in the guest."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from assembler import assemble
from pv_guest import CODE, DATA, PROGRAM, READ_ONLY, SPARE, STACK_TOP, PvGuest, Result, handler

from euxen.abi.xen import HYPERVISOR_fpu_taskswitch, HYPERVISOR_xen_version
from euxen.cpu import state
from euxen.hypervisor import msr, pv_cpu
from euxen.hypervisor.emul_fast import MSR_FS_BASE, MSR_GS_BASE, MSR_SHADOW_GS_BASE
from euxen.hypervisor.emulate import emulate
from euxen.hypervisor.machine import PAGE_SIZE

GP, UD, NM, DB, PF = 13, 6, 7, 1, 14
RSI, RDI = 6, 7
ALL_ONES = (1 << 64) - 1
KERNEL_CS, USER_CS = 0xE030, 0xE033
PV_CR4 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10

MakeGuest = Callable[..., PvGuest]


@pytest.fixture
def make_guest(native: None) -> Iterator[MakeGuest]:
    guests: list[PvGuest] = []

    def make(*, handlers: bool = True, user_mode: bool = False, iopl: int = 1) -> PvGuest:
        guest = PvGuest(handlers=handlers, user_mode=user_mode)
        guest.vcpu.record["iopl"] = iopl << 12
        guests.append(guest)
        return guest

    yield make
    for guest in guests:
        guest.close()


@pytest.fixture
def kernel(make_guest: MakeGuest) -> PvGuest:
    return make_guest()


# A prefix that means nothing takes an instruction from the native way to the general one.
BOTH_WAYS = pytest.mark.parametrize("prefix", ["", "rex.w "], ids=["native", "general"])


@pytest.fixture
def program(make_guest: MakeGuest) -> PvGuest:
    return make_guest(user_mode=True)


def rdmsr(index: int) -> str:
    return f"mov ${index},%ecx; rdmsr; shl $32,%rdx; or %rdx,%rax"


def wrmsr(index: int, value: int) -> str:
    return f"mov ${index},%ecx; mov ${value & 0xFFFF_FFFF},%eax; mov ${value >> 32},%edx; wrmsr"


def assert_refused(result: Result, rip: int = CODE, vector: int = GP) -> None:
    assert result.frame is not None, "nothing was raised"
    assert result.vector == vector
    assert result.frame.rip == rip
    assert result.frame.error_code == (0 if vector == GP else None)


# CPUID


@pytest.mark.parametrize("user_mode", [False, True], ids=["kernel", "user"])
def test_forced_cpuid_is_the_policys(make_guest: MakeGuest, user_mode: bool) -> None:
    result = make_guest(user_mode=user_mode).run('mov $0x40000000,%eax; ud2; .ascii "xen"; cpuid')
    words = (result.rbx, result.rcx, result.rdx)
    assert b"".join(word.to_bytes(4, "little") for word in words) == b"XenVMMXenVMM"
    assert result.vector is None


@pytest.mark.parametrize("code", ["ud2", 'ud2; .ascii "xen"; nop; nop', 'ud2; .ascii "Xen"; cpuid'])
def test_other_invalid_opcodes_are_the_guests(kernel: PvGuest, code: str) -> None:
    assert_refused(kernel.run(code), vector=UD)


def test_forced_cpuid_that_ends_where_no_memory_is(kernel: PvGuest) -> None:
    start = SPARE + PAGE_SIZE - 5
    kernel.put(start, assemble('ud2; .ascii "xen"'))
    result = kernel.run(f"jmp {start:#x}")
    assert result.vector == PF
    assert result.frame is not None
    assert result.frame.rip == start
    assert kernel.registers.word(state.CR2) == SPARE + PAGE_SIZE


# Model-specific registers


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (msr.MSR_P5_MC_TYPE, 0),
        (msr.MSR_APIC_BASE, 0xFEE0_0900),
        (msr.MSR_INTEL_PLATFORM_INFO, 0),
        (msr.MSR_INTEL_MISC_FEATURES_ENABLES, 0),
        (msr.MSR_IA32_MCG_CAP, 2),
        (msr.MSR_IA32_MCG_STATUS, 0),
        (msr.MSR_IA32_CR_PAT, 0x0000_0501_0007_0406),
        (0x400, ALL_ONES),
        (0x401, 0),
        (0x408, 0),
        (msr.MSR_EFER, 0xD01),
        (msr.MSR_TSC_AUX, 0),
        (msr.MSR_K8_HWCR, 0),
        (msr.MSR_K7_FID_VID_STATUS, 0),
        (msr.MSR_K7_EVNTSEL0, 0),
        (msr.MSR_AMD64_NB_CFG, 0),
        (msr.MSR_AMD64_DE_CFG, 2),
        (0x4000_0000, 0),
    ],
    ids=hex,
)
def test_registers_that_can_be_read(kernel: PvGuest, index: int, value: int) -> None:
    result = kernel.run(rdmsr(index))
    assert result.vector is None
    assert result.rax == value


ABSENT_MSRS = [
    0x48,  # SPEC_CTRL
    0x1A0,  # MISC_ENABLE, Intel's
    0x10A,  # ARCH_CAPABILITIES
    0xFE,  # MTRRcap
    0x174,  # SYSENTER_CS
    0x800,  # x2APIC
    0x4D0,  # MCG_EXT_CTL
    0x4000_0001,
    0xC000_0081,  # STAR: system calls are Xen's
    0xC000_0082,
    0xC000_0084,
    0xC000_0104,
    0xC001_0010,  # SYSCFG
    0xC001_001A,  # TOP_MEM
    0xC001_0058,  # MMIO_CONF_BASE, of later families
    0xFFFF_FFFF,
]


@pytest.mark.parametrize("index", ABSENT_MSRS, ids=hex)
def test_registers_that_are_not_there(make_guest: MakeGuest, index: int) -> None:
    assert_refused(make_guest().run(rdmsr(index)), CODE + 5)
    before_wrmsr = CODE + 5 + 5 + 5
    assert_refused(make_guest().run(wrmsr(index, 0)), before_wrmsr)


def test_a_kernel_without_a_handler_reads_zero(make_guest: MakeGuest) -> None:
    result = make_guest(handlers=False).run(f"mov $-1,%rax; mov $-1,%rdx; {rdmsr(0x1A0)}")
    assert result.vector is None
    assert result.rax == 0


@pytest.mark.parametrize("code", ["rdmsr", "wrmsr"])
def test_programs_have_no_registers(program: PvGuest, code: str) -> None:
    result = program.run(f"mov ${msr.MSR_TSC_AUX},%ecx; {code}")
    assert_refused(result, PROGRAM + 5)
    assert result.frame is not None
    assert result.frame.cs == USER_CS


@pytest.mark.parametrize("index", [MSR_FS_BASE, MSR_GS_BASE, MSR_SHADOW_GS_BASE], ids=hex)
@pytest.mark.parametrize("value", [0, DATA, 0xFFFF_8800_1234_5678, 0x7FFF_FFFF_FFFF])
@BOTH_WAYS
def test_segment_bases_keep_what_is_written(kernel: PvGuest, index: int, value: int, prefix: str) -> None:
    code = f"{wrmsr(index, value)}; {rdmsr(index)}"
    result = kernel.run(code.replace("rdmsr", f"{prefix}rdmsr").replace("wrmsr", f"{prefix}wrmsr"))
    assert result.vector is None
    assert result.rax == value


@pytest.mark.parametrize("index", [MSR_FS_BASE, MSR_GS_BASE, MSR_SHADOW_GS_BASE], ids=hex)
@pytest.mark.parametrize("value", [1 << 47, 0x8000_0000_0000_0000, 0xFFFF_0000_0000_0000])
@BOTH_WAYS
def test_segment_bases_are_canonical(kernel: PvGuest, index: int, value: int, prefix: str) -> None:
    assert_refused(kernel.run(wrmsr(index, value).replace("wrmsr", f"{prefix}wrmsr")), CODE + 15)


@pytest.mark.parametrize("segment", ["fs", "gs"])
def test_segment_bases_are_the_segments(kernel: PvGuest, segment: str) -> None:
    index = MSR_FS_BASE if segment == "fs" else MSR_GS_BASE
    result = kernel.run(f"movq $0x1234,{DATA + 16}; {wrmsr(index, DATA)}; mov %{segment}:16,%rbx")
    assert result.rbx == 0x1234


def test_rdtscp_reads_what_was_written(kernel: PvGuest) -> None:
    result = kernel.run(f"{wrmsr(msr.MSR_TSC_AUX, 0x12345678)}; rdtscp")
    assert result.rcx == 0x12345678


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (msr.MSR_TSC_AUX, 1 << 32),
        (msr.MSR_EFER, 0x501),
        (msr.MSR_EFER, 0x1D01),
        (msr.MSR_INTEL_MISC_FEATURES_ENABLES, 1),
        (msr.MSR_INTEL_PLATFORM_INFO, 0),
        (msr.MSR_IA32_TSC, 0),
        (msr.MSR_APIC_BASE, 0xFEE0_0900),
        (msr.MSR_IA32_CR_PAT, 0x0000_0501_0007_0406),
        (0x401, 1),
        (0x406, 1),
    ],
    ids=hex,
)
def test_values_that_are_refused(kernel: PvGuest, index: int, value: int) -> None:
    assert_refused(kernel.run(wrmsr(index, value)), CODE + 15)


@pytest.mark.parametrize(
    ("index", "value", "then"),
    [
        (msr.MSR_EFER, 0xD01, 0xD01),
        (msr.MSR_INTEL_MISC_FEATURES_ENABLES, 0, 0),
        (msr.MSR_IA32_MCG_STATUS, 5, 5),
        (msr.MSR_IA32_MCG_CAP, 9, 2),
        (msr.MSR_IA32_MCG_CTL, ALL_ONES, 0),
        (0x400, 0, ALL_ONES),
        (0x401, 0, 0),
        (0x409, 1, 0),
        (msr.MSR_K8_HWCR, 1 << 6, 0),
        (msr.MSR_AMD64_DE_CFG, 0, 2),
        (msr.MSR_AMD64_NB_CFG, ALL_ONES, 0),
        (msr.MSR_K7_FID_VID_CTL, 1, 0),
        (msr.MSR_AMD_FAM15H_EVNTSEL0, 1, 0),
    ],
    ids=hex,
)
def test_values_that_are_taken_or_ignored(kernel: PvGuest, index: int, value: int, then: int) -> None:
    result = kernel.run(f"{wrmsr(index, value)}; {rdmsr(index)}")
    assert result.vector is None
    assert result.rax == then


def test_the_time_stamp_counter_goes_on(kernel: PvGuest) -> None:
    result = kernel.run(f"{rdmsr(msr.MSR_IA32_TSC)}; mov %rax,%rbx; rdtsc; shl $32,%rdx; or %rdx,%rax")
    assert 0 < result.rbx <= result.rax


# The hypercall page


def test_a_hypercall_page_can_be_had_and_called(kernel: PvGuest) -> None:
    call = DATA + HYPERVISOR_xen_version * 32
    result = kernel.run(f"{wrmsr(0x4000_0000, kernel.data_frame << 12)}; xor %edi,%edi; xor %esi,%esi; call {call:#x}")
    assert result.vector is None
    assert result.rax == 4 << 16 | 17


def test_code_that_was_there_is_forgotten(kernel: PvGuest) -> None:
    """The page's old contents were executed; its new contents are what is executed next."""
    call = DATA + HYPERVISOR_xen_version * 32
    kernel.page(DATA)[call - DATA] = 0xC3
    result = kernel.run(
        f"xor %eax,%eax; call {call:#x}; mov %rax,%rbx;"
        f"{wrmsr(0x4000_0000, kernel.data_frame << 12)}; xor %edi,%edi; xor %esi,%esi; call {call:#x}"
    )
    assert (result.rbx, result.rax) == (0, 4 << 16 | 17)


def refused_hypercall_pages(guest: PvGuest) -> dict[str, int]:
    return {
        "a page that Xen does not have": guest.data_frame << 12 | 1,
        "a page table": guest.root << 12,
        "Xen's own memory": 0x1000,
        "no memory": guest.machine.frames << 12,
        "far outside": 0xFFFF_FFFF_FFFF_F000,
    }


@pytest.mark.parametrize(
    "what",
    ["a page that Xen does not have", "a page table", "Xen's own memory", "no memory", "far outside"],
)
def test_hypercall_pages_that_are_refused(kernel: PvGuest, what: str) -> None:
    root = bytes(kernel.machine.frame(kernel.root))
    assert_refused(kernel.run(wrmsr(0x4000_0000, refused_hypercall_pages(kernel)[what])), CODE + 15)
    assert bytes(kernel.machine.frame(kernel.root)) == root


# Control registers


def test_cr0_as_xen_has_it(kernel: PvGuest) -> None:
    assert kernel.run("mov %cr0,%rax").rax == 0x8005_0033


@pytest.mark.parametrize("register", ["rax", "r15"])
def test_task_switched_can_be_set_and_cleared(make_guest: MakeGuest, register: str) -> None:
    set_ts = f"mov %cr0,%{register}; or $8,%{register}; mov %{register},%cr0"
    assert make_guest().run(f"{set_ts}; mov %cr0,%rbx").rbx == 0x8005_003B
    result = make_guest().run(f"{set_ts}; fld1")
    assert result.vector == NM
    result = make_guest().run(f"{set_ts}; clts; fld1; mov %cr0,%rbx")
    assert result.vector is None
    assert result.rbx == 0x8005_0033


def test_clts_takes_back_what_the_hypercall_set(kernel: PvGuest) -> None:
    result = kernel.run(f"mov ${HYPERVISOR_fpu_taskswitch},%eax; mov $1,%edi; syscall; mov %cr0,%rbx; clts; fld1")
    assert result.rbx & 8
    assert result.vector is None


@pytest.mark.parametrize("bit", [0, 1, 2, 5, 16, 18, 29, 30, 31, 32])
def test_the_rest_of_cr0_is_xens(kernel: PvGuest, bit: int) -> None:
    assert_refused(kernel.run(f"movabs ${1 << bit ^ 0x8005_0033},%rax; mov %rax,%cr0"), CODE + 10)


def test_cr2_keeps_what_is_written(kernel: PvGuest) -> None:
    value = 0xFFFF_8800_1234_5678
    assert kernel.run(f"mov ${value},%rax; mov %rax,%cr2; mov %cr2,%rbx").rbx == value


def test_cr2_is_where_the_guest_faulted(kernel: PvGuest) -> None:
    kernel.run("mov 0x123,%eax")
    assert kernel.registers.word(state.CR2) == 0x123


def test_cr3_names_the_machine_frame(kernel: PvGuest) -> None:
    assert kernel.run("mov %cr3,%rax").rax == kernel.root << 12


def test_cr3_takes_another_page_table(kernel: PvGuest) -> None:
    result = kernel.run(f"mov ${kernel.spare_root << 12},%rax; mov %rax,%cr3; mov %cr3,%rbx; mov {DATA},%ecx")
    assert result.vector is None
    assert result.rbx == kernel.spare_root << 12


def refused_page_tables(guest: PvGuest) -> dict[str, int]:
    return {
        "a data page": guest.data_frame << 12,
        "a lower page table": guest.frames[2] << 12,
        "Xen's own memory": 0x1000,
        "no memory": guest.machine.frames << 12,
        "far outside": 0x000F_FFFF_FFFF_F000,
        "beyond all": ALL_ONES,
    }


@pytest.mark.parametrize(
    "what", ["a data page", "a lower page table", "Xen's own memory", "no memory", "far outside", "beyond all"]
)
def test_cr3_takes_nothing_else(kernel: PvGuest, what: str) -> None:
    value = refused_page_tables(kernel)[what]
    result = kernel.run(f"movabs ${value},%rax; mov %rax,%cr3")
    assert_refused(result, CODE + 10)
    assert kernel.vcpu.record["guest_table"] == kernel.root


def test_cr4_shows_what_a_pv_guest_may_know(kernel: PvGuest) -> None:
    assert kernel.run("mov %cr4,%rax").rax == PV_CR4


@pytest.mark.parametrize("bit", [2, 3, 16], ids=["TSD", "DE", "FSGSBASE"])
def test_cr4_bits_of_the_guest(kernel: PvGuest, bit: int) -> None:
    value = PV_CR4 | 1 << bit
    assert kernel.run(f"mov ${value},%eax; mov %rax,%cr4; mov %cr4,%rbx").rbx == value


@pytest.mark.parametrize("bit", [0, 1, 4, 7, 8, 11, 12, 13, 14, 17, 18, 20, 21, 22, 32, 63])
def test_cr4_bits_that_stay_clear(kernel: PvGuest, bit: int) -> None:
    """Linux sets what it likes, and is not punished for it."""
    assert kernel.run(f"movabs ${PV_CR4 | 1 << bit},%rax; mov %rax,%cr4; mov %cr4,%rbx").rbx == PV_CR4


@pytest.mark.parametrize("on", [True, False])
def test_fsgsbase_is_for_whom_the_kernel_lets(kernel: PvGuest, on: bool) -> None:
    value = PV_CR4 | (1 << 16 if on else 0)
    result = kernel.run(f"mov ${value},%eax; mov %rax,%cr4; rdfsbase %rbx")
    assert result.vector == (None if on else UD)


def test_tsd_keeps_the_counter_from_programs(make_guest: MakeGuest) -> None:
    guest = make_guest()
    result = guest.run(f"mov ${PV_CR4 | 4},%eax; mov %rax,%cr4; rdtsc; shl $32,%rdx; or %rdx,%rax; rdtscp")
    assert result.vector is None
    assert result.rax
    for code in ("rdtsc", "rdtscp"):
        guest = make_guest(user_mode=True)
        guest.registers.set_word(state.CR4, guest.registers.word(state.CR4) | 4)
        words = guest.vcpu.record.memory.words()
        words[guest.vcpu.record.kind.offsetof("ctrlreg") // 8 + 4] |= 4
        assert_refused(guest.run(code), PROGRAM)


@pytest.mark.parametrize(
    "code",
    ["mov %cr0,%rax", "mov %rax,%cr2", "mov %cr4,%rax", "mov %cr3,%rax", "clts", "wbinvd", "mov %dr0,%rax",
     "mov %rax,%dr7"],
)  # fmt: skip
def test_programs_have_no_privileges(program: PvGuest, code: str) -> None:
    assert_refused(program.run(code), PROGRAM)


# What no PV guest may do


@pytest.mark.parametrize(
    "code",
    ["hlt", "invd", "lgdt 0x101000", "lidt 0x101000", "lldt %ax", "ltr %ax", "lmsw %ax", "invlpg 0x101000", "swapgs",
     "sysretq", "mov %cr8,%rax", "mov %rax,%cr8", "rdpmc", "int $0x77" ],
)  # fmt: skip
@pytest.mark.parametrize("user_mode", [False, True], ids=["kernel", "user"])
def test_what_nobody_may_do(make_guest: MakeGuest, code: str, user_mode: bool) -> None:
    result = make_guest(user_mode=user_mode).run(code)
    assert result.frame is not None
    assert result.vector == GP
    assert result.frame.rip == (PROGRAM if user_mode else CODE)
    assert result.frame.error_code == (0x77 << 3 | 2 if code.startswith("int") else 0)
    assert result.frame.cs == (USER_CS if user_mode else KERNEL_CS)


def test_an_address_that_is_not_canonical(kernel: PvGuest) -> None:
    assert_refused(kernel.run("movabs $0x800000000000,%rax; mov (%rax),%rbx"), CODE + 10)


def test_a_guest_that_can_take_no_exception_is_crashed(make_guest: MakeGuest) -> None:
    guest = make_guest(handlers=False)
    guest.run("hlt")
    assert guest.domain.crash_reason is not None
    assert "general protection" in guest.domain.crash_reason


def test_wbinvd_does_nothing(kernel: PvGuest) -> None:
    result = kernel.run("wbinvd; wbnoinvd; mov $1,%ebx")
    assert (result.vector, result.rbx) == (None, 1)


# Interrupts, ports, debug registers


@pytest.mark.parametrize("code", ["cli", "sti"])
@pytest.mark.parametrize(("user_mode", "iopl", "allowed"), [
    (False, 0, False), (False, 1, True), (False, 3, True), (True, 1, False), (True, 2, False), (True, 3, True),
])  # fmt: skip
@BOTH_WAYS
def test_interrupt_flag_by_iopl(
    make_guest: MakeGuest, code: str, user_mode: bool, iopl: int, allowed: bool, prefix: str
) -> None:
    result = make_guest(user_mode=user_mode, iopl=iopl).run(f"{prefix}{code}; mov $1,%ebx")
    if allowed:
        assert (result.vector, result.rbx) == (None, 1)
    else:
        assert_refused(result, PROGRAM if user_mode else CODE)


@pytest.mark.parametrize(("code", "value"), [
    ("in $0x61,%al", 0x1122_3344_5566_77FF),
    ("in $0x60,%ax", 0x1122_3344_5566_FFFF),
    ("in $0x60,%eax", 0xFFFF_FFFF),
    ("mov $0x3f8,%edx; in (%dx),%al", 0x1122_3344_5566_77FF),
    ("mov $0x3f8,%edx; in (%dx),%ax", 0x1122_3344_5566_FFFF),
    ("mov $0xcfc,%edx; in (%dx),%eax", 0xFFFF_FFFF),
    ("mov $0xffff,%edx; in (%dx),%eax", 0xFFFF_FFFF),
])  # fmt: skip
@BOTH_WAYS
def test_no_device_answers(kernel: PvGuest, code: str, value: int, prefix: str) -> None:
    # A wide operand takes the place of a 16-bit one's prefix: that needs another to be ignored.
    ignored = prefix if "%ax" not in code else prefix and "cs "
    result = kernel.run(f"movabs $0x1122334455667788,%rax; {code.replace('in ', f'{ignored}in ')}")
    assert (result.vector, result.rax) == (None, value)


@pytest.mark.parametrize("code", [
    "out %al,$0x80", "out %ax,$0x80", "out %eax,$0x80", "mov $0x3f8,%edx; out %al,(%dx)", "out %ax,(%dx)",
    "out %eax,(%dx)",
])  # fmt: skip
@BOTH_WAYS
def test_no_device_minds(kernel: PvGuest, code: str, prefix: str) -> None:
    result = kernel.run(f"mov $0x55,%eax; {code.replace('out ', f'{prefix}out ')}; mov $1,%ebx")
    assert (result.vector, result.rax, result.rbx) == (None, 0x55, 1)


@BOTH_WAYS
def test_two_ports_remember(kernel: PvGuest, prefix: str) -> None:
    ignored = prefix and "cs "
    code = (
        "mov $0xcf8,%edx; mov $0x80001234,%eax; out %eax,(%dx); xor %eax,%eax; in (%dx),%eax; mov %eax,%ebx;"
        "mov $0xff,%eax; out %al,$0x70; mov $0,%eax; in $0x70,%al; mov %eax,%ecx; in $0x70,%ax; mov %eax,%esi"
    )
    result = kernel.run(code.replace("in ", f"{ignored}in ").replace("out ", f"{ignored}out "))
    assert (result.rbx, result.rcx, result.rsi) == (0x8000_1234, 0x7F, 0xFF7F)


@pytest.mark.parametrize("code", ["in $0x61,%al", "out %al,$0x80", "insb", "rep outsb"])
@pytest.mark.parametrize(("user_mode", "iopl"), [(False, 0), (True, 1), (True, 2)])
def test_ports_by_iopl(make_guest: MakeGuest, code: str, user_mode: bool, iopl: int) -> None:
    result = make_guest(user_mode=user_mode, iopl=iopl).run(f"mov ${DATA},%esi; mov %esi,%edi; mov $1,%ecx; {code}")
    assert_refused(result, (PROGRAM if user_mode else CODE) + 12)


@pytest.mark.parametrize(("code", "size"), [("insb", 1), ("insw", 2), ("insl", 4)])
@pytest.mark.parametrize("down", [False, True])
def test_string_input(kernel: PvGuest, code: str, size: int, down: bool) -> None:
    start = DATA + 0x100
    kernel.page(DATA)[0x80:0x180] = bytes(0x100)
    direction = "std" if down else "cld"
    result = kernel.run(f"{direction}; mov ${start},%edi; mov $3,%ecx; mov $0x3f8,%edx; rep {code}; cld")
    step = -size if down else size
    assert (result.vector, result.rcx, result.rdi) == (None, 0, start + 3 * step)
    data = bytes(kernel.page(DATA)[0x80:0x180])
    first = 0x80 - 2 * size if down else 0x80
    assert data == (bytes(first) + b"\xff" * 3 * size).ljust(0x100, b"\0")


def test_string_input_without_repetition(kernel: PvGuest) -> None:
    result = kernel.run(f"mov ${DATA},%edi; mov $7,%ecx; insb")
    assert (result.vector, result.rcx, result.rdi) == (None, 7, DATA + 1)


@pytest.mark.parametrize("code", ["rep insb", "rep outsl", "repne outsb"])
def test_no_repetitions_are_no_access(kernel: PvGuest, code: str) -> None:
    result = kernel.run(f"xor %ecx,%ecx; mov $0x10,%edi; mov $0x10,%esi; {code}")
    assert (result.vector, result.rdi, result.rsi) == (None, 0x10, 0x10)


def test_more_repetitions_than_one_exit_makes(kernel: PvGuest) -> None:
    result = kernel.run(f"mov ${DATA},%edi; mov $1000,%ecx; rep insb")
    assert (result.vector, result.rcx, result.rdi) == (None, 0, DATA + 1000)


def test_string_output_reads_memory(kernel: PvGuest) -> None:
    """Through a segment: the last byte that is written is the index of the CMOS."""
    kernel.page(DATA)[0x10:0x13] = b"\x01\x02\x33"
    result = kernel.run(
        f"{wrmsr(MSR_FS_BASE, DATA)}; mov $0x10,%esi; mov $0x70,%edx; mov $3,%ecx; rep fs outsb;"
        "xor %eax,%eax; in $0x70,%al"
    )
    assert (result.vector, result.rsi, result.rax) == (None, 0x13, 0x33)


def test_32_bit_addresses_wrap(kernel: PvGuest) -> None:
    result = kernel.run(f"movabs ${1 << 40 | DATA},%rdi; movabs ${1 << 40 | 1},%rcx; addr32 rep insb")
    assert (result.vector, result.rcx, result.rdi) == (None, 0, DATA + 1)


@pytest.mark.parametrize(("address", "bad"), [(0x5000, 0x5000), (SPARE + PAGE_SIZE - 2, SPARE + PAGE_SIZE)])
@pytest.mark.parametrize(("code", "write"), [("insl", True), ("outsl", False)])
def test_string_faults_name_the_first_bad_byte(kernel: PvGuest, address: int, bad: int, code: str, write: bool) -> None:
    result = kernel.run(f"mov ${address},%edi; mov ${address},%esi; {code}")
    assert result.frame is not None
    assert (result.vector, result.frame.rip, result.frame.error_code) == (PF, CODE + 10, 2 if write else 0)
    assert kernel.registers.word(state.CR2) == bad
    assert result.rdi == result.rsi == address


def test_string_input_to_read_only_memory(kernel: PvGuest) -> None:
    result = kernel.run(f"mov ${READ_ONLY},%edi; insb")
    assert result.vector == PF
    assert bytes(kernel.page(READ_ONLY)[:1]) == b"\0"


def test_a_string_that_runs_out_of_memory_stops_there(kernel: PvGuest) -> None:
    start = SPARE + PAGE_SIZE - 3
    result = kernel.run(f"mov ${start},%edi; mov $10,%ecx; rep insb")
    assert (result.vector, result.rdi) == (PF, SPARE + PAGE_SIZE)
    assert kernel.registers.word(state.CR2) == SPARE + PAGE_SIZE


@pytest.mark.parametrize("address", [0x8000_0000_0000, 0xFFFF_8000_0000_0000, 0xFFFF_87FF_FFFF_F000, 1 << 63])
@pytest.mark.parametrize("code", ["insb", "outsb"])
def test_string_operands_where_no_guest_may_look(kernel: PvGuest, code: str, address: int) -> None:
    """The translator refuses most of these itself; Xen has to, where it emulates."""
    registers = kernel.registers
    kernel.put(CODE, assemble(code))
    registers.rip, registers[4], registers[RSI], registers[RDI] = CODE, STACK_TOP, address, address
    emulate(kernel.vcpu, registers, GP)
    assert registers.rip == handler(GP)


DATA_SEGMENT = state.DESC_P | state.DESC_S | state.DESC_B | 3 << state.DESC_DPL_SHIFT | state.DESC_ACCESSED
WRITABLE = DATA_SEGMENT | state.DESC_WRITABLE
CODE_SEGMENT = DATA_SEGMENT | state.DESC_CODE
READABLE_CODE = CODE_SEGMENT | state.DESC_READABLE
STACK_FAULT = 12


@pytest.mark.parametrize(
    ("code", "segment", "flags", "offset", "raised"),
    [
        ("insb", state.ES, WRITABLE, 0xF, None),
        ("insb", state.ES, WRITABLE, 0x10, GP),
        ("insw", state.ES, WRITABLE, 0xE, None),
        ("insw", state.ES, WRITABLE, 0xF, GP),
        ("insb", state.ES, DATA_SEGMENT, 0, GP),
        ("insb", state.ES, READABLE_CODE, 0, GP),
        ("insb", state.ES, WRITABLE & ~state.DESC_P, 0, GP),
        ("insb", state.ES, 0, 0, GP),
        ("outsb", state.DS, DATA_SEGMENT, 0xF, None),
        ("outsb", state.DS, DATA_SEGMENT, 0x10, GP),
        ("outsb", state.DS, READABLE_CODE, 0, None),
        ("outsb", state.DS, CODE_SEGMENT, 0, GP),
        ("fs outsb", state.FS, WRITABLE, 0, None),
        ("ss outsb", state.SS, WRITABLE, 0x10, STACK_FAULT),
    ],
)
def test_segments_of_32_bit_code(
    kernel: PvGuest, code: str, segment: int, flags: int, offset: int, raised: int | None
) -> None:
    """A segment of 16 bytes, somewhere in the data page, used by 32-bit code."""
    registers, env = kernel.registers, kernel.pcpu.block["env"]
    kernel.page(DATA)[0x200:0x210] = bytes(16)
    kernel.put(CODE, assemble(code, bits=32))
    registers.rip, registers[4], registers[RSI], registers[RDI] = CODE, STACK_TOP, 1 << 32 | offset, 1 << 32 | offset
    state.set_segment(env, state.CS, 0xE023, 0, 0xFFFF_FFFF, READABLE_CODE)
    state.set_segment(env, segment, 0xE02B, DATA + 0x200, 0xF, flags)
    state.update_hflags(env, 1)
    emulate(kernel.vcpu, registers, GP)
    if raised is not None:
        assert registers.rip == handler(raised)
        return
    assert registers.rip == CODE + len(assemble(code, bits=32))
    moved = registers[RDI] if code.startswith("ins") else registers[RSI]
    assert moved == offset + (2 if code == "insw" else 1)
    if code.startswith("ins"):
        assert kernel.page(DATA)[0x200 + offset] == 0xFF


@pytest.mark.parametrize(("number", "value", "then"), [
    (0, DATA, DATA),
    (3, 0x7FFF_FFFF_F000, 0x7FFF_FFFF_F000),
    (6, 0, 0xFFFF_0FF0),
    (7, 0x401, 0x401),
])  # fmt: skip
def test_debug_registers(kernel: PvGuest, number: int, value: int, then: int) -> None:
    result = kernel.run(f"movabs ${value},%rax; mov %rax,%dr{number}; mov %dr{number},%rbx; xor %eax,%eax;"
                        "mov %rax,%dr7")  # fmt: skip
    assert (result.vector, result.rbx) == (None, then)


@pytest.mark.parametrize(("number", "value"), [(0, 1 << 47), (6, 1 << 32), (7, 1 << 32), (7, 1 << 63)])
def test_values_that_debug_registers_refuse(kernel: PvGuest, number: int, value: int) -> None:
    assert_refused(kernel.run(f"movabs ${value},%rax; mov %rax,%dr{number}"), CODE + 10)


@pytest.mark.parametrize("number", [4, 5])
def test_old_names_of_debug_registers(make_guest: MakeGuest, number: int) -> None:
    result = make_guest().run(f"mov %db{number},%rax; mov %db{number + 2},%rbx")
    assert (result.vector, result.rax) == (None, result.rbx)
    with_de = f"mov ${PV_CR4 | 8},%eax; mov %rax,%cr4; mov %db{number},%rax"
    assert_refused(make_guest().run(with_de), CODE + 8, UD)


# Afterwards


def test_a_single_step_ends_after_the_instruction(kernel: PvGuest) -> None:
    step = "pushf; orl $0x100,(%rsp); mov $0xc0000080,%ecx; popf; rdmsr; nop"
    result = kernel.run(step)
    # The first trap is that of POPF's successor: the emulated instruction.
    assert result.frame is not None
    before = len(assemble("pushf; orl $0x100,(%rsp); mov $0xc0000080,%ecx; popf; rdmsr"))
    assert (result.vector, result.frame.rip) == (DB, CODE + before)
    assert result.frame.rflags & state.TF
    assert result.rax == 0xD01
    assert kernel.vcpu.debug_register(6) >> 14 & 1


def test_each_repetition_is_a_step(kernel: PvGuest) -> None:
    before = f"mov ${DATA},%edi; mov $5,%ecx; pushf; orl $0x100,(%rsp); popf"
    result = kernel.run(f"{before}; rep insb")
    assert result.frame is not None
    assert (result.vector, result.frame.rip) == (DB, CODE + len(assemble(before)))
    assert result.rdi == DATA + 1


def test_a_forced_cpuid_is_stepped_over_as_one(kernel: PvGuest) -> None:
    step = 'pushf; orl $0x100,(%rsp); popf; ud2; .ascii "xen"; cpuid'
    result = kernel.run(f"{step}; nop")
    assert result.frame is not None
    assert (result.vector, result.frame.rip) == (DB, CODE + len(assemble(step)))


def test_the_resume_flag_is_cleared(kernel: PvGuest) -> None:
    kernel.page(CODE)[:2] = assemble("rdmsr")
    registers = kernel.registers
    registers.rip, registers[1] = CODE, msr.MSR_EFER
    registers.rflags |= state.RF
    emulate(kernel.vcpu, registers, GP)
    assert registers.rip == CODE + 2
    assert not registers.rflags & state.RF


def test_an_instruction_at_the_end_of_memory(kernel: PvGuest) -> None:
    """What follows is not mapped, and not needed."""
    address = SPARE + PAGE_SIZE - 2
    kernel.page(SPARE)[-2:] = assemble("rdmsr")
    kernel.registers.rip, kernel.registers[1] = address, msr.MSR_EFER
    emulate(kernel.vcpu, kernel.registers, GP)
    assert kernel.registers.rip == address + 2
    assert kernel.registers[0] == 0xD01


def test_an_instruction_that_lacks_its_end(kernel: PvGuest) -> None:
    """Another vCPU took the memory away between the fault and now."""
    kernel.page(SPARE)[-1] = 0x0F
    kernel.registers.rip, kernel.registers[4] = SPARE + PAGE_SIZE - 1, STACK_TOP
    emulate(kernel.vcpu, kernel.registers, GP)
    assert kernel.registers.rip == handler(PF)
    assert kernel.registers.word(state.CR2) == SPARE + PAGE_SIZE


@pytest.mark.parametrize("prefix", ["data16", "rex.w", "cs"])
def test_prefixes_that_mean_nothing(kernel: PvGuest, prefix: str) -> None:
    code = f"mov ${msr.MSR_EFER},%ecx; {prefix} rdmsr; mov $1,%ebx"
    result = kernel.run(code)
    assert (result.vector, result.rax, result.rbx) == (None, 0xD01, 1)


def test_random_code_never_breaks_the_hypervisor(make_guest: MakeGuest) -> None:
    """Whatever follows a #GP, the answer is an exception for the guest or an instruction that is done."""
    guest = make_guest()
    generator = random.Random(20)
    registers = guest.registers
    for _ in range(3000):
        code = generator.randbytes(15)
        if generator.random() < 0.5:
            code = bytes([generator.choice([0x0F, 0x66, 0x6C, 0x6E, 0xE4, 0xED, 0xEF, 0xF3])]) + code[:14]
        guest.page(CODE)[:15] = code
        registers.rip, registers[4] = CODE, STACK_TOP
        guest.pcpu.block["exit_reason"] = 0
        emulate(guest.vcpu, registers, generator.choice([GP, UD]))
        assert not guest.pcpu.block["exit_reason"]


@pytest.mark.parametrize(
    "code",
    ["in $0x42,%al", "mov $0x3f8,%edx; in (%dx),%ax", "out %al,$0x80", "mov $0xcf8,%edx; out %eax,(%dx)", "cli; sti",
     rdmsr(MSR_SHADOW_GS_BASE), wrmsr(MSR_GS_BASE, DATA)],
)  # fmt: skip
def test_what_kernels_do_often_stays_native(kernel: PvGuest, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[int] = []
    monkeypatch.setattr(pv_cpu, "emulate", lambda vcpu, registers, vector: exits.append(vector))
    assert kernel.run(code).vector is None
    assert not exits
