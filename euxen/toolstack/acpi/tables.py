"""All ACPI tables of a PVH guest and where they go: acpi_build_tables and libxl__dom_load_acpi.

From 0xfc000000 on lie a page with ``AcpiInfo``, the tables, and behind them, or below 1 MiB for a Linux that looks for
it there alone, the RSDP.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from euxen.toolstack.acpi.dsdt import ACPI_INFO_PHYSICAL_ADDRESS, dsdt
from euxen.toolstack.acpi.structures import (
    ACPI_FADT_NO_CMOS_RTC,
    ACPI_FADT_NO_VGA,
    ACPI_FIX_RTC,
    ACPI_LOCAL_APIC_ENABLED,
    ACPI_PCAT_COMPAT,
    ACPI_PROC_C1,
    ACPI_PWR_BUTTON,
    ACPI_SLP_BUTTON,
    ACPI_TMR_VAL_EXT,
    ACPI_USE_PLATFORM_CLOCK,
    ACPI_WBINVD,
    SYSTEM_IO,
    AcpiHeader,
    AcpiInfo,
    Facs,
    Fadt,
    Fadt10,
    GenericAddress,
    Madt,
    MadtInterruptSource,
    MadtIoApic,
    MadtLocalApic,
    Rsdp,
    with_checksum,
)

PAGE_SIZE = 4096
LAPIC_BASE_ADDRESS = 0xFEE00000
TABLE_ALIGN = 16
RSDP_LENGTH = 64
"""How much room the RSDP has; it is shorter."""
LOW_RSDP = 0x100000 - RSDP_LENGTH
"""Where the standard has it searched for."""
ISA_IRQS = 16

FADT_REVISION = 5
SCI_INT = 9
PM1A_EVT_BLK, PM1A_EVT_BITS = 0xB000, 32
PM1A_CNT_BLK, PM1A_CNT_BITS = 0xB004, 16
PM_TMR_BLK, PM_TMR_BITS = 0xB008, 32
GPE0_BLK, GPE0_BLK_LENGTH = 0xAFE0, 4
NO_C_STATE = 0x0FFF
RESET_PORT, RESET_VALUE = 0xCF9, 6


@dataclass(frozen=True)
class AcpiModule:
    """Bytes for the guest's memory."""

    address: int
    data: bytes


