"""A small domain for a privileged guest to play with: page tables, some memory, and a vCPU that could run."""

from __future__ import annotations

import struct
import threading

from euxen.abi.arch_x86_xen import (
    FLAT_KERNEL_CS64,
    FLAT_KERNEL_SS64,
    CpuUserRegs,
    VcpuGuestContext,
    VGCF_in_kernel,
    VGCF_online,
    xen_pfn_to_cr3,
)
from euxen.hypervisor.control import Control
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.pcpu import Pcpu

PAGE_SIZE = 4096
BASE = 0x10_0000
L4, L3, L2, L1, CODE = range(5)
TABLES = (L4, L3, L2, L1)
PAGES = 24
ENTRY = 0x67
"""Present, writable, for the kernel and its programs, accessed and dirty."""
COUNT = b"\x48\xff\x05\xf9\x0f\x00\x00\xeb\xf7"
"""1: incq 0x1000(%rip), the page behind the code; jmp 1b"""
MOMENT = 0.02
"""Seconds."""


class Victim:
    """Such a domain, paused."""

    def __init__(self, hypervisor: Hypervisor, control: Control) -> None:
        self._hypervisor = hypervisor
        self.domid = control.create_domain(2 * PAGES)
        self.frames = tuple(control.populate_physmap(self.domid, 0, PAGES))
        contents = {table: struct.pack("<Q", self.frames[table + 1] << 12 | ENTRY) for table in (L4, L3, L2)}
        contents[L1] = bytes(BASE // PAGE_SIZE * 8) + b"".join(
            struct.pack("<Q", self.frames[page] << 12 | ENTRY) for page in range(CODE, PAGES)
        )
        contents[CODE] = COUNT
        for page, content in contents.items():
            with control.map_foreign(self.domid, self.frames[page]) as view:
                view[: len(content)] = content
        control.pin_table(self.domid, 4, self.frames[L4])
        self.context = VcpuGuestContext(
            flags=VGCF_in_kernel | VGCF_online,
            user_regs=CpuUserRegs(
                rip=BASE, rsp=BASE + 8 * PAGE_SIZE, cs=FLAT_KERNEL_CS64, ss=FLAT_KERNEL_SS64, rflags=0x200
            ),
            kernel_ss=FLAT_KERNEL_SS64,
            kernel_sp=BASE + 8 * PAGE_SIZE,
            ctrlreg=(0, 0, 0, xen_pfn_to_cr3(self.frames[L4]), 0, 0, 0, 0),
        )
        control.set_vcpu_context(self.domid, 0, self.context)

    def run_for_a_moment(self) -> None:
        """Let it run as whatever has become of it, if anything keeps it from running no more."""
        domain = self._hypervisor.find(self.domid)
        if domain is None or not domain.is_runnable or domain.engine is None:
            return
        pcpu = Pcpu(domain)
        alarm = threading.Timer(MOMENT, pcpu.stop)
        alarm.start()
        try:
            pcpu.run()
        finally:
            alarm.cancel()
