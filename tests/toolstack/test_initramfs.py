"""RAM disks: valid, the same every time, and with what was asked for."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euxen.toolstack.debian import DebianGuest
from euxen.toolstack.initramfs import INIT, Entry, build_initramfs, newc


@dataclass(frozen=True)
class Member:
    """What a reader of the archive finds."""

    name: str
    mode: int
    mtime: int
    owner: tuple[int, int]
    device: tuple[int, int]
    data: bytes


def unpack(archive: bytes) -> list[Member]:
    """Read a newc archive as Linux's init/initramfs.c does."""
    members: list[Member] = []
    at = 0
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        words = [int(archive[at + 6 + i * 8 : at + 14 + i * 8], 16) for i in range(13)]
        _, mode, uid, gid, _, mtime, size, _, _, major, minor, namesize, _ = words
        name = archive[at + 110 : at + 110 + namesize]
        assert name.endswith(b"\0")
        start = at + 110 + namesize + -(110 + namesize) % 4
        at = start + size + -size % 4
        if name == b"TRAILER!!!\0":
            assert at == len(archive)
            return members
        data = archive[start : start + size]
        assert len(data) == size
        members.append(Member(name[:-1].decode(), mode, mtime, (uid, gid), (major, minor), data))


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    """A stand-in that lists its applets."""
    path = tmp_path / "busybox"
    path.write_text('#!/bin/sh\n[ "$1" = --list ] && printf "cat\\nbusybox\\nls\\nsh\\n"\n')
    path.chmod(0o755)
    return path


def contents(archive: bytes) -> dict[str, Member]:
    members = unpack(archive)
    assert len({member.name for member in members}) == len(members)
    return {member.name: member for member in members}


def test_busybox_with_links_for_its_applets(busybox: Path) -> None:
    found = contents(build_initramfs(busybox))
    assert found["bin/busybox"].data == busybox.read_bytes()
    assert found["bin/busybox"].mode == stat.S_IFREG | 0o755
    links = {name: member.data for name, member in found.items() if stat.S_ISLNK(member.mode)}
    assert links == {
        "bin/cat": b"busybox",
        "bin/ls": b"busybox",
        "bin/sh": b"busybox",
        "sbin": b"bin",
        "usr/bin": b"../bin",
        "usr/sbin": b"../bin",
    }
    assert found["init"].data == INIT.encode()
    assert found["init"].mode == stat.S_IFREG | 0o755


def test_a_console_for_init(busybox: Path) -> None:
    console = contents(build_initramfs(busybox))["dev/console"]
    assert (console.mode, console.device) == (stat.S_IFCHR | 0o600, (5, 1))


@pytest.mark.parametrize("trouble", ["no permission", "fails", "is for another machine"])
def test_a_busybox_that_this_host_cannot_run_has_a_shell_at_least(busybox: Path, trouble: str) -> None:
    if trouble == "no permission":
        busybox.chmod(0o644)
    elif trouble == "fails":
        busybox.write_text("#!/bin/sh\nexit 1\n")
    else:
        busybox.write_bytes(b"\x7fELF\2\2\1" + bytes(100))
    found = contents(build_initramfs(busybox))
    assert found["bin/sh"].data == b"busybox"
    assert "bin/ls" not in found
    assert "busybox --install" in INIT


def test_parents_come_before_their_children(busybox: Path) -> None:
    names = [member.name for member in unpack(build_initramfs(busybox, {"a/b/c": b"x", "a-b": b"y"}))]
    assert names == sorted(names)
    found = contents(build_initramfs(busybox, {"a/b/c": b"x"}))
    assert [found[name].mode for name in ("a", "a/b", "a/b/c")] == [
        stat.S_IFDIR | 0o755,
        stat.S_IFDIR | 0o755,
        stat.S_IFREG | 0o644,
    ]


