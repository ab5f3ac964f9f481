"""What all tests share: the native runtime and the engine's library, loaded once."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def native() -> None:
    """Every native function compiled and loaded, and the engine's library with it."""
    import euxen.hypervisor.pcpu  # noqa: F401 imports all there is of native functions
    from euxen.cpu.native import library
    from euxen.cpu.unicorn.engine import UnicornEngine
    from euxen.hypervisor.machine import cache_directory

    cache = cache_directory()
    library.load(cache)
    UnicornEngine.prepare(cache)
