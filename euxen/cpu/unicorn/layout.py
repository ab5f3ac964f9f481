"""Where things are inside ``libunicorn`` 2.1.4 on x86-64 Linux, beyond the public API.

The offsets hold for that wheel alone. ``library`` compares the file's build id before it loads it,
and ``engine`` writes known values through the public API and reads them back here.
"""

BUILD_ID = "44285d3e80527122e9e361928189385906ec813e"

# struct uc_struct
UC_CPU = 440
UC_STOP_REQUEST = 1389
UC_QUIT_REQUEST = 1390
UC_INVALID_ERROR = 1424
UC_SIZE_RECUR_MEM = 1384
UC_NO_EXIT_REQUEST = 2034
UC_NESTED_LEVEL = 14840
UC_TCG_CONTEXT = 768

# CPUState
CPU_CREATED = 16
CPU_STOP = 17
CPU_STOPPED = 18
CPU_EXIT_REQUEST = 21
CPU_CFLAGS_NEXT_TB = 24
CPU_INTERRUPT_REQUEST = 28
CPU_ENV = 296
CPU_OPAQUE = 33136
"""A pointer that the library itself never uses: ours to the block."""
CPU_HALTED = 33176
CPU_EXCEPTION_INDEX = 33184
CPU_UC = 33192
CPU_CLASS = 33200
CPU_TB_JMP_CACHE = 312
TB_JMP_CACHE_BYTES = 4096 * 8

# CPUClass
CLASS_TLB_FILL = 72
CLASS_EXEC_INTERRUPT = 144

# From CPUX86State: what a context copy does not cover, and what lies before it.
ENV_TO_CPU = 35408
"""CPUState begins this far before CPUX86State."""
ENV_ERROR_CODE = 5384
ENV_EXCEPTION_IS_INT = 5388
ENV_EXCEPTION_NEXT_EIP = 5392
ENV_OLD_EXCEPTION = 5496
ENV_VENDOR = 5616
"""Three u32: EBX, EDX and ECX of CPUID leaf 0. SYSENTER exists in 64-bit code where they say Intel."""
ENV_FEATURES = 5632
"""FEATURE_WORDS, each a u64 of which 32 bits are used."""
ENV_ICOUNT_DECR = -16
ENV_TLB_DESC = -2160
ENV_TLB_FAST = -64

# CPUTLBDesc and CPUTLBDescFast, one each per MMU mode
TLB_DESC_SIZE = 696
TLB_DESC_VINDEX = 40
TLB_DESC_VTABLE = 48
TLB_DESC_VIOTLB = 560
TLB_DESC_IOTLB = 688
TLB_FAST_SIZE = 16
VICTIMS = 8

# CPUTLBEntry, 64 bytes; CPUIOTLBEntry, 16 bytes
TLB_ENTRY_SIZE, TLB_IO_SIZE = 64, 16
TLB_READ, TLB_WRITE, TLB_CODE, TLB_PADDR, TLB_ADDEND = 0, 8, 16, 24, 32
TLB_KEPT = 40
"""Room that the library leaves: ours."""
TLB_INVALID = 1 << 11
TLB_NOTDIRTY = 1 << 10

MMU_KERNEL = 2
MMU_USER = 1
"""The translator's MMU modes at CPL 0 to 2 without SMAP, and at CPL 3."""

# TCGContext and the translator's intermediate code
TCG_UC = 39280
TCG_CPU_ENV = 39152
TCG_TB_CFLAGS = 100
INDEX_OP_SET_LABEL = 1
INDEX_OP_LD_I32 = 13
TCG_COND_LT = 2
TCG_TYPE_I32 = 0
TB_EXIT_REQUESTED = 3

CPU_INTERRUPT_HARD = 2
NO_EXCEPTION = 0xFFFF_FFFF
"""``exception_index`` and ``old_exception`` when there is none."""
EXCP06_ILLOP = 6
EXCP_INTERRUPT, EXCP_HLT = 0x10000, 0x10001
EXCP_ATOMIC = 0x10005
"""What ``cpu_exec`` returns where an instruction has to be executed alone."""

# TranslationBlock: the address that it begins at, and
TB_SIZE = 20
TB_CFLAGS = 24
TB_SECOND_PAGE = 80
CF_ONE_INSTRUCTION, CF_PARALLEL = 1, 0x80000
CF_ALONE = CF_ONE_INSTRUCTION | CF_PARALLEL
"""A block of one instruction, and not the same as one that is made for another purpose. See ``atomics``."""

FEATURE_WORDS: dict[int, tuple[int, int, str]] = {
    0: (0x1, 0, "edx"),
    1: (0x1, 0, "ecx"),
    2: (0x7, 0, "ebx"),
    3: (0x7, 0, "ecx"),
    4: (0x7, 0, "edx"),
    5: (0x7, 1, "eax"),
    6: (0x80000001, 0, "edx"),
    7: (0x80000001, 0, "ecx"),
    8: (0x80000007, 0, "edx"),
    9: (0x80000008, 0, "ebx"),
    18: (0x8000000A, 0, "edx"),
    19: (0xD, 1, "eax"),
}
"""The FEAT_* words that decide what is decoded: CPUID leaf, sub-leaf and register of each."""

# struct float_status as a word: byte 1 is the rounding mode, 0 to nearest; byte 2 the exceptions, of which
# inexact is 32; bytes 4 and 5 say that results and operands are flushed to zero.
FLOAT_STATUS_MASK, FLOAT_STATUS_USUAL = 0x0000_FFFF_0020_FF00, 0x0000_0000_0020_0000