class _Tables:
    """Tables one behind the other, aligned, as libxl's mem_alloc has them."""

    def __init__(self, address: int) -> None:
        self._start = self._last = address
        self.data = bytearray()

    def reserve(self, size: int) -> int:
        """Room for ``size`` bytes; the address."""
        address = -(-self._last // TABLE_ALIGN) * TABLE_ALIGN
        self._last = address + size - 1
        self.data.extend(bytes(address + size - self._start - len(self.data)))
        return address

    def place(self, table: bytes, address: int | None = None) -> int:
        """A table, where there is room for it or where some was reserved; the address."""
        address = self.reserve(len(table)) if address is None else address
        self.data[address - self._start : address - self._start + len(table)] = table
        return address

    @property
    def pages(self) -> bytes:
        """All of it, in whole pages."""
        return bytes(self.data).ljust(-(-len(self.data) // PAGE_SIZE) * PAGE_SIZE, b"\0")


def acpi_modules(online: Sequence[bool], low_rsdp: bool) -> tuple[AcpiModule, AcpiModule, AcpiModule]:
    """RSDP, AcpiInfo and all other tables, for a domain whose vCPUs are ``online`` at the start or not."""
    tables = _Tables(ACPI_INFO_PHYSICAL_ADDRESS + PAGE_SIZE)
    facs = tables.place(bytes(Facs(length=Facs.size)))
    dsdt_at = tables.place(dsdt())
    fixed = _fadt_10(facs, dsdt_at)
    fixed.header.length, fixed.header.revision = Fadt10.size, 1
    fixed.pm_tmr_blk, fixed.pm_tmr_len = PM_TMR_BLK, PM_TMR_BITS // 8  # libacpi takes it away from the other alone
    fadt_10 = tables.place(with_checksum(bytes(fixed)))
    fadt = tables.place(with_checksum(bytes(_fadt(facs, dsdt_at))))
    madt_room = Madt.size + ISA_IRQS * MadtInterruptSource.size + MadtIoApic.size + MadtLocalApic.size * len(online)
    madt = tables.place(_madt(online), tables.reserve(madt_room))
    xsdt = tables.place(_list_of_tables(b"XSDT", "<Q", [fadt, madt]))
    rsdt = tables.place(_list_of_tables(b"RSDT", "<I", [fadt_10, madt]))
    info = AcpiInfo(
        nr_cpus=len(online),
        madt_csum_addr=madt + AcpiHeader.checksum,
        madt_lapic0_addr=madt + Madt.size,
    )
    pages = tables.pages
    behind = ACPI_INFO_PHYSICAL_ADDRESS + PAGE_SIZE + len(pages)
    return (
        AcpiModule(LOW_RSDP if low_rsdp else behind, _rsdp(rsdt, xsdt).ljust(RSDP_LENGTH, b"\0")),
        AcpiModule(ACPI_INFO_PHYSICAL_ADDRESS, bytes(info).ljust(PAGE_SIZE, b"\0")),
        AcpiModule(ACPI_INFO_PHYSICAL_ADDRESS + PAGE_SIZE, pages),
    )


def _fadt_10(facs: int, dsdt_at: int) -> Fadt10:
    return Fadt10(
        header=AcpiHeader(signature=b"FACP"),
        firmware_ctrl=facs,
        dsdt=dsdt_at,
        sci_int=SCI_INT,
        pm1a_evt_blk=PM1A_EVT_BLK,
        pm1a_cnt_blk=PM1A_CNT_BLK,
        gpe0_blk=GPE0_BLK,
        pm1_evt_len=PM1A_EVT_BITS // 8,
        pm1_cnt_len=PM1A_CNT_BITS // 8,
        gpe0_blk_len=GPE0_BLK_LENGTH,
        p_lvl2_lat=NO_C_STATE,
        p_lvl3_lat=NO_C_STATE,
        flags=ACPI_PROC_C1 | ACPI_WBINVD | ACPI_FIX_RTC | ACPI_TMR_VAL_EXT | ACPI_USE_PLATFORM_CLOCK,
    )


def _fadt(facs: int, dsdt_at: int) -> Fadt:
    fixed = _fadt_10(facs, dsdt_at)
    fixed.header.length, fixed.header.revision = Fadt.size, FADT_REVISION
    fixed.iapc_boot_arch = ACPI_FADT_NO_VGA | ACPI_FADT_NO_CMOS_RTC
    fixed.flags |= ACPI_PWR_BUTTON | ACPI_SLP_BUTTON
    return Fadt(
        fadt_10=fixed,
        reset_reg=_port(RESET_PORT, 8),
        reset_value=RESET_VALUE,
        x_firmware_ctrl=facs,
        x_dsdt=dsdt_at,
        x_pm1a_evt_blk=_port(PM1A_EVT_BLK, PM1A_EVT_BITS),
        x_pm1a_cnt_blk=_port(PM1A_CNT_BLK, PM1A_CNT_BITS),
    )


def _port(port: int, bits: int) -> GenericAddress:
    return GenericAddress(address_space_id=SYSTEM_IO, register_bit_width=bits, address=port)


def _madt(online: Sequence[bool]) -> bytes:
    """The local APICs; there is nothing else. A vCPU's APIC ID is twice its number, as in Xen's CPUID."""
    entries = b"".join(
        bytes(MadtLocalApic(acpi_processor_id=vcpu, apic_id=vcpu * 2, flags=ACPI_LOCAL_APIC_ENABLED if on else 0))
        for vcpu, on in enumerate(online)
    )
    header = AcpiHeader(signature=b"APIC", length=Madt.size + len(entries), revision=2)
    madt = Madt(header=header, lapic_addr=LAPIC_BASE_ADDRESS, flags=ACPI_PCAT_COMPAT)
    return with_checksum(bytes(madt) + entries)


def _list_of_tables(signature: bytes, form: str, addresses: list[int]) -> bytes:
    entries = b"".join(struct.pack(form, address) for address in addresses)
    header = AcpiHeader(signature=signature, length=AcpiHeader.size + len(entries), revision=1)
    return with_checksum(bytes(header) + entries)


def _rsdp(rsdt: int, xsdt: int) -> bytes:
    rsdp = bytes(Rsdp(rsdt_address=rsdt, length=Rsdp.size, xsdt_address=xsdt))
    of_acpi_10 = Rsdp.length
    rsdp = with_checksum(rsdp[:of_acpi_10], Rsdp.checksum) + rsdp[of_acpi_10:]
    return with_checksum(rsdp, Rsdp.extended_checksum)
