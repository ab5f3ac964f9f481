"""Network specifications: one string of ``vif=[...]``.

xl-network-configuration(5), parse_nic_config in tools/xl/xl_parse.c, tools/libs/util/libxlu_vif.c. What xl
only complains of, and goes on without, is refused. COLO is refused, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from euxen.toolstack.config.errors import ConfigError

UINT32_MAX = (1 << 32) - 1
UINT64_MAX = (1 << 64) - 1
DEFAULT_INTERVAL = 50_000  # us


class NicType(StrEnum):
    """What an HVM guest has of an interface; ``libxl_nic_type``."""

    VIF_IOEMU = "ioemu"  # an emulated card and a paravirtual interface
    VIF = "vif"


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit of what the guest sends: a credit of so many bytes every so many microseconds."""

    bytes_per_interval: int
    interval_usecs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network interface; ``libxl_device_nic``. None is "the default", which the backend knows."""

    devid: int
    mac: str | None = None
    """Six octets, ``00:16:3e:01:02:03``. By default one of Xen's own is made up."""
    bridge: str | None = None
    """xenbr0 by default."""
    gatewaydev: str | None = None
    ip: str | None = None
    """Addresses for the hotplug script, in blanks."""
    script: str | None = None
    """vif-bridge by default."""
    backend: str | None = None
    """Domain of the backend, by name or domid; Domain 0 by default."""
    vifname: str | None = None
    model: str | None = None
    """Emulated card of an HVM guest."""
    type: NicType | None = None
    rate: Rate | None = None
    mtu: int | None = None
    trusted: bool | None = None


_TEXTS = {
    **{name: name for name in ("bridge", "gatewaydev", "ip", "script", "backend", "vifname", "model")},
    "netdev": "gatewaydev",
}
_COLO = re.compile(r"forwarddev|colo_.*")
_MAC = re.compile(r"[0-9a-fA-F]{1,2}(?::[0-9a-fA-F]{1,2}){5}")
_BYTES_PER_SEC = re.compile(r"(?P<number>[0-9]+)(?P<scale>[GMK]?)(?P<unit>[Bb])/s")
_INTERVAL = re.compile(r"(?P<number>[0-9]+)(?P<unit>[mu]?s?)")
_SCALES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_MICROSECONDS = {"": 10**6, "s": 10**6, "m": 10**3, "ms": 10**3, "u": 1, "us": 1}


def parse_nic(spec: str, devid: int, warn: Callable[[str], None]) -> Nic:
    """Read a specification; ``devid`` is its index in the list. Raises ConfigError, in xl's words."""
    fields: dict[str, Any] = {"devid": devid}
    for argument in filter(None, spec.split(",")):
        name, equals, value = argument.lstrip(" ").partition("=")
        if not equals and name in ("trusted", "untrusted"):
            fields["trusted"] = name == "trusted"
        elif not equals:
            raise ConfigError(f"unrecognized argument `{name}' in vif `{spec}'")
        elif name in _TEXTS:
            if name == "netdev":
                warn("the netdev parameter is deprecated, please use gatewaydev instead")
            fields[_TEXTS[name]] = value
        elif name == "mac":
            fields["mac"] = parse_mac(value)
        elif name == "type":
            if value not in list(NicType):
                raise ConfigError(f"invalid parameter `type' in vif `{spec}': ioemu or vif")
            fields["type"] = NicType(value)
        elif name == "rate":
            fields["rate"] = parse_rate(value)
        elif name in ("devid", "mtu"):
            fields[name] = _number(value)
        elif name == "accel":
            warn("the accel parameter for vifs is currently not supported")
        elif _COLO.fullmatch(name):
            raise ConfigError(f"COLO is not supported: `{name}' in vif `{spec}'")
        else:
            raise ConfigError(f"unrecognized argument `{argument.lstrip(' ')}' in vif `{spec}'")
    return Nic(**fields)


def parse_mac(text: str) -> str:
    """A MAC address in its usual form. Raises ConfigError."""
    if not _MAC.fullmatch(text):
        raise ConfigError(f"invalid parameter `mac': `{text}' is not six octets like 00:16:3e:01:02:03")
    return ":".join(f"{int(octet, 16):02x}" for octet in text.split(":"))


def parse_rate(text: str) -> Rate:
    """``RATE/s[@INTERVAL]``. Raises ConfigError, in libxlu's words."""
    rate, at, interval = text.partition("@")
    if not rate:
        raise _rate_error("no rate specified", text)
    match = _BYTES_PER_SEC.fullmatch(rate)
    if match is None:
        raise _rate_error("invalid rate", rate)
    number = _strtoull(match["number"])
    if not 0 < number <= UINT32_MAX:
        raise _rate_error("rate overflow", rate)
    bytes_per_sec = number * _SCALES[match["scale"]] // (8 if match["unit"] == "b" else 1)
    usecs = _interval(interval) if at else DEFAULT_INTERVAL
    if bytes_per_sec > UINT64_MAX // usecs:
        raise _rate_error("rate overflow", text)
    return Rate(bytes_per_sec * usecs // 10**6, usecs)


def _interval(text: str) -> int:
    match = _INTERVAL.fullmatch(text)
    if match is None:
        raise _rate_error("invalid replenishment interval", text)
    # A bare number is in seconds, whatever the manual says.
    usecs = _strtoull(match["number"]) * _MICROSECONDS[match["unit"]]
    if not 0 < usecs <= UINT32_MAX:
        raise _rate_error("replenishment interval overflow", text)
    return usecs


def _rate_error(message: str, text: str) -> ConfigError:
    return ConfigError(f"config parsing error in vif: {message} in `{text}'")


def _strtoull(digits: str) -> int:
    """Digits as strtoull(3) with base 0 reads them: octal after a zero, as far as that goes."""
    if digits.startswith("0"):
        octal = re.match("[0-7]*", digits)
        assert octal is not None
        return int(octal[0], 8)
    return int(digits) if len(digits) <= len(str(UINT64_MAX)) else UINT64_MAX


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(UINT32_MAX)):
        raise ConfigError(f'failed to convert "{text}" to number')
    return int(text)
