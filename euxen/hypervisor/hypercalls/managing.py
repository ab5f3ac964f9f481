"""The hypercalls of those who manage the machine's hardware, which nobody does: who may not is refused before that."""

from __future__ import annotations

import struct
from collections.abc import Callable

from euxen.abi.errno import XEN_EACCES, XEN_ENOSYS
from euxen.hypervisor import xsm
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.vcpu import Vcpu

HEADER = struct.Struct("<II")
"""The command, and the version of the interface that the caller knows."""


def platform_op(vcpu: Vcpu, operation: int, *_rest: int) -> int:
    """HYPERVISOR_platform_op."""
    from euxen.abi.platform import XENPF_INTERFACE_VERSION

    return _refuse(vcpu, operation, XENPF_INTERFACE_VERSION, xsm.platform_op)


def _refuse(vcpu: Vcpu, operation: int, version: int, check: xsm.Check) -> int:
    _command, known = HEADER.unpack(vcpu.read(operation, HEADER.size))
    if known != version:
        raise XenError(XEN_EACCES)
    check(vcpu.domain)
    raise XenError(XEN_ENOSYS)


def absent(check: xsm.Check) -> Callable[..., int]:
    """A hypercall that nobody can perform yet; who may not is refused first."""

    def handler(vcpu: Vcpu, *_arguments: int) -> int:
        check(vcpu.domain)
        raise XenError(XEN_ENOSYS)

    return handler
