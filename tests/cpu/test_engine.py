"""The engine under a hypervisor: interruptions from other threads, handlers, faults on the way, and its refusals."""

from __future__ import annotations

import ctypes
import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from assembler import assemble
from bare import CODE, DATA, PAGE_DIRECTORY, PAGE_FAULT, STACK, SUPERPAGE, SYSCALL, TIMEOUT, TRAP, BareEngine, Outcome

from euxen.cpu import state
from euxen.cpu.engine import ExitReason
from euxen.cpu.exits import request_exit
from euxen.cpu.policy import PV_FEATURES, cpu_leaves
from euxen.cpu.unicorn.engine import UnicornEngine

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12 = range(13)
INVALID_OPCODE, GENERAL_PROTECTION = 6, 13
PAGE = 4096
POLICY = cpu_leaves(PV_FEATURES)


@pytest.fixture
def engine(native: None) -> Iterator[BareEngine]:
    engine = BareEngine(POLICY)
    yield engine
    engine.close()


def word(engine: BareEngine, address: int) -> int:
    """A 64-bit word of memory."""
    return int.from_bytes(engine.memory[address : address + 8], "little")


# ---- What is slow in the library's public interface is left alone ----

UC_HOOK_INTR, UC_HOOK_INSN_INVALID = 1, 1 << 14


class Spy:
    """A library that notes which of its functions are asked for."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.used: list[str] = []
        self.hooks: list[int] = []

    def __getattr__(self, name: str) -> object:
        self.used.append(name)
        if name == "uc_hook_add":
            return self._hook_add
        return getattr(self._library, name)

    def __getitem__(self, name: str) -> object:
        self.used.append(name)
        return self._library[name]

    def _hook_add(self, uc: object, handle: object, kind: int, *arguments: object) -> object:
        self.hooks.append(kind)
        return self._library.uc_hook_add(uc, handle, kind, *arguments)


def test_no_instruction_is_counted_and_no_register_read_by_a_call(
    native: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either would make all code many times slower."""
    library = UnicornEngine.library
    assert library is not None
    spy = Spy(library.lib)
    monkeypatch.setattr(library, "lib", spy)
    engine = BareEngine(POLICY)
    assert spy.hooks == [UC_HOOK_INTR, UC_HOOK_INSN_INVALID]
    spy.used.clear()
    outcome = engine.run("mov $1000,%ecx; 1: inc %rax; dec %ecx; jnz 1b; syscall")
    assert (outcome.kind, engine.registers[RAX], engine.registers.rflags & 0x40) == (SYSCALL, 1000, 0x40)
    engine.engine.kick()
    assert spy.used == []
    engine.close()


# ---- Kicks from another thread ----

ITERATIONS = 30_000
CROSSING = DATA + PAGE - 3
COPIES = 64

# Whatever is done twice, or half, shows: in memory, in a register, or in the stack pointer.
COUNTING = f"""
    mov ${ITERATIONS},%r15d
    mov ${DATA},%ebx
    mov ${CROSSING},%ebp
0:  addq $1,(%rbx)
    stc
    adcq $0,8(%rbx)
    lock addq $1,(%rbp)
    addq $1,16(%rbp)
    mov $1,%eax
    lock xadd %rax,16(%rbx)
    cmp %rax,%r8
    jne 9f
    inc %r8
    push %r8
    push $7
    popq 24(%rbx)
    pop %rax
    add %rax,%r9
    call 5f
    lea 256(%rbx),%rsi
    lea 257(%rbx),%rdi
    mov ${COPIES},%ecx
    movb %r8b,(%rsi)
    rep movsb
    add %rsi,%r10
    sub %rdi,%r10
    lea 512(%rbx),%rdi
    mov ${COPIES},%ecx
    mov %r8d,%eax
    rep stosb
    cmp %rdi,%rdi
    lea 512(%rbx),%rsi
    lea 256(%rbx),%rdi
    mov ${COPIES},%ecx
    repe cmpsb
    jne 9f
    fild one(%rip)
    fld1
    faddp
    fistpl 32(%rbx)
    addl $1,modified+1(%rip)
modified:
    mov $0,%eax
    cmp %eax,%r8d
    jne 9f
    dec %r15d
    jnz 0b
    syscall
5:  incq 40(%rbx)
    ret
9:  ud2
one: .short 1
"""


