"""Debian's own block front end on our back end: what it finds, and that what it writes is there afterwards."""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from debian_run import ramdisk_with, run_debian
from terminal import run

from euxen.dom0.storage import Storage, open_storage
from euxen.dom0.storage.raw import Raw
from euxen.toolstack.debian import DebianGuest

MIB = 1 << 20
PARTITION = 1 * MIB
"""Where the partition begins."""

pytestmark = pytest.mark.usefixtures("native")


def said(console: str, heading: str) -> list[str]:
    """What the script said below a heading."""
    match = re.search(rf"^== {re.escape(heading)}\n(.*?)^== ", console, re.MULTILINE | re.DOTALL)
    assert match, console
    return match[1].strip().split("\n")


def disk(path: Path, mib: int) -> Path:
    with path.open("wb") as file:
        file.truncate(mib * MIB)
    return path


def with_partition(path: Path, mib: int) -> Path:
    """A disk with an MBR that has one Linux partition, from PARTITION to the end, with an ext4 file system."""
    disk(path, mib)
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-E", f"offset={PARTITION}", path, f"{mib - 1}M"], check=True, capture_output=True
    )
    entry = struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", PARTITION // 512, (mib - 1) * 2048)
    with path.open("r+b") as file:
        file.seek(446)
        file.write(entry)
        file.seek(510)
        file.write(b"\x55\xaa")
    return path


SCRIPT = """
echo "== partitions"
sed 1,2d /proc/partitions
echo "== read-only"
cat /sys/block/xvdc/ro
head -c 9 /dev/xvdc; echo
dd if=/dev/zero of=/dev/xvdc bs=512 count=1 2>&1 | grep dd:
echo "== write"
dd if=/dev/urandom bs=1M count=256 2> /dev/null | tee /dev/xvdb | sha256sum
sync
echo 3 > /proc/sys/vm/drop_caches
echo "== read"
sha256sum < /dev/xvdb
echo "== files"
mkdir /mnt
mount -t ext4 /dev/xvda1 /mnt && cp -r /bin /mnt/copy && cp /bin/busybox /mnt/busybox
rm -r /mnt/copy
dd if=/dev/zero of=/mnt/large bs=1M count=20 2> /dev/null
umount /mnt && mount -o ro /dev/xvda1 /mnt && sha256sum < /mnt/busybox
umount /mnt
echo "== CD-ROM"
cat /sys/block/xvdd/capability /sys/block/xvdd/ro /sys/block/xvdd/removable
head -c 6 /dev/xvdd; echo
echo "== log"
dmesg | grep -i "blkfront\\|xvd.*error\\|WARNING" | grep "xvda:\\|rror\\|WARN"
echo "== end"
"""


