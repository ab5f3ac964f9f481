"""Domains of seven pages, built and run through Domain 0's own interface, for tests with many of them."""

from __future__ import annotations

import struct

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
from euxen.abi.domctl import (
    XEN_DOMCTL_pausedomain,
    XEN_DOMCTL_unpausedomain,
    XEN_DOMINF_shutdown,
    XEN_DOMINF_shutdownshift,
    XenDomctlCreatedomain,
)
from euxen.abi.sched import SCHEDOP_block, SCHEDOP_shutdown, SCHEDOP_watchdog
from euxen.abi.xen import HYPERVISOR_domctl, HYPERVISOR_sched_op
from euxen.cpu.unicorn.engine import UnicornEngine
from euxen.hypervisor import pcpus
from euxen.hypervisor.control import Control
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.machine import PAGE_SIZE, Machine

BASE = 0x10_0000
L4, L3, L2, L1, CODE, DATA, STACK = range(7)
PAGES = 7
PRESENT_WRITABLE = 0x67


def address(page: int) -> int:
    """Where one of a domain's pages is mapped."""
    return BASE + page * PAGE_SIZE


COUNT = f"mov ${address(DATA)},%edi; 1: incq (%rdi); jmp 1b"
"""Counts in the first word of its data."""
SHUT_DOWN = f"mov ${address(DATA)},%esi; mov ${SCHEDOP_shutdown},%edi; mov ${HYPERVISOR_sched_op},%eax; syscall"
"""Shuts down for the reason that is there."""
CRASH = "ud2"
DOMCTL = address(DATA) + 0x100
HYPERCALL = f"mov %rbx,%rdi; mov ${HYPERVISOR_domctl},%eax; syscall"
PAUSE_OTHERS = (
    f"mov ${DOMCTL},%ebx; 1: movl ${XEN_DOMCTL_pausedomain},(%rbx); {HYPERCALL}; "
    f"movl ${XEN_DOMCTL_unpausedomain},(%rbx); {HYPERCALL}; incq {address(DATA)}; jmp 1b"
)
"""Pauses and unpauses the domain that a struct xen_domctl in its data names, and counts how often."""
WATCHDOG = f"mov ${SCHEDOP_watchdog},%edi; mov ${address(DATA)},%esi; mov ${HYPERVISOR_sched_op},%eax; syscall; jmp ."
"""Starts the watchdog that a struct sched_watchdog in its data describes, and does nothing else."""
BLOCK = f"1: mov ${SCHEDOP_block},%edi; mov ${HYPERVISOR_sched_op},%eax; syscall; jmp 1b"
"""Waits for events, and there are none."""


def make_control(memory: int = 64 << 20) -> Control:
    """A machine with nothing but Domain 0 on it. The native library has to be loaded."""
    hypervisor = Hypervisor(Machine(memory), UnicornEngine, pcpus.run)
    return Control(hypervisor, hypervisor.kernel)


def bare_domain(hypervisor: Hypervisor, pages: int, vcpus: int, max_evtchn_port: int) -> Domain:
    """A domain that cannot run, and that can have more vCPUs than those that can."""
    config = XenDomctlCreatedomain(
        max_vcpus=vcpus, max_evtchn_port=max_evtchn_port, max_grant_frames=-1, max_maptrack_frames=-1, grant_opts=1
    )
    domain = Domain(hypervisor.machine, hypervisor.free_domid(0), config)
    domain.record["max_pages"] = pages
    domain.create_vcpus()
    hypervisor._insert(domain)
    return domain


class SmallDomain:
    """One of them, paused. Its data are mapped until ``destroy``."""

    def __init__(self, control: Control, code: str = COUNT) -> None:
        self.control = control
        self.domid = control.create_domain(PAGES)
        self.frames = list(control.populate_physmap(self.domid, 0, PAGES))
        for table, below in ((L4, L3), (L3, L2), (L2, L1)):
            self._write(table, struct.pack("<Q", self.frames[below] << 12 | PRESENT_WRITABLE))
        entries = (self.frames[page] << 12 | PRESENT_WRITABLE for page in (CODE, DATA, STACK))
        self._write(L1, struct.pack("<3Q", *entries), address(CODE) // PAGE_SIZE * 8)
        self._write(CODE, assemble(code, origin=address(CODE)))
        control.pin_table(self.domid, 4, self.frames[L4])
        context = VcpuGuestContext(
            flags=VGCF_in_kernel | VGCF_online,
            user_regs=CpuUserRegs(
                rip=address(CODE), rsp=address(STACK + 1), cs=FLAT_KERNEL_CS64, ss=FLAT_KERNEL_SS64, rflags=0x200
            ),
            kernel_ss=FLAT_KERNEL_SS64,
            kernel_sp=address(STACK + 1),
            ctrlreg=(0, 0, 0, xen_pfn_to_cr3(self.frames[L4]), 0, 0, 0, 0),
        )
        control.set_vcpu_context(self.domid, 0, context)
        self.mapping = control.map_foreign(self.domid, self.frames[DATA])

    def _write(self, page: int, data: bytes, offset: int = 0) -> None:
        with self.control.map_foreign(self.domid, self.frames[page]) as memory:
            memory[offset : offset + len(data)] = data

    @property
    def word(self) -> int:
        """The first word of its data."""
        return int(self.mapping.memory.cast("Q")[0])

    @word.setter
    def word(self, value: int) -> None:
        self.mapping.memory.cast("Q")[0] = value

    @property
    def flags(self) -> int:
        """XEN_DOMINF_*, and above them the reason for its end."""
        info = self.control.domain_info(self.domid)
        assert info.domain == self.domid
        return info.flags

    @property
    def watchdog_is_set(self) -> bool:
        """Whether Xen watches it."""
        domain = self.control._hypervisor.find(self.domid)
        return domain is not None and domain.record["watchdog_deadline"] != 0

    def run(self) -> None:
        """Let it go."""
        self.control.unpause_domain(self.domid)

    def wait_for_progress(self) -> None:
        """Wait until it has counted."""
        before = self.word
        while self.word == before:
            pass

    def wait_for_shutdown(self) -> int:
        """Wait until it has ended; its SHUTDOWN_*."""
        while not self.flags & XEN_DOMINF_shutdown:
            pass
        return self.flags >> XEN_DOMINF_shutdownshift & 0xFF

    def destroy(self) -> None:
        """Unmap its data and destroy it."""
        self.mapping.release()
        self.control.destroy_domain(self.domid)
