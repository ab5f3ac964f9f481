"""A machine that is ready for domains: the native code loaded, Xen running, Domain 0's daemons up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from euxen.cpu.native import library
from euxen.cpu.unicorn.engine import UnicornEngine
from euxen.cpu.unicorn.library import LibraryError
from euxen.dom0.services import Services
from euxen.hypervisor import pcpus
from euxen.hypervisor.control import Control
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.machine import Machine, cache_directory
from euxen.toolstack.errors import UserError

Progress = Callable[[int, int], None]

XEN_OVERHEAD = 16 << 20
"""Bytes that Xen itself uses of a machine's memory, beside a word per frame."""


INTERFACE_OVERHEAD = 2 << 20
"""Bytes that Domain 0 needs for a network interface of a guest's."""


def memory_for(domains: int, interfaces: int = 0) -> int:
    """How much memory a machine needs, in bytes, for domains with ``domains`` bytes and so many interfaces together."""
    return domains + domains // 256 + interfaces * INTERFACE_OVERHEAD + XEN_OVERHEAD


class Host:
    """A machine with Xen and Domain 0 on it."""

    def __init__(
        self, memory: int, progress: Progress = lambda done, total: None, run: Callable[[Domain], None] = pcpus.run
    ) -> None:
        """Start it with ``memory`` bytes. ``progress`` is called while native code has to be compiled.

        ``run`` is told of each domain that may run; see ``Hypervisor``.
        """
        most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if memory > most:
            raise UserError(
                f"the domain would take {memory >> 20} MiB, and this host has {most >> 20} MiB in all; "
                "ask for less memory"
            )
        try:
            cache = cache_directory()
            cache.mkdir(parents=True, exist_ok=True)
            library.load(cache, progress)
            UnicornEngine.prepare(cache)
        except LibraryError as error:
            raise UserError(str(error)) from error
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"the cache for compiled code cannot be used ({reason}); set XDG_CACHE_HOME") from error
        try:
            self.machine = Machine(memory)
        except OSError as error:
            raise UserError(
                f"this host does not give {memory >> 20} MiB for a machine ({error.strerror}); ask for less memory"
            ) from error
        self.hypervisor = Hypervisor(self.machine, UnicornEngine, run)
        self.control = Control(self.hypervisor, self.hypervisor.kernel)
        self.services = Services(self.control)
        self.started = time.time()
