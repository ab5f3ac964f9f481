"""I/O ports of a domain that has none: what is read is all ones, what is written is gone.

Two latches are the exception: the index of the CMOS, and the address in PCI's configuration space.
Source: guest_io_okay, guest_io_read and guest_io_write in xen/arch/x86/pv/emul-priv-op.c; rtc_guest_read and
rtc_guest_write in xen/arch/x86/time.c.
"""

from __future__ import annotations

from euxen.abi.xen import VMASST_TYPE_architectural_iopl
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import load64, native, store64
from euxen.hypervisor.guest_access import get_guest
from euxen.hypervisor.records import DomainRecord, TF_kernel_mode, VcpuRecord

IOPL_ASSIST = 1 << VMASST_TYPE_architectural_iopl
IOPL_SHIFT = 12
CMOS_INDEX, PCI_ADDRESS = 0x70, 0xCF8


@native
def iopl_ok(vcpu: int) -> int:
    """Whether the virtual IOPL allows I/O in the mode that the guest is in. A guest's kernel is in ring 1 to Xen."""
    level = 3
    if load64(vcpu + VcpuRecord.flags) & TF_kernel_mode:
        level = 1
        if load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.vm_assist) & IOPL_ASSIST:
            level = 0
    return 1 if level << IOPL_SHIFT <= load64(vcpu + VcpuRecord.iopl) else 0


@native
def guest_io_okay(block: int, port: int, width: int) -> int:
    """Whether the guest may use ports in the mode that it is in: 1 or 0, or -1 where its I/O bitmap can't be read.

    As a CPU does, two bytes of the bitmap are read.
    """
    vcpu = load64(block + CpuBlock.vcpu)
    if iopl_ok(vcpu):
        return 1
    if port + width > load64(vcpu + VcpuRecord.iobmp_nr):
        return 0
    if get_guest(block, load64(vcpu + VcpuRecord.iobmp) + (port >> 3), 2):
        return -1
    return 0 if load64(vcpu + VcpuRecord.word) & ((1 << width) - 1) << (port & 7) else 1


@native
def read_port(vcpu: int, port: int, width: int) -> int:
    """IN of 1, 2 or 4 bytes, for a guest that may."""
    domain = load64(vcpu + VcpuRecord.domain)
    if port == PCI_ADDRESS and width == 4:
        return load64(domain + DomainRecord.pci_address)
    value = (1 << 8 * width) - 1
    if port <= CMOS_INDEX and port + width > CMOS_INDEX:
        shift = 8 * (CMOS_INDEX - port)
        value = (value & ~(0xFF << shift)) | load64(domain + DomainRecord.cmos_index) << shift
    return value


@native
def write_port(vcpu: int, port: int, width: int, value: int) -> int:
    """OUT of the low 1, 2 or 4 bytes of a value, for a guest that may."""
    domain = load64(vcpu + VcpuRecord.domain)
    if port == PCI_ADDRESS and width == 4:
        store64(domain + DomainRecord.pci_address, value & 0xFFFF_FFFF)
    elif port <= CMOS_INDEX and port + width > CMOS_INDEX:
        store64(domain + DomainRecord.cmos_index, (value >> 8 * (CMOS_INDEX - port)) & 0x7F)
    return 0
