"""`euxen fetch debian` without what it needs, and `euxen inspect` of what it brings."""

from __future__ import annotations

import functools
import http.server
import shutil
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from terminal import EUXEN, Terminal, run
from toolstack.debian_archive import Archive
from toolstack.test_debian import BUSYBOX, add_kernel

from euxen.toolstack.debian import DebianGuest, Flavour

needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this host has no apt-get")


class _Slow(http.server.SimpleHTTPRequestHandler):
    """Takes its time for what is large in life, so that there is some progress to be shown."""

    def do_GET(self) -> None:
        if "linux-image" in self.path:
            time.sleep(1.5)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(directory: Path) -> Iterator[int]:
    """A directory on the network; the port. Afterwards nobody answers there any more."""
    handler = functools.partial(_Slow, directory=str(directory))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "euxen" / "debian"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Archive:
    """An archive with a kernel and busybox."""
    archive = Archive(tmp_path / "debian")
    monkeypatch.setenv("APT_CONFIG", str(archive.config))
    add_kernel(archive, Flavour.CLOUD, "6.1.0-9-cloud-amd64", "6.1.90-1")
    archive.add("busybox-static", "1:1.35.0-4", {"bin/busybox": BUSYBOX})
    return archive


def on_the_network(archive: Archive, port: int) -> None:
    """Have apt look for the archive there, and look at it once."""
    sources = archive.config.with_name("sources.list")
    sources.write_text(f"deb [trusted=yes] http://127.0.0.1:{port}/ ./\n")
    with archive.config.open("a") as config:
        config.write('Acquire::Retries "0";\n')
    subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)


@needs_apt
def test_without_the_network(archive: Archive, cache: Path) -> None:
    with served(archive.pool) as port:
        on_the_network(archive, port)
    done = run("fetch", "debian")
    assert done.returncode == 1
    assert done.stdout == b""
    told = done.stderr.decode()
    assert told.startswith("euxen: apt-get cannot download linux-image-6.1.0-9-cloud-amd64 and busybox-static (")
    assert "check the network" in told
    assert told.count("\n") == 1
    assert list(cache.iterdir()) == []


@needs_apt
def test_what_was_fetched_before_will_do(archive: Archive, cache: Path) -> None:
    with served(archive.pool) as port:
        on_the_network(archive, port)
        fetched = run("fetch", "debian")
        add_kernel(archive, Flavour.CLOUD, "6.1.0-10-cloud-amd64", "6.1.94-1")
        subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
    done = run("fetch", "debian")
    assert (done.returncode, done.stdout) == (0, fetched.stdout)
    told = done.stderr.decode()
    assert told.startswith("euxen: apt-get cannot download linux-image-6.1.0-10-cloud-amd64 ")
    assert told.endswith("; 6.1.0-9-cloud-amd64, which was fetched before, will do\n")
    assert told.count("\n") == 1


@needs_apt
def test_over_the_network_with_a_progress_bar(archive: Archive, cache: Path) -> None:
    with served(archive.pool) as port:
        on_the_network(archive, port)
        with Terminal([EUXEN, "fetch", "debian"]) as terminal:
            assert terminal.wait() == 0
            shown = terminal.seen.decode()
    assert "Downloading linux-image-6.1.0-9-cloud-amd64" in shown
    directory = cache / "6.1.0-9-cloud-amd64_6.1.90-1"
    assert f"kernel  {directory}/vmlinuz\r\n" in shown
    assert sorted(path.name for path in cache.iterdir()) == [directory.name]


def test_a_cache_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, native: None, debian_cloud: DebianGuest
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no such")
    done = run("run", "--kernel", debian_cloud.kernel)
    assert done.returncode == 1
    assert done.stderr == (
        b"euxen: the cache for compiled code cannot be used (No such file or directory); set XDG_CACHE_HOME\n"
    )


@pytest.mark.parametrize("flavour", list(Flavour))
def test_inspect_what_was_fetched(flavour: Flavour, debian_cloud: DebianGuest, debian_full: DebianGuest) -> None:
    guest = debian_cloud if flavour is Flavour.CLOUD else debian_full
    done = run("inspect", guest.kernel)
    told = done.stdout.decode()
    assert done.returncode == 0
    assert f"Linux:    {guest.version} (debian-kernel@lists.debian.org)" in told
    assert "PV guest: yes\n" in told
    assert "PVH guest: yes\n" in told


@pytest.mark.parametrize(
    ("platform", "pv", "pvh"),
    [("x86_64-xen", "yes", "no"), ("i386-xen", "no", "no"), ("i386-xen_pvh", "no", "yes")],
)
def test_inspect_grub(platform: str, pv: str, pvh: str, grub_xen: dict[str, Path]) -> None:
    told = run("inspect", grub_xen[platform]).stdout.decode()
    assert f"PV guest: {pv}\n" in told
    assert f"PVH guest: {pvh}\n" in told
