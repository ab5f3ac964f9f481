"""DomainConfig: defaults, what a whole configuration comes to, and what is said of what cannot be."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euxen.toolstack.config.cpus import CpuRange
from euxen.toolstack.config.devices import Vfb
from euxen.toolstack.config.errors import ConfigError
from euxen.toolstack.config.model import ActionOnShutdown, DomainConfig, SchedParams
from euxen.toolstack.config.options import OPTIONS
from euxen.toolstack.kernel.layout import GuestKind

from .xl_json import as_xl, normal

HERE = Path(__file__).parent
BASE = 'name="g"\nkernel="/k"\n'


def read(text: str, *overrides: str) -> DomainConfig:
    return DomainConfig.from_text(BASE + text, "f", overrides)


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        DomainConfig.from_text(text, "f", overrides)
    return str(caught.value)


def test_recorded_dry_run() -> None:
    """What real xl made of g1.cfg: disk, interface and all."""
    config = DomainConfig.from_text((HERE / "g1.cfg").read_text(), "g1.cfg")
    recorded = normal(json.loads((HERE / "g1.json").read_text()))
    del recorded["uuid"]  # made up there
    assert as_xl(config) == recorded


TRANSCRIPT = re.compile(
    r"^\$ cat (?P<file>\S+); xl create .*\n(?P<text>(?:.*\n)*?)"
    r"Parsing config from .*\n(?P<said>(?:.*\n)*?)\[rc=\d+\]$",
    re.MULTILINE,
)


@pytest.mark.parametrize(
    "recorded", list(TRANSCRIPT.finditer((HERE / "xl-create.txt").read_text())), ids=lambda it: it["file"]
)
def test_recorded_refusals(recorded: re.Match[str]) -> None:
    """We say what xl said, with the place in front. xl only warns of wrong types."""
    with pytest.raises(ConfigError) as caught:
        DomainConfig.from_text(recorded["text"], recorded["file"])
    (said,) = [line for line in recorded["said"].splitlines() if not line.startswith("Failed to parse config")]
    ours = re.sub(r"^(\S+?)(:\d+)?: ", "", str(caught.value))
    assert ours == re.sub(r"^(\S+?):\d+: (warning: )?", "", said)
    place = re.match(r"\S+:\d+: ", said)
    assert str(caught.value).startswith(place[0] if place else recorded["file"])


def test_defaults() -> None:
    """xl's, or libxl's."""
    config = read("")
    assert config == DomainConfig(name="g", kernel=Path("/k"))
    assert config.uuid is None
    assert config.type is GuestKind.PV
    assert config.ramdisk is None
    assert config.cmdline == ""
    assert (config.memory, config.maxmem) == (32, 32)
    assert (config.vcpus, config.maxvcpus) == (1, 1)
    assert config.on_poweroff is config.on_watchdog is config.on_crash is ActionOnShutdown.DESTROY
    assert config.on_reboot is ActionOnShutdown.RESTART
    assert config.on_soft_reset is ActionOnShutdown.SOFT_RESET
    assert config.sched_params == SchedParams()
    assert config.max_event_channels == 1023
    assert not config.disks
    assert not config.nics
    assert not config.warnings


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("name='h'", {"name": "h"}),
        ("uuid='F7C68677-8fb2-4197-b4dc-ed4ea416a7e9'", {"uuid": UUID("f7c68677-8fb2-4197-b4dc-ed4ea416a7e9")}),
        ("type='pv'", {"type": GuestKind.PV}),
        ("type='pvh'", {"type": GuestKind.PVH}),
        ("builder='generic'", {"type": GuestKind.PV}),
        ("builder='generic'\ntype='pv'", {"type": GuestKind.PV}),
        ("ramdisk='/r'", {"ramdisk": Path("/r")}),
        ("ramdisk=''", {"ramdisk": None}),
        ("cmdline='a b'", {"cmdline": "a b"}),
        ("root='/dev/xvda'", {"cmdline": "root=/dev/xvda"}),
        ("extra='a'", {"cmdline": "a"}),
        ("extra='a'\nroot='/dev/xvda ro'", {"cmdline": "root=/dev/xvda ro a"}),
        ("memory=64", {"memory": 64, "maxmem": 64}),
        ("memory='0x40'\nmaxmem=100", {"memory": 64, "maxmem": 100}),
        ("maxmem=100", {"memory": 32, "maxmem": 100}),
        ("vcpus=2", {"vcpus": 2, "maxvcpus": 2}),
        ("maxvcpus=2", {"vcpus": 1, "maxvcpus": 2}),
        ("vcpus=2\nmaxvcpus=4", {"vcpus": 2, "maxvcpus": 4}),
        *(
            (f"{event}='{action}'", {event: action})
            for event in ("on_poweroff", "on_reboot", "on_watchdog", "on_crash", "on_soft_reset")
            for action in ActionOnShutdown
        ),
        ("pool='p'", {"pool": "p"}),
        ("cpu_weight=512\ncap=50", {"sched_params": SchedParams(cpu_weight=512, cap=50)}),
        (
            "period=1\nslice=2\nlatency=3\nextratime=1",
            {"sched_params": SchedParams(period=1, slice=2, latency=3, extratime=1)},
        ),
        ("cpus='1'\nvcpus=2", {"cpus": ((CpuRange(1, 1),),) * 2}),
        ("cpus=['1','2','3']\nvcpus=1\nmaxvcpus=2", {"cpus": ((CpuRange(1, 1),), (CpuRange(2, 2),))}),
        ("cpus_soft=['nodes:1,^3']", {"cpus_soft": ((CpuRange(1, 1, nodes=True), CpuRange(3, 3, exclude=True)),)}),
        ("max_event_channels=100", {"max_event_channels": 100}),
        ("max_grant_frames=0\nmax_maptrack_frames=9", {"max_grant_frames": 0, "max_maptrack_frames": 9}),
        ("bootloader_args=['a b','c']", {"bootloader_args": ("a b", "c")}),
        ("bootloader_args=' a  b'", {"bootloader_args": ("a", "b")}),
        ("vfb=['','vnc=0']", {"vfbs": (Vfb(), Vfb(vnc=False))}),
        (
            "vnc=1\nvnclisten='::'\nvncdisplay=3\nkeymap='de'",
            {"vfbs": (Vfb(vnc=True, vnclisten="::", vncdisplay=3, keymap="de"),)},
        ),
        ("vnc=0\nvnclisten='::'", {"vfbs": ()}),
        ("vnc=1\nvfb=['sdl=1']", {"vfbs": (Vfb(sdl=True),)}),
        (r"extra='\x68\xff'", {"cmdline": "h\udcff"}),
    ],
)
def test_fields(text: str, fields: dict[str, object]) -> None:
    config = read(text)
    assert {name: getattr(config, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "f: Domain name must be specified."),
        ("name=''", "f:1: Domain name must be specified."),
        ("name='g'", "f: Neither kernel nor bootloader specified"),
        ("name='g'\nkernel=''", "f:2: Neither kernel nor bootloader specified"),
        ("type='hvm'", 'f:1: type="hvm" is refused: euxen has no HVM guests yet; it has PV and PVH guests'),
        ("\nbuilder='hvm'", 'f:2: builder="hvm" is refused: euxen has no HVM guests yet; it has PV and PVH guests'),
        ("type='PV'", "f:1: Invalid domain type PV."),
        ("builder='pv'", "f:1: Invalid domain type pv."),
        ("type='pvh'\nbuilder='generic'", 'f:2: Contradicting "builder" and "type" options specified.'),
        (BASE + "uuid='x'", "f:3: Failed to parse UUID: x"),
        (
            BASE + "uuid='f7c686778fb24197b4dced4ea416a7e9'",
            "f:3: Failed to parse UUID: f7c686778fb24197b4dced4ea416a7e9",
        ),
        (BASE + "on_crash='explode'", 'f:3: Unknown on_crash action "explode" specified'),
        (BASE + "memory=0", "f:3: value `0' of `memory' is smaller than minimum bound '1'"),
        (BASE + "memory='-1'", "f:3: value `-1' of `memory' is smaller than minimum bound '1'"),
        (BASE + "memory=99999999999", "f:3: memory has to be from 1 to 16777216, and is 99999999999"),
        (BASE + "memory=64\n\nmaxmem=63", "f:5: maxmem < memory: 63 MiB at most, and 64 MiB at first"),
        (BASE + "vcpus=0", "f:3: value `0' of `vcpus' is smaller than minimum bound '1'"),
        (BASE + "vcpus=9000", "f:3: vcpus has to be from 1 to 8192, and is 9000"),
        (BASE + "type='pvh'\nmaxvcpus=129", "f:4: maxvcpus has to be from 1 to 128, and is 129"),
        (BASE + "vcpus=3\nmaxvcpus=2", "f:4: maxvcpus < vcpus: 2 at most, and 3 at first"),
        (BASE + "cpu_weight=0", "f:3: value `0' of `cpu_weight' is smaller than minimum bound '1'"),
        (BASE + "max_grant_frames='-1'", "f:3: value `-1' of `max_grant_frames' is smaller than minimum bound '0'"),
        (BASE + "timer_mode=1", 'f:3: "timer_mode" option is not supported for PV guests.'),
        (BASE + "cpus='x'", "f:3: invalid pcpu range: x"),
        (BASE + "cpus=[\n'1',\n'x']", "f:5: invalid pcpu range: x"),
        (BASE + "cpuid='x'", 'f:3: while parsing CPUID string "x": first word must be "host"'),
        (
            BASE + "cpuid=['x']",
            'f:3: while parsing CPUID line "x": not LEAF:REGISTER=BITS or LEAF,SUBLEAF:REGISTER=BITS',
        ),
        (
            BASE + "disk=[\n'x,,xvda',\n'y']",
            "f:5: config parsing error in disk specification: no vdev specified in `y'",
        ),
        (BASE + "disk=['x,,xvda','y,,xvda']", "f:3: disk has the vdev xvda more than once"),
        (BASE + "vif=['','devid=0']", "f:3: vif has the devid 0 more than once"),
        (BASE + "vif=['',\n'x']", "f:4: unrecognized argument `x' in vif `x'"),
        (BASE + "p9=['x']", "f:3: `x' is no KEY=VALUE in 9pfs spec `x'"),
        (BASE + "vfb=['x']", "f:3: `x' is no KEY=VALUE in vfb spec `x'"),
        (BASE + "channel=['']", "f:3: channel has no name: `'"),
    ],
)
def test_refusals(text: str, complaint: str) -> None:
    assert refusal(text) == complaint


def test_all_errors_of_one_disk_have_their_place() -> None:
    assert [line.partition(" ")[0] for line in refusal(BASE + "disk=['format=x,access=y']").splitlines()] == [
        "f:3:"
    ] * 2


def test_warnings() -> None:
    config = read("cmdline='a'\nextra='b'\nvif=['netdev=e']\nbootloader_args='x'\nvfb=['type=vnc']")
    assert config.cmdline == "a"
    assert sorted(config.warnings) == [
        "f:3: ignoring root= and extra= in favour of cmdline=",
        "f:5: the netdev parameter is deprecated, please use gatewaydev instead",
        "f:6: `bootloader_args' is ignored: euxen runs no boot loader yet",
        "f:6: specifying bootloader_args as a string is deprecated; please use a list of arguments",
        "f:7: `vfb' is ignored: euxen has no framebuffers yet",
        "f:7: unknown string `type' in vfb spec `type=vnc' is ignored",
    ]


def test_overrides() -> None:
    config = read("memory=64\nextra='a'\ndisk=['x,,xvda']", "memory=96", 'extra+=" b"', "vcpus=2;foo=1", "disk=[]")
    assert (config.memory, config.cmdline, config.vcpus, config.disks) == (96, "a b", 2, ())
    assert config.warnings == ("command line: unknown option `foo' is ignored",)
    assert refusal(BASE, "memory='x'") == "command line: parameter `memory' is not a valid number"
    assert refusal(BASE, "type='hvm'").startswith('command line: type="hvm" is refused')


def test_made_directly() -> None:
    config = DomainConfig(name="g", kernel=Path("k"), memory=64, vcpus=2)
    assert (config.maxmem, config.maxvcpus) == (64, 2)
    assert replace(config, name="h").name == "h"
    with pytest.raises(ConfigError, match=r"^Neither kernel nor bootloader specified$"):
        DomainConfig(name="g")
    with pytest.raises(ConfigError, match=r"^memory has to be from 1 to 16777216, and is -1$"):
        DomainConfig(name="g", kernel=Path("k"), memory=-1)
    assert DomainConfig(name="g", bootloader="pygrub").kernel is None


def test_within() -> None:
    config = read("vcpus=2\nmaxvcpus=3\ncpus='1'")
    assert config.within(max_vcpus=3) is config
    two = config.within(max_vcpus=2)
    assert (two.vcpus, two.maxvcpus, len(two.cpus)) == (2, 2, 2)
    assert two.warnings[-1] == "g is to have 3 vCPUs, and gets 2 vCPUs: euxen runs no more in a guest yet."
    one = config.within(max_vcpus=1)
    assert (one.vcpus, one.maxvcpus) == (1, 1)
    assert one.warnings == (
        *config.warnings,
        "g is to have 3 vCPUs, and gets 1 vCPU: euxen runs no more in a guest yet.",
    )
    assert one.within(max_vcpus=1) is one


words = st.sampled_from(
    ["'x'", "1", "0", "[]", "['x']", "['']", "[['x']]", "'1'", "'-9'", "9" * 30, "''", "'pv'", "'host,a=1'"]
)
lines = st.builds("{}{}{}\n".format, st.sampled_from(sorted(OPTIONS)), st.sampled_from(["=", "+="]), words)


@given(st.one_of(st.text(), st.lists(lines, max_size=6).map("".join)), st.lists(lines, max_size=2))
def test_any_text(text: str, overrides: list[str]) -> None:
    try:
        config = read(text, *overrides)
    except ConfigError as error:
        assert all(sentence.startswith(("f:", "f looks", "command line: ")) for sentence in error.sentences)
        return
    assert config.name and config.kernel
    assert all(warning.startswith(("f:", "command line: ")) for warning in config.warnings)
