"""Typed values of settings, as tools/libs/util/libxlu_cfg.c gives them. The last setting of a name counts.

Where Xen's library warns and xl goes on as if nothing had been said, this raises ConfigError, in the same words.
"""

from __future__ import annotations

import re

from euxen.toolstack.config.errors import ConfigError
from euxen.toolstack.config.xlcfg import Atom, List, Source, parse

LONG_MIN, LONG_MAX = -(1 << 63), (1 << 63) - 1
_LONG = re.compile(
    r"[ \t\n\v\f\r]*(?P<sign>[+-]?)(?:0[xX](?P<hex>[0-9a-fA-F]+)|(?P<octal>0[0-7]*)|(?P<decimal>[1-9][0-9]*))"
)
_LONGEST = 20  # digits of a decimal number that may fit


class Settings:
    """The settings of a configuration, by their names."""

    def __init__(self, source: Source) -> None:
        """Raises ConfigError for what is no configuration."""
        self._source = source
        self._settings = {setting.name: setting for setting in parse(source)}

    def __contains__(self, name: str) -> bool:
        return name in self._settings

    @property
    def names(self) -> list[str]:
        """What was set, by the lines."""
        return sorted(self._settings, key=lambda name: self._settings[name].line)

    def string(self, name: str) -> str | None:
        """xlu_cfg_get_string: the text of a string or a number, or None where nothing was set."""
        setting = self._settings.get(name)
        if setting is None:
            return None
        if isinstance(setting.value, List):
            raise self.error(name, f"parameter `{name}' is a list but should be a single value")
        return setting.value.text

    def number(self, name: str, minimum: int = LONG_MIN, maximum: int = LONG_MAX) -> int | None:
        """xlu_cfg_get_bounded_long: a number as strtol(3) reads it, or None where nothing was set."""
        text = self.string(name)
        if text is None:
            return None
        if self._settings[name].operator == "+=":
            raise self.error(name, f"can't use += with numbers for parameter `{name}'")
        match = _LONG.fullmatch(text)
        if match is None:
            raise self.error(name, f"parameter `{name}' is not a valid number")
        value = _value(match)
        if value is None:
            raise self.error(name, f"parameter `{name}' could not be parsed as a number: Numerical result out of range")
        if value < minimum:
            raise self.error(name, f"value `{value}' of `{name}' is smaller than minimum bound '{minimum}'")
        if value > maximum:
            raise self.error(name, f"value `{value}' of `{name}' is greater than maximum bound '{maximum}'")
        return value

    def boolean(self, name: str) -> bool | None:
        """xlu_cfg_get_defbool: any number but 0 is true; None where nothing was set."""
        value = self.number(name)
        return None if value is None else value != 0

    def values(self, name: str) -> List | None:
        """xlu_cfg_get_list: a list of anything, or None where nothing was set."""
        setting = self._settings.get(name)
        if setting is None:
            return None
        if isinstance(setting.value, Atom):
            raise self.error(name, f"parameter `{name}' is a single value but should be a list")
        return setting.value

    def strings(self, name: str) -> tuple[Atom, ...]:
        """A list of strings, or nothing where nothing was set."""
        values = self.values(name)
        atoms = []
        for item in values.items if values is not None else ():
            if isinstance(item, List):
                raise ConfigError(f"{self._source.place(item.line)}: value is not a string, in the list `{name}'")
            atoms.append(item)
        return tuple(atoms)

    def is_list(self, name: str) -> bool:
        """Whether the value is in brackets."""
        return isinstance(self._settings[name].value, List)

    def place(self, name: str) -> str:
        """Where a name was set, for people; the file where it was not."""
        setting = self._settings.get(name)
        return self._source.place(setting.line) if setting else self._source.filename

    def place_of(self, atom: Atom) -> str:
        """Where a value in a list stands, for people."""
        return self._source.place(atom.line)

    def error(self, name: str, sentence: str) -> ConfigError:
        """To be raised where the value of a name cannot be."""
        return ConfigError(f"{self.place(name)}: {sentence}")


def _value(match: re.Match[str]) -> int | None:
    if match["hex"]:
        value = int(match["hex"], 16)
    elif match["octal"]:
        value = int(match["octal"], 8)
    elif len(match["decimal"]) > _LONGEST:
        return None
    else:
        value = int(match["decimal"])
    value = -value if match["sign"] == "-" else value
    return value if LONG_MIN <= value <= LONG_MAX else None
