"""Guests that use the same grants at the same time, with no Python in between."""

from __future__ import annotations

import struct
import threading

from grant_guest import GrantGuest, pins, place
from pv_guest import DATA

from euxen.abi import grant_table as abi
from euxen.hypervisor.hypervisor import Hypervisor

pytest_plugins = ["grant_fixtures"]

REF = 20


OPERATION, SECOND = DATA + 0x100, DATA + 0x200
FAILED = 0xBAD
TIMES = 50_000
MAP, UNMAP = abi.GnttabMapGrantRef, abi.GnttabUnmapGrantRef
MOVE_HANDLE = f"mov {OPERATION + MAP.offsets['handle']},%eax; mov %eax,{SECOND + UNMAP.offsets['handle']};"


def grant_table_op(command: int, at: int, status: int | None) -> str:
    """One operation; the program ends with FAILED where its status, at an offset, is not 0."""
    check = f"cmpw $0,{at + status}; jne 9f" if status is not None else "test %eax,%eax; jnz 9f"
    return f"mov $20,%eax; mov ${command},%edi; mov ${at},%rsi; mov $1,%edx; syscall; {check}; "


def repeat(count: int, body: str) -> str:
    return f"mov ${count},%r15d; 1: {body} dec %r15d; jnz 1b; mov $0,%ebx; jmp 8f; 9: mov ${FAILED},%ebx; 8:"


def test_versions_change_while_a_grant_comes_and_goes(lender: GrantGuest, borrower: GrantGuest) -> None:
    """One that is reserved for tools: it is in the table before and afterwards, with who uses it."""
    frame, ref = lender.pool(0), 5
    lender.grant(ref, borrower.domid, frame)
    borrowing = abi.GnttabMapGrantRef(host_addr=place(0), flags=abi.GNTMAP_host_map, ref=ref, dom=lender.domid)
    borrower.put(OPERATION, bytes(borrowing))
    borrower.put(SECOND, bytes(abi.GnttabUnmapGrantRef(host_addr=place(0))))
    borrow = (
        grant_table_op(abi.GNTTABOP_map_grant_ref, OPERATION, MAP.offsets["status"])
        + MOVE_HANDLE
        + grant_table_op(abi.GNTTABOP_unmap_grant_ref, SECOND, UNMAP.offsets["status"])
    )
    change = "".join(
        f"movl ${version},{OPERATION}; " + grant_table_op(abi.GNTTABOP_set_version, OPERATION, None)
        for version in (2, 1)
    )
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(borrower.run(repeat(TIMES, borrow)).rbx))
    thread.start()
    results.append(lender.run(repeat(TIMES // 5, change)).rbx)
    thread.join()
    assert results == [0, 0]
    assert pins(lender.domain) == {}
    assert lender.entry(ref).flags == abi.GTF_permit_access
    assert lender.references(frame) == (1, 0)


def test_two_use_one_page(hypervisor: Hypervisor, lender: GrantGuest, borrower: GrantGuest) -> None:
    """Its references are counted by both at once, while its owner maps it as well."""
    frame = lender.pool(0)
    guests = [borrower, lender, GrantGuest(hypervisor)]
    for number, guest in enumerate(guests):
        lender.grant(REF + number, guest.domid, frame)
        flags = abi.GNTMAP_host_map | abi.GNTMAP_device_map
        op = abi.GnttabMapGrantRef(host_addr=place(0), flags=flags, ref=REF + number, dom=lender.domid)
        guest.put(OPERATION, bytes(op))
        guest.put(SECOND, bytes(UNMAP(host_addr=place(0), dev_bus_addr=frame << 12)))
    body = (
        grant_table_op(abi.GNTTABOP_map_grant_ref, OPERATION, MAP.offsets["status"])
        + MOVE_HANDLE
        + f"lock incq {place(0)};"
        + grant_table_op(abi.GNTTABOP_unmap_grant_ref, SECOND, UNMAP.offsets["status"])
    )
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda guest=guest: results.append(guest.run(repeat(TIMES, body)).rbx))
        for guest in guests
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0, 0, 0]
    assert struct.unpack_from("<Q", lender.machine.frame(frame))[0] == 3 * TIMES
    assert pins(lender.domain) == {}
    assert lender.references(frame) == (1, 0)
