"""Who may do what: the policy of a Xen without XSM. Source: xen/include/xsm/dummy.h.

A check has its name there, without ``xsm_``. It takes the domain that asks, and the domain that it is about where there
is one; it returns if that is permitted, and raises XenError with -EPERM if not. Nobody else decides on privileges.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from euxen.abi.errno import XEN_EPERM
from euxen.hypervisor.errors import XenError

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain


class Action(enum.Enum):
    """Who may, where nothing else is said (xsm_default_t)."""

    XSM_HOOK = enum.auto()
    """Any domain."""
    XSM_TARGET = enum.auto()
    """A domain for itself, and a privileged one for all."""
    XSM_PRIV = enum.auto()
    """A privileged domain."""


XSM_HOOK, XSM_TARGET, XSM_PRIV = Action.XSM_HOOK, Action.XSM_TARGET, Action.XSM_PRIV


def _default_action(action: Action, source: Domain, target: Domain | None) -> None:
    """xsm_default_action."""
    if action is XSM_HOOK or (action is XSM_TARGET and source is target) or source.privileged:
        return
    raise XenError(XEN_EPERM)


def evtchn_unbound(source: Domain, target: Domain) -> None:
    """Make an unbound port in a domain."""
    _default_action(XSM_TARGET, source, target)


def evtchn_interdomain(source: Domain, target: Domain) -> None:
    """Bind to a port of a domain, which has to wait for the one that binds."""
    _default_action(XSM_HOOK, source, target)


def evtchn_status(source: Domain, target: Domain) -> None:
    """Ask what a domain's port is bound to."""
    _default_action(XSM_TARGET, source, target)


def evtchn_reset(source: Domain, target: Domain) -> None:
    """Close all ports of a domain."""
    _default_action(XSM_TARGET, source, target)
