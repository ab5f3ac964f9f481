"""Linux's kernel modules: what they say of themselves, and the files by which modprobe(8) finds them.

modules.dep(5), and what depmod(8) writes into modules.alias.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

_MODINFO = re.compile(rb"(?<=\0)(depends|alias)=([ -~]*)(?=\0)")
"""What MODULE_INFO leaves in a module: strings with zeros around them."""
_NAME = re.compile(r"(.+)\.ko(?:\.[a-z0-9]+)?")


@dataclass(frozen=True)
class ModuleInfo:
    """What a module says of itself."""

    depends: tuple[str, ...]
    """Modules that have to be loaded before; by names as ``module_name`` gives them."""
    aliases: tuple[str, ...]


def module_info(module: bytes) -> ModuleInfo:
    """Read a module that is not compressed."""
    depends, aliases = list[str](), list[str]()
    for key, value in _MODINFO.findall(b"\0" + module):
        if key == b"alias":
            aliases.append(value.decode())
        else:
            depends += [_normal(name) for name in value.decode().split(",") if name]
    return ModuleInfo(tuple(depends), tuple(aliases))


def module_name(path: str) -> str | None:
    """The name of the module that a file is: "xen_blkfront" for ".../xen-blkfront.ko.xz"; None for another file."""
    match = _NAME.fullmatch(PurePosixPath(path).name)
    return _normal(match[1]) if match else None


def _normal(name: str) -> str:
    """The kernel takes "-" and "_" for the same."""
    return name.replace("-", "_")


def with_dependencies(wanted: set[str], find: Callable[[set[str]], Mapping[str, bytes]]) -> dict[str, bytes]:
    """Modules and all that they depend on, by their names.

    ``find`` gives files of modules by the files' names; those it does not give are taken to be in the kernel itself.
    """
    found: dict[str, bytes] = {}
    seen, missing = set[str](), set(wanted)
    while missing:
        seen |= missing
        more = find(missing)
        found |= more
        missing = {name for module in more.values() for name in module_info(module).depends} - seen
    return found


def modules_dep(modules: Mapping[str, bytes]) -> str:
    """modules.dep for modules that are in one directory, by the names of their files."""
    files = {module_name(file): file for file in modules}
    infos = {file: module_info(data) for file, data in modules.items()}

    def closure(file: str, so_far: list[str]) -> list[str]:
        for name in infos[file].depends:
            if name in files and files[name] not in so_far:
                so_far.append(files[name])
                closure(files[name], so_far)
        return so_far

    return "".join(f"{file}:{''.join(f' {other}' for other in closure(file, []))}\n" for file in sorted(modules))


def modules_alias(modules: Mapping[str, bytes]) -> str:
    """modules.alias for them."""
    return "".join(
        f"alias {alias} {module_name(file)}\n"
        for file in sorted(modules)
        for alias in module_info(modules[file]).aliases
    )
