"""euxen.abi against the real headers: one C program prints what the compiler makes of them.

Everything public in every module is compared: size, alignment, offsets, field sizes and signedness of
each structure, each number, string and table, and what each function returns. What cannot be is in
NOT_IN_C, with the reason.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeGuard

import pytest

import euxen.abi
from euxen.abi import errno
from euxen.abi.arch_x86_xen import XEN_EMULATE_PREFIX
from euxen.abi.io.blkif import BlkifSringEntry
from euxen.abi.io.netif import NetifRxSringEntry, NetifTxSringEntry
from euxen.abi.io.ring import CONST_RING_SIZE
from euxen.abi.io.xs_wire import xsd_errors
from euxen.abi.memory import E820Entry
from euxen.abi.structure import Structure

INSTALL = "These tests need a C compiler and the headers of Xen 4.17: on Debian 12, install gcc and libxen-dev."

NOT_IN_C = {
    "ERRNO_NAMES": "made from the constants of errno.py, which are compared; see test_error_names",
    "XEN_EMULATE_PREFIX": "assembler text in C; see test_emulate_prefix",
    "E820Entry": "the BIOS's, not Xen's; see test_e820_entry",
    "FEATURESET_WORDS": "comments in C, which say which CPUID leaf a word is; see test_cpufeatureset.py",
    "CONST_RING_SIZE": "takes a ring's name in C: see RING_CHECKS",
    "xsd_errors": "pairs with the host's error numbers in C: see XSD_CHECKS",
}

C_NAMES = {
    "XEN_LATEST_INTERFACE_VERSION": "__XEN_LATEST_INTERFACE_VERSION__",
    "Sring._pad": "__pad",
}
"""What is called otherwise in C, besides what c_name knows."""

C_SIZES = {"Sring": "offsetof(struct netif_tx_sring, ring)"}
"""Structures that are only the head of one in C."""

ARGUMENTS = (0, 1, 5, 0x123, 0x0002_0003_0004_0506)
"""What every function is called with."""

DOCSTRING = re.compile(
    r"(?:(?P<member>[\w.\[\]]+) of )?(?P<type>(?:struct |union )?\w+)\. xen/include/public/[\w./-]+\.h$", re.MULTILINE
)
HEADER = re.compile(r"xen/include/public/([\w./-]+\.h)")


class Check(NamedTuple):
    """One thing to compare: what it is, what it is called in C, and what it must be."""

    what: str
    c: str
    expected: int | str


MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(euxen.abi.__path__, "euxen.abi.")
    if module.name not in {"euxen.abi.structure", "euxen.abi.compat"}  # for the latter see test_compat.py
]


def public(module: ModuleType) -> dict[str, object]:
    """What a module defines, and the numbers that it imports from another."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and name != "annotations"
        and getattr(value, "__module__", module.__name__) == module.__name__
        and not inspect.ismodule(value)
    }


def is_structure(value: object) -> TypeGuard[type[Structure]]:
    return isinstance(value, type) and issubclass(value, Structure)


def c_type(cls: type[Structure]) -> str:
    match = DOCSTRING.match(cls.__doc__ or "")
    assert match, f"{cls.__name__}: the docstring must open with the C type and its header"
    return f"__typeof__((({match['type']} *)0)->{match['member']})" if match["member"] else match["type"]


def c_name(name: str) -> str:
    if re.match("HYPERVISOR_[a-z]", name):
        return f"__{name}"
    if match := re.fullmatch(r"HVM_SAVE_CODE_(?!MAX)(\w+)", name):
        return f"HVM_SAVE_CODE({match[1]})"
    return C_NAMES.get(name, name)


def structure_checks(cls: type[Structure]) -> Iterator[Check]:
    c = f"T_{cls.__name__}"
    yield Check("size", C_SIZES.get(cls.__name__, f"sizeof({c})"), cls.size)
    yield Check("align", f"_Alignof({c})", cls.align)
    for name, field in cls.fields.items():
        c_field = C_NAMES.get(f"{cls.__name__}.{name}", name.removesuffix("_"))
        member = f"(({c} *)0)->{c_field}"
        yield Check(f"offset of {name}", f"offsetof({c}, {c_field})", cls.offsets[name])
        if field.count != 0:
            yield Check(f"size of {name}", f"sizeof({member})", field.size)
        if field.count is not None:
            member += "[0]"
            yield Check(f"size of {name}'s elements", f"sizeof({member})", field.stride)
        if not field.code.endswith("s"):
            yield Check(f"signedness of {name}", f"IS_SIGNED({member})", int(field.code[-1:] in {*"bhiq"}))


def value_checks(name: str, value: object) -> Iterator[Check]:
    c = c_name(name)
    if isinstance(value, int | str):
        yield Check(name, c, value)
    elif isinstance(value, tuple):
        yield Check(f"length of {name}", f"(int)(sizeof((const char *const[]){c}) / sizeof(char *))", len(value))
        for i, item in enumerate(value):
            yield Check(f"{name}[{i}]", f"((const char *const[]){c})[{i}]", item)
    elif isinstance(value, type) and issubclass(value, IntEnum):
        for member in value:
            prefix = name if name == "XenbusState" else f"{name}_"
            yield Check(f"{name}.{member.name}", f"{prefix}{member.name}", member.value)
    elif inspect.isfunction(value):
        for argument in ARGUMENTS:
            yield Check(f"{name}({argument})", f"{c}({argument}ULL)", value(argument))
    else:
        raise AssertionError(f"{name} is nothing that this test can compare: name it in NOT_IN_C, with the reason")


