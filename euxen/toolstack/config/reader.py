"""An xl.cfg to a DomainConfig: parse_config_data in tools/xl/xl_parse.c.

First every option is looked up in ``options``, which gives most of the warnings, then the fields of a
DomainConfig are filled in.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from euxen.toolstack.config.cpuid import CpuidMask, parse_libxl, parse_xend
from euxen.toolstack.config.cpus import CpuList, parse_cpulist
from euxen.toolstack.config.devices import VFB_BOOLEANS, VFB_TEXTS, Vfb, parse_channel, parse_p9, parse_vfb
from euxen.toolstack.config.disk import parse_disk
from euxen.toolstack.config.errors import ConfigError, OptionError
from euxen.toolstack.config.model import ActionOnShutdown, DomainConfig, SchedParams
from euxen.toolstack.config.nic import Nic, parse_nic
from euxen.toolstack.config.options import OPTIONS, Form, Treatment
from euxen.toolstack.config.settings import Settings
from euxen.toolstack.config.xlcfg import Atom, Source
from euxen.toolstack.kernel.layout import GuestKind

INT_MAX = (1 << 31) - 1
ACTIONS = ("on_poweroff", "on_reboot", "on_watchdog", "on_crash", "on_soft_reset")
NUMBERS = {
    "memory": (1,),
    "maxmem": (1,),
    "vcpus": (1,),
    "maxvcpus": (1,),
    "max_event_channels": (1, INT_MAX),
    "max_grant_frames": (0, INT_MAX),
    "max_maptrack_frames": (0, INT_MAX),
    "max_grant_version": (0, INT_MAX),
}
"""Least and greatest value that a setting can have by itself."""
SCHED_RANGES = {
    "cpu_weight": (1, 65535),
    "cap": (0, INT_MAX),
    "period": (0, INT_MAX),
    "slice": (0, INT_MAX),
    "latency": (0, INT_MAX),
    "extratime": (0, 1),
}
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_Spec = TypeVar("_Spec")


def read(text: str, filename: str, overrides: Sequence[str]) -> DomainConfig:
    """DomainConfig.from_text."""
    settings = Settings(Source(filename, text, tuple(overrides)))
    reader = _Reader(settings)
    fields = reader.fields()
    try:
        return DomainConfig(**fields, warnings=tuple(reader.warnings))
    except OptionError as error:
        raise error.at(settings.place(error.option)) from None


class _Reader:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.warnings: list[str] = []

    def fields(self) -> dict[str, Any]:
        """The fields of a DomainConfig, but for numbers and actions that were not set."""
        settings = self._settings
        kind = self._kind()
        for name in settings.names:
            self._treat(name)
        if kind is GuestKind.PV and "timer_mode" in settings:
            raise settings.error("timer_mode", '"timer_mode" option is not supported for PV guests.')
        return {
            "name": settings.string("name") or "",
            "uuid": self._uuid(),
            "type": kind,
            "kernel": self._path("kernel"),
            "ramdisk": self._path("ramdisk"),
            "cmdline": self._cmdline(),
            "bootloader": settings.string("bootloader"),
            "bootloader_args": self._bootloader_args(),
            **self._numbers(),
            **{name: self._action(name) for name in ACTIONS if name in settings},
            "pool": settings.string("pool"),
            "cpus": self._affinity("cpus"),
            "cpus_soft": self._affinity("cpus_soft"),
            "sched_params": SchedParams(**{name: settings.number(name, *SCHED_RANGES[name]) for name in SCHED_RANGES}),
            "cpuid": self._cpuid(),
            "disks": self._each("disk", parse_disk),
            "nics": self._nics(),
            "p9s": self._each("p9", parse_p9),
            "vfbs": self._vfbs(),
            "channels": self._each("channel", partial(parse_channel, warn=partial(self._warn, "channel"))),
        }

    def _treat(self, name: str) -> None:
        """Check what is set, and do with it what the table says, unless that is to honour it."""
        settings = self._settings
        option = OPTIONS.get(name)
        if option is None:
            guess = difflib.get_close_matches(name, OPTIONS, 1, 0.8)
            meant = f" (did you mean `{guess[0]}'?)" if guess else ""
            self._warn(name, f"unknown option `{name}' is ignored{meant}")
            return
        if self._is_neutral(name, option.form, option.neutral):
            return
        if option.treatment is Treatment.REFUSED:
            raise settings.error(name, f"`{name}' is refused: {option.why}")
        if option.treatment is Treatment.IGNORED:
            self._warn(name, f"`{name}' is ignored: {option.why}")

    def _is_neutral(self, name: str, form: Form, neutral: tuple[str, ...]) -> bool:
        """Whether a value asks for nothing. Raises ConfigError if it has the wrong form."""
        settings = self._settings
        if form is Form.ANY:
            return False
        if form in (Form.STRINGS, Form.LISTS) or (form is Form.STRING_OR_STRINGS and settings.is_list(name)):
            values = settings.values(name)
            if form is not Form.LISTS:
                settings.strings(name)
            return values is not None and not values.items
        if form is Form.NUMBER:
            return str(settings.number(name)) in neutral
        if form is Form.BOOLEAN:
            return str(int(settings.boolean(name) or False)) in neutral
        return settings.string(name) in neutral

    def _warn(self, name: str, sentence: str) -> None:
        self.warnings.append(f"{self._settings.place(name)}: {sentence}")

    def _numbers(self) -> dict[str, int]:
        """The fields that are numbers, of those that were set."""
        numbers = {name: self._settings.number(name, *bounds) for name, bounds in NUMBERS.items()}
        return {name: number for name, number in numbers.items() if number is not None}

    def _kind(self) -> GuestKind:
        settings = self._settings
        kinds: list[GuestKind] = []
        for option, names in (
            ("type", {"pv": GuestKind.PV, "pvh": GuestKind.PVH}),
            ("builder", {"generic": GuestKind.PV}),
        ):
            text = settings.string(option)
            if text is None:
                continue
            if text == "hvm":
                raise settings.error(
                    option, f'{option}="hvm" is refused: euxen has no HVM guests yet; it has PV and PVH guests'
                )
            if text not in names:
                raise settings.error(option, f"Invalid domain type {text}.")
            kinds.append(names[text])
        if len(set(kinds)) > 1:
            raise settings.error("builder", 'Contradicting "builder" and "type" options specified.')
        return kinds[0] if kinds else GuestKind.PV

    def _uuid(self) -> UUID | None:
        text = self._settings.string("uuid")
        if text is None:
            return None
        if not _UUID.fullmatch(text):
            raise self._settings.error("uuid", f"Failed to parse UUID: {text}")
        return UUID(text)

    def _path(self, name: str) -> Path | None:
        text = self._settings.string(name)
        return Path(text) if text else None

    def _cmdline(self) -> str:
        """parse_cmdline."""
        cmdline, root, extra = (self._settings.string(name) for name in ("cmdline", "root", "extra"))
        if cmdline is not None:
            if root is not None or extra is not None:
                self._warn("cmdline", "ignoring root= and extra= in favour of cmdline=")
            return cmdline
        words = [*([f"root={root}"] if root is not None else []), *([extra] if extra is not None else [])]
        return " ".join(words)

    def _bootloader_args(self) -> tuple[str, ...]:
        name = "bootloader_args"
        if name not in self._settings:
            return ()
        if self._settings.is_list(name):
            return tuple(atom.text for atom in self._settings.strings(name))
        self._warn(name, "specifying bootloader_args as a string is deprecated; please use a list of arguments")
        return tuple((self._settings.string(name) or "").split())

    def _action(self, name: str) -> ActionOnShutdown:
        text = self._settings.string(name)
        if text not in list(ActionOnShutdown):
            raise self._settings.error(name, f'Unknown {name} action "{text}" specified')
        return ActionOnShutdown(text)

    def _affinity(self, name: str) -> tuple[CpuList, ...]:
        """For all vCPUs the same, or one by one; more than there are do not count."""
        settings = self._settings
        if name not in settings:
            return ()
        vcpus = max(settings.number(option) or 1 for option in ("vcpus", "maxvcpus"))
        if settings.is_list(name):
            return self._each(name, parse_cpulist)[:vcpus]
        return (self._parse(settings.place(name), parse_cpulist, settings.string(name) or ""),) * vcpus

    def _cpuid(self) -> tuple[CpuidMask, ...]:
        settings = self._settings
        if "cpuid" not in settings:
            return ()
        if settings.is_list("cpuid"):
            lines = [atom.text for atom in settings.strings("cpuid")]
            return self._parse(settings.place("cpuid"), parse_xend, lines)
        return self._parse(settings.place("cpuid"), parse_libxl, settings.string("cpuid") or "")

    def _nics(self) -> tuple[Nic, ...]:
        warn = partial(self._warn, "vif")
        atoms = self._settings.strings("vif")
        return tuple(self._spec(atom, partial(parse_nic, devid=devid, warn=warn)) for devid, atom in enumerate(atoms))

    def _vfbs(self) -> tuple[Vfb, ...]:
        """From ``vfb``, or from what HVM guests have for their emulated card."""
        settings = self._settings
        vfbs = self._each("vfb", partial(parse_vfb, warn=partial(self._warn, "vfb")))
        if vfbs or not settings.boolean("vnc"):
            return vfbs
        fields: dict[str, Any] = {name: settings.string(name) for name in VFB_TEXTS}
        fields |= {name: settings.boolean(name) for name in VFB_BOOLEANS}
        return (Vfb(vncdisplay=settings.number("vncdisplay", 0, INT_MAX), **fields),)

    def _each(self, name: str, parse: Callable[[str], _Spec]) -> tuple[_Spec, ...]:
        """What the strings of a list mean."""
        return tuple(self._spec(atom, parse) for atom in self._settings.strings(name))

    def _spec(self, atom: Atom, parse: Callable[[str], _Spec]) -> _Spec:
        return self._parse(self._settings.place_of(atom), parse, atom.text)

    @staticmethod
    def _parse(place: str, parse: Callable[[Any], _Spec], value: Any) -> _Spec:
        try:
            return parse(value)
        except ConfigError as error:
            raise error.at(place) from None
