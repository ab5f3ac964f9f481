"""What the hypervisor itself reads and writes at a guest's addresses: what the page tables say now."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from pv_guest import CODE, DATA, SPARE, TABLES, PvGuest

from euxen.abi.errno import XEN_EFAULT
from euxen.abi.memory import (
    XENMEM_decrease_reservation,
    XENMEM_exchange,
    XenMemoryExchange,
    XenMemoryReservation,
)
from euxen.abi.xen import (
    DOMID_SELF,
    HYPERVISOR_memory_op,
    HYPERVISOR_multicall,
    HYPERVISOR_update_va_mapping,
    MulticallEntry,
)
from euxen.hypervisor.machine import PAGE_SIZE

PAGE_FAULT = 14
MARK = 0x5A5A_5A5A
NEW_FRAME = DATA + 0x80


@pytest.fixture
def guest(native: None) -> Iterator[PvGuest]:
    guest = PvGuest()
    yield guest
    guest.close()


def spare_frame(guest: PvGuest) -> int:
    return guest.frames[TABLES + (SPARE - CODE) // PAGE_SIZE]


def reservation(guest: PvGuest, at: int, frame: int) -> XenMemoryReservation:
    """The description of one frame; its number is written to the guest's memory."""
    guest.put(at, struct.pack("<Q", frame))
    return XenMemoryReservation(extent_start=at, nr_extents=1, domid=DOMID_SELF)


def hypercall(number: int, *arguments: int) -> str:
    loads = "; ".join(f"mov ${value},%{name}" for name, value in zip(("rdi", "rsi", "rdx"), arguments, strict=False))
    return f"mov ${number},%eax; {loads}; syscall"


def test_memory_given_back_in_the_same_call_is_not_written(guest: PvGuest) -> None:
    """The list of calls lies in a page that its first call unmaps and its second gives back to Xen."""
    frame = spare_frame(guest)
    guest.put(DATA, bytes(reservation(guest, DATA + 64, frame)))
    operations = (
        MulticallEntry(op=HYPERVISOR_update_va_mapping, result=MARK, args=(SPARE, 0, 0, 0, 0, 0)),
        MulticallEntry(op=HYPERVISOR_memory_op, result=MARK, args=(XENMEM_decrease_reservation, DATA, 0, 0, 0, 0)),
    )
    guest.put(SPARE, b"".join(map(bytes, operations)))
    result = guest.run(f"movb $0,{SPARE + 0x800}; {hypercall(HYPERVISOR_multicall, SPARE, 2)}; mov %rax,%rbx")
    assert result.vector is None
    assert result.rbx == -XEN_EFAULT & (1 << 64) - 1
    second = MulticallEntry.unpack_from(guest.machine.frame(frame), MulticallEntry.size)
    assert second.result == MARK


def test_memory_that_was_exchanged_is_out_of_reach(guest: PvGuest) -> None:
    """The guest unmaps a page, forgets to have its translation dropped, and exchanges the frame for another."""
    frame = spare_frame(guest)
    exchange = XenMemoryExchange(in_=reservation(guest, DATA + 0x70, frame), out=reservation(guest, NEW_FRAME, 0))
    guest.put(DATA, bytes(exchange))
    result = guest.run(
        f"movb $0,{SPARE}; {hypercall(HYPERVISOR_update_va_mapping, SPARE, 0, 0)};"
        f"{hypercall(HYPERVISOR_memory_op, XENMEM_exchange, DATA)}; mov %rax,%rbx; movb $1,{SPARE}"
    )
    assert result.rbx == 0
    assert struct.unpack_from("<Q", guest.page(DATA), NEW_FRAME - DATA)[0] != frame
    assert result.vector == PAGE_FAULT
    assert guest.machine.frame(frame)[0] == 0
