"""Reading and writing a guest's memory by its own linear addresses.

Addresses are those of the guest's kernel, or of whatever runs when an instruction is emulated. None of a PV guest's may
lie in the part of the address space that is Xen's. What an HVM guest has mapped of others by grants is not its memory
for this. A fault is never fatal to Xen: the caller gets -EFAULT.
Source: xen/arch/x86/include/asm/uaccess.h; __hvm_copy in xen/arch/x86/hvm/hvm.c.
"""

from __future__ import annotations

from euxen.abi.errno import XEN_EFAULT
from euxen.cpu import state
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call3, copy, load8, load32, load64, native, signed, store64, ult
from euxen.hypervisor.records import (
    PAGE_INFO_SHIFT,
    PAGE_SHIFT,
    DomainRecord,
    MachineRecord,
    PageInfo,
    TF_kernel_mode,
    VcpuRecord,
)

HYPERVISOR_VIRT_END = signed(0xFFFF_8800_0000_0000)
PAGE_MASK = ~0xFFF
LOAD, STORE, OF_PROGRAM = 0, 1, 4
"""What ``CpuBlock.translate`` is asked for."""


@native
def addr_ok(address: int) -> int:
    """Whether a PV guest may name this address: canonical, and not in Xen's own area (__addr_ok)."""
    return 1 if ult(address, 1 << 47) or not ult(address, HYPERVISOR_VIRT_END) else 0


@native
def handle_okay(block: int, address: int) -> int:
    """Whether a guest may name this address for an array (guest_handle_okay). An HVM guest may name any."""
    return 1 if load64(block + CpuBlock.hvm) else addr_ok(address)


@native
def guest_host(block: int, address: int, access: int) -> int:
    """Where the guest's memory at ``address`` is in the host's, up to the end of the page; 0 for a fault."""
    if not load64(block + CpuBlock.hvm):
        return call3(load64(block + CpuBlock.translate), block, address, access) if addr_ok(address) else 0
    host = call3(load64(block + CpuBlock.translate), block, address, access)
    if not host:
        return 0
    domain = load64(load64(block + CpuBlock.vcpu) + VcpuRecord.domain)
    frame_table = load64(load64(domain + DomainRecord.machine) + MachineRecord.frame_table)
    page = frame_table + ((host - load64(block + CpuBlock.ram)) >> PAGE_SHIFT << PAGE_INFO_SHIFT)
    return host if load64(page + PageInfo.owner) == domain else 0


@native
def current_space(block: int) -> int:
    """OF_PROGRAM while one of the guest's programs runs: whose address space is current, or with whose rights."""
    if load64(block + CpuBlock.hvm):
        cpl = load32(load64(block + CpuBlock.env) + state.HFLAGS) & state.HF_CPL
        return OF_PROGRAM if cpl == 3 else 0
    flags = load64(load64(block + CpuBlock.vcpu) + VcpuRecord.flags)
    return 0 if flags & TF_kernel_mode else OF_PROGRAM


@native
def copy_in(block: int, host: int, address: int, size: int, space: int) -> int:
    """Copy ``size`` bytes of the kernel's (space 0) or of a program's memory to ``host``; 0 or -EFAULT."""
    while size > 0:
        part = min(size, 4096 - (address & 0xFFF))
        source = guest_host(block, address, LOAD | space)
        if not source:
            return -XEN_EFAULT
        copy(host, source, part)
        host += part
        address += part
        size -= part
    return 0


@native
def copy_out(block: int, address: int, host: int, size: int, space: int) -> int:
    """Copy ``size`` bytes from ``host`` into the kernel's (space 0) or a program's memory; 0 or -EFAULT."""
    while size > 0:
        part = min(size, 4096 - (address & 0xFFF))
        target = guest_host(block, address, STORE | space)
        if not target:
            return -XEN_EFAULT
        copy(target, host, part)
        host += part
        address += part
        size -= part
    return 0


@native
def copy_from_guest(block: int, host: int, address: int, size: int) -> int:
    """Copy ``size`` bytes of the guest kernel's memory to ``host``; 0 or -EFAULT."""
    return copy_in(block, host, address, size, 0)


@native
def copy_to_guest(block: int, address: int, host: int, size: int) -> int:
    """Copy ``size`` bytes from ``host`` into the guest kernel's memory; 0 or -EFAULT."""
    return copy_out(block, address, host, size, 0)


@native
def put_guest(block: int, address: int, value: int, size: int) -> int:
    """Write a number of up to 8 bytes to the guest's memory, wherever it lies; 0 or -EFAULT."""
    word = load64(block + CpuBlock.vcpu) + VcpuRecord.word
    store64(word, value)
    return copy_to_guest(block, address, word, size)


@native
def get_guest(block: int, address: int, size: int) -> int:
    """Read a number of up to 8 bytes into the vCPU's ``word``; 0 or -EFAULT."""
    word = load64(block + CpuBlock.vcpu) + VcpuRecord.word
    store64(word, 0)
    return copy_from_guest(block, word, address, size)


@native
def guest_byte(block: int, address: int) -> int:
    """One byte of what the guest executes, or -1."""
    source = guest_host(block, address, LOAD | current_space(block))
    return load8(source) if source else -1
