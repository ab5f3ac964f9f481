"""The architectural state of a virtual CPU, as native code sees it.

The layout is that of the translator's own ``CPUX86State``, so a handler reads and writes registers
in place: an offset here is an offset from ``block.env``. Flags are kept lazily by the translator,
and segment registers have a hidden part, so both have functions.
"""

from __future__ import annotations

from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call4, fill, load32, load64, native, store16, store32, store64

# General registers, in the order of their encoding.
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = (8 * number for number in range(8))
R8, R9, R10, R11, R12, R13, R14, R15 = (8 * number for number in range(8, 16))
RIP = 128
EFLAGS = 136
CC_DST, CC_SRC, CC_SRC2, CC_OP, DF = 144, 152, 160, 168, 172
HFLAGS, HFLAGS2 = 176, 180
HF2_NMI = 1 << 2
"""Of the second: an NMI is being handled."""

# Segment registers: 24 bytes each, {u32 selector; u64 base at +8; u32 limit at +16; u32 flags at +20}.
SEGS = 184
SEGMENT_SIZE = 24
SELECTOR, BASE, LIMIT, FLAGS = 0, 8, 16, 20
ES, CS, SS, DS, FS, GS = (SEGS + SEGMENT_SIZE * number for number in range(6))
LDTR, TR, GDTR, IDTR = 328, 352, 376, 400

CR0, CR2, CR3, CR4 = (424 + 8 * number for number in (0, 2, 3, 4))
EFER = 592
FPSTT, FPUS, FPUC, FPTAGS, SSE_STATUS, MXCSR = 604, 608, 610, 612, 808, 816
SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP = 4800, 4808, 4816
STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX = 4824, 4840, 4848, 4856, 4864, 4896
DR = 5400
CONTEXT_SIZE = 5568
"""How much of the state belongs to a vCPU: what is copied when another takes its place."""

# RFLAGS
CF, PF, AF, ZF, SF, TF, IF, DIRECTION, OF = 0x1, 0x4, 0x10, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
IOPL, NT, RF, VM, AC, VIF, VIP, ID = 0x3000, 0x4000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000, 0x200000
ARITHMETIC = CF | PF | AF | ZF | SF | OF
LAZY = ARITHMETIC | DIRECTION
CC_OP_EFLAGS = 1
DF_UP, DF_DOWN = 1, 0xFFFF_FFFF

# HFLAGS: what the translator derives from the state, and compiles into the code.
HF_CPL, HF_CS32, HF_SS32, HF_ADDSEG, HF_PE = 0x3, 0x10, 0x20, 0x40, 0x80
HF_TS, HF_LMA, HF_CS64 = 0x800, 0x4000, 0x8000
HF_INHIBIT_IRQ, HF_RF = 0x8, 0x10000

# Descriptor attributes, as in the second word of a descriptor.
DESC_G, DESC_B, DESC_L, DESC_P, DESC_S = 1 << 23, 1 << 22, 1 << 21, 1 << 15, 1 << 12
DESC_CODE, DESC_CONFORMING, DESC_WRITABLE, DESC_READABLE, DESC_ACCESSED = 1 << 11, 1 << 10, 1 << 9, 1 << 9, 1 << 8
DESC_DPL_SHIFT = 13


@native
def rflags(block: int) -> int:
    """RFLAGS as the guest would push them. Valid inside a handler, while the translator runs."""
    env = load64(block + CpuBlock.env)
    op = load32(env + CC_OP)
    if op == CC_OP_EFLAGS:
        arithmetic = load64(env + CC_SRC)
    else:
        compute = load64(block + CpuBlock.cc_compute_all)
        arithmetic = call4(compute, load64(env + CC_DST), load64(env + CC_SRC), load64(env + CC_SRC2), op)
    direction = DIRECTION if load32(env + DF) == DF_DOWN else 0
    return (load64(env + EFLAGS) & ~LAZY) | (arithmetic & ARITHMETIC) | direction | 2


@native
def set_rflags(block: int, flags: int) -> int:
    """Set RFLAGS, all of them."""
    env = load64(block + CpuBlock.env)
    store64(env + EFLAGS, (flags & ~LAZY) | 2)
    store64(env + CC_SRC, flags & ARITHMETIC)
    store32(env + CC_OP, CC_OP_EFLAGS)
    store32(env + DF, DF_DOWN if flags & DIRECTION else DF_UP)
    return 0


@native
def set_segment(env: int, segment: int, selector: int, base: int, limit: int, flags: int) -> int:
    """Load one segment register and its hidden part. ``update_hflags`` has to follow."""
    store32(env + segment + SELECTOR, selector & 0xFFFF)
    store64(env + segment + BASE, base)
    store32(env + segment + LIMIT, limit)
    store32(env + segment + FLAGS, flags)
    return 0


@native
def set_hflags(env: int, hflags: int) -> int:
    """Set the translator's mode as it is."""
    store32(env + HFLAGS, hflags)
    return 0


@native
def update_hflags(env: int, cpl: int) -> int:
    """Derive the translator's mode from the segment registers, for protected and long mode."""
    cs = load32(env + CS + FLAGS)
    hflags = load32(env + HFLAGS) & ~(HF_CPL | HF_CS32 | HF_CS64 | HF_SS32 | HF_ADDSEG)
    hflags |= cpl
    if (hflags & HF_LMA) and (cs & DESC_L):
        hflags |= HF_CS64 | HF_CS32 | HF_SS32
    else:
        if cs & DESC_B:
            hflags |= HF_CS32
        if load32(env + SS + FLAGS) & DESC_B:
            hflags |= HF_SS32
        if not cs & DESC_B or load64(env + DS + BASE) | load64(env + ES + BASE) | load64(env + SS + BASE):
            hflags |= HF_ADDSEG
    store32(env + HFLAGS, hflags)
    return 0


@native
def init_fpu(env: int, control: int, mxcsr: int) -> int:
    """The floating-point unit after FNINIT, and MXCSR."""
    store32(env + FPSTT, 0)
    store16(env + FPUS, 0)
    store16(env + FPUC, control)
    fill(env + FPTAGS, 1, 8)
    store32(env + MXCSR, mxcsr)
    return 0
