"""Domain 0's upcall, natively: it waits for events, and those with a native handler enter no Python.

A handler is a native function of one argument, called in the thread that waits, without any lock of Python's. It
returns 0 when all is done, and anything else to have the port handed to Python.
"""

from __future__ import annotations

from euxen.abi.event_channel import EVTCHN_2L_NR_CHANNELS
from euxen.abi.structure import Structure, u64
from euxen.cpu.native.language import call1, load64, native, store64
from euxen.cpu.native.memory import Memory
from euxen.cpu.native.spinlock import lock, unlock
from euxen.hypervisor.event_2l import take_events
from euxen.hypervisor.sched import wait_for_event


class HandlerRecord(Structure):
    """A port's native handler."""

    lock: int = u64()  # held while it is called, and while it is changed
    function: int = u64()  # 0 for none
    argument: int = u64()


@native
def _handle(handler: int) -> int:
    """Whether Python has to look at a port."""
    lock(handler + HandlerRecord.lock)
    function = load64(handler + HandlerRecord.function)
    result = call1(function, load64(handler + HandlerRecord.argument)) if function else 1
    unlock(handler + HandlerRecord.lock)
    return 1 if result else 0


@native
def set_handler(handler: int, function: int, argument: int) -> int:
    """Change a handler; the one that was there is not at work any more when this returns."""
    lock(handler + HandlerRecord.lock)
    store64(handler + HandlerRecord.function, function)
    store64(handler + HandlerRecord.argument, argument)
    return unlock(handler + HandlerRecord.lock)


@native
def take(shared_info: int, vcpu_info: int, handlers: int, ports: int) -> int:
    """Handle what is pending; the ports that are left for Python are written to ``ports``: how many."""
    count = take_events(shared_info, vcpu_info, ports)
    left = 0
    for n in range(count):
        port = load64(ports + n * 8)
        if _handle(handlers + port * HandlerRecord.size):
            store64(ports + left * 8, port)
            left += 1
    return left


@native
def wait(vcpu: int, shared_info: int, vcpu_info: int, handlers: int, ports: int) -> int:
    """The same, until there is something for Python. ``vcpu`` is the one that this thread is."""
    while True:
        left = take(shared_info, vcpu_info, handlers, ports)
        if left:
            return left
        wait_for_event(vcpu)


class Handlers:
    """The native handlers of all ports of the two-level ABI."""

    def __init__(self) -> None:
        self._memory = Memory(EVTCHN_2L_NR_CHANNELS * HandlerRecord.size)
        self.address = self._memory.address

    def set(self, port: int, function: int, argument: int) -> None:
        """Have a native function called for a port."""
        set_handler(self.address + port * HandlerRecord.size, function, argument)

    def clear(self, port: int) -> None:
        """Have none called any more."""
        self.set(port, 0, 0)
