"""Disk specifications: one string of ``disk=[...]``. xl-disk-configuration(5), tools/libs/util/libxlu_disk_l.l

The grammar is Xen's table of patterns: at each place the pattern that reaches furthest wins, and of
several the first. A pattern's ``(?=...)`` counts for how far it reaches and is not consumed.

Taken here and not by Xen 4.17 as it is built, for the manual has them: ``trusted`` and ``untrusted``. A
stray character at the very end is an error here, and overlooked there. COLO is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NoReturn, TypeAlias, TypeVar

from euxen.toolstack.config.errors import ConfigError

_Choice = TypeVar("_Choice", bound=StrEnum)


class DiskFormat(StrEnum):
    """What is in the target; ``libxl_disk_format``."""

    RAW = "raw"
    QCOW = "qcow"
    QCOW2 = "qcow2"
    VHD = "vhd"
    QED = "qed"
    EMPTY = "empty"  # a drive without a medium


class DiskBackend(StrEnum):
    """What implements the backend; ``libxl_disk_backend``."""

    PHY = "phy"
    TAP = "tap"
    QDISK = "qdisk"
    STANDALONE = "standalone"


class DiskSpecification(StrEnum):
    """What the frontend speaks; ``libxl_disk_specification``."""

    XEN = "xen"
    VIRTIO = "virtio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A virtual disk or CD-ROM drive; ``libxl_device_disk``. None is "the default", which the backend knows."""

    vdev: str
    """Its name in the guest: xvda, hdc, sdb1, d1p2; xen-vbd-interface(7)."""
    target: str = ""
    """A path, or what ``script`` makes something of. Empty for an empty drive."""
    format: DiskFormat = DiskFormat.RAW
    readwrite: bool = True
    is_cdrom: bool = False
    backend: str | None = None
    """Domain of the backend, by name or domid; Domain 0 by default."""
    backendtype: DiskBackend | None = None
    specification: DiskSpecification | None = None
    script: str | None = None
    direct_io_safe: bool = False
    discard: bool | None = None
    trusted: bool | None = None


def parse_disk(spec: str) -> Disk:
    """Read a specification. Raises ConfigError in libxlu's words, one sentence for each thing wrong."""
    return _Parser(spec).parse()


class _End(Exception):
    """Nothing more is to be read."""


@dataclass
class _Parser:
    """What was said so far; None for what was not."""

    spec: str
    target: str | None = None
    vdev: str | None = None
    format: DiskFormat | None = None
    readwrite: bool = True
    access_set: bool = False
    is_cdrom: bool = False
    backend: str | None = None
    backendtype: DiskBackend | None = None
    specification: DiskSpecification | None = None
    script: str | None = None
    direct_io_safe: bool = False
    discard: bool | None = None
    trusted: bool | None = None
    deprecated_prefix: bool = False
    errors: list[str] = field(default_factory=list)

    def parse(self) -> Disk:
        rest = self.spec
        try:
            while rest:
                rest = rest[self._step(rest) :]
        except _End:
            pass
        if not self.errors and not self.vdev:
            self.complain("no vdev specified")
        if not self.errors and not self.target and not self.is_cdrom:
            self.complain("no target specified (and device not removable)")
        if self.errors:
            raise ConfigError(*self.errors)
        assert self.vdev is not None
        return Disk(
            vdev=self.vdev,
            target=self.target or "",
            format=DiskFormat.EMPTY if self.is_cdrom and not self.target else self.format or DiskFormat.RAW,
            readwrite=self.readwrite and not self.is_cdrom,
            is_cdrom=self.is_cdrom,
            backend=self.backend,
            backendtype=self.backendtype,
            specification=self.specification,
            script=self.script,
            direct_io_safe=self.direct_io_safe,
            discard=self.discard,
            trusted=self.trusted,
        )

    def _step(self, rest: str) -> int:
        """Read one thing, and return its length."""
        matches = [(match, action) for pattern, action in _RULES if (match := pattern.match(rest))]
        if not matches:
            self.fail("bad disk syntax", rest.partition("\n")[0])
        match, action = max(matches, key=lambda found: found[0].end("reach"))
        action(self, match["text"])
        return match.end("text")

    def complain(self, message: str, near: str | None = None) -> None:
        where = "" if near is None else f": near `{near}'"
        self.errors.append(f"config parsing error in disk specification: {message}{where} in `{self.spec}'")

    def fail(self, message: str, near: str) -> NoReturn:
        self.complain(message, near)
        raise _End

    def choose(self, name: str, choices: type[_Choice], text: str, so_far: _Choice | None) -> _Choice | None:
        """What a word means that can be said once."""
        try:
            choice = choices(text)
        except ValueError:
            self.complain(f"unknown value for {name}", text)
            return so_far
        if so_far not in (None, choice):
            self.complain(f"{name} respecified", text)
        return choice

    def save(self, name: str, text: str, so_far: str | None) -> str:
        """A string that can be said once, unless it was said to be empty."""
        if so_far:
            self.complain(f"{name} respecified", text)
        return text

    def set_format(self, text: str) -> None:
        if not text and self.format not in (None, DiskFormat.RAW):
            self.complain("format respecified", text)
        self.format = self.choose("format", DiskFormat, text, self.format) if text else DiskFormat.RAW

    def set_access(self, text: str) -> None:
        if text in ("r", "ro"):
            self.readwrite = False
        elif text in ("rw", "w", ""):
            self.readwrite = True
        else:
            self.complain("unknown value for access", text)

    def set_backend(self, text: str) -> None:
        self.backend = self.save("backend", text, self.backend)

    def set_backendtype(self, text: str) -> None:
        self.backendtype = self.choose("backendtype", DiskBackend, text, self.backendtype)

    def set_specification(self, text: str) -> None:
        self.specification = self.choose("specification", DiskSpecification, text, self.specification)

    def set_vdev(self, text: str) -> None:
        self.vdev = self.save("vdev", text, self.vdev)

    def set_script(self, text: str) -> None:
        self.script = self.save("script", text, self.script)

    def set_target(self, text: str) -> None:
        self.target = self.save("target", text, self.target)

    def vdev_and_devtype(self, text: str) -> bool:
        """``VDEV:cdrom``, as xend had it. False if it is no such thing."""
        vdev, colon, devtype = text.rpartition(":")
        if colon:
            self.set_vdev(vdev)
            if devtype in ("cdrom", "disk"):
                self.is_cdrom = devtype == "cdrom"
            else:
                self.complain("unknown deprecated type", devtype)
        return bool(colon)

    def format_prefix(self, text: str) -> None:
        self.deprecated_prefix = True
        self.set_format(text.removesuffix(":"))

    def script_prefix(self, text: str) -> None:
        self.deprecated_prefix = True
        self.set_script(f"block-{text.removesuffix(':')}")

    def positional(self, text: str) -> None:
        text = text.removesuffix(",")
        if self.errors:
            pass  # one error may just lead to the next
        elif self.target is None:
            self.target = text
        elif not self.deprecated_prefix and self.format is None:
            if not self.target and self.vdev_and_devtype(text):
                self.format = DiskFormat.EMPTY
            else:
                self.set_format(text)
        elif self.vdev is None:
            if not self.vdev_and_devtype(text):
                self.set_vdev(text)
        elif not self.access_set:
            self.access_set = True
            self.set_access(text)
        else:
            self.fail("too many positional parameters", text)


