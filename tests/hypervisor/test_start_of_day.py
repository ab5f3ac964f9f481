"""How a PV guest finds itself when it starts, for each way in which a kernel can tell what it wants."""

from __future__ import annotations

import pytest
from kernels import boot, kernel_tests

IMAGES = {
    "low": (),
    "as-linux": ("KERNEL_BASE=0xffffffff80000000", "NOTE_INIT_P2M=0x8000000000", "NOTE_MOD_START_PFN"),
    "high-p2m-inside": ("KERNEL_BASE=0xffffffff80000000",),
    "few-notes": ("NOTES_MINIMAL",),
    "guest-section": ("NOTES_LEGACY",),
}
RAMDISK = bytes(number % 251 for number in range(3 * 4096 + 5))
ARGUMENTS = {
    "command_line": 'root=/dev/xvda1 "quoted"  two blanks ',
    "longest_command_line": "x" * (1023 - len("longest_command_line ")),
}


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("test", kernel_tests("start_of_day"))
def test_start_of_day(test: str, image: str) -> None:
    ramdisk = RAMDISK if test in ("with_ramdisk", "layout_with_ramdisk") else b""
    argument = ARGUMENTS.get(test, "")
    boot("start_of_day", test, *IMAGES[image], ramdisk=ramdisk, argument=argument).check_passed()
