"""Test kernels for the hypervisor's tests."""

from __future__ import annotations

import shutil

import pytest
from kernels import Kernels


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """Builds and boots the kernels of tests/kernels."""
    if shutil.which("gcc") is None:
        pytest.fail("These tests need a C compiler and the headers of Xen 4.17: on Debian 12, install gcc and libxen-dev.")
    return Kernels(tmp_path_factory.mktemp("kernels"))
