"""What an HVM guest without a board finds at I/O ports and where it has no memory: nothing, but Xen's own.

Reads give ones, and writes vanish: there is no device model (null_handler in xen/arch/x86/hvm/emulate.c). Xen's own are
the debug console at port 0xe9 and the page of the local APIC.
Source: hvm_print_line, hvm_hlt and hvm_vcpu_down in xen/arch/x86/hvm/hvm.c; hvmemul_do_io in emulate.c.
"""

from __future__ import annotations

from euxen.abi.arch_x86_xen import XEN_HVM_DEBUGCONS_IOPORT
from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.engine import ExitReason
from euxen.cpu.exits import request_exit
from euxen.cpu.native.language import load64, native, store8, store64
from euxen.hypervisor.hvm.irq import settle
from euxen.hypervisor.hvm.lapic_state import guest_of
from euxen.hypervisor.hvm.records import CONSOLE_BYTES, HvmDomainRecord
from euxen.hypervisor.hvm.vlapic_regs import in_page, mmio_read, mmio_write
from euxen.hypervisor.mm import p2m
from euxen.hypervisor.records import DomainRecord, VcpuRecord
from euxen.hypervisor.sched import block_enable_events
from euxen.hypervisor.time import run_timers

EXIT_BLOCKED, EXIT_SHUTDOWN = int(ExitReason.BLOCKED), int(ExitReason.SHUTDOWN)
EXIT_ATTENTION = int(ExitReason.ATTENTION)
NEWLINE, TAB = 0x0A, 0x09
DONE, NOT_DONE = 1, 0


@native
def _print(block: int, character: int) -> int:
    """A byte for the debug console. What is no text is left out; a line is told when it is complete."""
    if (character < 0x20 and character != NEWLINE and character != TAB) or character >= 0x7F:
        return 0
    domain = load64(load64(load64(block + CpuBlock.vcpu) + VcpuRecord.domain) + DomainRecord.hvm)
    count = load64(domain + HvmDomainRecord.console_bytes)
    if count < CONSOLE_BYTES:
        store8(domain + HvmDomainRecord.console + count, character)
        store64(domain + HvmDomainRecord.console_bytes, count + 1)
    if character == NEWLINE or count >= CONSOLE_BYTES // 2:
        request_exit(block, EXIT_ATTENTION, 0)
    return 0


@native
def on_port(block: int, port: int, size: int, is_write: int, value: int) -> int:
    """``CpuBlock.on_port``."""
    if is_write:
        if port == XEN_HVM_DEBUGCONS_IOPORT and size == 1:
            _print(block, value & 0xFF)
        return 0
    return (1 << 8 * size) - 1


@native
def on_mmio(block: int, address: int, size: int, is_write: int, value: int) -> int:
    """``CpuBlock.on_mmio``: the local APIC's registers, or nothing, or memory that is not to be written."""
    vcpu = load64(block + CpuBlock.vcpu)
    if in_page(guest_of(block), address):
        if is_write:
            mmio_write(block, vcpu, address, size, value)
        else:
            store64(block + CpuBlock.mmio_value, mmio_read(vcpu, address, size))
        return DONE
    entry = p2m.get_entry(load64(vcpu + VcpuRecord.domain), address >> 12)
    if entry:
        # Only writing can be what it does not allow. What is lent read-only is not written to, and nobody is told.
        return DONE if is_write else NOT_DONE
    if not is_write:
        store64(block + CpuBlock.mmio_value, -1 if size == 8 else (1 << 8 * size) - 1)
    return DONE


@native
def on_hlt(block: int) -> int:
    """``CpuBlock.on_hlt``. Nothing but an NMI wakes a vCPU that takes no interrupts: it means to be switched off."""
    vcpu = load64(block + CpuBlock.vcpu)
    if load64(block + CpuBlock.injected) or load64(vcpu + VcpuRecord.nmi_pending):
        return settle(block)
    if not state.rflags(block) & state.IF:
        return request_exit(block, EXIT_SHUTDOWN, SHUTDOWN_poweroff)
    run_timers(vcpu)
    if block_enable_events(vcpu):
        request_exit(block, EXIT_BLOCKED, 0)
    return settle(block)