def _flag(attribute: str, value: bool) -> _Action:
    return lambda disk, text: setattr(disk, attribute, value)


def _value(action: _Action) -> _Action:
    return lambda disk, text: action(disk, text.partition("=")[2].removesuffix(","))


_Action: TypeAlias = Callable[[_Parser, str], None]
_RULES: tuple[tuple[re.Pattern[str], _Action], ...] = tuple(
    (re.compile(f"(?=(?P<reach>(?:{text})(?:{context})))(?P<text>{text})"), action)
    for text, context, action in (
        # what is read, what may follow it and counts for how far it reaches, what it does
        (r"[ \t\n]+", r"(?:[^ \t\n].*)?", lambda disk, text: None),
        (r"format=[^,]*,?", "", _value(_Parser.set_format)),
        (r"cdrom,?|devtype=cdrom,?", "", _flag("is_cdrom", True)),
        (r"devtype=disk,?", "", _flag("is_cdrom", False)),
        (r"devtype=[^,]*,?", "", lambda disk, text: disk.complain("unknown value for type", text)),
        (r"access=[^,]*,?", "", _value(_Parser.set_access)),
        (r"backend=[^,]*,?", "", _value(_Parser.set_backend)),
        (r"backendtype=[^,]*,?", "", _value(_Parser.set_backendtype)),
        (r"specification=[^,]*,?", "", _value(_Parser.set_specification)),
        (r"vdev=[^,]*,?", "", _value(_Parser.set_vdev)),
        (r"script=[^,]*,?", "", _value(_Parser.set_script)),
        (r"direct-io-safe,?", "", _flag("direct_io_safe", True)),
        (r"discard,?", "", _flag("discard", True)),
        (r"no-discard,?", "", _flag("discard", False)),
        (r"trusted,?", "", _flag("trusted", True)),
        (r"untrusted,?", "", _flag("trusted", False)),
        (r"no-colo,?", "", lambda disk, text: None),
        (r"colo,?", "", lambda disk, text: disk.complain("COLO is not supported", text)),
        (r"colo-(?:host|port|export)=[^,]*,?", "", lambda disk, text: disk.complain("COLO is not supported", text)),
        (r"(?:active|hidden)-disk=[^,]*,?", "", lambda disk, text: disk.complain("COLO is not supported", text)),
        (r"target=.*", "", _value(_Parser.set_target)),
        (r"[a-z][-a-z0-9]*=[^,],?", "", lambda disk, text: disk.complain("unknown parameter", text)),
        (r"(?:raw|qcow2?|vhd):", ".*", _Parser.format_prefix),
        (r"(?:iscsi|e?nbd|drbd):", ".*", _Parser.script_prefix),
        (r"(?:tapdisk|tap2?|aio|ioemu|file|phy):", ".*", _flag("deprecated_prefix", True)),
        (
            r"[a-z][a-z0-9]*:",
            r"(?:[^a-z0-9].*)?",
            lambda disk, text: disk.fail("unknown deprecated disk prefix", text),
        ),
        (r"[^=,]*,|[^=,]+", "", _Parser.positional),
    )
)
