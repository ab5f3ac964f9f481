"""ACPI tables as a guest finds them: from the RSDP to each table, every sum and length right."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest
from packages import need, package_files

from euxen.toolstack.acpi.tables import AcpiModule, acpi_modules

VCPUS = [1, 2, 15, 16, 128]


class Guest:
    """What is in a guest's memory."""

    def __init__(self, modules: tuple[AcpiModule, ...]) -> None:
        self._modules = modules
        self.rsdp = modules[0].address

    def read(self, address: int, size: int) -> bytes:
        for module in self._modules:
            if module.address <= address and address + size <= module.address + len(module.data):
                return module.data[address - module.address :][:size]
        raise AssertionError(f"nothing is at {address:#x}")

    def number(self, address: int, size: int) -> int:
        return int.from_bytes(self.read(address, size), "little")

    def table(self, address: int, signature: bytes) -> bytes:
        """A table, once its signature, length and sum are right."""
        table = self.read(address, self.number(address + 4, 4))
        assert table[:4] == signature
        assert sum(table) & 0xFF == 0
        assert (table[10:16], table[16:24]) == (b"Xen\0\0\0", b"HVM\0\0\0\0\0")
        assert address % 16 == 0
        return table

    def listed(self, address: int, signature: bytes) -> dict[bytes, int]:
        """The tables of a RSDT or XSDT, by their signatures."""
        form = {b"RSDT": "<I", b"XSDT": "<Q"}[signature]
        addresses = [address for (address,) in struct.iter_unpack(form, self.table(address, signature)[36:])]
        return {self.read(address, 4): address for address in addresses}


def guest(online: list[bool], low_rsdp: bool = False) -> Guest:
    return Guest(acpi_modules(online, low_rsdp))


@pytest.mark.parametrize("vcpus", VCPUS)
def test_all_tables_are_found(vcpus: int) -> None:
    there = guest([True] * vcpus)
    rsdp = there.read(there.rsdp, 36)
    assert rsdp[:8] == b"RSD PTR "
    assert sum(rsdp[:20]) & 0xFF == sum(rsdp) & 0xFF == 0
    assert (rsdp[15], struct.unpack_from("<I", rsdp, 20)) == (2, (36,))
    rsdt, xsdt = struct.unpack_from("<I4xQ", rsdp, 16)
    old, new = there.listed(rsdt, b"RSDT"), there.listed(xsdt, b"XSDT")
    assert set(old) == set(new) == {b"FACP", b"APIC"}
    assert old[b"APIC"] == new[b"APIC"]
    assert len(there.table(old[b"FACP"], b"FACP")) == 116
    fadt = there.table(new[b"FACP"], b"FACP")
    assert (len(fadt), fadt[8]) == (268, 5)
    facs, dsdt = struct.unpack_from("<II", fadt, 36)
    assert struct.unpack_from("<QQ", fadt, 132) == (facs, dsdt)
    assert there.read(facs, 4) == b"FACS"
    there.table(dsdt, b"DSDT")
    assert struct.unpack_from("<I", fadt, 76) == (0,)  # no power management timer


def test_the_madt_and_what_the_dsdt_knows_of_it() -> None:
    online = [True, True, False, True, False]
    there = guest(online)
    madt_at = there.listed(there.number(there.rsdp + 24, 8), b"XSDT")[b"APIC"]
    madt = there.table(madt_at, b"APIC")
    assert struct.unpack_from("<II", madt, 36) == (0xFEE00000, 1)
    assert list(struct.iter_unpack("<BBBBI", madt[44:])) == [
        (0, 8, vcpu, 2 * vcpu, int(on)) for vcpu, on in enumerate(online)
    ]
    info = struct.unpack("<HHIIIII", there.read(0xFC000000, 24))
    assert info == (0, 5, 0, 0, madt_at + 9, madt_at + 44, 0)


def test_the_rsdp_of_old_linux_is_where_bioses_have_it() -> None:
    there = guest([True], low_rsdp=True)
    assert 0xE0000 <= there.rsdp < 0x100000
    assert there.rsdp % 16 == 0
    assert there.read(there.rsdp, 8) == b"RSD PTR "


def test_acpica_reads_the_dsdt(tmp_path: Path) -> None:
    """Its disassembler parses every object and method."""
    (iasl,) = need(lambda: package_files("acpica-tools", "*/bin/iasl"))
    there = guest([True])
    fadt = there.listed(there.number(there.rsdp + 24, 8), b"XSDT")[b"FACP"]
    (tmp_path / "dsdt.aml").write_bytes(there.table(there.number(fadt + 40, 4), b"DSDT"))
    done = subprocess.run([iasl, "-d", "dsdt.aml"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    told = done.stdout.decode()
    assert done.returncode == 0, told
    assert not re.search("error|warning|invalid|could not", told, re.IGNORECASE), told
    text = (tmp_path / "dsdt.dsl").read_text()
    assert re.findall(r"Processor \((PR\w+), (0x\w+), ", text) == [(f"PR{n:02X}", f"0x{n:02X}") for n in range(128)]
    assert "\\_SB.PRSC ()" in text
