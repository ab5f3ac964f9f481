"""Disk specifications: the examples of xl-disk-configuration(5), its rules, and what is said of what breaks them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euxen.toolstack.config.disk import Disk, DiskBackend, DiskFormat, DiskSpecification, parse_disk
from euxen.toolstack.config.errors import ConfigError

VOLUME = Disk(target="/dev/vg/guest-volume", vdev="hda")
IMAGE = Disk(target="/root/image.iso", vdev="hdc", is_cdrom=True, readwrite=False)
X = Disk(target="x", vdev="xvda")
EMPTY = Disk(vdev="hdc", format=DiskFormat.EMPTY, is_cdrom=True, readwrite=False)


@pytest.mark.parametrize(
    ("spec", "disk"),
    [
        # The manual's.
        ("/dev/vg/guest-volume,,hda", VOLUME),
        ("/dev/vg/guest-volume,raw,hda,rw", VOLUME),
        ("format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume", VOLUME),
        ("raw:/dev/vg/guest-volume,hda,w", VOLUME),
        ("/root/image.iso,,hdc,cdrom", IMAGE),
        ("/root/image.iso,,hdc,,cdrom", IMAGE),
        ("/root/image.iso,raw,hdc,devtype=cdrom", IMAGE),
        ("format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso", IMAGE),
        ("raw:/root/image.iso,hdc:cdrom,ro", IMAGE),
        (",hdc:cdrom,r", EMPTY),
        # Positions, names and what is left empty.
        ("x,raw,xvda,w", X),
        ("x,,xvda,", X),
        ("vdev=xvda,x,raw", X),
        ("x,raw,vdev=xvda,access=", X),
        (" x,\tformat=,\n vdev=xvda", X),
        ("x,vdev=,vdev=xvda", X),
        ("x,,xvda,r", Disk(target="x", vdev="xvda", readwrite=False)),
        ("x,qcow2,xvda", Disk(target="x", vdev="xvda", format=DiskFormat.QCOW2)),
        ("x,,xvda,devtype=disk", X),
        ("x,,xvda,w,cdrom,devtype=disk", X),
        ("x,,xvda:disk,w", X),
        ("vdev=hdc,cdrom,access=rw", EMPTY),
        ("vdev=xvda,target=/a,b:c=d, e ", Disk(target="/a,b:c=d, e ", vdev="xvda")),
        (",,xvda,,target=x", X),
        # What has no position.
        ("x,,xvda,backend=disks", Disk(target="x", vdev="xvda", backend="disks")),
        ("x,,xvda,backendtype=qdisk", Disk(target="x", vdev="xvda", backendtype=DiskBackend.QDISK)),
        ("specification=virtio,x,,xvda", Disk(target="x", vdev="xvda", specification=DiskSpecification.VIRTIO)),
        ("x,,xvda,script=block-foo", Disk(target="x", vdev="xvda", script="block-foo")),
        ("x,,xvda,direct-io-safe", Disk(target="x", vdev="xvda", direct_io_safe=True)),
        ("x,,xvda,no-discard", Disk(target="x", vdev="xvda", discard=False)),
        ("x,,xvda,no-discard,discard", Disk(target="x", vdev="xvda", discard=True)),
        ("untrusted,x,,xvda", Disk(target="x", vdev="xvda", trusted=False)),
        ("x,,xvda,trusted", Disk(target="x", vdev="xvda", trusted=True)),
        ("x,,xvda,no-colo", X),
        # Prefixes of old.
        ("phy:x,xvda,w", X),
        ("file:x,xvda", X),
        ("tap:aio:x,xvda", X),
        ("tap2:tapdisk:qcow2:x,xvda", Disk(target="x", vdev="xvda", format=DiskFormat.QCOW2)),
        ("vhd:/x,xvda,r", Disk(target="/x", vdev="xvda", format=DiskFormat.VHD, readwrite=False)),
        ("iscsi:x,xvda", Disk(target="x", vdev="xvda", script="block-iscsi")),
        ("enbd:x,xvda", Disk(target="x", vdev="xvda", script="block-enbd")),
        ("a:b,raw,xvda", Disk(target="a:b", vdev="xvda")),
    ],
)
def test_meaning(spec: str, disk: Disk) -> None:
    assert parse_disk(spec) == disk


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("", "no vdev specified"),
        ("/x", "no vdev specified"),
        ("target=/x,vdev=xvda", "no vdev specified"),
        ("vdev=xvda", "no target specified (and device not removable)"),
        (",,xvda", "no target specified (and device not removable)"),
        ("x,ntfs,xvda", "unknown value for format: near `ntfs'"),
        ("format=ntfs,x,,xvda", "unknown value for format: near `ntfs'"),
        ("x,,xvda,rx", "unknown value for access: near `rx'"),
        ("x,,xvda,backendtype=foo", "unknown value for backendtype: near `foo'"),
        ("x,,xvda,specification=foo", "unknown value for specification: near `foo'"),
        ("devtype=floppy,x,,fda", "unknown value for type: near `devtype=floppy,'"),
        ("x,,hdc:floppy", "unknown deprecated type: near `floppy'"),
        ("x,,xvda,w,y", "too many positional parameters: near `y'"),
        ("format=raw,format=qcow2,x,,xvda", "format respecified: near `qcow2'"),
        ("vdev=xvda,vdev=xvdb,x", "vdev respecified: near `xvdb'"),
        ("x,,xvda,target=y", "target respecified: near `y'"),
        ("qcow2:raw:x,xvda", "format respecified: near `raw'"),
        ("foo:/x,xvda", "unknown deprecated disk prefix: near `foo:'"),
        ("x,,xvda,f=b", "unknown parameter: near `f=b'"),
        ("x,,xvda,=", "bad disk syntax: near `='"),
        ("X=1,,xvda", "bad disk syntax: near `=1,,xvda'"),
        ("x,,xvda,colo", "COLO is not supported: near `colo'"),
        ("x,,xvda,colo-host=h", "COLO is not supported: near `colo-host=h'"),
    ],
)
def test_refusals(spec: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_disk(spec)
    assert str(caught.value) == f"config parsing error in disk specification: {complaint} in `{spec}'"


def test_all_errors_are_told() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_disk("format=x,backendtype=y,foo=z")
    assert [sentence.partition(": ")[2].partition(" in ")[0] for sentence in caught.value.sentences] == [
        "unknown value for format: near `x'",
        "unknown value for backendtype: near `y'",
        "unknown parameter: near `foo=z'",
    ]


parts = st.sampled_from(
    ["raw", "phy:", "vdev=", "target=", "xvda", "cdrom", "format=", "x", "/", ":", "=", ",", " ", "\n"]
)


@given(st.one_of(st.text(), st.lists(parts).map("".join)))
def test_any_text(spec: str) -> None:
    try:
        disk = parse_disk(spec)
    except ConfigError:
        return
    assert disk.vdev
    assert disk.target or disk.is_cdrom
    assert not (disk.is_cdrom and disk.readwrite)
