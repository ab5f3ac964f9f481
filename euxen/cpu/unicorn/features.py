"""Which instructions the translator decodes: those that the CPUID policy offers, and no others."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from euxen.cpu.cpuid import Leaf
from euxen.cpu.policy import find
from euxen.cpu.unicorn import layout


def feature_words(policy: Sequence[Leaf]) -> dict[int, int]:
    """The translator's feature words for a policy, by their index in its registers."""
    return {
        index: int(getattr(find(policy, leaf, subleaf), register))
        for index, (leaf, subleaf, register) in layout.FEATURE_WORDS.items()
    }


def decode(env: int, policy: Sequence[Leaf]) -> None:
    """Have the translator whose registers are at ``env`` decode what a policy offers.

    Before the first instruction is translated: code that was translated stays as it is.
    """
    for index, word in feature_words(policy).items():
        ctypes.c_uint64.from_address(env + layout.ENV_FEATURES + 8 * index).value = word
    first = find(policy, 0)
    for number, word in enumerate((first.ebx, first.edx, first.ecx)):
        ctypes.c_uint32.from_address(env + layout.ENV_VENDOR + 4 * number).value = word