class Kicks:
    """A thread that kicks an engine for as long as the guest runs."""

    def __init__(self, engine: BareEngine) -> None:
        self._engine = engine
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._kick)

    def _kick(self) -> None:
        while not self._end.is_set():
            self._engine.engine.kick()
            time.sleep(0)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def check_counts(engine: BareEngine) -> None:
    """What ``COUNTING`` leaves behind."""
    n = ITERATIONS
    assert [word(engine, DATA + at) for at in (0, 8, 16, 24, 32, 40)] == [n, n, n, 7, 2, n]
    assert [word(engine, CROSSING), word(engine, CROSSING + 16)] == [n, n]
    registers = engine.registers
    assert registers[RSP] == STACK
    assert (registers[R8], registers[R9]) == (n, n * (n + 1) // 2)
    assert registers[R10] == -n & (1 << 64) - 1
    assert bytes(engine.memory[DATA + 256 : DATA + 256 + COPIES + 1]) == bytes([n & 0xFF]) * (COPIES + 1)


def set_handler(engine: BareEngine, name: str, arity: int, handler: Callable[..., int]) -> object:
    """Let the engine call a Python function. The caller keeps what is returned."""
    callback = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arity)(handler)
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address is not None
    engine.engine.block[name] = address
    return callback


@pytest.mark.parametrize("cpl", [1, 3], ids=["kernel", "program"])
def test_a_kick_comes_between_instructions(engine: BareEngine, cpl: int) -> None:
    """The handler returns, and the guest goes on as if nothing had been."""
    count = itertools.count()
    kept = set_handler(engine, "on_interrupt", 1, lambda block: next(count) * 0)
    with Kicks(engine):
        assert engine.run(COUNTING, cpl) == Outcome(SYSCALL)
    check_counts(engine)
    assert next(count) > 100
    del kept


def test_a_kick_can_end_the_run_at_any_time(engine: BareEngine) -> None:
    """As when another vCPU takes its turn: the registers are all there is."""
    engine.reset()
    engine.place(CODE, assemble(COUNTING, 64, CODE))
    interruptions = 0
    with Kicks(engine):
        while (outcome := engine.go()).kind == TIMEOUT:
            interruptions += 1
            flags = engine.registers.rflags
            engine.registers.rflags = flags
    assert outcome == Outcome(SYSCALL)
    check_counts(engine)
    assert interruptions > 100


def test_a_kick_before_the_run_is_not_lost(engine: BareEngine) -> None:
    engine.reset()
    engine.place(CODE, assemble("0: jmp 0b", 64, CODE))
    engine.engine.kick()
    assert engine.finish() == Outcome(TIMEOUT)


def test_a_kick_waits_behind_an_exit(engine: BareEngine) -> None:
    """One that has been asked for is not lost for another that the kick may be for: nobody is interrupted any more."""
    interrupted: list[int] = []

    def end(block: int, _how: int) -> int:
        engine.engine.kick()
        request_exit(block, int(ExitReason.HYPERCALL), 5)
        return 0

    def interrupt(block: int) -> int:
        interrupted.append(block)
        return 0

    kept = set_handler(engine, "on_syscall", 2, end), set_handler(engine, "on_interrupt", 1, interrupt)
    engine.reset()
    engine.place(CODE, assemble("syscall; 0: jmp 0b", 64, CODE))
    engine.engine.block["exit_reason"] = 0
    engine.engine.run()
    assert (engine.engine.block["exit_reason"], engine.engine.block["exit_info"]) == (ExitReason.HYPERCALL, 5)
    assert interrupted == []
    del kept


# ---- Handlers ----


def test_handlers_outlive_a_garbage_collection(engine: BareEngine) -> None:
    """The engine knows them by address, and has to be given no other reason to keep them."""
    engine.descriptors[0x2B] = 0x00CF_F300_0000_FFFF
    code = f"mov ${DATA},%eax; mov $0x2b,%ecx; 0: rdtsc; mov %ecx,%ds; cpuid; mov $0x2b,%ecx; dec %r8d; jnz 0b"
    for _ in range(3):
        gc.collect()
        assert bytes(200_000)  # where something freed may have been
        assert engine.run(f"mov $100,%r8d; {code}; syscall") == Outcome(SYSCALL)
        assert engine.run("ud2") == Outcome(TRAP, INVALID_OPCODE)
        assert engine.run("mov 0x7fffffff,%eax").kind == PAGE_FAULT


def test_an_engine_can_go_while_another_runs(engine: BareEngine) -> None:
    """Nothing that they use belongs to one of them."""
    for _ in range(3):
        other = BareEngine(POLICY)
        assert other.run("cpuid; syscall") == Outcome(SYSCALL)
        other.close()
        other.close()
        del other
        gc.collect()
        assert engine.run("cpuid; syscall") == Outcome(SYSCALL)


# ---- Faults on the way ----

