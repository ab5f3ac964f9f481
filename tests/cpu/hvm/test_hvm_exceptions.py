"""Exceptions and interrupts of HVM guests: delivered by the guest's own IDT, in each of its modes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hvm_machine import (
    BP,
    CODE,
    CODE32,
    CODE64,
    DATA0,
    DB,
    DE,
    DF,
    GDT,
    GP,
    IDT,
    IST_END,
    KERNEL_STACK_END,
    LDT,
    MP,
    NM,
    NMI,
    NP,
    OF,
    PAGED,
    PF,
    PG,
    PRESENT,
    RAX,
    RBX,
    RSP,
    SS,
    STACK_END,
    STUBS,
    TS,
    TSS,
    TSS_SELECTOR,
    UD,
    USER32,
    USER64,
    USER_CODE,
    USER_DATA,
    USER_STACK_END,
    WRITABLE,
    HvmMachine,
    Mode,
    segment,
)

from euxen.cpu import state
from euxen.cpu.engine import ExitReason

NOWHERE = 0xF00_0000
IF, TF, RF = 0x200, 0x100, 0x10000
INTERRUPT, TRAP_GATE, TASK_GATE, USER_TRAP = 0x8E00, 0x8F00, 0x8500, 0xEF00
VECTOR = 0x41


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


def kernel_cs(machine: HvmMachine) -> int:
    """The code segment of a kernel."""
    return CODE64 if machine.mode is Mode.LONG else CODE32


def iret(machine: HvmMachine) -> str:
    """The instruction that returns from a handler."""
    return "iretq" if machine.mode is Mode.LONG else "iretl"


# ---- Exceptions ----


@pytest.mark.parametrize(
    ("source", "vector", "skipped"),
    [
        ("xor %ecx,%ecx; div %ecx", DE, 0),
        ("int3", BP, 1),
        ("ud2", UD, 0),
        (".byte 0xf0,0x90", UD, 0),
        ("int $0x80", 0x80, 2),
        (".byte 0xf1", DB, 1),
    ],
)
@pytest.mark.parametrize("cpl", [0, 3])
def test_exceptions(machine: HvmMachine, source: str, vector: int, skipped: int, cpl: int) -> None:
    for number in (BP, 0x80):
        machine.set_gate(number, STUBS + number * 16, 0xEE00)
    start = USER_CODE if cpl else CODE
    before = 2 if vector == DE else 0
    end = machine.run(f"{source}; vmcall", cpl, flags=2 | IF)
    assert (end.kind, end.vector, end.error_code) == ("exception", vector, 0)
    assert end.rip == start + before + skipped
    assert end.cs == (kernel_cs(machine) if not cpl else (USER64 if machine.mode is Mode.LONG else USER32) | 3)
    assert end.flags & IF
    assert not machine.registers.rflags & IF
    assert end.rsp == (USER_STACK_END if cpl else STACK_END)
    assert machine.registers.cpl == 0
    if cpl:
        assert end.ss == USER_DATA | 3
        size, words = (8, 5) if machine.mode is Mode.LONG else (4, 5)
        assert machine.registers[RSP] == KERNEL_STACK_END - size * words
        assert machine.registers.selector("ss") == (0 if machine.mode is Mode.LONG else DATA0)


def test_overflow_and_bound(native: None) -> None:
    machine = HvmMachine(Mode.SHORT)
    end = machine.run("mov $0x7fffffff,%eax; inc %eax; into; vmcall", flags=2)
    assert (end.vector, end.rip) == (OF, CODE + 7)
    assert machine.run("xor %eax,%eax; into; vmcall").kind == "vmcall"
    machine.write(0x20_0000, struct.pack("<ii", 1, 5))
    end = machine.run(f"mov $9,%eax; bound %eax,{0x20_0000}")
    assert (end.vector, end.rip) == (5, CODE + 5)
    machine.close()


def test_the_fpu_is_somebody_elses(machine: HvmMachine) -> None:
    register = "%rax" if machine.mode is Mode.LONG else "%eax"
    end = machine.run(f"mov %cr0,{register}; or $8,%eax; mov {register},%cr0; fld1; vmcall")
    assert end.vector == NM
    end = machine.run(f"mov %cr0,{register}; or $8,%eax; mov {register},%cr0; clts; fld1; vmcall")
    assert end.kind == "vmcall"
    assert not machine.registers.word(state.CR0) & 8
    assert MP


def test_software_interrupts_need_the_gates_permission(machine: HvmMachine) -> None:
    end = machine.run("nop; int $0x55", 3)
    assert (end.vector, end.error_code, end.rip) == (GP, 0x55 << 3 | 2, USER_CODE + 1)
    machine.set_gate(0x55, STUBS + 0x55 * 16, USER_TRAP)
    end = machine.run("nop; int $0x55", 3, flags=2 | IF)
    assert (end.vector, end.rip) == (0x55, USER_CODE + 3)
    assert machine.registers.rflags & IF, "a trap gate leaves IF"


@pytest.mark.parametrize(
    ("kind", "selector", "vector", "error_code"),
    [
        (0x0E00, None, NP, 0x55 << 3 | 2),
        (0x8C00, None, GP, 0x55 << 3 | 2),
        (INTERRUPT, 0, GP, 0),
        (INTERRUPT, 0x78, GP, 0x78),
        (INTERRUPT, DATA0, GP, DATA0),
        (INTERRUPT, 0x100, GP, 0x100),
    ],
)
def test_bad_gates(machine: HvmMachine, kind: int, selector: int | None, vector: int, error_code: int) -> None:
    cs = kernel_cs(machine)
    machine.set_gate(0x55, STUBS, kind, selector=cs if selector is None else selector or 0)
    if selector == 0:
        at = IDT + 0x55 * (16 if machine.mode is Mode.LONG else 8)
        machine.write(at + 2, b"\0\0")
    end = machine.run("nop; int $0x55")
    assert (end.kind, end.vector, end.error_code & ~1, end.rip) == ("exception", vector, error_code, CODE + 1)


def test_gates_behind_the_end_of_the_idt(machine: HvmMachine) -> None:
    machine.start()
    state.set_segment(machine.block["env"], state.IDTR, 0, IDT, 0x40 * (16 if machine.mode is Mode.LONG else 8) - 1, 0)
    machine.place("int $0x55", CODE)
    end = machine.resume()
    assert (end.vector, end.error_code) == (GP, 0x55 << 3 | 2)


def test_double_faults(machine: HvmMachine) -> None:
    """An exception on the way to the handler of another one."""
    machine.set_gate(GP, STUBS + GP * 16, 0x0E00)
    end = machine.run("mov $0x123,%eax; mov %ax,%ds")
    assert (end.kind, end.vector, end.error_code, end.rip) == ("exception", DF, 0, CODE + 5)
    # A benign one counts for nothing.
    machine.set_gate(UD, STUBS + UD * 16, 0x0E00)
    machine.set_gate(NP, STUBS + NP * 16)
    end = machine.run("ud2")
    assert (end.vector, end.error_code & ~1) == (NP, UD << 3 | 2)


def test_faults_of_the_stack(native: None) -> None:
    """The stack for the handler is not mapped."""
    for mode in PAGED:
        machine = HvmMachine(mode)
        machine.paging.map(0x50_0000, 0x50_0000, WRITABLE)
        register = "rsp" if mode is Mode.LONG else "esp"
        end = machine.run(f"mov $0x500800,%{register}; mov {NOWHERE},%eax")
        # Page fault on a page fault: a double fault, which needs that stack too.
        assert (end.kind, end.info) == ("triple fault", 0), mode
        assert machine.registers.word(state.CR2) & ~0xFFF == 0x50_0000
        machine.close()


def test_another_stack_for_the_double_fault(long: HvmMachine) -> None:
    long.set_gate(DF, STUBS + DF * 16, stack=1)
    end = long.run(f"mov $0x7500800,%rsp; mov {NOWHERE},%eax")
    assert (end.vector, end.error_code, end.rsp) == (DF, 0, 0x750_0800)
    assert long.registers[RSP] == IST_END - 48
    assert long.registers.word(state.CR2) == 0x750_07F8


@pytest.mark.parametrize("limit", [0, 7])
def test_triple_faults(machine: HvmMachine, limit: int) -> None:
    machine.start()
    state.set_segment(machine.block["env"], state.IDTR, 0, IDT, limit, 0)
    machine.place("ud2", CODE)
    end = machine.resume()
    assert (end.kind, end.info) == ("triple fault", 0)
    # It stays stopped only for as long as nobody makes it go on elsewhere.
    machine.place("mov $7,%eax; vmcall", CODE)
    machine.registers.rip = CODE
    assert (machine.resume().kind, machine.registers[RAX]) == ("vmcall", 7)


def test_an_idt_that_is_nowhere(native: None) -> None:
    for mode in PAGED:
        machine = HvmMachine(mode)
        machine.start()
        state.set_segment(machine.block["env"], state.IDTR, 0, NOWHERE, 0xFFF, 0)
        machine.place("ud2", CODE)
        assert machine.resume().kind == "triple fault"
        machine.close()


def test_handlers_return(machine: HvmMachine) -> None:
    register = "r" if machine.mode is Mode.LONG else "e"
    machine.place(f"incl %ebx; addl $2,(%{register}sp); {iret(machine)}", 0x11_0000)
    machine.set_gate(UD, 0x11_0000)
    end = machine.run("mov $100,%ecx; 1: ud2; dec %ecx; jnz 1b; vmcall")
    assert (end.kind, machine.registers[RBX]) == ("vmcall", 100)
    end = machine.run("mov $100,%ecx; 1: ud2; dec %ecx; jnz 1b; int3", 3)
    assert (end.kind, end.vector, machine.registers[RBX]) == ("exception", GP, 100)


def test_page_faults_that_are_repaired(native: None) -> None:
    """The faulting instruction is executed again, once."""
    for mode in PAGED:
        machine = HvmMachine(mode)
        place = machine.paging.map(0x60_0000, 0x70_0000, 0)
        machine.paging.map(0x61_0000, place & ~0xFFF)
        word = 0x61_0000 + (place & 0xFFF)
        pop = "add $8,%rsp" if mode is Mode.LONG else "add $4,%esp"
        machine.place(f"orl $7,{word}; incl %ebx; {pop}; {iret(machine)}", 0x11_0000)
        machine.set_gate(PF, 0x11_0000)
        for cpl in (0, 3):
            machine.paging.write(place, 0x70_0000)
            machine.write(0x70_0000, bytes(8))
            machine.engine.flush_tlb()
            machine.run("xor %edx,%edx; stc; adcl $4,0x600000; setc %dl; mov 0x600000,%esi; int3", cpl)
            assert (machine.registers[RBX], machine.registers[6], machine.registers[2]) == (1, 5, 0), (mode, cpl)
        machine.close()


# ---- Debugging ----


def test_single_steps(machine: HvmMachine) -> None:
    end = machine.run("nop; nop; vmcall", flags=2 | TF)
    assert (end.vector, end.rip, end.flags & TF) == (DB, CODE + 1, TF)
    assert machine.registers.word(state.DR + 48) & 0x4000
    assert not machine.registers.rflags & TF


def test_a_step_over_a_hypercall(machine: HvmMachine) -> None:
    end = machine.run("nop; vmcall; nop; nop")
    assert end.kind == "vmcall"
    machine.registers.rflags = 2 | TF
    machine.registers.rip = CODE + 1
    end = machine.resume()
    assert (end.kind, end.rip) == ("vmcall", CODE + 1)
    end = machine.resume()
    assert (end.kind, end.vector, end.rip) == ("exception", DB, CODE + 4)


def test_breakpoints(machine: HvmMachine) -> None:
    register = "%rax" if machine.mode is Mode.LONG else "%eax"
    machine.place(f"{iret(machine)}", 0x11_0000)
    code = f"""
        mov $1f,%eax
        mov {register},%dr0
        mov $0x401,%eax
        mov {register},%dr7
        nop
    1:  mov $7,%ebx
        vmcall
    """
    end = machine.run(code)
    assert (end.kind, end.vector, machine.registers[RBX]) == ("exception", DB, 0)
    assert machine.read(end.rip, 1) == b"\xbb"
    assert machine.registers.word(state.DR + 48) & 0xF == 1
    assert end.flags & RF
    machine.engine.set_debug_register(7, 0x400)


def test_debug_registers(machine: HvmMachine) -> None:
    register = "%rax" if machine.mode is Mode.LONG else "%eax"
    end = machine.run(f"mov $0x1234,%eax; mov {register},%dr3; xor %eax,%eax; mov %dr3,{register}; vmcall")
    assert (end.kind, machine.registers[RAX]) == ("vmcall", 0x1234)
    end = machine.run(f"mov %dr3,{register}", 3)
    assert (end.vector, end.error_code) == (GP, 0)


# ---- Interrupts ----


def test_interrupts(machine: HvmMachine) -> None:
    machine.answers.vectors = [VECTOR]
    end = machine.run("nop; vmcall", flags=2 | IF)
    assert (end.kind, end.vector, end.rip, end.flags & IF) == ("exception", VECTOR, CODE, IF)
    assert end.cs == kernel_cs(machine)


def test_interrupts_of_programs(machine: HvmMachine) -> None:
    machine.answers.vectors = [VECTOR]
    end = machine.run("nop; vmcall", 3, flags=2 | IF)
    assert (end.vector, end.rip, end.rsp) == (VECTOR, USER_CODE, USER_STACK_END)
    assert machine.registers.cpl == 0


def test_interrupts_wait_for_sti_and_its_shadow(machine: HvmMachine) -> None:
    machine.answers.vectors = [VECTOR]
    end = machine.run("mov $3,%ecx; 1: nop; dec %ecx; jnz 1b; sti; inc %eax; inc %ebx; vmcall")
    assert (end.vector, machine.registers[RAX], machine.registers[RBX]) == (VECTOR, 1, 0)
    assert machine.answers.vectors == []
    machine.answers.vectors = [VECTOR]
    end = machine.run("sti; cli; nop; vmcall")
    assert (end.kind, machine.answers.vectors) == ("vmcall", [VECTOR])
    push, pop = ("pushfq", "popfq") if machine.mode is Mode.LONG else ("pushfl", "popfl")
    end = machine.run(f"sti; {push}; cli; {pop}; inc %eax; vmcall")
    assert (end.vector, machine.registers[RAX]) == (VECTOR, 0)


def test_the_shadow_of_a_stack_segment(machine: HvmMachine) -> None:
    """An interrupt that arrives just before it is delivered an instruction later."""

    def wrmsr(msr: int, value: int) -> int:
        machine.answers.vectors = [VECTOR]
        machine.engine.kick()
        return 0

    machine._wrmsr = wrmsr  # type: ignore[method-assign]
    machine._interrupt = lambda: 0  # type: ignore[method-assign]
    code = f"sti; xor %ebx,%ebx; mov ${DATA0},%eax; wrmsr; mov %eax,%ss; inc %ebx; inc %ebx; vmcall"
    end = machine.run(code)
    assert (end.vector, machine.registers[RBX]) == (VECTOR, 1)
    end = machine.run(code.replace("%ss", "%ds"))
    assert (end.vector, machine.registers[RBX]) in ((VECTOR, 0), (VECTOR, 2))


def test_several_interrupts(machine: HvmMachine) -> None:
    machine.place(f"incl %ebx; {iret(machine)}", 0x11_0000)
    machine.place(f"shl $4,%ebx; {iret(machine)}", 0x11_1000)
    machine.set_gate(VECTOR, 0x11_0000)
    machine.set_gate(VECTOR + 1, 0x11_1000)
    machine.answers.vectors = [VECTOR, VECTOR + 1, VECTOR, VECTOR + 1, VECTOR]
    end = machine.run("nop; sti; nop; nop; vmcall")
    assert (end.kind, machine.registers[RBX]) == ("vmcall", 0x111)


def test_a_kick_asks_for_interrupts(machine: HvmMachine) -> None:
    machine.set_gate(VECTOR, 0x11_0000)
    machine.place("vmcall", 0x11_0000)
    asked = 0

    def interrupted() -> int:
        nonlocal asked
        asked += 1
        machine.answers.vectors.append(VECTOR)
        return 0

    machine._interrupt = interrupted  # type: ignore[method-assign]
    import threading

    timer = threading.Timer(0.05, machine.engine.kick)
    timer.start()
    end = machine.run("sti; 1: jmp 1b")
    timer.join()
    assert (end.kind, end.rip, asked) == ("vmcall", 0x11_0000, 1)


def test_halting(machine: HvmMachine) -> None:
    end = machine.run("sti; hlt; mov $1,%eax; vmcall")
    assert (end.kind, end.rip) == ("halted", CODE + 2)
    machine.answers.vectors = [VECTOR]
    end = machine.resume()
    assert (end.vector, end.rip) == (VECTOR, CODE + 2), "no shadow is left"
    machine.answers.vectors = []
    machine.registers.rip = CODE + 2
    assert (machine.resume().kind, machine.registers[RAX]) == ("vmcall", 1)


@pytest.mark.parametrize(("vector", "error_code"), [(GP, 0x30), (UD, -1), (PF, 2), (NMI, -1), (SS, 0)])
def test_injected_exceptions(machine: HvmMachine, vector: int, error_code: int) -> None:
    machine.start()
    machine.place("nop; vmcall", CODE)
    machine.call("inject", vector, error_code)
    end = machine.resume()
    assert (end.kind, end.vector, end.error_code, end.rip) == ("exception", vector, max(error_code, 0), CODE)
    # Once.
    machine.registers.rip = CODE
    assert machine.resume().kind == "vmcall"


def test_an_injected_exception_comes_before_an_interrupt(machine: HvmMachine) -> None:
    machine.start(0, 2 | IF)
    machine.place("nop; vmcall", CODE)
    machine.call("inject", GP, 0)
    machine.answers.vectors = [VECTOR]
    assert machine.resume().vector == GP
    assert machine.answers.vectors == [VECTOR]


def test_a_vcpu_that_wants_out_is_asked_nothing(machine: HvmMachine) -> None:
    """A handler that leaves keeps what pends for the next run."""
    machine.answers.vectors = [VECTOR]
    machine.start(0, 2 | IF)
    machine.place("nop; vmcall", CODE)
    machine._interrupt = lambda: machine._exit(ExitReason.DEADLINE)  # type: ignore[method-assign]
    machine.engine.kick()
    assert (machine.go().kind, machine.answers.vectors) == ("timeout", [VECTOR])
    assert machine.resume().vector == VECTOR


# ---- Segments and tasks ----


def test_returning_to_programs(machine: HvmMachine) -> None:
    is_long = machine.mode is Mode.LONG
    push = "push" if is_long else "pushl"
    code, data = (USER64 if is_long else USER32) | 3, USER_DATA | 3
    machine.place("mov %cs,%eax; mov %ss,%ebx; int3", USER_CODE)
    machine.set_gate(BP, STUBS + BP * 16, 0xEE00)
    end = machine.run(f"{push} ${data}; {push} ${USER_STACK_END}; {push} $0x202; {push} ${code}; {push} ${USER_CODE};"
                      f"{iret(machine)}")  # fmt: skip
    assert (end.kind, end.vector, end.cs, end.ss, end.rsp) == ("exception", BP, code, data, USER_STACK_END)
    assert (machine.registers[RAX], machine.registers[RBX]) == (code, data)
    assert end.flags & IF


def test_bad_returns(machine: HvmMachine) -> None:
    is_long = machine.mode is Mode.LONG
    push = "push" if is_long else "pushl"
    for cs, ss, vector, error_code in (
        (0, USER_DATA | 3, GP, 0),
        (USER_DATA | 3, USER_DATA | 3, GP, USER_DATA),
        (0x7B, USER_DATA | 3, GP, 0x78),
        ((USER64 if is_long else USER32) | 3, DATA0, GP, DATA0),
    ):
        end = machine.run(f"{push} ${ss}; {push} $0x300000; {push} $2; {push} ${cs}; {push} ${USER_CODE};"
                          f"1: {iret(machine)}")  # fmt: skip
        assert (end.kind, end.vector, end.error_code) == ("exception", vector, error_code), (cs, ss)
        assert machine.read(end.rip, 1) in (b"\x48", b"\xcf")


def test_loading_segments(machine: HvmMachine) -> None:
    for selector, vector, error_code in (
        (0x123, GP, 0x120),
        (TSS_SELECTOR, GP, TSS_SELECTOR),
        (0x7C, GP, 0x7C),
    ):
        end = machine.run(f"mov ${selector},%eax; nop; mov %eax,%es")
        assert (end.vector, end.error_code, end.rip) == (vector, error_code, CODE + 6), hex(selector)
    for cpl in (0, 3):
        end = machine.run("xor %eax,%eax; mov %eax,%ss; ud2", cpl)
        assert (end.vector, end.error_code) == ((GP, 0) if machine.mode is not Mode.LONG or cpl else (UD, 0))
    machine.write(GDT + LDT, struct.pack("<Q", segment(0x1234_0000, 0xFFF, 0x40F300)))
    end = machine.run(f"mov ${LDT | 3},%eax; mov %eax,%fs; mov %fs:0,%ecx")
    expected = 0x1234_0000
    if machine.mode is Mode.FLAT:
        assert (end.kind, end.info) == ("mmio", expected)
    else:
        assert (end.vector, machine.registers.word(state.CR2)) == (PF, expected)


def test_descriptor_tables(machine: HvmMachine) -> None:
    is_long = machine.mode is Mode.LONG
    at, new_gdt, new_idt = 0x20_0000, 0x21_0000, 0x22_0000
    machine.write(new_gdt, machine.read(GDT, 0x80))
    machine.write(new_idt, machine.read(IDT, 0x1000))
    size = 8 if is_long else 4
    machine.write(at, struct.pack("<H", 0x7F) + new_gdt.to_bytes(size, "little"))
    machine.write(at + 16, struct.pack("<H", 0xFFF) + new_idt.to_bytes(size, "little"))
    code = f"lgdt {at}; lidt {at + 16}; sgdt {at + 32}; sidt {at + 48}; mov ${TSS_SELECTOR},%eax; ltr %ax; str %ebx;"
    end = machine.run(f"{code} ud2")
    assert (end.kind, end.vector) == ("exception", UD)
    assert machine.read(at + 32, 2 + size) == machine.read(at, 2 + size)
    assert machine.read(at + 48, 2 + size) == machine.read(at + 16, 2 + size)
    assert machine.registers[RBX] & 0xFFFF == TSS_SELECTOR
    assert machine.read(new_gdt + TSS_SELECTOR + 5, 1)[0] & 2, "the TSS is busy"
    end = machine.run(f"lgdt {at}; mov ${TSS_SELECTOR},%eax; ltr %ax")
    assert (end.vector, end.error_code) == (GP, TSS_SELECTOR)
    # And with it a program's exception finds its stack.
    machine.write(GDT + TSS_SELECTOR + 5, b"\x89")
    end = machine.run("ud2", 3)
    assert (end.vector, end.cs & 3) == (UD, 3)


def test_far_transfers(machine: HvmMachine) -> None:
    cs = kernel_cs(machine)
    other = CODE32 if machine.mode is Mode.LONG else None
    at = 0x20_0000
    machine.write(at, struct.pack("<IH", 0x11_0000, cs))
    machine.place("mov $9,%ebx; lret", 0x11_0000)
    machine.place("mov $9,%ebx; " + ("lretl" if machine.mode is not Mode.LONG else "lret"), 0x11_0000)
    end = machine.run(f"lcall *{at}; mov %cs,%eax; vmcall")
    assert (end.kind, machine.registers[RBX], machine.registers[RAX]) == ("vmcall", 9, cs)
    assert machine.registers[RSP] == STACK_END
    machine.write(at, struct.pack("<IH", 0x11_0000, 0x78))
    end = machine.run(f"nop; ljmp *{at}")
    assert (end.vector, end.error_code, end.rip) == (GP, 0x78, CODE + 1)
    if other:
        machine.place("mov $0x11223344,%eax; inc %eax; vmcall", 0x11_0000, bits=32)
        machine.write(at, struct.pack("<IH", 0x11_0000, other))
        end = machine.run(f"ljmp *{at}")
        assert (end.kind, machine.registers[RAX], machine.registers.long_mode) == ("vmcall", 0x1122_3345, False)


def test_segments_of_32_bit_code(short: HvmMachine) -> None:
    """Bases are added and limits are not looked at, as the translator has it; a stack of 16 bits wraps."""
    short.write(GDT + LDT, struct.pack("<Q", segment(0x20_0000, 0xFFFF, 0x0093_00)))
    short.write(0x20_0010, b"base")
    end = short.run(f"mov ${LDT},%eax; mov %eax,%ds; mov 0x10,%ebx; mov %eax,%ss; mov $0x1234fffc,%esp;"
                    "push $0x5a; mov %esp,%ecx; vmcall")  # fmt: skip
    assert end.kind == "vmcall"
    assert short.registers[RBX].to_bytes(4, "little") == b"base"
    assert short.registers[1] == 0x1234_FFF8
    assert short.read(0x20_FFF8, 4) == b"\x5a\0\0\0"


def test_call_gates(short: HvmMachine) -> None:
    """From a program into the kernel, with another stack and arguments that are copied."""
    gate = (0x11_0000 & 0xFFFF) | CODE32 << 16 | 1 << 32 | 0xEC << 40 | (0x11_0000 >> 16) << 48
    short.write(GDT + 0x50, struct.pack("<Q", gate))
    short.place("mov 8(%esp),%ebx; mov %esp,%ecx; vmcall", 0x11_0000)
    end = short.run("push $0x77; lcall $0x53,$0", 3)
    assert (end.kind, short.registers[RBX], short.registers.cpl) == ("vmcall", 0x77, 0)
    assert short.registers[1] == KERNEL_STACK_END - 20


def test_task_switches(short: HvmMachine) -> None:
    """A double fault through a task gate, as 32-bit Linux has it: with an address space of its own, too."""
    tss = 0x20_0000
    short.write(GDT + 0x50, struct.pack("<Q", segment(tss, 0x67, 0x008900)))
    words = [0] * 26
    words[7], words[8], words[9] = short.paging.root, 0x11_0000, 2
    words[10 + 4] = STACK_END - 0x1000
    words[18:24] = [DATA0, CODE32, DATA0, DATA0, DATA0, DATA0]
    short.write(tss, struct.pack("<26I", *words))
    short.set_gate(DF, 0, TASK_GATE, selector=0x50)
    short.place("mov %cr3,%edx; str %eax; mov (%esp),%ebx; vmcall", 0x11_0000)
    end = short.run(f"mov ${NOWHERE},%esp; push %eax")
    assert (end.kind, short.registers[RAX], short.registers[RBX]) == ("vmcall", 0x50, 0), end
    assert short.registers[2] == short.paging.root
    assert struct.unpack("<I", short.read(TSS + 0x20, 4)) == (CODE + 5,)
    assert struct.unpack("<H", short.read(tss, 2)) == (TSS_SELECTOR,)
    # What is loaded when the new address space has nothing in it ends the domain, and nothing else.
    words[7] = 0x3F_F000
    short.write(tss, struct.pack("<26I", *words))
    short.write(GDT + 0x50, struct.pack("<Q", segment(tss, 0x67, 0x008900)))
    assert short.run(f"mov ${NOWHERE},%esp; push %eax").kind == "triple fault"


def test_a_tr_that_is_no_task_state_segment(short: HvmMachine) -> None:
    """LTR loads none, but a context from outside may be anything."""
    for flags in (0, 0x8200, 0x0B00):
        short.start(3)
        state.set_segment(short.block["env"], state.TR, TSS_SELECTOR, TSS, 0x1FFF, flags)
        short.call("registers_loaded")
        short.place("ud2", USER_CODE)
        end = short.resume()
        assert (end.kind, end.info) == ("triple fault", 1), hex(flags)


def test_a_tss_that_is_too_short(machine: HvmMachine) -> None:
    machine.start(3)
    state.set_segment(machine.block["env"], state.TR, TSS_SELECTOR, TSS, 2, 0x8B00)
    machine.call("registers_loaded")
    machine.place("ud2", USER_CODE)
    # #TS needs that stack again.
    assert machine.resume().kind == "triple fault"
    assert TS


def test_32_bit_programs_under_a_64_bit_kernel(long: HvmMachine) -> None:
    long.start(3)
    long.load_segment(state.CS, USER32 | 3)
    long.call("registers_loaded")
    long.place("mov $0xfffffff0,%eax; push %eax; mov %esp,%ebx; int $0x80", USER_CODE, bits=32)
    long.set_gate(0x80, STUBS + 0x80 * 16, 0xEE00)
    end = long.resume()
    assert (end.vector, end.cs, end.rsp) == (0x80, USER32 | 3, USER_STACK_END - 4)
    assert (long.registers[RAX], long.registers.long_mode) == (0xFFFF_FFF0, True)
    long.place("mov 0xf000000,%eax", USER_CODE, bits=32)
    long.start(3)
    long.load_segment(state.CS, USER32 | 3)
    long.call("registers_loaded")
    end = long.resume()
    assert (end.vector, end.error_code, long.registers.word(state.CR2)) == (PF, 4, NOWHERE)


def test_from_32_bits_without_paging_into_long_mode(native: None) -> None:
    """As a kernel does that is started by PVH's rules; and back."""
    machine = HvmMachine(Mode.LONG)
    root = machine.paging.root
    machine.start()
    registers = machine.registers
    for register, value in ((state.CR0, 0x11), (state.CR3, 0), (state.CR4, 0), (state.EFER, 0)):
        registers.set_word(register, value)
    machine.load_segment(state.CS, CODE32)
    machine.call("registers_loaded")
    code = f"""
        mov $0x20,%eax
        mov %eax,%cr4
        mov ${root},%eax
        mov %eax,%cr3
        mov $0xc0000080,%ecx
        mov $0x900,%eax
        xor %edx,%edx
        wrmsr
        mov %cr0,%eax
        or $0x80000001,%eax
        mov %eax,%cr0
        ljmp ${CODE64},$1f
    1:  .code64
        mov $0x123456789abcdef0,%rbx
        mov %cs,%ecx
        push %rbx
        push ${CODE32}
        movq $2f,%rax
        push %rax
        rex.W lret
    2:  .code32
        mov %cr0,%eax
        and $0x7fffffff,%eax
        mov %eax,%cr0
        mov $0xc0000080,%ecx
        xor %eax,%eax
        wrmsr
        mov $5,%esi
        vmcall
    """
    machine.place(f".code32; {code}", CODE, bits=64)
    end = machine.resume()
    assert (end.kind, registers[RBX], registers[6]) == ("vmcall", 0x1234_5678_9ABC_DEF0, 5)
    assert registers.word(state.EFER) == 0
    assert not registers.word(state.CR0) & PG
    assert PRESENT
    machine.close()
