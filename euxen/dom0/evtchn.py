"""Domain 0's event channels, for its daemons: what libxenevtchn and the kernel's upcall are elsewhere.

A domain is told of events by bits in its shared_info, Domain 0 as any other. One thread waits for them, as a vCPU does
that has nothing else to do, and calls the handlers.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable

from euxen.abi.xen import SharedInfo
from euxen.cpu.native.memory import Memory
from euxen.dom0 import upcall
from euxen.hypervisor import event_2l
from euxen.hypervisor.control import Control

Handler = Callable[[], bool | None]
"""Called when an event came; returns True to be called again, once others had their turn."""
DOMAIN_0 = 0


class Evtchn:
    """Ports with handlers. There is a thread while there is a port.

    Handlers are called one at a time in that thread, with the machine's lock unless they do without it.
    """

    def __init__(self, control: Control) -> None:
        """``control`` is Domain 0's."""
        self._control = control
        self._lock = control.lock
        self._handlers: dict[int, Handler] = {}
        self._unlocked: set[int] = set()
        """The ports whose handlers do without the machine's lock."""
        self._again: set[int] = set()
        """The ports whose handlers want to be called again."""
        self._thread: threading.Thread | None = None
        self._wakeup = 0
        """A port by which the thread is told to look whether it is still needed."""
        self._mapping = control.map_shared_info(DOMAIN_0)
        self._shared_info = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping.memory))
        self._vcpu_info = self._shared_info + SharedInfo.offsetof("vcpu_info[0]")
        self._ports = Memory(event_2l.ROOM)
        self._native = upcall.Handlers()

    def bind_interdomain(self, domid: int, port: int, handler: Handler, locked: bool = True) -> int:
        """Bind to another domain's port and return our own. Raises XenError.

        A handler that is not ``locked`` is called without the machine's lock, and may be at work when its port is
        unbound by another thread.
        """
        with self._lock:
            local = self._add(self._control.bind_interdomain(domid, port), handler)
            if not locked:
                self._unlocked.add(local)
            return local

    def bind_virq(self, virq: int, handler: Handler) -> int:
        """Have a handler called for a virtual interrupt; returns its port. Raises XenError."""
        with self._lock:
            return self._add(self._control.bind_virq(virq), handler)

    def _add(self, port: int, handler: Handler) -> int:
        self._handlers[port] = handler
        if self._thread is None:
            self._wakeup = self._control.bind_ipi()
            self._thread = threading.Thread(target=self._run, name="euxen-dom0-events", daemon=True)
            self._thread.start()
        return port

    def notify(self, port: int) -> None:
        """Send an event to the other end. Raises XenError."""
        self._control.notify(port)

    def unbind(self, port: int) -> None:
        """Close a port: its handler is not called any more. Raises XenError."""
        with self._lock:
            self._native.clear(port)
            del self._handlers[port]
            self._unlocked.discard(port)
            self._control.close(port)
            if not self._handlers:
                self._control.notify(self._wakeup)

    def handle_natively(self, port: int, function: int, argument: int) -> None:
        """Have a native function called for a port of ours before its handler, and instead of it if that says so."""
        self._native.set(port, function, argument)

    def _run(self) -> None:
        vcpu = self._control.caller.vcpus[0].record.address
        count = 0
        while self._serve(count):
            places = self._shared_info, self._vcpu_info, self._native.address, self._ports.address
            count = upcall.take(*places) if self._again else upcall.wait(vcpu, *places)

    def _serve(self, count: int) -> bool:
        """Call the handlers of so many ports that are pending; False if there is no port left."""
        with self._lock:
            ports = {*self._ports.words()[:count], *self._again}
            self._again.clear()
            alone = [(port, self._handlers[port]) for port in sorted(ports & self._unlocked)]
            for port in sorted(ports - self._unlocked):
                if port in self._handlers:
                    self._call(port, self._handlers[port])
            if not self._handlers:
                self._control.close(self._wakeup)
                self._thread = None
                return False
        for port, handler in alone:
            self._call(port, handler)
        return True

    def _call(self, port: int, handler: Handler) -> None:
        """A handler that fails is a daemon with an error in it: say so, and let the others live."""
        try:
            if handler():
                self._again.add(port)
        except Exception:
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self._thread)))
