"""The end of a domain: it gives up all that it holds, and when nobody refers to its pages any more it is gone.

Source: domain_kill and complete_domain_destroy in xen/common/domain.c, domain_relinquish_resources in
xen/arch/x86/domain.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from euxen.hypervisor import domain_list
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.mm import heap, outside_writes, teardown
from euxen.hypervisor.records import DOMDYING_dead, DOMDYING_dying
from euxen.hypervisor.running import CpuState

FRAMES_AT_ONCE = 1 << 16
"""Of the machine's; after so many others get their turn."""


def kill(domain: Domain, preempt: Callable[[], bool] = lambda: False) -> bool:
    """Destroy a domain: give up all that it holds; False if it has to be called again (domain_kill).

    Pages of its that others refer to stay, and the domain with them; ``complete_destroy`` is for when there are none.
    """
    with domain.machine.lock:
        if not domain.is_dying:
            domain.pause()
            domain.record["is_dying"] = DOMDYING_dying
            domain.interrupt()
            while domain.cpu_state is not CpuState.NONE:
                domain.machine.changed.wait()
            heap.set_outstanding_pages(domain.record.address, 0)
            domain.teardown = _relinquish_resources(domain)
        return not any(preempt() for _step in domain.teardown)


def _relinquish_resources(domain: Domain) -> Iterator[None]:
    """Step by step (domain_relinquish_resources)."""
    machine, record = domain.machine.record.address, domain.record.address
    # First: after it nobody sends to this domain, and all that makes an event pending can go.
    yield from domain.event_channels.destroy()
    yield
    for vcpu in domain.all_vcpus:
        vcpu.release()
    while domain.grant_table.release_mappings():
        yield
    while teardown.relinquish_page_tables(machine, record):
        if domain.engine is not None:
            # It was for the domain's vCPUs, and they run no more.
            domain.engine.block["kicked"] = 0
        yield
    end = domain.machine.record["heap_top"]
    for first in range(0, end, FRAMES_AT_ONCE):
        teardown.relinquish_pages(machine, record, first, min(first + FRAMES_AT_ONCE, end))
        domain.machine.let_others()
        yield
    if domain.engine is not None:
        outside_writes.detach(record)
        domain.engine.close()
        domain.engine = None
    domain.record["is_dying"] = DOMDYING_dead
    domain_list.put_domain(record)
    domain.on_exit()


def is_gone(domain: Domain) -> bool:
    """Whether it is dead, and nothing refers to its pages any more."""
    return domain.record["refcnt"] == 0


def complete_destroy(domain: Domain) -> None:
    """Once it is gone: give its number and Xen's own pages for it back (complete_domain_destroy)."""
    machine = domain.machine.record.address
    domain_list.delist(machine, domain.record.address)
    domain.grant_table.destroy()
    heap.free_frame(machine, domain.shared_info_frame)
    domain.machine.console.forget(domain.domid)
    for vcpu in domain.all_vcpus:
        vcpu.sleeper.close()
