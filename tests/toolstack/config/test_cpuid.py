"""``cpuid``: the examples of xl.cfg(5), its rules, and what is said of what breaks them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euxen.toolstack.config.cpuid import CpuidMask, parse_libxl, parse_xend
from euxen.toolstack.config.errors import ConfigError

X = "x" * 32


def registers(masks: tuple[CpuidMask, ...]) -> dict[tuple[int, int | None, str], str]:
    return {(mask.leaf, mask.subleaf, mask.register): mask.bits for mask in masks}


def test_examples_of_the_manual() -> None:
    libxl = registers(parse_libxl("host,tm=0,sse3=0"))
    assert libxl == {(1, None, "edx"): "xx0" + "x" * 29, (1, None, "ecx"): "x" * 31 + "0"}
    xend = parse_xend(["1:ecx=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx0,edx=xx0xxxxxxxxxxxxxxxxxxxxxxxxxxxxx"])
    assert registers(xend) == libxl
    assert parse_libxl("host,lahf-lm=1")[0].leaf == 0x80000001


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("host", {}),
        ("host,,", {}),
        ("host,avx2=0", {(7, 0, "ebx"): "x" * 26 + "0" + "x" * 5}),
        ("host,avx2=k,erms=s", {(7, 0, "ebx"): "x" * 22 + "k" + "xxx" + "k" + "x" * 5}),
        ("host,avx2=0,avx2=x", {(7, 0, "ebx"): X}),
        ("host,clfsh=1", {(1, None, "edx"): "x" * 12 + "1" + "x" * 19}),
        ("host,clflush=8", {(1, None, "ebx"): "x" * 16 + "00001000" + "x" * 8}),
        ("host,maxleaf=0xd", {(0, None, "eax"): "0" * 28 + "1101"}),
        ("host,family=6", {(1, None, "eax"): "xxxx" + "0" * 8 + "x" * 8 + "0110" + "x" * 8}),
        ("host,family=23", {(1, None, "eax"): "xxxx" + "00001000" + "x" * 8 + "1111" + "x" * 8}),
        ("host,model=0x1a", {(1, None, "eax"): "x" * 12 + "0001" + "x" * 8 + "1010" + "xxxx"}),
        ("host,model=k", {(1, None, "eax"): "x" * 12 + "kkkk" + "x" * 8 + "kkkk" + "xxxx"}),
        ("host,stepping=017", {(1, None, "eax"): "x" * 28 + "1111"}),
        ("host,rdcl-no=1", {(0x10A, None, "msr"): "x" * 63 + "1"}),
        ("host,its-no=0", {(0x10A, None, "msr"): "x0" + "x" * 62}),
    ],
)
def test_features(text: str, expected: dict[tuple[int, int | None, str], str]) -> None:
    assert registers(parse_libxl(text)) == expected


def test_registers() -> None:
    assert registers(parse_xend([])) == {}
    assert registers(parse_xend([f"0x7,0:ebx={'1' * 32}, edx={'s' * 32},", "1:"])) == {
        (7, 0, "ebx"): "1" * 32,
        (7, 0, "edx"): "k" * 32,
    }
    assert registers(parse_xend([f"1:eax={'0' * 32}", f"01:eax={X}"])) == {(1, None, "eax"): X}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hosts,sse3=0", 'while parsing CPUID string "hosts,sse3=0": first word must be "host"'),
        ("host,sse3", 'while parsing CPUID flag "sse3": missing "=" in key=value'),
        ("host,foo=1", 'while parsing CPUID flag "foo=1": unknown CPUID flag name'),
        ("host, sse3=1", 'while parsing CPUID flag " sse3=1": unknown CPUID flag name'),
        ("host,lahf_lm=1", 'while parsing CPUID flag "lahf_lm=1": unknown CPUID flag name'),
        ("host,sse3=2", 'while parsing CPUID flag "sse3=2": illegal CPUID value'),
        ("host,sse3=", 'while parsing CPUID flag "sse3=": illegal CPUID value'),
        ("host,family=y", 'while parsing CPUID flag "family=y": illegal CPUID value'),
        ("host,stepping=16", 'while parsing CPUID flag "stepping=16": the value is too big for 4 bits'),
        ("host,family=271", 'while parsing CPUID flag "family=271": the value is too big for 8 bits'),
        ("host,model=256", 'while parsing CPUID flag "model=256": the value is too big for 4 bits'),
        ("host,maxleaf=99999999999", "illegal CPUID value"),
    ],
)
def test_refused_features(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_libxl(text)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "not LEAF:REGISTER=BITS"),
        (f"q:eax={X}", "not LEAF:REGISTER=BITS"),
        (f"1,q:eax={X}", "not LEAF:REGISTER=BITS"),
        (f"1 :eax={X}", "not LEAF:REGISTER=BITS"),
        (f"1eax={X}", "not LEAF:REGISTER=BITS"),
        ("1:eax=xx", "`eax=xx' is not eax, ebx, ecx or edx, an equals sign, and exactly 32 of 0, 1, x, k and s"),
        (f"1:efx={X}", f"`efx={X}' is not"),
        (f"1:eax={X}x", f"`eax={X}x' is not"),
        (f"1:eax={X[1:]}z", f"`eax={X[1:]}z' is not"),
    ],
)
def test_refused_registers(line: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_xend([line])
    assert str(caught.value).startswith(f'while parsing CPUID line "{line}": ')
    assert complaint in str(caught.value)


words = st.sampled_from(["host", ",", "=", "sse3", "family", "model", "0", "1", "k", "0x", "eax", ":", X])


@pytest.mark.parametrize("parse", [parse_libxl, lambda text: parse_xend([text])])
@given(text=st.one_of(st.text(), st.lists(words).map("".join)))
def test_any_text(parse: Callable[[str], tuple[CpuidMask, ...]], text: str) -> None:
    try:
        masks = parse(text)
    except ConfigError:
        return
    assert all(set(mask.bits) <= set("01xk") and len(mask.bits) in (32, 64) for mask in masks)
