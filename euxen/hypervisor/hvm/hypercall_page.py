"""The hypercall page of an HVM guest: a stub per hypercall.

Source: svm_init_hypercall_page in xen/arch/x86/hvm/svm/svm.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from euxen.abi.xen import HYPERVISOR_iret
from euxen.hypervisor.hypercall_page import PAGE_SIZE, STUB_SIZE

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain
    from euxen.hypervisor.vcpu import Vcpu

STUBS = PAGE_SIZE // STUB_SIZE
UD2 = b"\x0f\x0b"


def hvm_page() -> bytes:
    """The contents of the page, for 32-bit and 64-bit code. HVM guests have no iret."""
    page = bytearray(b"\xcc" * PAGE_SIZE)
    for number in range(STUBS):
        # mov $number,%eax; vmmcall; ret
        stub = b"\xb8" + number.to_bytes(4, "little") + b"\x0f\x01\xd9\xc3"
        if number == HYPERVISOR_iret:
            stub = UD2
        page[number * STUB_SIZE : number * STUB_SIZE + len(stub)] = stub
    return bytes(page)


def fill(domain: Domain, frame: int) -> None:
    """Fill a machine frame of a domain's, which does not run or asks for it."""
    domain.machine.frame(frame)[:] = hvm_page()
    if domain.engine is not None:
        domain.engine.invalidate_code(frame * PAGE_SIZE, PAGE_SIZE)


def install(vcpu: Vcpu, frame: int) -> None:
    """The same for the vCPU that asks, whose mode shared data follow from now on."""
    latch_shinfo_size(vcpu)
    fill(vcpu.domain, frame)


def latch_shinfo_size(vcpu: Vcpu) -> None:
    """Lay shared_info out for the code that the vCPU executes (hvm_latch_shinfo_size)."""
    from euxen.cpu.registers import Registers

    engine = vcpu.domain.engine
    assert engine is not None
    vcpu.domain.record["has_32bit_shinfo"] = int(not Registers(engine.block).long_mode)
    vcpu.domain.update_wall_clock()
