"""Names of virtual disks: xen-vbd-interface(7)."""

from __future__ import annotations

import pytest

from euxen.toolstack.vdev import device_number


@pytest.mark.parametrize(
    ("vdev", "number"),
    [
        ("xvda", 202 << 8),
        ("xvda1", 202 << 8 | 1),
        ("xvda15", 202 << 8 | 15),
        ("xvdb", 51728),
        ("xvdp15", 202 << 8 | 15 << 4 | 15),
        ("xvda16", 1 << 28 | 16),
        ("xvdq", 1 << 28 | 16 << 8),
        ("xvdz", 1 << 28 | 25 << 8),
        ("xvdaa", 1 << 28 | 26 << 8),
        ("xvdba3", 1 << 28 | 52 << 8 | 3),
        ("d0p0", 202 << 8),
        ("d5p2", 202 << 8 | 5 << 4 | 2),
        ("d16p0", 1 << 28 | 16 << 8),
        ("d1048575p255", 1 << 28 | 1048575 << 8 | 255),
        ("hda", 3 << 8),
        ("hdb3", 3 << 8 | 1 << 6 | 3),
        ("hdc", 22 << 8),
        ("hdd63", 22 << 8 | 1 << 6 | 63),
        ("sda", 8 << 8),
        ("sdp15", 8 << 8 | 15 << 4 | 15),
        ("0xca00", 51712),
        ("51712", 51712),
        ("0", 0),
        ("017", 15),
    ],
)
def test_numbers(vdev: str, number: int) -> None:
    assert device_number(vdev) == number


@pytest.mark.parametrize(
    "vdev",
    [
        "",
        "xvd",
        "xvda01",
        "xvda256",
        "xvda0",
        "hde",
        "hda64",
        "sdq",
        "sda16",
        "d0",
        "d1048576p0",
        "d0p256",
        "xvdA",
        "vda",
        "sdaa",
        "99999999999",
        "2147483648",
        "08",
        "/dev/xvda",
        "xvda ",
        "d-1p0",
    ],
)
def test_no_names(vdev: str) -> None:
    assert device_number(vdev) is None
