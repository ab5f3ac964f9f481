"""Encodings of AML, after ACPI 6.3, chapter 20.2."""

from __future__ import annotations

import pytest

from euxen.toolstack.acpi import aml


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("FLG", b"FLG_"),
        ("\\_SB.PRSC", b"\\\x2e_SB_PRSC"),
        ("^PR00.FLG", b"^\x2ePR00FLG_"),
        ("A.B.C", b"\x2f\x03A___B___C___"),
    ],
)
def test_names(path: str, encoded: bytes) -> None:
    assert aml.name(path) == encoded


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0xFFFF, "0bffff"),
        (0x10000, "0c00000100"),
        (0xFC000000, "0c000000fc"),
    ],
)
def test_integers(number: int, encoded: str) -> None:
    assert aml.integer(number).hex() == encoded


@pytest.mark.parametrize("size", [0, 1, 62, 63, 64, 4092, 4093, 4094, 70000, (1 << 20) - 3, 1 << 20])
def test_a_package_counts_itself(size: int) -> None:
    """The length is that of everything behind the opcode, as an interpreter takes it apart."""
    encoded = aml.else_(bytes(size))
    more = encoded[1] >> 6
    length = encoded[1] & (0xF if more else 0x3F)
    length |= int.from_bytes(encoded[2 : 2 + more], "little") << 4
    assert length == len(encoded) - 1
    assert len(encoded) == 1 + 1 + more + size
