"""Code that others write by a grant is executed as it was written, as soon as a CPU has to see it.

What it has to see on a real machine: all that was written before, once it has executed a serializing instruction.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator

import pytest
from grant_guest import GrantGuest, new_hypervisor, place
from pv_guest import DATA

from euxen.abi.grant_table import (
    GNTCOPY_dest_gref,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_okay,
    GnttabCopy,
)
from euxen.abi.xen import DOMID_SELF, HYPERVISOR_xen_version
from euxen.cpu.unicorn import translate

REF = 20
FLAG, GO = DATA + 0x100, DATA + 0x108
FUNCTION = place(50)
"""Where the guest has the page with the function that is written while it runs."""
PTE_RWX = 0x67
PATIENCE = 20.0


def returns(value: int) -> bytes:
    """mov $value, %eax; ret"""
    return b"\xb8" + struct.pack("<I", value) + b"\xc3"


SERIALIZE = {
    "cpuid": "xor %eax,%eax; cpuid",
    "hypercall": f"mov ${HYPERVISOR_xen_version},%eax; xor %edi,%edi; xor %esi,%esi; syscall",
    "iret": "mov %rsp,%rcx; push $0xe02b; push %rcx; push $0x202; push $0xe033; push $3f; iretq; 3:",
}


def program(serialize: str) -> str:
    """Call the function, say so, wait for the word, execute a serializing instruction, and call it again."""
    return (
        f"mov ${FUNCTION},%rbp; call *%rbp; mov %eax,%r12d; call *%rbp; movq $1,{FLAG};"
        f"2: pause; cmpq $1,{GO}; jne 2b; {SERIALIZE[serialize]};"
        "call *%rbp; mov %eax,%edi; mov %r12d,%esi"
    )


@pytest.fixture
def guest(native: None) -> Iterator[GrantGuest]:
    guest = GrantGuest(new_hypervisor())
    yield guest
    guest.close()


def call_twice(guest: GrantGuest, serialize: str, between: object) -> tuple[int, int]:
    """What the function returned before and after ``between`` was called, in another thread, while the guest ran."""
    assert callable(between)
    page = guest.page(DATA).cast("Q")
    flag, go = (FLAG - DATA) // 8, (GO - DATA) // 8

    def other() -> None:
        deadline = time.monotonic() + PATIENCE
        while page[flag] != 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        between()
        page[go] = 1

    thread = threading.Thread(target=other)
    thread.start()
    result = guest.run(program(serialize))
    thread.join()
    return result.rsi, result.rdi


@pytest.mark.parametrize("serialize", SERIALIZE)
def test_domain_0_writes_where_it_has_mapped_before(guest: GrantGuest, serialize: str) -> None:
    frame = guest.pool(0)
    guest.grant(REF, 0, frame)
    mapped = guest.control.map_grants(guest.domid, [REF])
    mapped.pages[0][:6] = returns(1)
    guest.set_entry(FUNCTION, frame << 12 | PTE_RWX)

    def write() -> None:
        mapped.pages[0][:6] = returns(2)

    assert call_twice(guest, serialize, write) == (1, 2)
    mapped.unmap()


@pytest.mark.parametrize("serialize", SERIALIZE)
def test_domain_0_maps_writes_and_unmaps(guest: GrantGuest, serialize: str) -> None:
    frame = guest.pool(0)
    guest.grant(REF, 0, frame)
    guest.machine.frame(frame)[:6] = returns(1)
    guest.set_entry(FUNCTION, frame << 12 | PTE_RWX)

    def write() -> None:
        mapped = guest.control.map_grants(guest.domid, [REF])
        mapped.pages[0][:6] = returns(2)
        mapped.unmap()

    assert call_twice(guest, serialize, write) == (1, 2)


@pytest.mark.parametrize("serialize", SERIALIZE)
def test_domain_0_copies(guest: GrantGuest, serialize: str) -> None:
    frame = guest.pool(0)
    guest.grant(REF, 0, frame)
    guest.machine.frame(frame)[:6] = returns(1)
    guest.set_entry(FUNCTION, frame << 12 | PTE_RWX)
    own = int(guest.control.populate_physmap(0, 0, 1)[0])
    guest.machine.frame(own)[:6] = returns(2)

    def write() -> None:
        op = GnttabCopy(len=6, flags=GNTCOPY_dest_gref)
        op.source.u.gmfn, op.source.domid = own, DOMID_SELF
        op.dest.u.ref, op.dest.domid = REF, guest.domid
        guest.control.grant_copy([op])
        assert op.status == GNTST_okay

    assert call_twice(guest, serialize, write) == (1, 2)


def test_another_guest_writes(guest: GrantGuest) -> None:
    """The other guest's stores are those of its own engine, which knows nothing of this one's code."""
    writer = GrantGuest(guest.hypervisor)
    frame = guest.pool(0)
    guest.grant(REF, writer.domid, frame)
    guest.machine.frame(frame)[:6] = returns(1)
    guest.set_entry(FUNCTION, frame << 12 | PTE_RWX)
    handle = writer.map_handle(guest.domid, REF, place(0))

    def write() -> None:
        writer.run(f"movl $2,{place(0) + 1}")

    assert call_twice(guest, "cpuid", write) == (1, 2)
    assert writer.unmap(handle, place(0)) == GNTST_okay
    writer.close()


def test_code_of_another_guest(guest: GrantGuest) -> None:
    """What was borrowed can be executed; its owner writes it when it likes."""
    lender = GrantGuest(guest.hypervisor)
    frame = lender.pool(0)
    lender.grant(REF, guest.domid, frame)
    lender.set_entry(place(0), frame << 12 | PTE_RWX)
    lender.machine.frame(frame)[:6] = returns(1)
    handle = guest.map_handle(lender.domid, REF, FUNCTION, GNTMAP_host_map | GNTMAP_readonly)
    assert guest.set_entry(FUNCTION, frame << 12 | 0x25) == 0

    def write() -> None:
        lender.run(f"movl $2,{place(0) + 1}")

    assert call_twice(guest, "cpuid", write) == (1, 2)
    assert guest.unmap(handle, FUNCTION) == GNTST_okay
    lender.close()


def test_more_frames_than_the_engine_keeps_a_list_of(guest: GrantGuest) -> None:
    frame = guest.pool(0)
    guest.machine.frame(frame)[:6] = returns(1)
    guest.set_entry(FUNCTION, frame << 12 | PTE_RWX)
    block = guest.domain.record["block"]

    def write() -> None:
        guest.machine.frame(frame)[:6] = returns(2)
        for _ in range(300):
            translate.code_written(block, guest.pool(1))

    assert call_twice(guest, "hypercall", write) == (1, 2)