def test_extra_files(busybox: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF program")
    found = contents(
        build_initramfs(busybox, {"bin/bench": program, "/init": b"#!/bin/sh\nbench\n", "etc/motd": b"hello"})
    )
    assert found["bin/bench"].data == b"\x7fELF program"
    assert found["bin/bench"].mode == stat.S_IFREG | 0o755
    assert found["init"].data == b"#!/bin/sh\nbench\n"
    assert found["etc/motd"].mode == stat.S_IFREG | 0o644


def test_the_same_bytes_every_time(busybox: Path, tmp_path: Path) -> None:
    extra = {"b": b"1", "a": b"2"}
    first = build_initramfs(busybox, extra)
    other = tmp_path / "copy"
    other.write_bytes(busybox.read_bytes())
    other.chmod(0o700)
    os.utime(other, (1, 1))
    assert build_initramfs(other, dict(reversed(extra.items()))) == first
    assert all((member.mtime, member.owner) == (0, (0, 0)) for member in unpack(first))


def test_a_file_that_is_not_there(busybox: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        build_initramfs(busybox, {"x": tmp_path / "missing"})


@given(
    st.lists(
        st.builds(Entry, st.text("ab/é", min_size=1), st.sampled_from([0o100644, 0o40755, 0o120777]), st.binary()),
        max_size=5,
    )
)
def test_any_entries(entries: list[Entry]) -> None:
    assert [(m.name, m.mode, m.data) for m in unpack(newc(entries))] == [(e.name, e.mode, e.data) for e in entries]


def test_debian(debian_cloud: DebianGuest) -> None:
    archive = debian_cloud.initramfs.read_bytes()
    found = contents(archive)
    assert {"bin/mount", "bin/setsid", "bin/cttyhack", "bin/poweroff", "bin/insmod", "bin/udhcpc"} <= set(found)
    modules = f"lib/modules/{debian_cloud.version}"
    assert found[f"{modules}/xen-blkfront.ko"].data.startswith(b"\x7fELF")
    assert found[f"{modules}/xen-netfront.ko"].data.startswith(b"\x7fELF")
    assert b"xen-blkfront.ko:\n" in found[f"{modules}/modules.dep"].data
    assert b"alias fs-iso9660 isofs\n" in found[f"{modules}/modules.alias"].data
    directory = debian_cloud.kernel.parent
    files = [*debian_cloud.modules, directory / "modules.dep", directory / "modules.alias"]
    assert archive == build_initramfs(debian_cloud.busybox, {f"{modules}/{path.name}": path for path in files})


def test_init_is_a_script_that_busybox_can_read(debian_cloud: DebianGuest, tmp_path: Path) -> None:
    script = tmp_path / "init"
    script.write_text(INIT)
    subprocess.run([debian_cloud.busybox, "sh", "-n", script], check=True)


def test_cpio_reads_it(busybox: Path) -> None:
    archive = build_initramfs(busybox, {"etc/motd": b"hello"})
    if shutil.which("cpio") is None:
        pytest.skip("cpio is not on this host")
    listed = subprocess.run(["cpio", "-t", "--quiet"], input=archive, capture_output=True, check=True).stdout
    assert listed.decode().splitlines() == [member.name for member in unpack(archive)]


def test_busybox_cpio_unpacks_it(debian_cloud: DebianGuest, tmp_path: Path) -> None:
    archive = build_initramfs(debian_cloud.busybox, {"etc/motd": b"hello"})
    listing = subprocess.run([debian_cloud.busybox, "cpio", "-t"], input=archive, capture_output=True, check=True)
    assert listing.stdout.decode().splitlines() == [member.name for member in unpack(archive)]
    subprocess.run(
        [debian_cloud.busybox, "cpio", "-i", "-d", "etc/motd", "bin/sh"], input=archive, cwd=tmp_path, check=True
    )
    assert (tmp_path / "etc/motd").read_text() == "hello"
    assert (tmp_path / "bin/sh").readlink() == Path("busybox")
