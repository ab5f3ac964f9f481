"""9pfs shares, framebuffers and channels: the rules of xl.cfg(5)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euxen.toolstack.config.devices import (
    P9,
    Channel,
    ChannelConnection,
    Vfb,
    parse_channel,
    parse_p9,
    parse_vfb,
)
from euxen.toolstack.config.errors import ConfigError


def vfb(spec: str) -> tuple[Vfb, list[str]]:
    warnings: list[str] = []
    return parse_vfb(spec, warnings.append), warnings


def channel(spec: str) -> tuple[Channel, list[str]]:
    warnings: list[str] = []
    return parse_channel(spec, warnings.append), warnings


def test_p9() -> None:
    assert parse_p9("tag=t,security_model=none, path=/srv/x") == P9(tag="t", path="/srv/x", security_model="none")
    assert parse_p9("tag=t,,security_model=none,path=a=b,backend=3").backend == "3"


def test_vfb() -> None:
    assert vfb("") == (Vfb(), [])
    assert vfb("vnc=1, vnclisten=0.0.0.0:3,vncpasswd=,vncunused=0,keymap=de") == (
        Vfb(vnc=True, vnclisten="0.0.0.0:3", vncpasswd="", vncunused=False, keymap="de"),
        [],
    )
    assert vfb("vncdisplay=5,sdl=1,opengl=0,display=:1,xauthority=/x") == (
        Vfb(vncdisplay=5, sdl=True, opengl=False, display=":1", xauthority="/x"),
        [],
    )
    assert vfb("type=vnc,vnc=1") == (Vfb(vnc=True), ["unknown string `type' in vfb spec `type=vnc,vnc=1' is ignored"])


def test_channel() -> None:
    assert channel("name = org.x.0 , connection=pty,path=/x") == (
        Channel(name="org.x.0", connection=ChannelConnection.PTY),
        [],
    )
    assert channel("connection=socket,path=/run/a b,name=x,backend=d,foo=1") == (
        Channel(name="x", connection=ChannelConnection.SOCKET, path="/run/a b", backend="d"),
        ["unknown channel parameter 'foo', ignoring"],
    )


@pytest.mark.parametrize(
    ("parse", "spec", "complaint"),
    [
        (parse_p9, "", "9pfs spec `' is missing a required field: tag, path, security_model"),
        (parse_p9, "tag=,path=/,security_model=none", "is missing a required field: tag"),
        (parse_p9, "tag=t,path=/,security_model=mapped", "has a security_model that is not supported: none is"),
        (parse_p9, "tags=t", "unknown string `tags' in 9pfs spec `tags=t'"),
        (parse_p9, "tag", "`tag' is no KEY=VALUE in 9pfs spec `tag'"),
        (vfb, "vnc", "`vnc' is no KEY=VALUE in vfb spec `vnc'"),
        (vfb, "vnc=yes", "`yes' is not a number in vfb spec `vnc=yes'"),
        (vfb, "vncdisplay=-1", "`-1' is not a number"),
        (channel, "connection=pty", "channel has no name: `connection=pty'"),
        (channel, "name=x", "channel has unknown 'connection': `name=x'"),
        (channel, "name=x,connection=PTY", "unknown channel connection 'PTY': pty or socket"),
        (channel, "name=x,connection=socket", "channel connection 'socket' requires path=.."),
        (channel, "name", "`name' is no KEY=VALUE in channel spec `name'"),
    ],
)
def test_refusals(parse: Callable[[str], object], spec: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(spec)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("parse", [parse_p9, vfb, channel])
@given(
    spec=st.one_of(
        st.text(), st.lists(st.sampled_from(["tag=", "path=", "name=", "vnc=", "1", "pty", ",", " "])).map("".join)
    )
)
def test_any_text(parse: Callable[[str], object], spec: str) -> None:
    try:
        parse(spec)
    except ConfigError:
        return
