"""Lists of CPUs: the examples of xl.cfg(5), on its host of 16 CPUs in 4 nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euxen.toolstack.config.cpus import cpumap, parse_cpulist
from euxen.toolstack.config.errors import ConfigError

NODES = [frozenset(range(first, first + 4)) for first in (0, 4, 8, 12)]
ALL = frozenset(range(16))


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("all", ALL),
        ("0-3,5,^1", {0, 2, 3, 5}),
        ("all,^7", ALL - {7}),
        ("nodes:0-3,^node:2", {*range(8), *range(12, 16)}),
        ("1,node:1,^6", {1, 4, 5, 7}),
        ("all,^node:1", ALL - {4, 5, 6, 7}),
        ("nodes:all,^5-8", ALL - {5, 6, 7, 8}),
        ("2", {2}),
        (" 2, 3-4,,", {2, 3, 4}),
        ("^1,1", {1}),
        ("1,^1", set()),
        ("15-99,node:9", {15}),
    ],
)
def test_meaning(text: str, cpus: set[int]) -> None:
    assert cpumap(parse_cpulist(text), NODES) == cpus


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no pcpu in the list `'"),
        (",", "no pcpu in the list `,'"),
        ("x", "invalid pcpu range: x"),
        ("1-", "invalid pcpu range: 1-"),
        ("3-1", "invalid pcpu range: 3-1"),
        ("-1", "invalid pcpu range: -1"),
        ("1 ", "invalid pcpu range: 1 "),
        ("^node:x", "invalid pcpu range: x"),
        ("9" * 5000, "invalid pcpu range: 99"),
        ("^all", 'can\'t combine "^" and "all"'),
        ("^nodes:all", 'can\'t combine "^" and "all"'),
    ],
)
def test_refusals(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_cpulist(text)
    assert str(caught.value).startswith(complaint)


@given(st.one_of(st.text(), st.lists(st.sampled_from([*"0123^,- ", "node:", "all"])).map("".join)))
def test_any_text(text: str) -> None:
    try:
        cpulist = parse_cpulist(text)
    except ConfigError:
        return
    assert cpumap(cpulist, NODES) <= ALL
