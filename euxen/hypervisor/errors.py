"""How a hypercall fails."""

from __future__ import annotations

from euxen.abi.errno import ERRNO_NAMES, XEN_EFAULT
from euxen.abi.grant_table import GNTTABOP_error_msgs


class XenError(Exception):
    """A hypercall's errno: what the caller gets as a negative number."""

    def __init__(self, errno: int) -> None:
        super().__init__(ERRNO_NAMES.get(errno, str(errno)))
        self.errno = errno


class GuestFault(XenError):
    """A guest's pointer led nowhere (-EFAULT)."""

    def __init__(self) -> None:
        super().__init__(XEN_EFAULT)


class GrantError(Exception):
    """What a grant-table operation tells in the status of its structure: GNTST_*."""

    def __init__(self, status: int) -> None:
        super().__init__(GNTTABOP_error_msgs[-status])
        self.status = status


class Continuation(Exception):
    """A hypercall that takes long lets others go first: it is made again with these arguments.

    The guest does not notice (hypercall_create_continuation in xen/arch/x86/hypercall.c).
    """

    def __init__(self, *arguments: int) -> None:
        super().__init__(arguments)
        self.arguments = arguments
