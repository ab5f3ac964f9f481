"""Instructions of HVM guests that the hypervisor is asked about, and those that only ring 0 may execute."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hvm_machine import (
    CODE,
    CODE32,
    CODE64,
    DATA0,
    GP,
    RAX,
    RBX,
    RCX,
    RDX,
    RSP,
    STUBS,
    TSS,
    UD,
    USER32,
    USER64,
    USER_CODE,
    USER_DATA,
    USER_STACK_END,
    HvmMachine,
    Mode,
)

from euxen.cpu import state
from euxen.cpu.policy import PV_FEATURES, cpu_leaves, find

IF, TF, DF_FLAG, NT, IOPL = 0x200, 0x100, 0x400, 0x4000, 0x3000
R11 = 11
PATIENCE = 300
SEEDS = 40


@pytest.fixture(params=list(Mode), ids=lambda mode: mode.name)
def machine(native: None, request: pytest.FixtureRequest) -> Iterator[HvmMachine]:
    machine = HvmMachine(request.param)
    yield machine
    machine.close()


@pytest.fixture
def long(native: None) -> Iterator[HvmMachine]:
    machine = HvmMachine(Mode.LONG)
    yield machine
    machine.close()


@pytest.fixture
def short(native: None) -> Iterator[HvmMachine]:
    machine = HvmMachine(Mode.SHORT)
    yield machine
    machine.close()


# ---- Hypercalls ----


@pytest.mark.parametrize("instruction", ["vmcall", "vmmcall"])
@pytest.mark.parametrize("cpl", [0, 3])
def test_hypercalls(machine: HvmMachine, instruction: str, cpl: int) -> None:
    end = machine.run(f"mov $7,%eax; stc; {instruction}; setc %bl; int3", cpl)
    start = USER_CODE if cpl else CODE
    assert (end.kind, end.rip - start, machine.registers.rip - start, machine.block["instruction_bytes"]) == (
        "vmcall", 6, 9, 3
    )  # fmt: skip
    assert (machine.registers[RAX], machine.registers.cpl) == (7, cpl)
    machine.set_gate(3, STUBS + 48, 0xEE00)
    end = machine.resume()
    assert (end.vector, machine.registers[RBX]) == (3, 1)


def test_a_hypercall_that_is_made_again(machine: HvmMachine) -> None:
    answers = [-1, -1, 0]
    vmcall = machine._vmcall

    def preempted() -> int:
        answer = answers.pop(0)
        vmcall()
        return answer

    machine._vmcall = preempted  # type: ignore[method-assign]
    machine.run("nop; vmcall; nop")
    assert machine.registers.rip == CODE + 1
    machine.go()
    assert machine.registers.rip == CODE + 1
    machine.go()
    assert machine.registers.rip == CODE + 4


def test_a_hypercall_that_faults(machine: HvmMachine) -> None:
    vmcall = machine._vmcall
    machine._vmcall = lambda: UD if machine.registers.rip == CODE + 1 else vmcall()  # type: ignore[method-assign]
    end = machine.run("nop; vmcall; nop")
    assert (end.kind, end.vector, end.rip) == ("exception", UD, CODE + 1)


def test_hypercalls_natively(machine: HvmMachine) -> None:
    """Many, without leaving the engine."""
    calls = 0

    def vmcall() -> int:
        nonlocal calls
        calls += 1
        if machine.registers[RAX] == 99:
            machine._exit(machine_exit)
        return 0

    from euxen.cpu.engine import ExitReason

    machine_exit = ExitReason.HYPERCALL
    machine._vmcall = vmcall  # type: ignore[method-assign]
    machine.run("mov $1000,%ecx; xor %eax,%eax; 1: vmcall; dec %ecx; jnz 1b; mov $99,%eax; vmcall")
    assert (calls, machine.registers[RCX]) == (1001, 0)


def test_a_hypercall_across_pages(machine: HvmMachine) -> None:
    at = 0x11_0FFE
    machine.place("vmcall", at)
    machine.start()
    machine.registers.rip = at
    assert machine.resume().kind == "vmcall"
    assert machine.registers.rip == at + 3


# ---- What ring 3 may not do ----

PRIVILEGED = [
    "hlt", "clts", "invd", "wbinvd", "rdmsr", "wrmsr", "mov %cr0,{a}", "mov {a},%cr0", "mov %cr2,{a}", "mov {a},%cr2",
    "mov %cr3,{a}", "mov {a},%cr3", "mov %cr4,{a}", "mov {a},%cr4", "mov %dr0,{a}", "mov {a},%dr7", "lgdt 0x200000",
    "lidt 0x200000", "lldt %ax", "ltr %ax", "lmsw %ax", "invlpg 0x200000", "cli", "sti", "in $0x60,%al",
    "in %dx,%eax", "out %al,%dx", "out %eax,$0x80", "insb", "outsl", "rdpmc",
]  # fmt: skip


@pytest.mark.parametrize("source", PRIVILEGED)
def test_privileged_instructions(native: None, source: str) -> None:
    for mode in (Mode.LONG, Mode.SHORT):
        machine = HvmMachine(mode)
        before = [machine.registers.word(register) for register in (state.CR0, state.CR3, state.CR4)]
        width = "%rax" if mode is Mode.LONG else "%eax"
        end = machine.run(f"nop; mov $0x200000,%edi; mov %edi,%esi; {source.format(a=width)}", 3)
        assert (end.kind, end.vector, end.error_code, end.rip) == ("exception", GP, 0, USER_CODE + 8), mode
        assert [machine.registers.word(register) for register in (state.CR0, state.CR3, state.CR4)] == before
        assert machine.answers.asked == []
        machine.close()


def test_sysret_and_sysexit_are_the_kernels(long: HvmMachine) -> None:
    for source in ("sysretq", "sysretl"):
        end = long.run(source, 3)
        assert (end.vector, end.rip) == (GP, USER_CODE)


@pytest.mark.parametrize("source", ["rsm", "vmrun", "vmload", "vmsave", "stgi", "clgi", "skinit", "vmxoff", "xgetbv",
                                    "xsetbv", "monitor", "mwait", "rdrand %eax", "ud2"])  # fmt: skip
def test_what_is_not_offered(machine: HvmMachine, source: str) -> None:
    """Whatever the ring."""
    for cpl in (0, 3):
        end = machine.run(source, cpl)
        assert (end.kind, end.vector) == ("exception", UD), cpl


# ---- Ports ----


def test_ports(machine: HvmMachine) -> None:
    end = machine.run("mov $0x3f8,%edx; in %dx,%eax; mov %eax,%ebx; in $0x61,%al; mov $0x123,%ecx; mov %ecx,%eax;"
                      "out %ax,%dx; out %al,$0x80; vmcall")  # fmt: skip
    assert (end.kind, machine.registers[RBX]) == ("vmcall", 0x1234_5678)
    assert machine.answers.asked == [
        ("port", 0x3F8, 4, 0, 0),
        ("port", 0x61, 1, 0, 0),
        ("port", 0x3F8, 2, 1, 0x123),
        ("port", 0x80, 1, 1, 0x23),
    ]


def test_strings_of_ports(machine: HvmMachine) -> None:
    prefix = "r" if machine.mode is Mode.LONG else "e"
    machine.write(0x20_0000, b"xyz")
    end = machine.run(f"mov $0x10,%edx; mov $0x200000,%esi; mov $3,%ecx; rep outsb; mov ${0x20_0100},%edi; mov $2,%ecx;"
                      f"rep insl; mov %edi,%ebx; vmcall # {prefix}")  # fmt: skip
    assert (end.kind, machine.registers[RBX]) == ("vmcall", 0x20_0108)
    assert machine.read(0x20_0100, 8) == struct.pack("<II", 0x1234_5678, 0x1234_5678)
    assert [asked[4] for asked in machine.answers.asked] == [*b"xyz", 0, 0]


def test_a_port_that_is_emulated(machine: HvmMachine) -> None:
    machine.answers.port_exit = True
    end = machine.run("stc; mov $0x70,%edx; in %dx,%al; nop; vmcall")
    assert (end.kind, end.rip, machine.registers.rflags & 1) == ("timeout", CODE + 6, 1)


def test_ports_by_the_bit_map(machine: HvmMachine) -> None:
    machine.write(TSS + 0x68 + 0x60 // 8, b"\xf0")
    machine.run("in $0x61,%al; vmcall", 3)
    assert machine.answers.asked == [("port", 0x61, 1, 0, 0)]
    end = machine.run("in $0x63,%ax; vmcall", 3)
    assert (end.vector, end.rip) == (GP, USER_CODE)
    end = machine.run("nop; in $0x64,%al; vmcall", 3)
    assert (end.vector, end.rip) == (GP, USER_CODE + 1)
    assert machine.run("in $0x64,%al; vmcall", 3, flags=2 | IOPL).kind == "vmcall"


# ---- Control registers and MSRs ----


def test_control_registers(machine: HvmMachine) -> None:
    register = "%rax" if machine.mode is Mode.LONG else "%eax"
    end = machine.run(f"mov %cr4,{register}; or $4,%eax; mov {register},%cr4; mov %cr4,%{register[1]}bx; vmcall")
    assert (end.kind, machine.registers[RBX] & 4) == ("vmcall", 4)
    assert [asked[:2] for asked in machine.answers.asked] == [("cr", 4)]
    machine.answers.cr_faults = True
    for number in (0, 3, 4):
        end = machine.run(f"nop; mov %cr{number},{register}; mov {register},%cr{number}")
        assert (end.vector, end.error_code, end.rip) == (GP, 0, CODE + 4)
    end = machine.run(f"mov $0x1234,%eax; mov {register},%cr2; mov %cr2,%{register[1]}bx; vmcall")
    assert (end.kind, machine.registers[RBX]) == ("vmcall", 0x1234)


def test_cr8(long: HvmMachine) -> None:
    end = long.run("mov $9,%eax; mov %rax,%cr8; mov %cr8,%rbx; vmcall")
    assert (end.kind, long.registers[RBX]) == ("vmcall", 5)
    assert long.answers.asked == [("cr", 8, 9)]


def test_lmsw(machine: HvmMachine) -> None:
    before = machine.registers.word(state.CR0)
    machine.run("mov $0xfff8,%eax; lmsw %ax; smsw %ebx; vmcall")
    expected = before & ~0xE | 8
    assert machine.answers.asked == [("cr", 0, expected)]
    assert machine.registers[RBX] & 0xFFFF == expected & 0xFFFF
    machine.answers.cr_faults = True
    end = machine.run("nop; mov $0xfff8,%eax; lmsw %ax")
    assert (end.vector, end.rip) == (GP, CODE + 6)


def test_msrs(machine: HvmMachine) -> None:
    machine.answers.msrs = {0x1B: 0x1122_3344_FEE0_0900}
    end = machine.run("mov $0x1b,%ecx; rdmsr; mov %eax,%ebx; mov %edx,%esi; mov $5,%eax; mov $6,%edx; wrmsr; vmcall")
    assert (end.kind, machine.registers[RBX], machine.registers[6]) == ("vmcall", 0xFEE0_0900, 0x1122_3344)
    assert machine.answers.asked == [("wrmsr", 0x1B, 6 << 32 | 5)]
    for source in ("rdmsr", "wrmsr"):
        end = machine.run(f"stc; mov $0x1234567,%ecx; {source}")
        assert (end.vector, end.error_code, end.rip, end.flags & 1) == (GP, 0, CODE + 6, 1)


def test_an_msr_that_python_answers(machine: HvmMachine) -> None:
    from euxen.cpu.engine import ExitReason

    machine._wrmsr = lambda msr, value: machine._exit(ExitReason.EMULATE)  # type: ignore[method-assign]
    end = machine.run("nop; mov $0x1b,%ecx; wrmsr; mov $1,%ebx; vmcall")
    assert (end.kind, end.rip, machine.registers[RBX]) == ("timeout", CODE + 6, 0)
    machine.registers.rip += 2
    assert (machine.resume().kind, machine.registers[RBX]) == ("vmcall", 1)


# ---- Information ----


def test_cpuid(machine: HvmMachine) -> None:
    leaf = find(cpu_leaves(PV_FEATURES), 1)
    for cpl in (0, 3):
        machine.run("mov $1,%eax; xor %ecx,%ecx; cpuid; vmcall", cpl)
        registers = machine.registers
        assert (registers[RAX], registers[RBX], registers[RCX], registers[RDX]) == (
            leaf.eax,
            leaf.ebx,
            leaf.ecx,
            leaf.edx,
        )


def test_time(machine: HvmMachine) -> None:
    machine.answers.ticks = 0x1122_3344_5566_7788
    end = machine.run("rdtsc; vmcall", 3)
    assert (end.kind, machine.registers[RAX], machine.registers[RDX]) == ("vmcall", 0x5566_7788, 0x1122_3344)
    register = "%rax" if machine.mode is Mode.LONG else "%eax"
    machine.run(f"mov %cr4,{register}; or $4,%eax; mov {register},%cr4; rdtsc; mov %eax,%ebx; vmcall")
    assert machine.registers[RBX] == 0x5566_7788
    machine.start(3)
    machine.registers.set_word(state.CR4, machine.registers.word(state.CR4) | 4)
    machine.place("nop; rdtsc", USER_CODE)
    end = machine.resume()
    assert (end.vector, end.rip) == (GP, USER_CODE + 1)


# ---- System calls ----


def set_star(machine: HvmMachine, mask: int = 0) -> None:
    """Entry points of a kernel."""
    registers = machine.registers
    registers.set_word(state.STAR, CODE64 << 32 | (USER32 - 0 | 3) << 48 | 0x11_2000)
    registers.set_word(state.LSTAR, 0x11_0000)
    registers.set_word(state.CSTAR, 0x11_1000)
    registers.set_word(state.FMASK, mask)


def test_syscall_and_sysret(long: HvmMachine) -> None:
    long.start(3, 2 | IF | 1)
    set_star(long, IF | DF_FLAG)
    long.place("mov %cs,%eax; mov %ss,%ebx; mov %rcx,%r8; mov %r11,%r9; pushfq; pop %r10; mov $0x203,%r11d; sysretq",
               0x11_0000)  # fmt: skip
    long.write(0x11_0000, long.read(0x11_0000, 64))
    long.place("nop; syscall; mov %cs,%esi; mov %ss,%edi; vmcall", USER_CODE)
    end = long.resume()
    registers = long.registers
    assert (end.kind, end.rip) == ("vmcall", USER_CODE + 3 + 4)
    assert (registers[RAX], registers[RBX]) == (CODE64, CODE64 + 8)
    assert (registers[8], registers[9] & ~0xFF) == (USER_CODE + 3, IF)
    assert registers[10] & (IF | DF_FLAG) == 0
    assert registers[10] & 1, "what the mask does not name stays"
    assert (registers[6], registers[7], registers.cpl) == (USER32 + 16 | 3, USER_DATA | 3, 3)
    assert registers.rflags & (IF | 1) == IF | 1


def test_syscall_of_32_bit_code(long: HvmMachine) -> None:
    long.start(3)
    long.load_segment(state.CS, USER32 | 3)
    long.call("registers_loaded")
    set_star(long)
    long.place("mov %cs,%ebx; mov $0x200,%r11d; sysretl", 0x11_1000)
    long.place("mov $0xffffffff,%eax; inc %eax; syscall; mov %cs,%esi; vmcall", USER_CODE, bits=32)
    end = long.resume()
    registers = long.registers
    assert (end.kind, registers[RBX], registers[6], registers.long_mode) == ("vmcall", CODE64, USER32 | 3, False)
    assert registers.rflags & IF


def test_syscall_has_to_be_enabled(long: HvmMachine) -> None:
    for source in ("syscall", "sysretq"):
        long.start(3 if source == "syscall" else 0)
        long.registers.set_word(state.EFER, long.registers.word(state.EFER) & ~1)
        at = USER_CODE if source == "syscall" else CODE
        long.place(f"nop; {source}", at)
        end = long.resume()
        assert (end.vector, end.rip) == (UD, at + 1)


def test_steps_over_system_calls(long: HvmMachine) -> None:
    long.start(3, 2 | TF)
    set_star(long, TF)
    long.place("nop; vmcall", 0x11_0000)
    long.place("syscall; nop", USER_CODE)
    assert long.resume().kind == "vmcall"
    long.start(3, 2 | TF)
    set_star(long, 0)
    long.place("syscall; nop", USER_CODE)
    end = long.resume()
    assert (end.vector, end.rip) == (1, 0x11_0000)


def test_sysenter(short: HvmMachine) -> None:
    short.start(3, 2 | IF)
    registers = short.registers
    registers.set_word(state.SYSENTER_CS, CODE32)
    registers.set_word(state.SYSENTER_ESP, 0x2F_0000)
    registers.set_word(state.SYSENTER_EIP, 0x11_0000)
    short.write(8 * 9 + 0x1000, struct.pack("<Q", 0))
    short.place("mov %cs,%eax; mov %ss,%ebx; mov %esp,%esi; vmcall", 0x11_0000)
    short.place("sysenter", USER_CODE)
    end = short.resume()
    assert (end.kind, registers[RAX], registers[RBX], registers[6]) == ("vmcall", CODE32, CODE32 + 8, 0x2F_0000)
    assert (registers.cpl, registers.rflags & IF) == (0, 0)
    registers.set_word(state.SYSENTER_CS, 0)
    short.start(3)
    short.place("nop; sysenter", USER_CODE)
    end = short.resume()
    assert (end.vector, end.error_code, end.rip) == (GP, 0, USER_CODE + 1)


def test_sysenter_in_long_mode(long: HvmMachine) -> None:
    """AMD's CPUs do not have it."""
    for selector, bits in ((USER64, 64), (USER32, 32)):
        long.start(3)
        long.load_segment(state.CS, selector | 3)
        long.call("registers_loaded")
        long.place("nop; sysenter", USER_CODE, bits=bits)
        end = long.resume()
        assert (end.vector, end.rip) == (UD, USER_CODE + 1)


