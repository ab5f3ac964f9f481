"""docs/advisories.md names tests that there are, and all that were written for an advisory."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNELS, TESTS = ROOT / "tests" / "kernels", ROOT / "tests" / "hypervisor"
ROW = re.compile(r"^\| (\d+|none) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
IN_KERNEL = re.compile(r"^(?:TEST|GUEST)\((\w+)\)", re.MULTILINE)


def named() -> list[tuple[str, str, str]]:
    """Advisory, file and test."""
    rows = ROW.findall((ROOT / "docs" / "advisories.md").read_text())
    return [
        (advisory, file, test)
        for advisory, shown in rows
        for file, tests in (part.split(": ") for part in shown.split("; "))
        for test in tests.split(", ")
    ]


def names_of_tests(path: Path) -> set[str]:
    """The tests of a kernel or of a module."""
    text = path.read_text()
    if path.suffix == ".c":
        return set(IN_KERNEL.findall(text))
    return {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_is_named_is_there() -> None:
    for _advisory, file, test in named():
        (path,) = KERNELS.glob(file) if file.endswith(".c") else TESTS.rglob(file)
        assert test in names_of_tests(path), f"{file} has no {test}"


def test_every_test_for_an_advisory_is_named() -> None:
    tests = {(path.name, test) for path in KERNELS.glob("*.c") for test in names_of_tests(path)}
    written = {(file, test) for file, test in tests if test.startswith("xsa_")}
    assert written
    assert written == {(file, test) for _, file, test in named() if test.startswith("xsa_")}


def test_tests_carry_the_number_of_their_advisory() -> None:
    numbered = [(advisory, test) for advisory, _, test in named() if re.match(r"xsa_\d", test)]
    assert numbered
    for advisory, test in numbered:
        assert advisory == test.split("_")[1] or (advisory, test) == ("402", "xsa_154_cache_attributes")
