"""Domains by their numbers, for native code, and how long their records live.

A DomainRecord, and all that its words lead to, may be used

- by the domain's own vCPUs, which do not run any more when it is destroyed;
- by whoever holds a reference to one of its pages: a domain with pages, even a dead one, keeps its record;
- between ``get_domain_by_id`` and ``put_domain``, which stand for Xen's rcu_lock_domain_by_id and its end.

``retire`` takes a domain off the list and waits until the last of these uses has ended; then its memory may go.
Nobody keeps hold of a domain for longer than a hypercall takes.
"""

from __future__ import annotations

from euxen.cpu.native.language import add64, cpu_relax, load64, native, store64, ult
from euxen.hypervisor.records import DomainRecord, DOMDYING_dead, MachineRecord
from euxen.hypervisor.spinlock import lock, unlock

DOMAINS = 0x7FF0
"""DOMID_FIRST_RESERVED."""


@native
def enlist(machine: int, domain: int) -> int:
    """A domain can be found from now on."""
    slot = load64(machine + MachineRecord.domain_list) + load64(domain + DomainRecord.domain_id) * 8
    store64(slot, domain)
    return 0


@native
def is_gone(domain: int) -> int:
    """Whether a domain is dead and nobody has any of its pages: in Xen it would not be there any more."""
    if load64(domain + DomainRecord.is_dying) != DOMDYING_dead:
        return 0
    return 0 if load64(domain + DomainRecord.tot_pages) or load64(domain + DomainRecord.xenheap_pages) else 1


@native
def get_domain_by_id(machine: int, domid: int) -> int:
    """The record of a domain, dying ones included, to be given back with ``put_domain``; 0 if there is none."""
    if not ult(domid, DOMAINS):
        return 0
    lock(machine + MachineRecord.domain_list_lock)
    domain = load64(load64(machine + MachineRecord.domain_list) + domid * 8)
    if domain and is_gone(domain):
        domain = 0
    if domain:
        add64(domain + DomainRecord.refcnt, 1)
    unlock(machine + MachineRecord.domain_list_lock)
    return domain


@native
def put_domain(domain: int) -> int:
    """The end of a use that began with ``get_domain_by_id``."""
    add64(domain + DomainRecord.refcnt, -1)
    return 0


@native
def retire(machine: int, domain: int) -> int:
    """Take a domain that is gone off the list; returns when nobody uses its record any more."""
    lock(machine + MachineRecord.domain_list_lock)
    slot = load64(machine + MachineRecord.domain_list) + load64(domain + DomainRecord.domain_id) * 8
    if load64(slot) == domain:
        store64(slot, 0)
    unlock(machine + MachineRecord.domain_list_lock)
    while load64(domain + DomainRecord.refcnt):
        cpu_relax()
    return 0