def checks_of(module: ModuleType) -> dict[str, list[Check]]:
    """A module's checks: those of each structure, and under the module's own name those of its values."""
    values = {name: value for name, value in public(module).items() if name not in NOT_IN_C}
    structures = {name: value for name, value in values.items() if is_structure(value)}
    return {
        module.__name__: [c for name in values.keys() - structures.keys() for c in value_checks(name, values[name])],
        **{name: list(structure_checks(cls)) for name, cls in structures.items()},
    }


STRUCTURES = {
    name: value
    for module in MODULES
    for name, value in public(module).items()
    if is_structure(value) and name not in NOT_IN_C
}

RINGS = {"blkif": BlkifSringEntry.size, "netif_tx": NetifTxSringEntry.size, "netif_rx": NetifRxSringEntry.size}
RING_CHECKS = [
    Check(f"{name} ring of {size} bytes", f"__CONST_RING_SIZE({name}, {size})", CONST_RING_SIZE(entry_size, size))
    for name, entry_size in RINGS.items()
    for size in (64, 200, 4096, 8192, 65536)
]

XSD_CHECKS = [
    Check("length of xsd_errors", "sizeof(xsd_errors) / sizeof(*xsd_errors)", len(xsd_errors)),
    *(Check(f"xsd_errors[{i}]", f"xsd_errors[{i}].errstring", name) for i, name in enumerate(xsd_errors)),
]

CHECKS = {owner: checks for module in MODULES for owner, checks in checks_of(module).items()}
CHECKS |= {"rings": RING_CHECKS, "xenstore errors": XSD_CHECKS}

PRELUDE = """
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#define PRINT_NUMBER(x) ((x) < 0 ? printf("%lld\\n", (long long)(x)) : printf("%llu\\n", (unsigned long long)(x)))
#define PRINT_STRING(x) puts(x)
#define IS_SIGNED(x) _Generic((x), char: 1, signed char: 1, short: 1, int: 1, long: 1, long long: 1, default: 0)
"""


def program() -> str:
    headers = dict.fromkeys(header for module in MODULES for header in HEADER.findall(module.__doc__ or ""))
    lines = [PRELUDE]
    lines += [f"#include <xen/{header}>" for header in headers]
    lines += [f"typedef {c_type(cls)} T_{name};" for name, cls in STRUCTURES.items()]
    lines += ["int main(void) {"]
    for checks in CHECKS.values():
        lines += [f"PRINT_{'STRING' if isinstance(c.expected, str) else 'NUMBER'}({c.c});" for c in checks]
    lines += ["return 0; }"]
    return "\n".join(lines)


@pytest.fixture(scope="session")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the C program says to each check, in their order."""
    cc = shutil.which("cc")
    if cc is None:
        pytest.fail(f"There is no cc. {INSTALL}")
    directory: Path = tmp_path_factory.mktemp("headers")
    source, binary = directory / "headers.c", directory / "headers"
    source.write_text(program())
    # __XEN_TOOLS__ shows domctl and sysctl, and sets __XEN_INTERFACE_VERSION__ to the headers' latest.
    build = subprocess.run(
        [cc, "-std=gnu11", "-w", "-D__XEN_TOOLS__", "-o", binary, source],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    if re.search(r"xen/[\w./-]+: No such file", build.stderr):
        pytest.fail(f"There are no Xen headers. {INSTALL}")
    if build.returncode != 0:
        pytest.fail(f"The headers do not have what euxen.abi names:\n{build.stderr}")
    lines = iter(subprocess.run([binary], capture_output=True, text=True, check=True).stdout.splitlines())
    return {owner: [next(lines) for _ in checks] for owner, checks in CHECKS.items()}


@pytest.mark.parametrize("owner", CHECKS)
def test_same_as_in_c(owner: str, in_c: dict[str, list[str]]) -> None:
    different = [
        f"{check.what} is {value} in C, not {check.expected}"
        for check, value in zip(CHECKS[owner], in_c[owner], strict=True)
        if value != str(check.expected)
    ]
    assert not different, f"{owner}: {'; '.join(different)}"


def test_every_structure_has_a_name_of_its_own() -> None:
    """Otherwise one of two would go uncompared."""
    names = [name for module in MODULES for name, value in public(module).items() if is_structure(value)]
    assert sorted(names) == sorted(set(names))


def test_error_names() -> None:
    numbers = {number for name, number in vars(errno).items() if name.startswith("XEN_E")}
    assert errno.ERRNO_NAMES.keys() == numbers
    assert all(getattr(errno, f"XEN_{name}") == number for number, name in errno.ERRNO_NAMES.items())
    assert errno.ERRNO_NAMES[errno.XEN_EAGAIN] == "EAGAIN"


def test_emulate_prefix() -> None:
    """UD2 and the letters "xen", as XEN_EMULATE_PREFIX spells them in assembler."""
    assert XEN_EMULATE_PREFIX == b"\x0f\x0bxen"


def test_e820_entry() -> None:
    """20 bytes, whatever the alignment: ACPI specification, "INT 15H, E820H - Query System Address Map"."""
    entry = E820Entry(addr=0x100000, size_=0x200000, type=1)
    assert bytes(entry) == bytes.fromhex("0000100000000000 0000200000000000 01000000")
