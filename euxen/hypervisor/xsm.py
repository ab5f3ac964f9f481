"""Who may do what: the policy of a Xen without XSM. Source: xen/include/xsm/dummy.h.

A check has its name there, without ``xsm_``. It is called with the domain that asks, and with the one that it is about
where there is one; it returns if that is permitted, and raises XenError with -EPERM if not. Nobody else decides on
privileges.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from euxen.abi import version
from euxen.abi.domctl import (
    XEN_DOMCTL_bind_pt_irq,
    XEN_DOMCTL_CDF_xs_domain,
    XEN_DOMCTL_getdomaininfo,
    XEN_DOMCTL_ioport_mapping,
    XEN_DOMCTL_memory_mapping,
    XEN_DOMCTL_unbind_pt_irq,
)
from euxen.abi.errno import XEN_EPERM
from euxen.abi.xen import CONSOLEIO_write
from euxen.hypervisor.errors import XenError

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain


class Action(enum.Enum):
    """Who may (xsm_default_t)."""

    XSM_HOOK = enum.auto()
    """Any domain."""
    XSM_TARGET = enum.auto()
    """A domain for itself, and a privileged one for all."""
    XSM_DM_PRIV = enum.auto()
    """A domain's device model, which no domain has here, and a privileged one."""
    XSM_XS_PRIV = enum.auto()
    """A domain with a xenstored in it, and a privileged one."""
    XSM_PRIV = enum.auto()
    """A privileged domain."""


XSM_HOOK, XSM_TARGET, XSM_DM_PRIV, XSM_XS_PRIV, XSM_PRIV = Action


@dataclass(frozen=True)
class Check:
    """A check that depends on nothing but the two domains."""

    action: Action

    def __call__(self, source: Domain, target: Domain | None = None) -> None:
        """xsm_default_action."""
        if self.action is XSM_HOOK or (self.action is XSM_TARGET and source is target) or source.privileged:
            return
        if self.action is XSM_XS_PRIV and source.config.flags & XEN_DOMCTL_CDF_xs_domain:
            return
        raise XenError(XEN_EPERM)


# Event channels. Who binds to a port is asked for by the port itself.
evtchn_unbound = Check(XSM_TARGET)
evtchn_interdomain = Check(XSM_HOOK)
evtchn_status = Check(XSM_TARGET)
evtchn_reset = Check(XSM_TARGET)

# Memory.
memory_adjust_reservation = Check(XSM_TARGET)
memory_stat_reservation = Check(XSM_TARGET)
memory_exchange = Check(XSM_TARGET)
add_to_physmap = Check(XSM_TARGET)
hvm_param = Check(XSM_TARGET)
remove_from_physmap = Check(XSM_TARGET)
domain_memory_map = Check(XSM_TARGET)
machine_memory_map = Check(XSM_PRIV)
get_vnumainfo = Check(XSM_TARGET)
claim_pages = Check(XSM_PRIV)
mmuext_op = Check(XSM_TARGET)
domain_resource_map = Check(XSM_DM_PRIV)

# Managing the machine and its domains.
getdomaininfo = Check(XSM_XS_PRIV)
sysctl = Check(XSM_PRIV)
platform_op = Check(XSM_PRIV)
kexec = Check(XSM_PRIV)
hypfs_op = Check(XSM_PRIV)
do_mca = Check(XSM_PRIV)
dm_op = Check(XSM_DM_PRIV)
schedop_shutdown = Check(XSM_DM_PRIV)

# Devices.
apic = Check(XSM_PRIV)
map_domain_pirq = Check(XSM_DM_PRIV)
unmap_domain_pirq = Check(XSM_DM_PRIV)
resource_plug_pci = Check(XSM_PRIV)
resource_unplug_pci = Check(XSM_PRIV)
resource_setup_pci = Check(XSM_PRIV)
resource_setup_gsi = Check(XSM_PRIV)
resource_setup_misc = Check(XSM_PRIV)
map_domain_pirq = Check(XSM_DM_PRIV)
unmap_domain_pirq = Check(XSM_DM_PRIV)


FOR_DEVICE_MODELS = {
    XEN_DOMCTL_ioport_mapping,
    XEN_DOMCTL_memory_mapping,
    XEN_DOMCTL_bind_pt_irq,
    XEN_DOMCTL_unbind_pt_irq,
}


def domctl(source: Domain, target: Domain | None, command: int) -> None:
    """XEN_DOMCTL_*: what managers of domains do; ``target`` is None where there is no such domain (yet)."""
    action = XSM_DM_PRIV if command in FOR_DEVICE_MODELS else XSM_PRIV
    Check(XSM_XS_PRIV if command == XEN_DOMCTL_getdomaininfo else action)(source, target)


def mmu_update(source: Domain, tables: Domain | None, pages: Domain | None) -> None:
    """Changes to one domain's page tables, None if there are none, with another's pages; None for DOMID_IO's."""
    for target in (pages, tables):
        if target is not None:
            Check(XSM_TARGET)(source, target)


system_pages = Check(XSM_PRIV)
"""The pages of DOMID_XEN, which is a domain like any other in these checks."""


def console_io(source: Domain, command: int) -> None:
    """Xen's own console. As in a Xen built with CONFIG_VERBOSE_DEBUG, any domain may write to it."""
    Check(XSM_HOOK if command == CONSOLEIO_write else XSM_PRIV)(source)


ANYBODY_MAY_KNOW = {
    version.XENVER_version,
    version.XENVER_platform_parameters,
    version.XENVER_get_features,
    version.XENVER_extraversion,
    version.XENVER_compile_info,
    version.XENVER_capabilities,
    version.XENVER_changeset,
    version.XENVER_pagesize,
    version.XENVER_guest_handle,
}


def xen_version(source: Domain, command: int) -> None:
    """XENVER_*: what only a privileged domain may know."""
    Check(XSM_HOOK if command in ANYBODY_MAY_KNOW else XSM_PRIV)(source)
