"""Disks in other formats, through qemu-nbd."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from euxen.dom0.storage import StorageError, open_storage
from euxen.dom0.storage.nbd import QemuNbd

MIB = 1 << 20
needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-nbd") is None or shutil.which("qemu-img") is None, reason="this host has no qemu-nbd"
)


def make(path: Path, form: str, size: str = "4M") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", form, path, size], check=True)
    return path


@needs_qemu
@pytest.mark.parametrize(("form", "qemu"), [("qcow2", "qcow2"), ("qcow", "qcow"), ("vhd", "vpc"), ("vmdk", "vmdk")])
def test_formats(tmp_path: Path, form: str, qemu: str) -> None:
    path = make(tmp_path / "disk", qemu)
    disk = open_storage(form, str(path), True)
    assert disk.geometry.size >= 4 * MIB
    disk.write([memoryview(b"x" * 4096), memoryview(b"y" * 512)], 1024)
    disk.flush()
    buffers = [memoryview(bytearray(512)), memoryview(bytearray(4608))]
    disk.read(buffers, 512)
    assert b"".join(buffers) == bytes(512) + b"x" * 4096 + b"y" * 512
    disk.close()
    disk = open_storage(form, str(path), False)
    disk.read(buffers[:1], 1024)
    assert bytes(buffers[0]) == b"x" * 512
    with pytest.raises(OSError):
        disk.write(buffers[:1], 0)
    disk.read(buffers[:1], 1024)  # the connection is good for more
    disk.close()


@needs_qemu
def test_discard(tmp_path: Path) -> None:
    disk = open_storage("qcow2", str(make(tmp_path / "disk", "qcow2")), True)
    assert disk.geometry.discard_granularity
    disk.write([memoryview(b"x" * 65536)], 0)
    disk.discard(0, 65536)
    buffer = memoryview(bytearray(65536))
    disk.read([buffer], 0)
    assert not any(buffer)
    disk.close()


@needs_qemu
def test_a_server_that_was_killed(tmp_path: Path) -> None:
    disk = QemuNbd(make(tmp_path / "disk", "qcow2"), "qcow2", True)
    disk._process.kill()
    disk._process.wait()
    with pytest.raises(OSError):
        disk.read([memoryview(bytearray(512))], 0)
    with pytest.raises(OSError):
        disk.flush()
    disk.close()


class TestRefusals:
    def test_no_qemu_nbd(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(StorageError) as caught:
            open_storage("qcow2", "/disk.qcow2", True)
        assert str(caught.value) == (
            "/disk.qcow2 has the format qcow2, for which qemu-nbd is needed, and that is not on this host; install it "
            "(on Debian: the package qemu-utils), or convert the disk to a raw file"
        )

    @needs_qemu
    def test_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="missing is not there"):
            open_storage("qcow2", str(tmp_path / "missing"), True)

    @needs_qemu
    def test_another_format(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        path.write_bytes(bytes(MIB))
        with pytest.raises(StorageError, match=r"disk cannot be opened by qemu-nbd \(.*[Ii]mage.*format"):
            open_storage("qcow2", str(path), True)

    @needs_qemu
    def test_in_use(self, tmp_path: Path) -> None:
        path = make(tmp_path / "disk", "qcow2")
        first = open_storage("qcow2", str(path), True)
        with pytest.raises(StorageError, match="cannot be opened by qemu-nbd"):
            open_storage("qcow2", str(path), True)
        first.close()
