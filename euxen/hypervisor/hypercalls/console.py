"""HYPERVISOR_console_io: Xen's own console. Source: xen/drivers/char/console.c."""

from __future__ import annotations

from euxen.abi.errno import XEN_E2BIG, XEN_ENOSYS
from euxen.abi.xen import CONSOLEIO_read, CONSOLEIO_write
from euxen.hypervisor import xsm
from euxen.hypervisor.caller import Caller
from euxen.hypervisor.errors import Continuation, XenError

INT_MAX = 0x7FFF_FFFF
AT_ONCE = 1 << 16
"""Bytes after which others go first."""


def console_io(caller: Caller, command: int, count: int, buffer: int, *_rest: int) -> int:
    """Write to Xen's console, or read from it."""
    command &= 0xFFFF_FFFF
    count &= 0xFFFF_FFFF
    xsm.console_io(caller.domain, command)
    if command == CONSOLEIO_write:
        if count > INT_MAX:
            raise XenError(XEN_E2BIG)
        data = caller.read(buffer, min(count, AT_ONCE))
        caller.domain.machine.console.guest_write(caller.domain.domid, data)
        caller.domain.console_write(data)
        if count > AT_ONCE:
            raise Continuation(command, count - AT_ONCE, buffer + AT_ONCE)
        return 0
    if command == CONSOLEIO_read:
        return 0
    raise XenError(XEN_ENOSYS)
