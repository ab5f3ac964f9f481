"""The physical CPUs of a machine: a host thread for each domain, for as long as it may run.

What fails in such a thread is Xen's own fault. The domain that it fails for crashes; no other suffers from it.
"""

from __future__ import annotations

import sys
import threading

from euxen.hypervisor.domain import Domain
from euxen.hypervisor.pcpu import FAILED, Pcpu
from euxen.hypervisor.running import CpuState


def _run(domain: Domain) -> None:
    """Run it as long as it may run, as the one thread that does."""
    try:
        pcpu = Pcpu(domain)
    except Exception:
        domain.crash(FAILED)
        domain.enter(CpuState.NONE)
        raise
    pcpu.run()


def run(domain: Domain) -> None:
    """Run a domain in a thread of its own. With the machine's lock held; the domain is runnable."""
    if domain.cpu_state is CpuState.NONE:
        domain.cpu_state = CpuState.STARTING
        try:
            threading.Thread(target=_thread, args=(domain,), name=f"euxen-{domain}", daemon=True).start()
        except RuntimeError:
            domain.cpu_state = CpuState.NONE
            domain.crash("This host has no more threads.")


def _thread(domain: Domain) -> None:
    """Run it until it may not run any more."""
    again = True
    while again:
        try:
            _run(domain)
        except Exception:
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
        with domain.machine.lock:
            # It may have been let go on since.
            again = domain.is_runnable and domain.cpu_state is CpuState.NONE
            if again:
                domain.cpu_state = CpuState.STARTING