@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="this host has no mkfs.ext4")
def test_disks(debian_cloud: DebianGuest, tmp_path: Path) -> None:
    first = with_partition(tmp_path / "first.img", 64)
    second = disk(tmp_path / "second.img", 256)
    third = tmp_path / "third.img"
    third.write_bytes(b"read-only".ljust(512, b"\n"))
    third.chmod(0o444)
    cdrom = tmp_path / "cd.iso"
    cdrom.write_bytes(b"medium".ljust(2048, b"\n"))
    console = run_debian(
        debian_cloud,
        SCRIPT,
        tmp_path,
        f"{first},raw,xvda,rw",
        f"file:{second},xvdb,w",
        f"format=raw, vdev=xvdc, access=ro, target={third}",
        f"vdev=xvdd, cdrom, target={cdrom}",
    )
    partitions = sorted(tuple(line.split()[2:]) for line in said(console, "partitions"))
    assert partitions == [("0", "xvdc"), ("2", "xvdd"), ("262144", "xvdb"), ("64512", "xvda1"), ("65536", "xvda")]
    read_only, content, refusal = said(console, "read-only")
    assert (read_only, content) == ("1", "read-only")
    assert "Operation not permitted" in refusal or "Read-only" in refusal
    assert third.read_bytes() == b"read-only".ljust(512, b"\n")
    with second.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert said(console, "write") == said(console, "read") == [f"{digest}  -"]
    assert said(console, "files") == [f"{hashlib.sha256(debian_cloud.busybox.read_bytes()).hexdigest()}  -"]
    assert said(console, "CD-ROM")[1:] == ["1", "1", "medium"]
    enabled = "flush diskcache: enabled; persistent grants: enabled; indirect descriptors: enabled"
    (log,) = said(console, "log")
    assert enabled in log
    checked = subprocess.run(["e2fsck", "-fn", f"{first}?offset={PARTITION}"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


class Recording(Raw):
    """A disk that remembers what it was asked."""

    def __init__(self, path: Path, writable: bool, sector_size: int | None = None) -> None:
        super().__init__(path, writable, sector_size)
        self.flushes: list[bytes] = []
        self.discarded: list[tuple[int, int]] = []
        self.unaligned = 0
        self._path = path

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        super().write(buffers, offset)
        self._check(buffers, offset)

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        super().read(buffers, offset)
        self._check(buffers, offset)

    def _check(self, buffers: Sequence[memoryview], offset: int) -> None:
        if offset % self.geometry.sector_size or any(len(b) % self.geometry.sector_size for b in buffers):
            self.unaligned += 1

    def flush(self) -> None:
        super().flush()
        self.flushes.append(self._path.read_bytes()[:6])

    def discard(self, offset: int, size: int) -> None:
        super().discard(offset, size)
        self.discarded.append((offset, size))


def test_flush_and_discard_reach_the_file(debian_cloud: DebianGuest, tmp_path: Path) -> None:
    """What was flushed is in the file before the guest goes on; what was discarded takes no room any more."""
    disks: list[Recording] = []

    def opening(_format: str, target: str, writable: bool) -> Storage:
        disks.append(Recording(Path(target), writable))
        return disks[-1]

    script = """
    dd if=/dev/urandom of=/dev/xvda bs=1M count=8 conv=fsync 2> /dev/null
    echo first. | dd of=/dev/xvda conv=fsync 2> /dev/null
    echo second | dd of=/dev/xvda conv=fsync 2> /dev/null
    blkdiscard -o 1048576 -l 4194304 /dev/xvda && echo discarded
    dd if=/dev/xvda bs=1M skip=1 count=4 2> /dev/null | tr -d '\\0' | wc -c
    """
    image = disk(tmp_path / "disk.img", 8)
    console = run_debian(debian_cloud, script, tmp_path, f"{image},raw,xvda,rw", opening=opening)
    assert [text for text in disks[0].flushes if text in (b"first.", b"second")] == [b"first.", b"second"]
    assert "discarded\n0\n" in console
    assert sum(size for _offset, size in disks[0].discarded) == 4 * MIB
    assert image.stat().st_blocks * 512 < 6 * MIB


def test_sectors_of_4096_bytes(debian_cloud: DebianGuest, tmp_path: Path) -> None:
    disks: list[Recording] = []

    def opening(_format: str, target: str, writable: bool) -> Storage:
        disks.append(Recording(Path(target), writable, sector_size=4096))
        return disks[-1]

    script = """
    echo "== geometry"
    cat /sys/block/xvda/queue/logical_block_size /sys/block/xvda/queue/physical_block_size /sys/block/xvda/size
    echo "== file system"
    mkdir /mnt
    mke2fs -b 4096 /dev/xvda > /dev/null 2>&1
    mount -t ext4 /dev/xvda /mnt && cp /bin/busybox /mnt/ && umount /mnt && mount /dev/xvda /mnt
    sha256sum < /mnt/busybox
    umount /mnt
    echo "== end"
    """
    image = disk(tmp_path / "disk.img", 32)
    console = run_debian(debian_cloud, script, tmp_path, f"{image},raw,xvda,rw", opening=opening)
    assert said(console, "geometry") == ["4096", "4096", str(32 * MIB // 512)]
    assert said(console, "file system")[-1] == f"{hashlib.sha256(debian_cloud.busybox.read_bytes()).hexdigest()}  -"
    assert disks[0].unaligned == 0
    checked = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    "parameter",
    ["feature_persistent=N", "max_ring_page_order=3", "max_indirect_segments=11", "max_indirect_segments=256"],
)
def test_other_ways_to_connect(debian_cloud: DebianGuest, tmp_path: Path, parameter: str) -> None:
    script = """
    echo "== features"
    dmesg | sed -n "s/.*blkfront: xvda: //p"
    grep -s . /sys/module/xen_blkfront/parameters/*
    echo "== write"
    dd if=/dev/urandom bs=1M count=16 2> /dev/null | tee /dev/xvda | sha256sum
    sync
    echo 3 > /proc/sys/vm/drop_caches
    echo "== read"
    sha256sum < /dev/xvda
    echo "== end"
    """
    image = disk(tmp_path / "disk.img", 16)
    console = run_debian(debian_cloud, script, tmp_path, f"{image},raw,xvda,rw", extra=f"xen_blkfront.{parameter}")
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert said(console, "write") == said(console, "read") == [f"{digest}  -"]
    features, *parameters = said(console, "features")
    assert ("persistent grants: disabled" in features) == (parameter == "feature_persistent=N")
    name, value = parameter.split("=")
    assert f"/sys/module/xen_blkfront/parameters/{name}:{value}" in parameters


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="this host has no qemu-img")
def test_qcow2(debian_cloud: DebianGuest, tmp_path: Path) -> None:
    image, raw = tmp_path / "disk.qcow2", tmp_path / "disk.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    script = """
    echo "== write"
    dd if=/dev/urandom bs=1M count=40 2> /dev/null | tee /dev/xvda | sha256sum
    sync
    echo 3 > /proc/sys/vm/drop_caches
    echo "== read"
    dd if=/dev/xvda bs=1M count=40 2> /dev/null | sha256sum
    blkdiscard -o 0 -l 1048576 /dev/xvda
    echo "== end"
    """
    console = run_debian(debian_cloud, script, tmp_path, f"{image},qcow2,xvda,rw")
    assert said(console, "write") == said(console, "read")[:1]
    subprocess.run(["qemu-img", "check", "-q", image], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    with raw.open("rb") as file:
        content = file.read(40 * MIB)
    assert content[:MIB] == bytes(MIB)
    assert any(content[MIB : 2 * MIB])


def test_the_command(debian_cloud: DebianGuest, tmp_path: Path) -> None:
    """From a configuration file to an exit status; the image is free afterwards."""
    ramdisk = ramdisk_with(
        debian_cloud, "cat /proc/partitions; echo done | dd of=/dev/xvda conv=fsync", tmp_path / "rd"
    )
    image = disk(tmp_path / "disk.img", 4)
    config = tmp_path / "guest.cfg"
    config.write_text(
        f"name='disks'\nkernel='{debian_cloud.kernel}'\nramdisk='{ramdisk}'\nextra='console=hvc0 quiet'\nmemory=128\n"
        f"disk=['{image},raw,xvda,w']\n"
    )
    done = run("run", config)
    assert done.returncode == 0, done.stderr
    assert b" 202        0       4096 xvda" in done.stdout
    assert done.stderr == b""
    assert image.read_bytes()[:5] == b"done\n"
    open_storage("aio", str(image), True).close()
