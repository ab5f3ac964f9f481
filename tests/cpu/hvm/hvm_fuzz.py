"""Hostile HVM guests at random: whatever they do to their CPU, the process lives on and only their memory changes.

Run as a program, with a first seed and a number of seeds: it says which seed it is at, so that a crash has a name.
"""

from __future__ import annotations

import random
import struct
import sys
import threading

from hvm_machine import (
    ADDRESS,
    CODE,
    FRAMES,
    GDT,
    GUEST_FRAMES,
    IDT,
    PAGE,
    STACK_END,
    TSS,
    USER_CODE,
    HvmMachine,
    Mode,
)

from euxen.cpu import state

SLICE = 0.02
"""Seconds for each try."""
ROUNDS, RESUMPTIONS = 4, 40

PIECES = """
0f20c0 0f22c0 0f20d8 0f22d8 0f20e0 0f22e0 440f22c0 440f20c0 0f22d0 0f20d0 0f01f0 0f06 0f32 0f30 0f01c1 0f01d9
0f0100 0f0108 0f0110 0f0118 0f0138 0f00d8 0f00d0 0f00c0 0f00c8 0f02c1 0f03c1 0f00e0 0f00e8 8ed0 8ed8 8ec0 8ee0
8ee8 fa fb f4 cf 48cf 66cf 0f05 0f07 480f07 0f34 0f35 480f35 cb ca0800 48cb cc cd80 cd03 ce f1 9d 9c 9b e4aa
e6aa ec ee 6c 6e f36c f36e 6d 6f 0fa2 0f31 0f01f9 0f33 0f09 0f08 0f20f8 0f23f8 0f21f0 0f23c0 0f21c0 0f01d0
0f01d1 0fae00 0fae08 0fae10 0fae18 0faee8 0faef8 0fc708 480fc708 f00fc708 f048ff00 f0ff00 f00fab00 f00fbbc0
8700 488700 f3a4 f3ab f348a5 f2ae f3a6 ff18 ff28 48ff28 ff10 ff20 c8000001 c80000ff c9 0f1f00 0f0b 0fff 8cd0
8cd8 1e 06 0fa8 0fa0 1f 07 0fa9 0fa1 c400 c500 0fb200 0fb400 62 6300 d7 e300 eb00 0faa f30fae c0 f30faed8 90
0f01f8 0f01df 0f01d8 0f01da 0f01db 0f01dc 0f01dd 0f01de 0f01c8 0f01c9 0f0d00 0f18 d9d0 dbe3 9bdbe3 dd30 dd20
660f38f000 0f38c800 660f3a 6690 67 66 f0 f2 f3 2e 64 65 48 4c 4d 0f01ca 0f01cb f30f1efa f30f01e8 0f0f
"""
"""Instructions in hexadecimal: the privileged ones, and others that are seldom."""


def operand(chance: random.Random) -> int:
    """A number that may mean something."""
    kind = chance.randrange(9)
    if kind == 0:
        return chance.getrandbits(64)
    if kind == 1:
        return chance.getrandbits(32)
    if kind == 2:
        return 1 << chance.randrange(64)
    if kind == 3:
        return chance.randrange(GUEST_FRAMES + 64) * PAGE + chance.randrange(PAGE)
    if kind == 4:
        return chance.randrange(0x90)
    if kind == 5:
        return chance.choice([CODE, GDT, IDT, TSS, STACK_END, USER_CODE, 0x10_000, 0x11_000]) + chance.randrange(64)
    if kind == 6:
        return chance.choice([0xC000_0080, 0x1B, 0xC000_0081, 0xC000_0082, 0x174, 0x10, 0x8005_0033, 0x8001_0011])
    if kind == 7:
        return (1 << 64) - 1 - chance.randrange(1 << 14)
    return 1 << chance.choice([0, 4, 5, 7, 8, 10, 11, 16, 20, 21, 31]) | chance.getrandbits(12) | 0x8000_0001


def code(chance: random.Random) -> bytes:
    """Instructions, most of them privileged, and noise."""
    out = b""
    while len(out) < 400:
        kind = chance.randrange(10)
        if kind < 3:
            number = chance.randrange(8)
            wide = chance.random() < 0.4
            value = operand(chance)
            out += (
                b"\x48" + bytes([0xB8 + number]) + struct.pack("<Q", value)
                if wide
                else bytes([0xB8 + number]) + struct.pack("<I", value & 0xFFFF_FFFF)
            )
        elif kind < 7:
            out += bytes.fromhex(chance.choice(PIECES.split()))
        elif kind == 7:
            out += bytes([0x68]) + struct.pack("<I", operand(chance) & 0xFFFF_FFFF)
        elif kind == 8:
            out += bytes(chance.getrandbits(8) for _ in range(chance.randrange(1, 5)))
        else:
            out += chance.choice(
                [b"\x0f", b"\x0f\x38", b"\x0f\x3a", b"\xd8", b"\xdf", b"\xff", b"\x0f\x01", b"\x0f\xc7"]
            )
            out += bytes(chance.getrandbits(8) for _ in range(6))
    return out