def test_iret_keeps_what_programs_may_not_change(long: HvmMachine) -> None:
    long.place("int3", 0x19_0000)
    long.set_gate(3, STUBS + 48, 0xEE00)
    code = f"push ${USER_DATA | 3}; push ${USER_STACK_END}; push $0x3ed7; push ${USER64 | 3}; push $0x190000; iretq"
    end = long.run(code, 3, flags=2 | IF)
    assert (end.vector, end.flags & (IF | IOPL), end.flags & 0x8D5) == (3, IF, 0x3ED7 & 0x8D5)
    assert end.flags & DF_FLAG


def test_nested_tasks_end_nothing_in_long_mode(long: HvmMachine) -> None:
    end = long.run("push $0; push $0; push $0; push $0; push $0; nop; iretq", flags=2 | NT)
    assert (end.vector, end.error_code) == (GP, 0)


def test_iret_to_the_same_ring(long: HvmMachine) -> None:
    for ss in (DATA0, 0):
        long.place("mov %ss,%eax; setc %bl; vmcall", 0x19_0000)
        end = long.run(f"mov $0x2f0000,%ecx; push ${ss}; push %rcx; push $0x203; push ${CODE64}; push $0x190000; iretq")
        assert (end.kind, long.registers[RAX], long.registers[RBX], long.registers[RSP]) == ("vmcall", ss, 1, 0x2F_0000)


# ---- Hostile guests ----


def test_fuzzing(native: None) -> None:
    """In a process of its own, which must live on."""
    program = Path(__file__).with_name("hvm_fuzz.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(program.parent), str(program.parents[2])))}
    done = subprocess.run(
        [sys.executable, program, "1", str(SEEDS)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout.split()[-1]) == (0, "", str(SEEDS)), done.stdout[-200:]
