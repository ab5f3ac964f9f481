"""Typed values: numbers as C has them, lists, and what is said of the wrong type."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from euxen.toolstack.config.errors import ConfigError
from euxen.toolstack.config.settings import LONG_MAX, LONG_MIN, Settings
from euxen.toolstack.config.xlcfg import Source


def settings(text: str) -> Settings:
    return Settings(Source("f", text))


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("64", 64),
        ("0x40", 64),
        ("0X4f", 79),
        ("010", 8),
        ("0", 0),
        ('"64"', 64),
        ("' \t64'", 64),
        ("'-5'", -5),
        ("'+5'", 5),
        (str(LONG_MAX), LONG_MAX),
        (f"'{LONG_MIN}'", LONG_MIN),
        ("0" * 5000 + "7", 7),
    ],
)
def test_numbers(written: str, number: int) -> None:
    if "X" in written:
        written = f"'{written}'"  # only so is it a word
    assert settings(f"a={written}").number("a") == number


@pytest.mark.parametrize("written", ["''", "'64 '", "08", "'x'", "'0x'", "12ab", "'--1'", "'1.5'", "'٣'"])
def test_no_numbers(written: str) -> None:
    with pytest.raises(ConfigError, match=r"^f:2: parameter `a' is not a valid number$"):
        settings(f"\na={written}").number("a")


@pytest.mark.parametrize("written", [str(LONG_MAX + 1), f"'{LONG_MIN - 1}'", "9" * 10_000, "0x" + "f" * 10_000])
def test_numbers_out_of_range(written: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^f:1: parameter `a' could not be parsed as a number: Numerical result out of range$"
    ):
        settings(f"a={written}").number("a")


def test_bounds() -> None:
    assert settings("a=3").number("a", 3, 3) == 3
    with pytest.raises(ConfigError, match=r"^f:1: value `3' of `a' is smaller than minimum bound '4'$"):
        settings("a=3").number("a", 4)
    with pytest.raises(ConfigError, match=r"^f:1: value `3' of `a' is greater than maximum bound '2'$"):
        settings("a=3").number("a", 0, 2)


def test_not_set() -> None:
    nothing = settings("")
    assert nothing.string("a") is None
    assert nothing.number("a") is None
    assert nothing.boolean("a") is None
    assert nothing.values("a") is None
    assert nothing.strings("a") == ()
    assert "a" not in nothing
    assert nothing.place("a") == "f"


def test_booleans() -> None:
    assert settings("a=0").boolean("a") is False
    assert settings("a=2").boolean("a") is True
    assert settings("a='-1'").boolean("a") is True


@pytest.mark.parametrize(
    ("text", "use", "complaint"),
    [
        ("a=[1]", lambda it: it.string("a"), "parameter `a' is a list but should be a single value"),
        ("a=[1]", lambda it: it.number("a"), "parameter `a' is a list but should be a single value"),
        ("a=[1]", lambda it: it.boolean("a"), "parameter `a' is a list but should be a single value"),
        ("a=1", lambda it: it.values("a"), "parameter `a' is a single value but should be a list"),
        ("a=1", lambda it: it.strings("a"), "parameter `a' is a single value but should be a list"),
        ("a+=1", lambda it: it.number("a"), "can't use += with numbers for parameter `a'"),
        ("a=['x',[]]", lambda it: it.strings("a"), "value is not a string, in the list `a'"),
    ],
)
def test_wrong_types(text: str, use: Callable[[Settings], object], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        use(settings(f"\n\n{text}"))
    assert str(caught.value) == f"f:3: {complaint}"


def test_last_counts() -> None:
    twice = settings("b=1\na=1\nb=2\n")
    assert twice.string("b") == "2"
    assert twice.names == ["a", "b"]
    assert twice.place("b") == "f:3"
    assert [atom.text for atom in settings("a=['x', 1]").strings("a")] == ["x", "1"]
