"""Real guests for tests: Debian's kernels and GRUB for Xen, through the code that ``euxen fetch`` uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from euxen.toolstack import apt
from euxen.toolstack.debian import DebianGuest, Flavour, fetch_debian
from euxen.toolstack.errors import UserError


def _debian(flavour: Flavour) -> DebianGuest:
    try:
        return fetch_debian(flavour)
    except UserError as error:
        pytest.skip(f"Debian's kernels are not to be had here: {error}")


@pytest.fixture(scope="session")
def debian_cloud() -> DebianGuest:
    """Debian's kernel for guests."""
    return _debian(Flavour.CLOUD)


@pytest.fixture(scope="session")
def debian_full() -> DebianGuest:
    """Debian's kernel with all drivers."""
    return _debian(Flavour.FULL)


@pytest.fixture(scope="session")
def grub_xen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """GRUB's three images for Xen, by their platforms: x86_64-xen, i386-xen and i386-xen_pvh."""
    directory = tmp_path_factory.mktemp("grub-xen")
    platforms = ["x86_64-xen", "i386-xen", "i386-xen_pvh"]
    try:
        deb = apt.download(["grub-xen-host"], directory, lambda what, done: None)["grub-xen-host"]
        contents = apt.read_files(deb, [f"*/grub-{platform}.bin" for platform in platforms])
    except UserError as error:
        pytest.skip(f"GRUB for Xen is not to be had here: {error}")
    paths = {platform: directory / f"grub-{platform}.bin" for platform in platforms}
    for path, content in zip(paths.values(), contents, strict=True):
        path.write_bytes(content)
    return paths
