"""CPU features have the numbers that Xen's header gives them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from euxen.abi import cpufeatureset

HEADER = Path("/usr/include/xen/arch-x86/cpufeatureset.h")
DECLARATION = re.compile(r"^XEN_CPUFEATURE\((\w+),\s*(\d+)\*32\+\s*(\d+)\)", re.MULTILINE)

WORD = re.compile(r"CPUID level (0x\w+)(?::(\d))?\.(e[a-d]x), word (\d+)")


def test_numbers_are_those_of_the_header() -> None:
    if not HEADER.exists():
        pytest.skip("Xen's headers are not installed: package libxen-dev has them")
    declared = {f"XEN_X86_FEATURE_{name}": int(word) * 32 + int(bit)
                for name, word, bit in DECLARATION.findall(HEADER.read_text())}  # fmt: skip
    ours = {name: value for name, value in vars(cpufeatureset).items() if name.startswith("XEN_X86_FEATURE_")}
    assert len(declared) > 200
    assert ours == declared


def test_words_are_where_the_headers_comments_say() -> None:
    if not HEADER.exists():
        pytest.skip("Xen's headers are not installed: package libxen-dev has them")
    words = {
        int(word): (int(leaf, 16), int(subleaf or 0), register)
        for leaf, subleaf, register, word in WORD.findall(HEADER.read_text())
    }
    assert len(words) == 17
    assert words == cpufeatureset.FEATURESET_WORDS