NOWHERE = 0x4000_0000
CODE_SELECTOR, DATA_SELECTOR = 0x33, 0x2B
FAR = {
    "lretq": "lretq",
    "iretq": "iretq",
    "far call": "lcall *far(%rip)",
    "pop to FS": "pop %fs",
    "push": "push %rax",
    "call": "call far",
    "enter": "enter $16,$3",
    "fxsave": f"fxsave {NOWHERE}",
    "fxrstor": f"fxrstor {NOWHERE}",
    "fnsave": f"fnsave {NOWHERE}",
    "cmpxchg16b": f"mov ${NOWHERE},%edi; lock cmpxchg16b (%rdi)",
    "xchg": f"xchg %rax,{NOWHERE}",
    "maskmovdqu": f"mov ${NOWHERE},%edi; pcmpeqd %xmm0,%xmm0; maskmovdqu %xmm0,%xmm0",
    "verr": f"verr {NOWHERE}",
}


@pytest.mark.parametrize("code", FAR.values(), ids=FAR.keys())
@pytest.mark.parametrize("cpl", [1, 3], ids=["kernel", "program"])
def test_a_fault_in_the_midst_of_an_instruction(engine: BareEngine, code: str, cpl: int) -> None:
    """It leaves the library's functions and ours by a jump, at any depth, again and again."""
    engine.descriptors[CODE_SELECTOR], engine.descriptors[DATA_SELECTOR] = 0x00AF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF
    source = f"mov ${NOWHERE + 64},%esp; {code}; ud2; far: .long {CODE}; .word {CODE_SELECTOR}"
    for _ in range(100):
        outcome = engine.run(source, cpl)
        assert outcome.kind == PAGE_FAULT
        assert outcome.address & -PAGE == NOWHERE
        assert outcome.error_code & ~2 == (4 if cpl == 3 else 0)
    assert engine.registers[RSP] == NOWHERE + 64
    assert engine.run("mov $7,%eax; syscall", cpl) == Outcome(SYSCALL)
    assert engine.registers[RAX] == 7


@pytest.mark.parametrize("length", range(1, 10))
def test_a_fault_in_the_midst_of_a_fetch(engine: BareEngine, length: int) -> None:
    """The instruction begins in a page that is there."""
    engine.memory.cast("Q")[PAGE_DIRECTORY // 8 + DATA // SUPERPAGE] = 0
    engine.engine.flush_tlb()
    engine.reset()
    engine.place(DATA - length, assemble("movabs $0x1122334455667788,%rax")[:length])
    engine.registers.rip = DATA - length
    fetch = 0x10
    assert engine.finish() == Outcome(PAGE_FAULT, 14, fetch, DATA)
    assert engine.registers.rip == DATA - length
    assert engine.registers[RAX] == 0


# ---- Privileged instructions ----

PRIVILEGED = (
    "rdmsr", "wrmsr", "hlt", "cli", "sti", "clts", "invd", "wbinvd", "swapgs", "sysretq",
    "mov %cr0,%rax", "mov %rax,%cr0", "mov %cr2,%rax", "mov %rax,%cr2", "mov %cr3,%rax", "mov %rax,%cr3",
    "mov %cr4,%rax", "mov %rax,%cr4", "mov %cr8,%rax", "mov %rax,%cr8",
    "mov %dr0,%rax", "mov %rax,%dr0", "mov %dr7,%rax", "mov %rax,%dr7",
    "lgdt 0x400000", "lidt 0x400000", "lldt %ax", "ltr %ax", "lmsw %ax", "invlpg 0x400000",
    "in $0x80,%al", "out %al,$0x80", "in %dx,%eax", "out %eax,%dx", "insb", "outsl", "rep insl", "rdpmc",
)  # fmt: skip


@pytest.mark.parametrize("code", PRIVILEGED)
@pytest.mark.parametrize("cpl", [1, 3], ids=["kernel", "program"])
def test_privileged_instructions_reach_the_hypervisor(engine: BareEngine, code: str, cpl: int) -> None:
    """As a protection fault at the instruction, with nothing done."""
    setup = f"mov $0xc0000080,%ecx; mov $0x11,%eax; mov $0x22,%edx; mov ${DATA},%esi; mov ${DATA},%edi; stc"
    assert engine.run(f"{setup}; {code}; syscall", cpl) == Outcome(TRAP, GENERAL_PROTECTION)
    registers = engine.registers
    assert registers.rip == CODE + len(assemble(setup, 64, CODE))
    assert [registers[n] for n in (RAX, RCX, RDX, RSI, RDI)] == [0x11, 0xC000_0080, 0x22, DATA, DATA]
    assert registers.rflags & (state.CF | state.IF) == state.CF | state.IF
    assert registers.cpl == cpl
