"""HYPERVISOR_hvm_op."""

from __future__ import annotations

from euxen.abi.errno import XEN_ENOSYS
from euxen.hypervisor.caller import Caller
from euxen.hypervisor.errors import XenError


def hvm_op(_caller: Caller, _command: int, _argument: int) -> int:
    """There are no HVM guests yet."""
    raise XenError(XEN_ENOSYS)
