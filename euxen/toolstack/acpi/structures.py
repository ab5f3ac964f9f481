"""The tables' layouts, by the names of tools/libacpi/acpi2_0.h and build.c. They have no gaps."""

from __future__ import annotations

from euxen.abi.structure import Structure, chars, nested, u8, u16, u32, u64

OEM_ID, OEM_TABLE_ID = b"Xen", b"HVM"
CREATOR_ID = b"HVML"


class AcpiHeader(Structure, packed=True):
    """What every table but the RSDP and the FACS begins with."""

    signature: bytes = chars(4)
    length: int = u32()
    revision: int = u8()
    checksum: int = u8()
    oem_id: bytes = chars(6, default=OEM_ID)
    oem_table_id: bytes = chars(8, default=OEM_TABLE_ID)
    oem_revision: int = u32()
    creator_id: bytes = chars(4, default=CREATOR_ID)
    creator_revision: int = u32()


class GenericAddress(Structure, packed=True):
    """Where a register is."""

    address_space_id: int = u8()  # SYSTEM_MEMORY or SYSTEM_IO
    register_bit_width: int = u8()
    register_bit_offset: int = u8()
    reserved: int = u8()
    address: int = u64()


SYSTEM_IO = 1


class Rsdp(Structure, packed=True):
    """Root System Description Pointer. ``checksum`` is over what ACPI 1.0 has of it, up to ``rsdt_address``."""

    signature: bytes = chars(8, default=b"RSD PTR ")
    checksum: int = u8()
    oem_id: bytes = chars(6, default=OEM_ID)
    revision: int = u8(default=2)
    rsdt_address: int = u32()
    length: int = u32()
    xsdt_address: int = u64()
    extended_checksum: int = u8()
    reserved: bytes = chars(3)


class Facs(Structure, packed=True):
    """Firmware ACPI Control Structure."""

    signature: bytes = chars(4, default=b"FACS")
    length: int = u32()
    hardware_signature: int = u32()
    firmware_waking_vector: int = u32()
    global_lock: int = u32()
    flags: int = u32()
    x_firmware_waking_vector: int = u64()
    version: int = u8(default=1)
    reserved: bytes = chars(31)


ACPI_PROC_C1 = 1 << 2
ACPI_WBINVD = 1 << 0
ACPI_PWR_BUTTON = 1 << 4  # no fixed power button
ACPI_SLP_BUTTON = 1 << 5
ACPI_FIX_RTC = 1 << 6  # no fixed wake-up by the RTC
ACPI_TMR_VAL_EXT = 1 << 8
ACPI_USE_PLATFORM_CLOCK = 1 << 15

ACPI_FADT_NO_VGA = 1 << 2
ACPI_FADT_NO_CMOS_RTC = 1 << 5


class Fadt10(Structure, packed=True):
    """Fixed ACPI Description Table of ACPI 1.0."""

    header: AcpiHeader = nested(AcpiHeader)
    firmware_ctrl: int = u32()
    dsdt: int = u32()
    reserved0: int = u8()
    preferred_pm_profile: int = u8()
    sci_int: int = u16()
    smi_cmd: int = u32()
    acpi_enable: int = u8()
    acpi_disable: int = u8()
    s4bios_req: int = u8()
    pstate_cnt: int = u8()
    pm1a_evt_blk: int = u32()
    pm1b_evt_blk: int = u32()
    pm1a_cnt_blk: int = u32()
    pm1b_cnt_blk: int = u32()
    pm2_cnt_blk: int = u32()
    pm_tmr_blk: int = u32()
    gpe0_blk: int = u32()
    gpe1_blk: int = u32()
    pm1_evt_len: int = u8()
    pm1_cnt_len: int = u8()
    pm2_cnt_len: int = u8()
    pm_tmr_len: int = u8()
    gpe0_blk_len: int = u8()
    gpe1_blk_len: int = u8()
    gpe1_base: int = u8()
    cst_cnt: int = u8()
    p_lvl2_lat: int = u16()
    p_lvl3_lat: int = u16()
    flush_size: int = u16()
    flush_stride: int = u16()
    duty_offset: int = u8()
    duty_width: int = u8()
    day_alrm: int = u8()
    mon_alrm: int = u8()
    century: int = u8()
    iapc_boot_arch: int = u16()
    reserved1: int = u8()
    flags: int = u32()


class Fadt(Structure, packed=True):
    """Fixed ACPI Description Table of ACPI 5.0: more behind that of 1.0."""

    fadt_10: Fadt10 = nested(Fadt10)
    reset_reg: GenericAddress = nested(GenericAddress)
    reset_value: int = u8()
    reserved2: bytes = chars(3)
    x_firmware_ctrl: int = u64()
    x_dsdt: int = u64()
    x_pm1a_evt_blk: GenericAddress = nested(GenericAddress)
    x_pm1b_evt_blk: GenericAddress = nested(GenericAddress)
    x_pm1a_cnt_blk: GenericAddress = nested(GenericAddress)
    x_pm1b_cnt_blk: GenericAddress = nested(GenericAddress)
    x_pm2_cnt_blk: GenericAddress = nested(GenericAddress)
    x_pm_tmr_blk: GenericAddress = nested(GenericAddress)
    x_gpe0_blk: GenericAddress = nested(GenericAddress)
    x_gpe1_blk: GenericAddress = nested(GenericAddress)
    sleep_control: GenericAddress = nested(GenericAddress)
    sleep_status: GenericAddress = nested(GenericAddress)


class Madt(Structure, packed=True):
    """Multiple APIC Description Table, without its entries."""

    header: AcpiHeader = nested(AcpiHeader)
    lapic_addr: int = u32()
    flags: int = u32()


ACPI_PCAT_COMPAT = 1 << 0
ACPI_LOCAL_APIC_ENABLED = 1 << 0


class MadtLocalApic(Structure, packed=True):
    """A processor's entry in the MADT (struct acpi_20_madt_lapic)."""

    type: int = u8()
    length: int = u8(default=8)
    acpi_processor_id: int = u8()
    apic_id: int = u8()
    flags: int = u32()


class MadtIoApic(Structure, packed=True):
    """struct acpi_20_madt_ioapic."""

    type: int = u8(default=1)
    length: int = u8(default=12)
    ioapic_id: int = u8()
    reserved: int = u8()
    ioapic_addr: int = u32()
    gsi_base: int = u32()


class MadtInterruptSource(Structure, packed=True):
    """struct acpi_20_madt_intsrcovr."""

    type: int = u8(default=2)
    length: int = u8(default=10)
    bus: int = u8()
    source: int = u8()
    gsi: int = u32()
    flags: int = u16()


class AcpiInfo(Structure):
    """struct acpi_info of tools/libacpi/build.c: what the DSDT's methods have to know."""

    devices: int = u8()  # bits: COM1, COM2, LPT1, HPET
    reserved: int = u8()
    nr_cpus: int = u16()
    pci_min: int = u32()
    pci_len: int = u32()
    madt_csum_addr: int = u32()
    madt_lapic0_addr: int = u32()
    vm_gid_addr: int = u32()
    pci_hi_min: int = u64()
    pci_hi_len: int = u64()


def with_checksum(table: bytes, at: int = AcpiHeader.checksum) -> bytes:
    """The table, with a byte at ``at`` that makes the sum of all 0."""
    rest = table[:at] + b"\0" + table[at + 1 :]
    return rest[:at] + bytes([-sum(rest) & 0xFF]) + rest[at + 1 :]
