"""Lists of CPUs: ``cpus`` and ``cpus_soft`` in xl.cfg(5), parse_cpurange in tools/xl/xl_parse.c."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from euxen.toolstack.config.errors import ConfigError

_RANGE = re.compile(r"[ \t]*([0-9]{1,9})(?:-([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class CpuRange:
    """Numbers of CPUs, or of NUMA nodes whose CPUs are meant, to be added or taken away."""

    first: int
    last: int
    nodes: bool = False
    exclude: bool = False


ALL = CpuRange(0, 10**9)
CpuList: TypeAlias = tuple[CpuRange, ...]
"""Applied in their order."""


def parse_cpulist(text: str) -> CpuList:
    """``all``, ``0-3,5,^1``, ``nodes:0-3,^node:2``. Raises ConfigError, in xl's words."""
    ranges = []
    for piece in filter(None, text.split(",")):
        rest = piece.removeprefix("^")
        numbers = rest.removeprefix("node:") if rest.startswith("node:") else rest.removeprefix("nodes:")
        exclude, nodes = rest != piece, numbers != rest
        if numbers == "all":
            if exclude:
                raise ConfigError('can\'t combine "^" and "all"')
            ranges.append(ALL)
            continue
        match = _RANGE.fullmatch(numbers)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"invalid pcpu range: {numbers}")
        ranges.append(CpuRange(int(match[1]), int(match[2] or match[1]), nodes, exclude))
    if not ranges:
        raise ConfigError(f"no pcpu in the list `{text}'")
    return tuple(ranges)


def cpumap(cpulist: CpuList, nodes: Sequence[frozenset[int]]) -> frozenset[int]:
    """Which CPUs of a host are meant, that has ``nodes`` with these CPUs. What it does not have is not meant.

    Where nothing is left, xl refuses.
    """
    chosen: frozenset[int] = frozenset()
    host = frozenset().union(*nodes)
    for term in cpulist:
        if term.nodes:
            meant: frozenset[int] = frozenset().union(*nodes[term.first : term.last + 1])
        else:
            meant = frozenset(cpu for cpu in host if term.first <= cpu <= term.last)
        chosen = chosen - meant if term.exclude else chosen | meant
    return chosen
