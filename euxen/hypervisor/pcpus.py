"""The physical CPUs of a machine: a host thread for each domain, for as long as it may run."""

from __future__ import annotations

import sys
import threading

from euxen.hypervisor.domain import CpuState, Domain
from euxen.hypervisor.pcpu import Pcpu


def run(domain: Domain) -> None:
    """Run a domain in a thread of its own. With the machine's lock held; the domain is runnable."""
    if domain.cpu_state is CpuState.NONE:
        domain.cpu_state = CpuState.STARTING
        threading.Thread(target=_thread, args=(domain,), name=f"euxen-{domain}", daemon=True).start()


def _thread(domain: Domain) -> None:
    """Run it until it may not run any more. What fails here is Xen's own fault: the others shall not suffer from it."""
    again = True
    while again:
        try:
            Pcpu(domain).run()
        except Exception:
            domain.crash("Xen itself failed on its behalf.")
            domain.enter(CpuState.NONE)
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
        with domain.machine.lock:
            # It may have been let go on since.
            again = domain.is_runnable and domain.cpu_state is CpuState.NONE
            if again:
                domain.cpu_state = CpuState.STARTING
