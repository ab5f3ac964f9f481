"""Commands for domains that have devices of the host's. There are none.

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


def ioport_mapping(request: Domctl) -> None:
    """XEN_DOMCTL_ioport_mapping, for HVM guests: nobody has a port."""
    raise XenError(XEN_EPERM if request.domain.is_hvm else XEN_EOPNOTSUPP)


def pt_irq(request: Domctl) -> None:
    """XEN_DOMCTL_bind_pt_irq and unbind_pt_irq, for HVM guests: nobody has a device that could interrupt."""
    raise XenError(XEN_EPERM if request.domain.is_hvm else XEN_EINVAL)


def no_allocation(request: Domctl) -> None:
    """What needs a CPU whose caches can be divided."""
    raise XenError(XEN_EOPNOTSUPP)


def no_monitoring(request: Domctl) -> None:
    """What needs a CPU that watches its caches."""
    raise XenError(XEN_ENODEV)


def no_iommu(request: Domctl) -> None:
    """What needs an IOMMU."""
    raise XenError(XEN_EOPNOTSUPP)
