"""The slots of every top-level page table that are Xen's.

Source: xen/arch/x86/mm.c, init_xen_l4_slots, fill_ro_mpt, zap_ro_mpt.
"""

from __future__ import annotations

from euxen.abi.xen import VMASST_TYPE_m2p_strict
from euxen.cpu.native.language import copy, load64, native, store64
from euxen.hypervisor.mm.page import host_of
from euxen.hypervisor.records import DomainRecord, MachineRecord

FIRST_XEN_SLOT = 256
LAST_XEN_SLOT = 271
RO_MPT_SLOT = FIRST_XEN_SLOT
XEN_SLOTS_BYTES = (LAST_XEN_SLOT - FIRST_XEN_SLOT + 1) * 8


@native
def is_guest_slot(level: int, slot: int) -> int:
    """Whether an entry of a table of some level is the guest's."""
    return 1 if level < 4 or slot < FIRST_XEN_SLOT or slot > LAST_XEN_SLOT else 0


@native
def init_xen_l4_slots(domain: int, host: int) -> int:
    """Fill Xen's slots of a top-level table that was validated."""
    machine = load64(domain + DomainRecord.machine)
    copy(host + FIRST_XEN_SLOT * 8, load64(machine + MachineRecord.xen_slots), XEN_SLOTS_BYTES)
    if not m2p_strict(domain):
        store64(host + RO_MPT_SLOT * 8, 0)
    return 0


@native
def m2p_strict(domain: int) -> int:
    """Whether a top-level table shows the M2P until programs use it; else it does once a kernel uses it."""
    return (load64(domain + DomainRecord.vm_assist) >> VMASST_TYPE_m2p_strict) & 1


@native
def fill_ro_mpt(domain: int, frame: int) -> int:
    """Show the machine-to-physical table in a top-level table."""
    machine = load64(domain + DomainRecord.machine)
    store64(host_of(machine, frame) + RO_MPT_SLOT * 8, load64(load64(machine + MachineRecord.xen_slots)))
    return 0


@native
def zap_ro_mpt(domain: int, frame: int) -> int:
    """Show it no more."""
    store64(host_of(load64(domain + DomainRecord.machine), frame) + RO_MPT_SLOT * 8, 0)
    return 0
