"""What the documentation says of the code is so: generated parts are current, and nothing that is named is gone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import euxen
from euxen.cli.run import EXIT_STATUS
from euxen.toolstack.ending import Ending
from scripts import generate_docs
from scripts.generate_docs import DOCS, PARTS, READING_ORDER, ROOT

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PARTS)
def test_generated_parts_are_current(page: str) -> None:
    assert generate_docs.renewed(page) == (DOCS / page).read_text(), "run 'make docs'"


def test_the_reading_order_is_current() -> None:
    assert generate_docs.reading_order() == (DOCS / READING_ORDER).read_text(), "run 'make docs'"


def test_the_reading_order_has_each_module_once() -> None:
    listed = re.findall(r"^- \[(euxen/[^]]+\.py)\]\(\.\./\1\): .", (DOCS / READING_ORDER).read_text(), re.MULTILINE)
    modules = [str(path.relative_to(ROOT)) for path in Path(euxen.__path__[0]).rglob("*.py")]
    assert sorted(listed) == sorted(modules), "list it in docs/reading-order.md, and run 'make docs'"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_named_exist(page: Path) -> None:
    """By any ending of their paths, as people write them."""
    paths = [f"/{path.relative_to(ROOT)}" for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    for name in set(re.findall(r"`([\w/]+\.py)`", page.read_text())):
        assert any(path.endswith(f"/{name}") for path in paths), name


def test_the_architecture_names_every_layer() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "architecture.md").read_text(), re.MULTILINE)
    configuration = (ROOT / "pyproject.toml").read_text()
    layers = re.findall(r'"euxen\.(\w+)"', configuration.partition("layers = [")[2].partition("]")[0])
    assert rows == layers


def test_the_readme_has_every_exit_status() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {int(status) for status, _ in rows} == {1, 2, *EXIT_STATUS.values()}
    words = {Ending.POWEROFF: "powered off", Ending.REBOOT: "reboot", Ending.CRASH: "crashed", Ending.LEFT: "Ctrl-]",
             Ending.SUSPEND: "suspended", Ending.TIMEOUT: "time limit"}  # fmt: skip
    for ending, status in EXIT_STATUS.items():
        assert words[ending] in dict(rows)[str(status)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z]+)", page.read_text(), re.MULTILINE)) <= targets


def test_make_help_tells_every_target() -> None:
    told = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    assert [line.split()[0] for line in told.splitlines() if line[:1].islower() and "  " in line] == targets
