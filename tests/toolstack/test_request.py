"""What a domain is made of, from its configuration."""

from __future__ import annotations

import pytest

from euxen.hypervisor.control import DEFAULT_GRANT_LIMITS, GrantLimits
from euxen.toolstack.config.model import DomainConfig
from euxen.toolstack.errors import UserError
from euxen.toolstack.request import grant_limits


def config(more: str) -> DomainConfig:
    return DomainConfig.from_text(f"name='x'\nkernel='/k'\n{more}\n", "f")


def test_grant_limits() -> None:
    assert grant_limits(config("")) == DEFAULT_GRANT_LIMITS == GrantLimits(-1, -1, 2)
    wanted = "max_grant_frames=10\nmax_maptrack_frames=0\nmax_grant_version=1"
    assert grant_limits(config(wanted)) == GrantLimits(10, 0, 1)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("max_grant_version=0", "max_grant_version=0 is no version of grant tables; it has to be 1 or 2"),
        ("max_grant_version=3", "max_grant_version=3 is no version of grant tables; it has to be 1 or 2"),
        ("max_grant_frames=0", "a grant table has at least one frame: max_grant_frames=0 is too few"),
    ],
)
def test_grant_limits_that_xen_refuses(setting: str, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        grant_limits(config(setting))
    assert str(refused.value) == sentence
