"""The DSDT of a PVH guest: its processors, and the event by which one of them is plugged in.

The same names and methods as tools/libacpi/dsdt_acpi_info.asl and mk_dsdt.c declare, with ``--dm-version none``. The
processors read their MADT entries through the table ``acpi_info`` (see ``tables``), and for Domain 0 to plug one in,
the bit mask at port 0xaf00 and event 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from euxen.toolstack.acpi import aml
from euxen.toolstack.acpi.aml import BYTE_ACCESS, ONE, SYSTEM_IO, SYSTEM_MEMORY, ZERO, arg, integer, local, name
from euxen.toolstack.acpi.structures import AcpiHeader, AcpiInfo, MadtLocalApic, with_checksum

HVM_MAX_VCPUS = 128
"""xen/include/public/hvm/hvm_info_table.h"""
ACPI_INFO_PHYSICAL_ADDRESS = 0xFC000000
"""tools/include/xen-tools/common-macros.h and hvmloader's config.h."""
DSDT_REVISION = 5
COMPILER, COMPILER_REVISION = b"INTL", 0x20200925
"""Who has made it, as Xen's DSDT says: the compiler that it is made with on Debian 12."""

PROCESSOR_BLOCK, PROCESSOR_BLOCK_LENGTH = 0xB010, 6
ONLINE_CPUS_PORT, ONLINE_CPUS_LENGTH = 0xAF00, HVM_MAX_VCPUS // 8
PRESENT = 0x0F
"""_STA: present, enabled, shown and working."""
DEVICE_CHECK, EJECT_REQUEST = ONE, integer(3)
EJECT_MS = 0xC8


@cache
def dsdt() -> bytes:
    """The whole table."""
    code = aml.scope("_SB", *_info()) + aml.scope("_SB", *_processors()) + aml.scope("_GPE", _plugged())
    header = AcpiHeader(
        signature=b"DSDT",
        length=AcpiHeader.size + len(code),
        revision=DSDT_REVISION,
        creator_id=COMPILER,
        creator_revision=COMPILER_REVISION,
    )
    return with_checksum(bytes(header) + code)


def _info() -> Iterator[bytes]:
    """What ``AcpiInfo`` holds."""
    yield aml.operation_region("BIOS", SYSTEM_MEMORY, integer(ACPI_INFO_PHYSICAL_ADDRESS), integer(AcpiInfo.size))
    yield aml.field(
        "BIOS",
        BYTE_ACCESS,
        *(("UAR1", 1), ("UAR2", 1), ("LTP1", 1), ("HPET", 1), ("", 12), ("NCPU", 16), ("PMIN", 32), ("PLEN", 32)),
        *(("MSUA", 32), ("MAPA", 32), ("VGIA", 32), ("LMIN", 32), ("HMIN", 32), ("LLEN", 32), ("HLEN", 32)),
    )


def _processors() -> Iterator[bytes]:
    yield aml.operation_region("MSUM", SYSTEM_MEMORY, name("MSUA"), ONE)
    yield aml.field("MSUM", BYTE_ACCESS, ("MSU", 8))
    absent = bytes(MadtLocalApic(acpi_processor_id=0xFF, apic_id=0xFF))
    yield aml.method(
        "PMAT",
        2,
        aml.if_(aml.less(arg(0), name("NCPU")), aml.return_(aml.to_buffer(arg(1)))),
        aml.return_(aml.buffer(absent)),
    )
    for cpu in range(HVM_MAX_VCPUS):
        yield _processor(cpu)
    yield aml.operation_region("PRST", SYSTEM_IO, integer(ONLINE_CPUS_PORT), integer(ONLINE_CPUS_LENGTH))
    yield aml.field("PRST", BYTE_ACCESS, ("PRS", HVM_MAX_VCPUS))
    yield aml.method("PRSC", 0, *_compare_online())


def _processor(cpu: int) -> bytes:
    entry = aml.add(name("MAPA"), integer(cpu * MadtLocalApic.size))
    present = aml.if_(name("FLG"), aml.return_(integer(PRESENT)))
    if cpu:  # the first is always there
        entry_of = aml.call("PMAT", integer(cpu), name("MAT"))
        present = aml.if_(aml.less(integer(cpu), name("NCPU")), present)
    else:
        entry_of = aml.to_buffer(name("MAT"))
    return aml.processor(
        f"PR{cpu:02X}",
        cpu,
        PROCESSOR_BLOCK,
        PROCESSOR_BLOCK_LENGTH,
        aml.named("_HID", aml.string("ACPI0007")),
        aml.named("_UID", integer(cpu)),
        aml.operation_region("MATR", SYSTEM_MEMORY, entry, integer(MadtLocalApic.size)),
        aml.field("MATR", BYTE_ACCESS, ("MAT", 8 * MadtLocalApic.size)),
        aml.field("MATR", BYTE_ACCESS, ("", 8 * MadtLocalApic.flags), ("FLG", 1)),
        aml.method("_MAT", 0, aml.return_(entry_of)),
        aml.method("_STA", 0, present, aml.return_(ZERO)),
        aml.method("_EJ0", 1, aml.sleep(integer(EJECT_MS))),
    )


def _compare_online() -> Iterator[bytes]:
    """Bring every MADT entry, and the table's checksum, in line with the mask of those online, and tell the guest."""
    mask, rest, online, checksum = local(0), local(1), local(2), name("MSU")
    yield aml.store(aml.to_buffer(name("PRS")), mask)
    for cpu in range(HVM_MAX_VCPUS):
        processor, flag = f"PR{cpu:02X}", name(f"^PR{cpu:02X}.FLG")
        if cpu % 8 == 0:
            yield aml.store(aml.deref_of(aml.index(mask, integer(cpu // 8))), rest)
        else:
            yield aml.shift_right(rest, ONE, rest)
        yield aml.and_(rest, ONE, online)
        plugged = aml.notify(processor, DEVICE_CHECK) + aml.subtract(checksum, ONE, checksum)
        pulled = aml.notify(processor, EJECT_REQUEST) + aml.add(checksum, ONE, checksum)
        yield aml.if_(
            aml.not_equal(online, flag),
            aml.store(online, flag),
            aml.if_(aml.equal(online, ONE), plugged),
            aml.else_(pulled),
        )
    yield aml.return_(ONE)


def _plugged() -> bytes:
    return aml.method("_E02", 0, aml.call("\\_SB.PRSC"))
