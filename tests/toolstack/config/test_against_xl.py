"""Whole configurations against Xen's own xl.

What euxen accepts, xl accepts, and understands the same; what xl refuses, or warns of because a value has
the wrong type, euxen refuses.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from euxen.abi import cpufeatureset
from euxen.toolstack.config.disk import parse_disk
from euxen.toolstack.config.errors import ConfigError
from euxen.toolstack.config.model import DomainConfig

from .real_xl import RealXl
from .xl_json import as_xl, normal

BASE = 'name="g"\nkernel="/k"\n'


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> RealXl:
    return RealXl(tmp_path_factory.mktemp("xl"))


def compare(xl: RealXl, text: str, *overrides: str) -> bool:
    """Compare, and tell whether it was accepted."""
    theirs = xl.dry_run(text, *overrides)
    try:
        ours = DomainConfig.from_text(text, "f", overrides)
    except ConfigError:
        return False
    if "affinity map is empty" in theirs.messages:
        return False  # which depends on the CPUs of the host
    assert theirs.code == 0, theirs.messages
    assert "warning:" not in theirs.messages
    expected = normal(theirs.config)
    if ours.uuid is None:
        del expected["uuid"]
    assert as_xl(ours) == expected
    return True


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


@pytest.mark.parametrize(
    "text",
    [
        "",
        'memory=" 0x40"\nmaxmem=010000\nvcpus=2\nmaxvcpus=3',
        'type="pvh"\nuuid="F7C68677-8fb2-4197-b4dc-ed4ea416a7e9"',
        'root="/dev/xvda ro"\nextra="quiet"',
        'cmdline="a"\nextra="b"',
        'on_poweroff="preserve"\non_reboot="rename-restart"\non_crash="coredump-restart"\non_soft_reset="destroy"',
        "cpu_weight=512\ncap=10\nperiod=1\nslice=2\nlatency=3\nextratime=1",
        'vcpus=2\ncpus="all,^1"\ncpus_soft=["nodes:1,^5", " 2,3-9"]',
        'vcpus=2\ncpus=["3","^2,2","7"]\npool="p"',
        "max_event_channels=100\nmax_grant_frames=10\nmax_maptrack_frames=20\nmax_grant_version=1",
        'bootloader_args=["a","b c"]',
        'disk=["phy:/dev/loop0,xvda,w",",hdc:cdrom,r","x,qcow2,xvdb,script=s,backend=d,backendtype=qdisk,no-discard"]',
        'vif=["mac=0:16:3E:1:2:3,bridge=b,rate=1MB/s@20ms","","untrusted, type=vif,mtu=9000,devid=5,ip=1 2"]',
        'p9=["tag=t,path=/p,security_model=none","tag=u,path=/q,security_model=none,backend=d"]',
        'vfb=["","vnc=1,vnclisten=::,vncpasswd=p,vncunused=0,vncdisplay=3,keymap=de,sdl=0,opengl=1,display=d,xauthority=x"]',
        'vnc=1\nvnclisten="::"\nvncdisplay=3\nsdl=1\nopengl=0\nkeymap="de"\nvncpasswd="p"\ndisplay="d"\nxauthority="a"',
        'channel=["name=x,connection=pty"," name = y , connection=socket,path=/s, backend=b"]',
        'cpuid="host,sse3=0,family=23,model=k,avx2=s,rdcl-no=1"',
        'cpuid=["7,0:ebx=' + "1" * 32 + ", ecx=" + "x" * 32 + '","1:eax=' + "k" * 32 + '"]',
    ],
)
def test_accepted(xl: RealXl, text: str) -> None:
    assert compare(xl, BASE + text)


@pytest.mark.parametrize(
    "text",
    [
        'name="g"',
        'kernel="/k"',
        BASE + 'type="xx"',
        BASE + 'type="pv"\nbuilder="hvm"',
        BASE + 'uuid="x"',
        BASE + 'memory="x"',
        BASE + "memory=[1]",
        BASE + "memory+=1",
        BASE + "vcpus=3\nmaxvcpus=2",
        BASE + 'cpus="x"\nvcpus=1',
        BASE + 'cpus="^all"\nvcpus=1',
        BASE + "max_grant_frames='-1'",
        BASE + 'on_crash="x"',
        BASE + 'firmware="pvgrub64"',
        BASE + "timer_mode=1",
        BASE + 'disk=["x"]',
        BASE + 'disk="x,,xvda"',
        BASE + 'vif=["rate=x"]',
        BASE + 'vif=["devid=x"]',
        BASE + 'p9=["tag=t"]',
        BASE + 'channel=["name=x"]',
        BASE + 'channel=["name=x,connection=socket"]',
        BASE + "a b",
    ],
)
def test_refused(xl: RealXl, text: str) -> None:
    theirs = xl.dry_run(text)
    assert theirs.code != 0 or "warning:" in theirs.messages
    assert not compare(xl, text)


def test_overrides(xl: RealXl) -> None:
    text = BASE + "memory=64\nvcpus=2\ndisk=['x,,xvda']\nextra='a'"
    assert compare(xl, text, "memory=96", "disk=[]", 'extra+=" b"')
    assert compare(xl, text + "\n", "vcpus=1;maxvcpus=3", "vif=['']")
    assert not compare(xl, text, "memory='x'")


def test_every_feature(xl: RealXl) -> None:
    """All names of the public header; xl says the same of which bit each is."""
    prefix = "XEN_X86_FEATURE_"
    names = [name.removeprefix(prefix) for name in vars(cpufeatureset) if name.startswith(prefix)]
    flags = ",".join(f"{name.lower().replace('_', '-')}=1" for name in names)
    assert len(names) > 200
    assert compare(xl, BASE + f'cpuid="host,{flags}"')


values = st.one_of(
    st.integers(-2, 70).map("'{}'".format),
    st.sampled_from(["64", "0x40", "'x'", "''", "[]", "['x']", "[1]", "'all'", "'1-2,^2'", "['3','nodes:1']", "08"]),
    st.sampled_from(["'pv'", "'pvh'", "'preserve'", "'soft-reset'", "'destroy'", "'generic'"]),
)
names = st.sampled_from(
    [
        *("type", "builder", "memory", "maxmem", "vcpus", "maxvcpus", "kernel", "ramdisk", "cmdline", "root", "extra"),
        *("on_poweroff", "on_reboot", "on_crash", "cpu_weight", "cap", "cpus", "cpus_soft", "pool", "bootloader_args"),
        *("max_event_channels", "max_grant_frames", "vfb", "vif", "vnc", "vncdisplay", "keymap", "unknown"),
    ]
)
assignments = st.builds("{}{}{}\n".format, names, st.sampled_from(["=", "=", "+="]), values)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(assignments, max_size=6).map("".join))
@example("vfb=['x']\n")
def test_any_settings(xl: RealXl, text: str) -> None:
    assume(not re.search(r"bootloader_args\+?=''", text))  # xl crashes
    # Without vcpus, xl writes affinities behind an array of none.
    compare(xl, BASE + "vcpus=1\n" + text)


disk_parts = st.sampled_from(
    [
        *("a", "x", "/p", "raw", "qcow2", "vhd", "xvda", "hdc", ":", ",", ",", ",", ",", " ", "=", "1", ".", "A", "-"),
        *("raw:", "tap:", "aio:", "phy:", "iscsi:", "nbd:", "foo:", "format=", "vdev=", "target=", "access=", "r", "w"),
        *("ro", "cdrom", "disk", "devtype=", "backend=", "backendtype=", "phy", "qdisk", "script=", "direct-io-safe"),
        *("discard", "no-discard", "specification=", "virtio", "xen", "foo=", "hdc:cdrom", "empty", "\t"),
    ]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(disk_parts, max_size=12).map("".join))
@example("vdev=xvda,target=a, ")
@example("tap2:tapdisk:qcow2:/x,xvda")
@example("foo=bar,xvda")
@example("x,,hdc:cdrom:disk,r")
@example("qcow2:format=")
def test_any_disk(xl: RealXl, spec: str) -> None:
    text = f"{BASE}disk=[{quoted(spec)}]"
    if compare(xl, text):
        return
    with pytest.raises(ConfigError) as caught:
        parse_disk(spec)
    # Where we refuse and xl does not, it is one of these.
    if any(words in str(caught.value) for words in ("no vdev", "no target", "bad disk syntax", "vdev has")):
        return
    messages = xl.dry_run(text).messages
    assert [f"f: {sentence}" for sentence in caught.value.sentences] == messages.splitlines()


nic_parts = st.sampled_from(
    [
        *(
            "mac=",
            "00:16:3e:01:02:03",
            "bridge=",
            "b",
            "ip=",
            "rate=",
            "10Mb/s",
            "010KB/s",
            "1GB/s",
            "@",
            "20ms",
            "5",
            "s",
        ),
        *(
            "devid=",
            "mtu=",
            "type=",
            "ioemu",
            "vif",
            "trusted",
            "untrusted",
            "script=",
            "x",
            ",",
            ",",
            ",",
            ",",
            " ",
            "=",
        ),
        *("gatewaydev=", "vifname=", "model=", "backend=", "netdev=", "us"),
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(nic_parts, max_size=10).map("".join))
def test_any_nic(xl: RealXl, spec: str) -> None:
    assume("=," not in spec and not spec.endswith("="))  # what is empty is not printed as what is not said
    compare(xl, f"{BASE}vif=[{quoted(spec)}]")
