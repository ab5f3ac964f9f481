"""Names of virtual disks and the numbers that they stand for: xen-vbd-interface(7).

libxl__device_disk_dev_number in tools/libs/light/libxl_device.c.
"""

from __future__ import annotations

import re

XVD_MAJOR, SCSI_MAJOR = 202, 8
IDE_MAJORS = (3, 22)
EXTENDED = 1 << 28
"""Set in the numbers of those that Linux's traditional ones have no room for."""
MOST_DISKS, MOST_PARTITIONS = 1 << 20, 256
INT_MAX = 0x7FFF_FFFF

_LETTERS = re.compile(r"(xvd|hd|sd)([a-z]+)([1-9][0-9]{0,3})?")
_NUMBERS = re.compile(r"d([0-9]{1,8})p([0-9]{1,4})")
_RAW = re.compile(r"(?:0x[0-9a-fA-F]{1,8}|[0-9]{1,10})")


def device_number(vdev: str) -> int | None:
    """The number of a disk or partition: xvda, hdc1, sdb, d5p0, 0xca00; None for what is no name of one."""
    if match := _NUMBERS.fullmatch(vdev):
        return _xvd(int(match[1]), int(match[2]))
    if _RAW.fullmatch(vdev):
        base = 16 if vdev.startswith("0x") else 8 if vdev.startswith("0") else 10
        try:
            number = int(vdev, base)
        except ValueError:
            return None
        return number if number <= INT_MAX else None
    if match := _LETTERS.fullmatch(vdev):
        disk, partition = _index(match[2]), int(match[3] or 0)
        if match[1] == "xvd":
            return _xvd(disk, partition)
        if match[1] == "hd" and disk < 4 and partition < 64:
            return IDE_MAJORS[disk // 2] << 8 | disk % 2 << 6 | partition
        if match[1] == "sd" and disk < 16 and partition < 16:
            return SCSI_MAJOR << 8 | disk << 4 | partition
    return None


def _xvd(disk: int, partition: int) -> int | None:
    if disk < 16 and partition < 16:
        return XVD_MAJOR << 8 | disk << 4 | partition
    if disk < MOST_DISKS and partition < MOST_PARTITIONS:
        return EXTENDED | disk << 8 | partition
    return None


def _index(letters: str) -> int:
    """a is 0, z is 25, aa is 26."""
    index = -1
    for letter in letters:
        index = (index + 1) * 26 + ord(letter) - ord("a")
    return index
