"""HYPERVISOR_console_io: Xen's own console. Source: xen/drivers/char/console.c."""

from __future__ import annotations

from euxen.abi.errno import XEN_E2BIG, XEN_ENOSYS
from euxen.abi.xen import CONSOLEIO_read, CONSOLEIO_write
from euxen.hypervisor import xsm
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.vcpu import Vcpu

MAX_WRITE = 1 << 20


def console_io(vcpu: Vcpu, command: int, count: int, buffer: int, *_rest: int) -> int:
    """Write to Xen's console, or read from it."""
    command &= 0xFFFF_FFFF
    count &= 0xFFFF_FFFF
    xsm.console_io(vcpu.domain, command)
    if command == CONSOLEIO_write:
        if count > MAX_WRITE:
            raise XenError(XEN_E2BIG)
        data = vcpu.read(buffer, count)
        vcpu.domain.machine.console.guest_write(vcpu.domain.domid, data)
        vcpu.domain.console_write(data)
        return 0
    if command == CONSOLEIO_read:
        return 0
    raise XenError(XEN_ENOSYS)
