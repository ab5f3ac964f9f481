"""Domains by their numbers, for native code, and how long their records live.

A DomainRecord, and all that its words lead to, may be used

- by the domain's own vCPUs, which do not run any more when it is destroyed;
- by whoever holds a reference to one of its pages: a domain with pages, even a dead one, keeps its record;
- between ``get_domain_by_id`` and ``put_domain``.

``DomainRecord.refcnt`` counts the last, one for having pages, one for having pages of Xen's, and one until the domain
is dead. When it falls to 0 the domain is gone, and nobody can find it any more. ``delist`` gives its number free.
Nobody but its own pages keeps hold of a domain for longer than a hypercall takes.
"""

from __future__ import annotations

from euxen.cpu.native.language import add64, call1, cas64, load64, native, store64, ult
from euxen.cpu.native.spinlock import lock, unlock
from euxen.hypervisor.records import DomainRecord, MachineRecord

DOMAINS = 0x7FF0
"""DOMID_FIRST_RESERVED."""


@native
def enlist(machine: int, domain: int) -> int:
    """A domain can be found from now on."""
    slot = load64(machine + MachineRecord.domain_list) + load64(domain + DomainRecord.domain_id) * 8
    store64(slot, domain)
    return 0


@native
def _get_domain(domain: int) -> int:
    """Take a reference to a domain that is on the list; 0 if it is gone (get_domain)."""
    while True:
        count = load64(domain + DomainRecord.refcnt)
        if count == 0:
            return 0
        if cas64(domain + DomainRecord.refcnt, count, count + 1) == count:
            return 1


@native
def get_domain_by_id(machine: int, domid: int) -> int:
    """The record of a domain, dying ones included, to be given back with ``put_domain``; 0 if there is none."""
    if not ult(domid, DOMAINS):
        return 0
    lock(machine + MachineRecord.domain_list_lock)
    domain = load64(load64(machine + MachineRecord.domain_list) + domid * 8)
    if domain and not _get_domain(domain):
        domain = 0
    unlock(machine + MachineRecord.domain_list_lock)
    return domain


@native
def put_domain(domain: int) -> int:
    """Drop a reference to a domain. After the last one its record may go at any time (put_domain)."""
    machine = load64(domain + DomainRecord.machine)
    if add64(domain + DomainRecord.refcnt, -1) == 1:
        gone = load64(machine + MachineRecord.domain_gone)
        if gone:
            call1(gone, machine)
    return 0


@native
def delist(machine: int, domain: int) -> int:
    """Take a domain that is gone off the list."""
    lock(machine + MachineRecord.domain_list_lock)
    slot = load64(machine + MachineRecord.domain_list) + load64(domain + DomainRecord.domain_id) * 8
    if load64(slot) == domain:
        store64(slot, 0)
    unlock(machine + MachineRecord.domain_list_lock)
    return 0