def scribble(machine: HvmMachine, chance: random.Random) -> None:
    """Change a few words of the guest's tables."""
    for _ in range(chance.randrange(6)):
        base = chance.choice([GDT, IDT, TSS, 0x10_000, 0x11_000, 0x12_000, 0x13_000, STACK_END - 64])
        at = base + chance.randrange(0x200) & ~7
        value = operand(chance)
        if chance.random() < 0.4:
            value = int.from_bytes(machine.read(at, 8), "little") ^ 1 << chance.randrange(64)
        if chance.random() < 0.1:
            value = (CODE & 0xFFFF) | 0x10 << 16 | chance.getrandbits(16) << 32 | (CODE >> 16) << 48
        machine.write(at, struct.pack("<Q", value))


def disturb(machine: HvmMachine, chance: random.Random) -> None:
    """Load registers as a toolstack may that means harm."""
    registers, env = machine.registers, machine.block["env"]
    for register in (state.CR0, state.CR3, state.CR4, state.EFER):
        if chance.random() < 0.3:
            registers.set_word(register, operand(chance) if chance.random() < 0.5 else
                               registers.word(register) ^ 1 << chance.randrange(32))  # fmt: skip
    for segment in (*range(state.ES, state.GS + 1, state.SEGMENT_SIZE), state.LDTR, state.TR, state.GDTR, state.IDTR):
        if chance.random() < 0.1:
            values = operand(chance) & 0xFFFF, operand(chance), operand(chance), chance.getrandbits(24)
            state.set_segment(env, segment, *(value - (1 << 64) if value >> 63 else value for value in values))
    if chance.random() < 0.4:
        registers.rflags = operand(chance)
    if chance.random() < 0.1:
        registers.rip = operand(chance)
    for number in range(16):
        if chance.random() < 0.5:
            registers[number] = operand(chance)
    machine.call("registers_loaded")


def one(seed: int) -> None:
    """One guest."""
    chance = random.Random(seed)
    machine = HvmMachine(chance.choice(list(Mode)))
    machine.answers.mmio = {} if chance.random() < 0.5 else None
    machine.answers.port_exit = chance.random() < 0.3
    machine.answers.msrs = {0xC000_0081: 0, 0xC000_0082: 0, 0x174: 0, 0x175: 0}
    for _ in range(ROUNDS):
        cpl = chance.choice([0, 0, 0, 3])
        machine.start(cpl)
        if chance.random() < 0.5:
            scribble(machine, chance)
        machine.write(USER_CODE if cpl else CODE, code(chance))
        for number in range(16):
            machine.registers[number] = operand(chance) if number != 4 else machine.registers[4]
        for offset in (state.STAR, state.LSTAR, state.CSTAR, state.FMASK):
            machine.registers.set_word(offset, operand(chance))
        machine.registers.set_word(state.SYSENTER_CS, operand(chance) & 0xFFFF)
        if chance.random() < 0.25:
            disturb(machine, chance)
        if chance.random() < 0.3:
            machine.call("inject", chance.randrange(32), chance.choice([-1, 0, operand(chance) & 0xFFFF]))
        machine.answers.vectors = [chance.randrange(256) for _ in range(chance.randrange(4))]
        for _ in range(RESUMPTIONS):
            alarm = threading.Timer(SLICE, machine.engine.kick)
            alarm.start()
            end = machine.go()
            alarm.cancel()
            if end.kind in ("timeout", "triple fault"):
                break
            # Somewhere else in the code, with whatever the guest has made of its registers.
            machine.registers.rip = (USER_CODE if machine.registers.cpl == 3 else CODE) + chance.randrange(400)
        if not machine.others_are_untouched():
            raise SystemExit(f"seed {seed}: memory of others was changed")
    assert all(machine.leaf[gfn] & ADDRESS == machine.mfn(gfn) << 12 for gfn in range(0, GUEST_FRAMES, 64))
    assert FRAMES > GUEST_FRAMES
    machine.close()


def main() -> None:
    """Run the seeds that the command line names."""
    import euxen.hypervisor.pcpu  # noqa: F401 imports all there is of native functions
    from euxen.cpu.native import library
    from euxen.cpu.unicorn.engine import UnicornEngine
    from euxen.hypervisor.machine import cache_directory

    library.load(cache_directory())
    UnicornEngine.prepare(cache_directory())
    first, count = int(sys.argv[1]), int(sys.argv[2])
    for seed in range(first, first + count):
        print(seed, flush=True)
        one(seed)


if __name__ == "__main__":
    main()
