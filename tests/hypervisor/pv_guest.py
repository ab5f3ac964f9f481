"""A PV guest for tests that is a few lines of assembler: real page tables, real traps, a real end.

The code runs as the guest's kernel, or as one of its programs. It ends by itself, or in a trap handler; both
write down the registers and shut the guest down.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass

from assembler import assemble

from euxen.abi.arch_x86_xen import (
    FLAT_KERNEL_CS64,
    FLAT_KERNEL_SS64,
    CpuUserRegs,
    VcpuGuestContext,
    VGCF_in_kernel,
    VGCF_online,
    xen_pfn_to_cr3,
)
from euxen.abi.sched import SCHEDOP_shutdown
from euxen.abi.xen import HYPERVISOR_iret, HYPERVISOR_sched_op
from euxen.cpu.unicorn.engine import UnicornEngine
from euxen.hypervisor.control import DEFAULT_GRANT_LIMITS, Control, GrantLimits
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.machine import PAGE_SIZE, Machine
from euxen.hypervisor.pcpu import Pcpu
from euxen.hypervisor.vcpu import Vcpu

MEMORY = 64 << 20
PAGES = 64
TABLES = 5
"""The guest's first frames are page tables: two of the top level, of which the second is a spare, then one each."""

CODE, DATA, READ_ONLY, STACK, HANDLERS, SPARE = (0x10_0000 + number * PAGE_SIZE for number in range(6))
"""Linear addresses of pages. Behind SPARE nothing is mapped. STACK is the page below the stack pointer."""
STACK_TOP = STACK + PAGE_SIZE
SAVED = DATA + 0xF00
"""Where the registers go: RAX, RBX, RCX, RDX, RSI, RDI, RSP, and the vector, or -1."""

PRESENT, WRITABLE, TABLE = 0x25, 0x67, 0x67
VECTORS = 32
HANDLER_SIZE = 32
PATIENCE = 20.0

REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp")
SAVE = "; ".join(f"mov %{name},{SAVED + 8 * n}" for n, name in enumerate(REGISTERS))
SHUTDOWN = f"mov ${HYPERVISOR_sched_op},%eax; mov ${SCHEDOP_shutdown},%edi; mov ${SAVED + 64},%esi; syscall; jmp ."
# A program cannot shut the guest down, but by any system call.
END = f"movq $-1,{SAVED + 56}; {SAVE}; {{}}"
ON_SYSCALL = HANDLERS + VECTORS * HANDLER_SIZE
ON_EXCEPTION = ON_SYSCALL + 0x80

PROGRAM = CODE + 0x100
IRET_FRAME = (0xE02B, STACK_TOP - 256, 0x202, 0xE033, PROGRAM, 0, 0, 0, 0)
"""SS, RSP, RFLAGS, CS, RIP, flags, RCX, R11 and RAX of a struct iret_context."""
TO_USER_MODE = "; ".join(f"push ${word}" for word in IRET_FRAME) + f"; mov ${HYPERVISOR_iret},%eax; syscall"


def handler(vector: int) -> int:
    """The address of the guest's handler for an exception."""
    return HANDLERS + vector * HANDLER_SIZE


@dataclass(frozen=True)
class Frame:
    """What an exception put on the kernel's stack."""

    rip: int
    cs: int
    rflags: int
    error_code: int | None


@dataclass(frozen=True)
class Result:
    """The registers at the end, and the exception that was the end, if one was."""

    rax: int
    rbx: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    vector: int | None
    frame: Frame | None


