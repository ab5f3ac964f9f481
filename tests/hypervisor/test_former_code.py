"""Of a frame that was another's meanwhile, nobody executes what he had in it before."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from grant_guest import GrantGuest, new_hypervisor, place

from euxen.abi.memory import XENMEM_decrease_reservation, XenMemoryReservation
from euxen.abi.xen import DOMID_SELF, HYPERVISOR_memory_op, HYPERVISOR_update_va_mapping_otherdomain
from euxen.hypervisor.mm import reservation

FUNCTION = place(50)
ARGUMENTS = place(0)
PTE_RWX, PTE_RX = 0x67, 0x25
FLUSH = 2


def returns(value: int) -> bytes:
    """mov $value, %eax; ret"""
    return b"\xb8" + struct.pack("<I", value) + b"\xc3"


@pytest.fixture
def guest(native: None) -> Iterator[GrantGuest]:
    guest = GrantGuest(new_hypervisor())
    yield guest
    guest.close()


def call(guest: GrantGuest) -> int:
    """What the function returns."""
    result = guest.run(f"mov ${FUNCTION},%rbp; call *%rbp; mov %eax,%edi").rdi
    guest.control.resume_domain(guest.domid)
    return result


def executed_and_given_back(guest: GrantGuest) -> int:
    """A frame in which the guest had a function that returns 1."""
    frame = guest.pool(0)
    guest.machine.frame(frame)[:6] = returns(1)
    guest.set_entry(FUNCTION, frame << 12 | PTE_RWX)
    assert call(guest) == 1
    guest.set_entry(FUNCTION, 0)
    place_for_list = guest.pool(1)
    guest.set_entry(ARGUMENTS, place_for_list << 12 | PTE_RWX)
    op = XenMemoryReservation(extent_start=ARGUMENTS + XenMemoryReservation.size, nr_extents=1, domid=DOMID_SELF)
    guest.machine.frame(place_for_list)[: op.size + 8] = bytes(op) + struct.pack("<Q", frame)
    assert guest.hypercall(HYPERVISOR_memory_op, XENMEM_decrease_reservation, ARGUMENTS) == 1
    return frame


def test_a_page_of_another(guest: GrantGuest) -> None:
    frame = executed_and_given_back(guest)
    control = guest.control
    domid = control.create_domain(guest.machine.frames)
    frames = control.populate_physmap(domid, 0, control.physinfo().free_pages)
    assert frame in frames
    guest.machine.frame(frame)[:6] = returns(2)
    guest.domain.record["is_privileged"] = 1
    entry = frame << 12 | PTE_RX
    assert guest.hypercall(HYPERVISOR_update_va_mapping_otherdomain, FUNCTION, entry, FLUSH, domid) == 0
    assert call(guest) == 2
    guest.set_entry(FUNCTION, 0)
    control.destroy_domain(domid)


def test_a_page_of_xens(guest: GrantGuest) -> None:
    frame = executed_and_given_back(guest)
    control = guest.control
    domid = control.create_domain(guest.machine.frames)
    frames = control.populate_physmap(domid, 0, control.physinfo().free_pages)
    # Somebody else has all frames but this one, which is what the grant table grows by.
    other = guest.hypervisor.find(domid)
    assert frame in frames and other is not None
    assert reservation.guest_remove_page(other.record.address, frame)
    guest.domain.grant_table.grow(2)
    assert guest.domain.grant_table.frames[1] == frame
    guest.machine.frame(frame)[:6] = returns(2)
    guest.set_entry(FUNCTION, frame << 12 | PTE_RWX)
    assert call(guest) == 2
    guest.set_entry(FUNCTION, 0)
    control.destroy_domain(domid)
