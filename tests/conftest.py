"""What all tests share: the native runtime, loaded once, and real guests, fetched once."""

from __future__ import annotations

from pathlib import Path

import pytest
from packages import need, package_files

from euxen.toolstack.debian import DebianGuest, Flavour, fetch_debian


@pytest.fixture(scope="session")
def native() -> None:
    """Every native function compiled and loaded, and the engine's library with it."""
    import euxen.toolstack.machine  # noqa: F401 imports all there is of native functions
    from euxen.cpu.native import library
    from euxen.cpu.unicorn.engine import UnicornEngine
    from euxen.hypervisor.machine import cache_directory

    cache = cache_directory()
    library.load(cache)
    UnicornEngine.prepare(cache)


@pytest.fixture(scope="session")
def debian_cloud() -> DebianGuest:
    """Debian's kernel for guests."""
    return need(lambda: fetch_debian(Flavour.CLOUD))


@pytest.fixture(scope="session")
def debian_full() -> DebianGuest:
    """Debian's kernel with all drivers."""
    return need(lambda: fetch_debian(Flavour.FULL))


@pytest.fixture(scope="session")
def grub_xen() -> dict[str, Path]:
    """GRUB's three images for Xen, by their platforms: x86_64-xen, i386-xen and i386-xen_pvh."""
    platforms = ["x86_64-xen", "i386-xen", "i386-xen_pvh"]
    paths = need(lambda: package_files("grub-xen-host", *(f"*/grub-{platform}.bin" for platform in platforms)))
    return dict(zip(platforms, paths, strict=True))
