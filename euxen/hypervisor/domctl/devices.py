"""Commands for domains that have devices of the host's, and for guests that are not PV. There are neither.

What they do first is look for what is wrong, as in Xen; then they are refused.
"""

from __future__ import annotations

from euxen.abi.domctl import XenDomctlIomemPermission, XenDomctlIoportPermission, XenDomctlIrqPermission
from euxen.abi.errno import XEN_EINVAL, XEN_ENODEV, XEN_EOPNOTSUPP, XEN_EPERM
from euxen.hypervisor.domctl.request import Domctl
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.event_channels import NR_PIRQS

MAX_IOPORTS = 0x10000


def irq_permission(request: Domctl) -> None:
    """XEN_DOMCTL_irq_permission: nobody has an interrupt to give away."""
    raise XenError(XEN_EINVAL if request.load(XenDomctlIrqPermission).pirq >= NR_PIRQS else XEN_EPERM)


def iomem_permission(request: Domctl) -> None:
    """XEN_DOMCTL_iomem_permission: nobody has a device's memory."""
    op = request.load(XenDomctlIomemPermission)
    _check_frames(op.first_mfn, op.nr_mfns)
    raise XenError(XEN_EPERM)


def memory_mapping(request: Domctl) -> None:
    """XEN_DOMCTL_memory_mapping, for guests with a p2m."""
    first_gfn, first_mfn, frames = (int.from_bytes(request.data[at : at + 8], "little") for at in (16, 24, 32))
    _check_frames(first_mfn, frames)
    _check_frames(first_gfn, frames)
    raise XenError(XEN_EPERM)


def _check_frames(first: int, count: int) -> None:
    if not 0 < count <= (1 << 64) - first:
        raise XenError(XEN_EINVAL)


def ioport_permission(request: Domctl) -> None:
    """XEN_DOMCTL_ioport_permission: nobody has a port."""
    op = request.load(XenDomctlIoportPermission)
    end = op.first_port + op.nr_ports & 0xFFFF_FFFF
    raise XenError(XEN_EINVAL if end <= op.first_port or end > MAX_IOPORTS else XEN_EPERM)


def for_hvm_guests(request: Domctl) -> None:
    """What only an HVM guest has."""
    raise XenError(XEN_EINVAL)


def for_other_kinds_of_guests(request: Domctl) -> None:
    """The same, with another error."""
    raise XenError(XEN_EOPNOTSUPP)


def no_monitoring(request: Domctl) -> None:
    """What needs a CPU that watches its caches."""
    raise XenError(XEN_ENODEV)


def no_iommu(request: Domctl) -> None:
    """What needs an IOMMU."""
    raise XenError(XEN_EOPNOTSUPP)
