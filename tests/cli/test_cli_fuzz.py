"""`euxen fuzz`: what it says, and that nonsense is refused."""

from __future__ import annotations

import pytest
from terminal import run


@pytest.fixture(scope="module", autouse=True)
def compiled(native: None) -> None:
    """So that no test waits for the compiler."""


def test_a_campaign() -> None:
    done = run("fuzz", "--seed", "5", "--seeds", "2", "--count", "100")
    assert done.returncode == 0
    first, second = done.stdout.decode().splitlines()
    assert first.startswith("seed 5: 100 hypercalls, ")
    assert second.startswith("seed 6: 100 hypercalls, ")


def test_a_campaign_of_privileged_guests() -> None:
    done = run("fuzz", "--privileged", "--count", "100")
    assert done.returncode == 0
    assert done.stdout.decode().startswith("seed 0: 100 hypercalls, ")


@pytest.mark.parametrize("option", ["--seed", "--seeds", "--count"])
@pytest.mark.parametrize("value", ["-1", "x", "", "4294967296", "1.5"])
def test_what_is_no_number(option: str, value: str) -> None:
    done = run("fuzz", f"{option}={value}")
    assert done.returncode == 2
    assert f"argument {option}: {value!r} is no number from 0 to 4294967295" in done.stderr.decode()
