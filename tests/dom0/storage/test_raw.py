"""Files as disks: what is read and written, what is refused and in which words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from euxen.dom0.storage import Empty, StorageError, open_storage
from euxen.dom0.storage.raw import Raw
from euxen.dom0.storage.storage import Geometry

SIZE = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


def views(*sizes: int) -> list[memoryview]:
    return [memoryview(bytearray(size)) for size in sizes]


def test_what_is_written_is_read(image: Path) -> None:
    disk = Raw(image, True)
    disk.write([memoryview(b"a" * 512), memoryview(b"b" * 1024)], 4096)
    disk.flush()
    buffers = views(1024, 512, 512)
    disk.read(buffers, 4096)
    assert b"".join(buffers) == b"a" * 512 + b"b" * 1024 + bytes(range(256)) * 2
    again = views(512)
    if disk.can_try:
        assert disk.try_read(again, 4096)
        assert bytes(again[0]) == b"a" * 512
    disk.close()
    assert image.read_bytes()[4096:4608] == b"a" * 512


def test_geometry(image: Path) -> None:
    disk = Raw(image, False)
    assert disk.geometry == Geometry(SIZE, 512, 512, 0)
    disk.close()
    disk = Raw(image, True, sector_size=4096)
    assert (disk.geometry.sector_size, disk.geometry.physical_sector_size) == (4096, 4096)
    disk.close()


def test_discard(image: Path) -> None:
    disk = Raw(image, True)
    if not disk.geometry.discard_granularity:
        pytest.skip("no holes in files of this file system")
    os.fsync(disk._file)
    before = image.stat().st_blocks
    disk.discard(65536, 65536)
    buffers = views(65536)
    disk.read(buffers, 65536)
    assert bytes(buffers[0]) == bytes(65536)
    assert image.stat().st_size == SIZE
    assert image.stat().st_blocks == before - 65536 // 512
    disk.close()


def test_what_is_done_in_parts_is_done(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal, or a file system, may end a read or write early."""
    real_read, real_write = os.preadv, os.pwritev

    def preadv(file: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        return real_read(file, [buffers[0][:300]], offset, flags)

    def pwritev(file: int, buffers: Sequence[memoryview], offset: int) -> int:
        return real_write(file, [buffers[0][:700]], offset)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "pwritev", pwritev)
    disk = Raw(image, True)
    disk.write([memoryview(b"x" * 1000), memoryview(b"y" * 24)], 512)
    buffers = views(512, 1024)
    disk.read(buffers, 512)
    assert b"".join(buffers) == b"x" * 1000 + b"y" * 24 + bytes(range(256)) * 2
    assert not disk.try_read(views(512), 0)
    disk.close()


def test_a_file_that_became_shorter(image: Path) -> None:
    disk = Raw(image, True)
    os.truncate(image, 4096)
    with pytest.raises(OSError, match="shorter"):
        disk.read(views(4096), 8192)
    disk.close()


class TestRefusals:
    def refused(self, path: Path, writable: bool = True) -> str:
        with pytest.raises(StorageError) as caught:
            Raw(path, writable)
        return str(caught.value).replace(str(path), "PATH")

    def test_not_there(self, tmp_path: Path) -> None:
        assert self.refused(tmp_path / "missing") == "PATH is not there"

    def test_no_file(self, tmp_path: Path) -> None:
        assert self.refused(tmp_path, False) == "PATH is neither a file nor a block device"

    def test_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        assert self.refused(tmp_path / "pipe", False) == "PATH is neither a file nor a block device"

    def test_size(self, tmp_path: Path) -> None:
        path = tmp_path / "odd"
        path.write_bytes(bytes(1000))
        assert self.refused(path) == (
            "PATH has 1000 bytes, and a disk has a multiple of 512; 'truncate --size=%512' rounds it up"
        )

    def test_read_only(self, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path, flags: int) -> int:
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patched:  # root may write to anything
            patched.setattr(os, "open", refuse)
            sentence = self.refused(image)
        assert sentence == ("PATH cannot be written (Permission denied); make it writable, or say access=ro")

    def test_in_use(self, image: Path) -> None:
        first = Raw(image, True)
        assert self.refused(image) == "PATH is in use: another guest has it as a disk, or this one twice"
        assert self.refused(image, False) == "PATH is in use: another guest has it as a disk that it writes to"
        first.close()
        first, second = Raw(image, False), Raw(image, False)
        assert self.refused(image) == "PATH is in use: another guest has it as a disk, or this one twice"
        first.close()
        second.close()
        Raw(image, True).close()

    def test_a_name_that_is_none(self) -> None:
        with pytest.raises(StorageError, match="is no name of a file"):
            Raw(Path("a\0b"), False)


def test_no_medium() -> None:
    disk = Empty()
    assert disk.geometry.size == 0
    with pytest.raises(OSError, match="no medium"):
        disk.read(views(512), 0)
    disk.close()


def test_a_format_that_nobody_knows(image: Path) -> None:
    with pytest.raises(StorageError, match="is to have the format zip, which nobody here knows"):
        open_storage("zip", str(image), False)
