"""The other devices that are told in strings of KEY=VALUE: 9pfs shares, framebuffers, channels.

xl.cfg(5), parse_config_data in tools/xl/xl_parse.c. Each function raises ConfigError, in xl's words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from euxen.toolstack.config.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class P9:
    """A shared directory; ``libxl_device_p9``."""

    tag: str
    """Its name in the guest."""
    path: str
    security_model: str
    backend: str | None = None
    """Domain of the backend, by name or domid; Domain 0 by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vfb:
    """A paravirtual framebuffer; ``libxl_device_vfb``. None is "the default"."""

    vnc: bool | None = None
    vnclisten: str | None = None
    vncpasswd: str | None = None
    vncdisplay: int | None = None
    vncunused: bool | None = None
    sdl: bool | None = None
    opengl: bool | None = None
    display: str | None = None
    xauthority: str | None = None
    keymap: str | None = None


class ChannelConnection(StrEnum):
    """What a channel ends in; ``libxl_channel_connection``."""

    PTY = "pty"
    SOCKET = "socket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A byte stream between guest and host; ``libxl_device_channel``, xen-pv-channel(7)."""

    name: str
    connection: ChannelConnection
    path: str | None = None
    """Of the socket."""
    backend: str | None = None
    """Domain of the backend, by name or domid; the toolstack's by default."""


def parse_p9(spec: str) -> P9:
    """One string of ``p9=[...]``."""
    fields = {}
    for name, value in _pairs(spec, "9pfs"):
        if name not in ("tag", "path", "security_model", "backend"):
            raise ConfigError(f"unknown string `{name}' in 9pfs spec `{spec}'")
        fields[name] = value
    missing = [name for name in ("tag", "path", "security_model") if not fields.get(name)]
    if missing:
        raise ConfigError(f"9pfs spec `{spec}' is missing a required field: {', '.join(missing)}")
    if fields["security_model"] != "none":
        raise ConfigError(f"9pfs spec `{spec}' has a security_model that is not supported: none is")
    return P9(**fields)


VFB_TEXTS = ("vnclisten", "vncpasswd", "display", "xauthority", "keymap")
VFB_BOOLEANS = ("vnc", "vncunused", "sdl", "opengl")


def parse_vfb(spec: str, warn: Callable[[str], None]) -> Vfb:
    """One string of ``vfb=[...]``. What xl does not know there it does not mention."""
    fields: dict[str, Any] = {}
    for name, value in _pairs(spec, "vfb"):
        if name in VFB_TEXTS:
            fields[name] = value
        elif name in VFB_BOOLEANS:
            fields[name] = _number(value, spec) != 0
        elif name == "vncdisplay":
            fields[name] = _number(value, spec)
        else:
            warn(f"unknown string `{name}' in vfb spec `{spec}' is ignored")
    return Vfb(**fields)


def parse_channel(spec: str, warn: Callable[[str], None]) -> Channel:
    """One string of ``channel=[...]``."""
    fields: dict[str, Any] = {}
    for name, value in _pairs(spec, "channel", trim=True):
        if name in ("backend", "name", "path"):
            fields[name] = value
        elif name == "connection":
            if value not in list(ChannelConnection):
                raise ConfigError(f"unknown channel connection '{value}': pty or socket")
            fields[name] = ChannelConnection(value)
        else:
            warn(f"unknown channel parameter '{name}', ignoring")
    if not fields.get("name"):
        raise ConfigError(f"channel has no name: `{spec}'")
    if "connection" not in fields:
        raise ConfigError(f"channel has unknown 'connection': `{spec}'")
    if fields["connection"] is ChannelConnection.PTY:
        fields.pop("path", None)
    elif not fields.get("path"):
        raise ConfigError("channel connection 'socket' requires path=..")
    return Channel(**fields)


def _pairs(spec: str, what: str, *, trim: bool = False) -> list[tuple[str, str]]:
    pairs = []
    for argument in filter(None, spec.split(",")):
        name, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"`{argument.strip()}' is no KEY=VALUE in {what} spec `{spec}'")
        pairs.append((name.strip(), value.strip()) if trim else (name.lstrip(" "), value))
    return pairs


def _number(text: str, spec: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise ConfigError(f"`{text}' is not a number in vfb spec `{spec}'")
    return int(text)