class PvGuest:
    """A domain with one vCPU. The native library has to be loaded."""

    def __init__(
        self,
        handlers: bool = True,
        user_mode: bool = False,
        hypervisor: Hypervisor | None = None,
        max_pages: int = PAGES,
        grant_limits: GrantLimits = DEFAULT_GRANT_LIMITS,
        domid: int = 0,
    ) -> None:
        """``handlers``: the guest has a handler for each exception. ``user_mode``: the code is a program's.

        ``hypervisor``: it is not alone on its machine.
        """
        self.hypervisor = hypervisor or Hypervisor(Machine(MEMORY), UnicornEngine)
        self.machine = self.hypervisor.machine
        self.control = Control(self.hypervisor, self.hypervisor.kernel)
        self.domid = self.control.create_domain(max_pages, grant_limits=grant_limits, domid=domid)
        domain = self.hypervisor.find(self.domid)
        assert domain is not None
        self.domain = domain
        self.frames = list(self.control.populate_physmap(self.domid, 0, PAGES))
        self.root, self.spare_root = self.frames[:2]
        self.data_frame = self.frames[TABLES + (DATA - CODE) // PAGE_SIZE]
        self._user_mode = user_mode
        self._build_tables()
        self._set_context()
        if handlers:
            self._install_handlers()
        self.control.unpause_domain(self.domid)
        self.pcpu = Pcpu(self.domain)
        self.registers = self.pcpu.registers

    @property
    def vcpu(self) -> Vcpu:
        """The only one."""
        return self.domain.vcpus[0]

    def page(self, address: int) -> memoryview:
        """The page that is mapped at a linear address."""
        return self.machine.frame(self.frames[TABLES + (address - CODE) // PAGE_SIZE])

    def _build_tables(self) -> None:
        root, spare, l3, l2, l1 = self.frames[:TABLES]
        for table in (root, spare):
            self.machine.frame(table).cast("Q")[0] = l3 << 12 | TABLE
        self.machine.frame(l3).cast("Q")[0] = l2 << 12 | TABLE
        self.machine.frame(l2).cast("Q")[0] = l1 << 12 | TABLE
        entries = self.machine.frame(l1).cast("Q")
        for number in range((SPARE - CODE) // PAGE_SIZE + 1):
            address = CODE + number * PAGE_SIZE
            rights = PRESENT if address == READ_ONLY else WRITABLE
            entries[address // PAGE_SIZE] = self.frames[TABLES + number] << 12 | rights

    def _set_context(self) -> None:
        cr3 = xen_pfn_to_cr3(self.root)
        context = VcpuGuestContext(
            flags=VGCF_in_kernel | VGCF_online,
            user_regs=CpuUserRegs(rip=CODE, rsp=STACK_TOP, cs=FLAT_KERNEL_CS64, ss=FLAT_KERNEL_SS64, rflags=0x200),
            kernel_ss=FLAT_KERNEL_SS64,
            kernel_sp=STACK_TOP,
            ctrlreg=(0, cr3, 0, cr3, 0, 0, 0, 0),
        )
        self.control.set_vcpu_context(self.domid, 0, context)

    def _install_handlers(self) -> None:
        for vector in range(VECTORS):
            address = handler(vector)
            self.put(address, assemble(f"movq ${vector},{SAVED + 56}; jmp {ON_EXCEPTION:#x}", origin=address))
            self.vcpu.set_trap(vector, FLAT_KERNEL_CS64, 0, address)
        self.put(ON_SYSCALL, assemble(SHUTDOWN))
        self.put(ON_EXCEPTION, assemble(f"{SAVE}; {SHUTDOWN}"))
        self.vcpu.record["syscall_callback"] = ON_SYSCALL

    def put(self, address: int, code: bytes) -> None:
        """Write into the page at a linear address, behind the guest's back."""
        offset = address % PAGE_SIZE
        self.page(address - offset)[offset : offset + len(code)] = code

    def run(self, source: str) -> Result:
        """Run a program to its end."""
        if self._user_mode:
            self.put(CODE, assemble(TO_USER_MODE))
            self.put(PROGRAM, assemble(f"{source}; {END.format('syscall')}", origin=PROGRAM))
        else:
            self.put(CODE, assemble(f"{source}; {END.format(SHUTDOWN)}", origin=CODE))
        self.registers.rip = CODE
        alarm = threading.Timer(PATIENCE, self.pcpu.stop)
        alarm.start()
        try:
            self.pcpu.run()
        finally:
            alarm.cancel()
        assert self.domain.is_shut_down, "the guest does not end"
        return self._result()

    def _result(self) -> Result:
        words = struct.unpack_from("<8q", self.page(DATA), SAVED - DATA)
        rax, rbx, rcx, rdx, rsi, rdi = (word & (1 << 64) - 1 for word in words[:6])
        stack, vector = words[6], words[7]
        if vector < 0:
            return Result(rax, rbx, rcx, rdx, rsi, rdi, None, None)
        return Result(rax, rbx, rcx, rdx, rsi, rdi, vector, self._frame(stack, vector))

    def _frame(self, stack: int, vector: int) -> Frame:
        """{ RCX, R11, [error code,] RIP, CS, RFLAGS, RSP, SS }"""
        with_error_code = vector in (8, 10, 11, 12, 13, 14, 17)
        count = 8 if with_error_code else 7
        words = list(struct.unpack_from(f"<{count}Q", self.page(STACK), (stack - STACK) % PAGE_SIZE))
        error_code = words.pop(2) if with_error_code else None
        return Frame(rip=words[2], cs=words[3] & 0xFFFF, rflags=words[4], error_code=error_code)

    def close(self) -> None:
        """Destroy the domain."""
        self.control.destroy_domain(self.domid)
