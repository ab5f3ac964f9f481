"""Fetching Debian through the real apt, from an archive of our own: what is kept, what is asked for, every refusal."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from euxen.cli.main import main
from euxen.toolstack import apt
from euxen.toolstack.debian import DebianGuest, Flavour, cached_debian, fetch_debian
from euxen.toolstack.errors import UserError

from .debian_archive import Archive

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this host has no apt-get")

BLKFRONT, NETFRONT = b"\x7fELF blkfront", b"\x7fELF netfront"
BUSYBOX = b"#!/bin/sh\necho sh; echo ls\n"


def kernel_files(release: str) -> dict[str, bytes]:
    drivers = f"lib/modules/{release}/kernel/drivers"
    return {
        f"boot/vmlinuz-{release}": f"kernel {release}".encode(),
        f"boot/config-{release}": b"CONFIG_XEN=y\n",
        f"{drivers}/block/xen-blkfront.ko": BLKFRONT,
        f"{drivers}/net/xen-netfront.ko": NETFRONT,
        f"{drivers}/net/dummy.ko": b"other",
    }


def add_kernel(archive: Archive, flavour: Flavour, release: str, version: str) -> None:
    archive.add(f"linux-image-{release}", version, kernel_files(release))
    archive.add(flavour, version, depends=f"linux-base (>= 4.3), linux-image-{release} (= {version})")


def update() -> None:
    subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache home"))
    return tmp_path / "cache home" / "euxen" / "debian"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Archive:
    """An archive with both kernels and busybox, which apt has looked at, for a user who is not root."""
    archive = Archive(tmp_path / "debian")
    monkeypatch.setenv("APT_CONFIG", str(archive.config))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    add_kernel(archive, Flavour.CLOUD, "6.1.0-9-cloud-amd64", "6.1.90-1")
    add_kernel(archive, Flavour.FULL, "6.1.0-9-amd64", "6.1.90-1")
    archive.add("busybox-static", "1:1.35.0-4", {"bin/busybox": BUSYBOX})
    update()
    return archive


@pytest.fixture
def no_apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host that is no Debian."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_fetch(archive: Archive, cache: Path) -> None:
    guest = fetch_debian()
    directory = cache / "6.1.0-9-cloud-amd64_6.1.90-1"
    assert guest == DebianGuest(
        version="6.1.0-9-cloud-amd64",
        kernel=directory / "vmlinuz",
        busybox=directory / "busybox",
        modules=(directory / "xen-blkfront.ko", directory / "xen-netfront.ko"),
        initramfs=guest.initramfs,
    )
    assert guest.kernel.read_bytes() == b"kernel 6.1.0-9-cloud-amd64"
    assert guest.busybox.read_bytes() == BUSYBOX
    assert os.access(guest.busybox, os.X_OK)
    assert [path.read_bytes() for path in guest.modules] == [BLKFRONT, NETFRONT]
    initramfs = guest.initramfs.read_bytes()
    assert BUSYBOX in initramfs
    assert BLKFRONT in initramfs
    assert NETFRONT in initramfs
    # Nothing else is left behind.
    assert sorted(path.name for path in cache.iterdir()) == [directory.name]
    assert len(list(directory.iterdir())) == 7


def test_fetch_the_full_kernel(archive: Archive) -> None:
    assert fetch_debian(Flavour.FULL).version == "6.1.0-9-amd64"
    assert cached_debian(Flavour.CLOUD) is None
    assert cached_debian(Flavour.FULL) is not None


def test_progress_is_told_to_its_end(archive: Archive) -> None:
    told: list[tuple[str, float]] = []
    fetch_debian(progress=lambda what, done: told.append((what, done)))
    assert ("Downloading linux-image-6.1.0-9-cloud-amd64", 1.0) in told
    assert all(0 <= done <= 1 for _, done in told)
    assert told[-1][1] == 1


def test_what_is_there_is_not_fetched_again(archive: Archive) -> None:
    first = fetch_debian()
    for deb in archive.pool.glob("*.deb"):
        deb.unlink()
    assert fetch_debian() == first


def test_a_newer_version_is_fetched_and_preferred(archive: Archive) -> None:
    old = fetch_debian()
    add_kernel(archive, Flavour.CLOUD, "6.1.0-10-cloud-amd64", "6.1.99-1")
    update()
    assert cached_debian() == old
    new = fetch_debian()
    assert new.version == "6.1.0-10-cloud-amd64"
    assert cached_debian() == new
    assert old.kernel.exists()


def test_compressed_modules_below_usr(archive: Archive) -> None:
    """As Debian has them after bookworm."""
    release = "6.12.0-1-cloud-amd64"
    drivers = f"usr/lib/modules/{release}/kernel/drivers"
    files = {
        f"boot/vmlinuz-{release}": b"kernel",
        f"{drivers}/block/xen-blkfront.ko.gz": gzip.compress(BLKFRONT),
        f"{drivers}/net/xen-netfront.ko.gz": gzip.compress(NETFRONT),
    }
    archive.add(f"linux-image-{release}", "6.12.9-1", files)
    archive.add(Flavour.CLOUD, "6.12.9-1", depends=f"linux-image-{release}")
    archive.add("busybox-static", "1:1.37.0-1", {"usr/bin/busybox": BUSYBOX})
    update()
    guest = fetch_debian()
    assert guest.version == release
    assert [path.read_bytes() for path in guest.modules] == [BLKFRONT, NETFRONT]


def test_modules_come_with_what_they_need(archive: Archive, cache: Path) -> None:
    release = "6.1.0-9-cloud-amd64"
    kernel = f"lib/modules/{release}/kernel"
    files = {
        f"{kernel}/fs/ext4/ext4.ko": b"\x7fELF\0alias=fs-ext4\0depends=jbd2,mb-cache\0",
        f"{kernel}/fs/jbd2/jbd2.ko": b"\x7fELF\0depends=mb_cache,built_in\0",
        f"{kernel}/fs/mb-cache.ko.gz": gzip.compress(b"\x7fELF\0depends=\0name=mb_cache\0"),
        f"{kernel}/fs/other.ko": b"\x7fELF\0depends=jbd2\0",
    }
    archive.add(f"linux-image-{release}", "6.1.90-1", {**kernel_files(release), **files})
    update()
    directory = fetch_debian().kernel.parent
    assert (directory / "modules.dep").read_text() == (
        "ext4.ko: jbd2.ko mb-cache.ko\njbd2.ko: mb-cache.ko\nmb-cache.ko:\nxen-blkfront.ko:\nxen-netfront.ko:\n"
    )
    assert (directory / "modules.alias").read_text() == "alias fs-ext4 ext4\n"
    assert (directory / "mb-cache.ko").read_bytes().startswith(b"\x7fELF")


def test_what_an_older_euxen_fetched_is_fetched_again(archive: Archive, cache: Path) -> None:
    guest = fetch_debian()
    (guest.kernel.parent / "modules.dep").unlink()
    assert cached_debian() is None
    assert fetch_debian() == guest


@pytest.mark.usefixtures("cache", "no_apt")
def test_an_empty_cache_holds_nothing() -> None:
    assert cached_debian() is None


def test_the_cache_needs_no_apt(archive: Archive, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    guest = fetch_debian()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cached_debian() == guest


def test_an_incomplete_version_is_no_version(archive: Archive, cache: Path) -> None:
    guest = fetch_debian()
    guest.modules[0].unlink()
    (cache / "README").touch()
    (cache / ".abandoned").mkdir()
    assert cached_debian() is None


def test_the_ram_disk_is_made_again_where_it_is_gone(archive: Archive) -> None:
    guest = fetch_debian()
    content = guest.initramfs.read_bytes()
    guest.initramfs.unlink()
    assert cached_debian() == guest
    assert guest.initramfs.read_bytes() == content


def test_somebody_else_was_faster(archive: Archive, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download = apt.download

    def slow(*arguments: object, **keywords: object) -> dict[str, Path]:
        monkeypatch.setattr(apt, "download", download)
        assert fetch_debian().version == "6.1.0-9-cloud-amd64"
        return download(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(apt, "download", slow)
    assert fetch_debian() == cached_debian()
    assert len(list(cache.iterdir())) == 1


class TestRefusals:
    @pytest.mark.usefixtures("cache", "no_apt")
    def test_no_apt(self) -> None:
        with pytest.raises(UserError, match="apt-cache is not on this host; Debian's kernels can be fetched on Debian"):
            fetch_debian()

    def test_apt_does_not_know_the_kernel(self, archive: Archive) -> None:
        archive.remove(Flavour.CLOUD)
        update()
        with pytest.raises(UserError, match="apt knows no package linux-image-cloud-amd64; run 'apt-get update'"):
            fetch_debian()

    def test_apt_does_not_know_busybox(self, archive: Archive) -> None:
        archive.remove("busybox-static")
        update()
        with pytest.raises(UserError, match="apt knows no package busybox-static"):
            fetch_debian()

    def test_a_metapackage_without_a_kernel(self, archive: Archive) -> None:
        archive.add(Flavour.CLOUD, "7", depends="linux-base")
        update()
        with pytest.raises(UserError, match="linux-image-cloud-amd64 names no kernel"):
            fetch_debian()

    def test_the_archive_has_the_package_no_more(self, archive: Archive, cache: Path) -> None:
        for deb in archive.pool.glob("linux-image-6*.deb"):
            deb.unlink()
        with pytest.raises(UserError) as caught:
            fetch_debian()
        assert str(caught.value).startswith(
            "apt-get cannot download linux-image-6.1.0-9-cloud-amd64 and busybox-static ("
        )
        assert str(caught.value).endswith("; check the network and run 'apt-get update' as root")
        assert list(cache.iterdir()) == []

    def test_a_package_that_is_not_what_the_archive_promised(self, archive: Archive, cache: Path) -> None:
        deb = next(archive.pool.glob("linux-image-6*cloud*.deb"))
        deb.write_bytes(deb.read_bytes()[:-1] + b"x")
        with pytest.raises(UserError, match="apt-get cannot download"):
            fetch_debian()
        assert list(cache.iterdir()) == []

    def test_a_package_without_a_kernel(self, archive: Archive, cache: Path) -> None:
        archive.add("linux-image-6.1.0-9-cloud-amd64", "6.1.90-1", {"boot/config": b""})
        update()
        with pytest.raises(UserError, match=r"has no file \*/boot/vmlinuz-\*; fetch it again"):
            fetch_debian()
        assert list(cache.iterdir()) == []

    def test_a_package_without_a_front_end(self, archive: Archive, cache: Path) -> None:
        release = "6.1.0-9-cloud-amd64"
        files = kernel_files(release)
        del files[f"lib/modules/{release}/kernel/drivers/block/xen-blkfront.ko"]
        archive.add(f"linux-image-{release}", "6.1.90-1", files)
        update()
        with pytest.raises(UserError, match=r"has no module xen-blkfront; fetch it again"):
            fetch_debian()
        assert list(cache.iterdir()) == []

    def test_a_damaged_package(self, tmp_path: Path) -> None:
        (tmp_path / "x.deb").write_bytes(b"no package")
        with pytest.raises(UserError, match=r"package x\.deb cannot be unpacked"):
            apt.read_files(tmp_path / "x.deb", ["*/bin/busybox"])

    def test_the_cache_is_no_directory(self, archive: Archive, cache: Path) -> None:
        cache.parent.mkdir(parents=True)
        cache.touch()
        with pytest.raises(UserError, match=r"cannot be written \(File exists\); set XDG_CACHE_HOME"):
            fetch_debian()


class TestRoot:
    """Root's apt lists are brought up to date when that is needed, and only then."""

    @pytest.fixture(autouse=True)
    def root(self, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)

    def test_lists_that_lack_the_package(self, archive: Archive) -> None:
        for path in (archive.config.parent / "lists").glob("*Packages*"):
            path.unlink()
        assert fetch_debian().version == "6.1.0-9-cloud-amd64"

    def test_lists_that_name_a_version_which_is_gone(self, archive: Archive) -> None:
        for deb in archive.pool.glob("busybox*.deb"):
            deb.unlink()
        archive.add("busybox-static", "1:1.35.0-5", {"bin/busybox": BUSYBOX})
        assert fetch_debian().busybox.read_bytes() == BUSYBOX

    def test_lists_are_left_alone_otherwise(self, archive: Archive) -> None:
        add_kernel(archive, Flavour.CLOUD, "6.1.0-10-cloud-amd64", "6.1.99-1")
        assert fetch_debian().version == "6.1.0-9-cloud-amd64"

    def test_what_is_nowhere(self, archive: Archive) -> None:
        archive.remove(Flavour.CLOUD)
        update()
        with pytest.raises(UserError, match="apt knows no package linux-image-cloud-amd64"):
            fetch_debian()


def test_the_verb(archive: Archive, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "debian", "--full"]) == 0
    cloud, full = cached_debian(Flavour.CLOUD), cached_debian(Flavour.FULL)
    assert cloud is not None
    assert full is not None
    out, err = capsys.readouterr()
    assert out == "".join(f"kernel  {guest.kernel}\nramdisk {guest.initramfs}\n" for guest in (cloud, full))
    assert err == ""  # no progress bar where there is no terminal
