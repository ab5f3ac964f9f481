"""The hypercall page of a PV guest: a stub per hypercall. Source: hypercall_page_initialise_ring3_kernel."""

from __future__ import annotations

from euxen.abi.xen import HYPERVISOR_iret

PAGE_SIZE = 4096
STUB_SIZE = 32
STUBS = 64


def _stub(number: int) -> bytes:
    """push %rcx; push %r11; mov $number,%eax; syscall; pop %r11; pop %rcx; ret"""
    return b"\x51\x41\x53\xb8" + number.to_bytes(4, "little") + b"\x0f\x05\x41\x5b\x59\xc3"


def _iret_stub() -> bytes:
    """iret does not return, and expects RCX, R11 and RAX on the stack: push them, mov $23,%eax; syscall"""
    return b"\x51\x41\x53\x50\xb8" + HYPERVISOR_iret.to_bytes(4, "little") + b"\x0f\x05"


def pv_page() -> bytes:
    """The contents of the page, for a 64-bit guest. What is no stub traps (int3)."""
    page = bytearray(b"\xcc" * PAGE_SIZE)
    for number in range(STUBS):
        stub = _iret_stub() if number == HYPERVISOR_iret else _stub(number)
        page[number * STUB_SIZE : number * STUB_SIZE + len(stub)] = stub
    return bytes(page)
