"""Two guests on one machine, for tests of grants: named in a module's pytest_plugins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from grant_guest import GrantGuest, new_hypervisor

from euxen.hypervisor.hypervisor import Hypervisor


@pytest.fixture
def hypervisor(native: None) -> Iterator[Hypervisor]:
    """A machine. After the test all domains are destroyed, and no frame is missing."""
    hypervisor = new_hypervisor()
    free = hypervisor.machine.record["free_pages"]
    yield hypervisor
    for domain in hypervisor.domains[1:]:
        hypervisor.kill(domain)
    assert hypervisor.domains == [hypervisor.domain0]
    assert hypervisor.machine.record["free_pages"] == free


@pytest.fixture
def lender(hypervisor: Hypervisor) -> GrantGuest:
    """A guest."""
    return GrantGuest(hypervisor)


@pytest.fixture
def borrower(hypervisor: Hypervisor, lender: GrantGuest) -> GrantGuest:
    """Another."""
    return GrantGuest(hypervisor)
