"""Domains that died while somebody holds pages of theirs: nothing that can be asked for keeps them longer."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest
from small_domains import COUNT, DATA, L4, PAGES, SHUT_DOWN, STACK, SmallDomain, address, make_control

from euxen.abi.arch_x86_xen import VcpuGuestContext, VGCF_in_kernel
from euxen.abi.domctl import (
    XEN_DOMCTL_set_cpu_policy,
    XEN_DOMCTL_setvcpucontext,
    XenDomctlCpuPolicy,
    XenDomctlVcpucontext,
)
from euxen.abi.errno import XEN_EBUSY, XEN_EINVAL, XEN_ENODATA
from euxen.abi.grant_table import GTF_permit_access
from euxen.abi.sched import SHUTDOWN_suspend
from euxen.abi.vcpu import VCPUOP_register_runstate_memory_area
from euxen.abi.xen import HYPERVISOR_vcpu_op
from euxen.hypervisor.control import Control
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.granted import GrantedPages

REF = 20
AREA = 0x100


def vcpu_op(command: int, argument: int) -> str:
    return f"mov ${command},%edi; xor %esi,%esi; mov ${argument},%edx; mov ${HYPERVISOR_vcpu_op},%eax; syscall"


REGISTER_RUNSTATE = f"{vcpu_op(VCPUOP_register_runstate_memory_area, address(DATA) + 8)}; {SHUT_DOWN}; {COUNT}"
"""Has its runstate written to AREA in its data, whose address is in the second word."""


@pytest.fixture
def control(native: None) -> Iterator[Control]:
    """A machine on which in the end no domain may be left, and no frame lost."""
    control = make_control()
    free = control.physinfo().free_pages
    yield control
    assert [info.domain for info in control.domain_list()] == [0]
    assert control.physinfo().free_pages == free


def find(control: Control, domain: SmallDomain) -> Domain:
    found = control._hypervisor.find(domain.domid)
    assert found is not None
    return found


def errno_of(attempt: Callable[[], object]) -> int:
    """With what something fails."""
    with pytest.raises(XenError) as error:
        attempt()
    return error.value.errno


def reset(control: Control, domid: int) -> None:
    """Take the vCPU's state away."""
    control.domctl(XEN_DOMCTL_setvcpucontext, domid, XenDomctlVcpucontext())


def lend(control: Control, domain: SmallDomain, *pages: int) -> GrantedPages:
    """Have pages of a domain mapped by Domain 0, read-only, so that they can be anything."""
    with control.map_grant_table(domain.domid) as table:
        for number, page in enumerate(pages, REF):
            struct.pack_into("<HHI", table, 8 * number, GTF_permit_access, 0, domain.frames[page])
    return control.map_grants(domain.domid, range(REF, REF + len(pages)), writable=False)


def test_their_vcpus(control: Control) -> None:
    domain = SmallDomain(control)
    domain.run()
    domain.wait_for_progress()
    control.destroy_domain(domain.domid)
    assert errno_of(lambda: control.get_vcpu_context(domain.domid, 0)) == XEN_ENODATA
    assert errno_of(lambda: control.set_vcpu_context(domain.domid, 0, VcpuGuestContext())) == XEN_EINVAL
    reset(control, domain.domid)
    domain.mapping.release()


def test_a_context_with_pages_that_are_held(control: Control) -> None:
    """The page table is there yet, as it is mapped; a vCPU that referred to it would refer to it for ever."""
    domain = SmallDomain(control)
    lent = lend(control, domain, STACK)
    reset(control, domain.domid)
    control.destroy_domain(domain.domid)
    context = VcpuGuestContext(flags=VGCF_in_kernel, ctrlreg=(0, 0, 0, domain.frames[STACK] << 12, 0, 0, 0, 0))
    assert errno_of(lambda: control.set_vcpu_context(domain.domid, 0, context)) == XEN_EINVAL
    domain.mapping.release()
    lent.unmap()


def test_a_context_that_is_refused_half_way(control: Control) -> None:
    domain = SmallDomain(control)
    reset(control, domain.domid)
    roots = (domain.frames[L4] << 12, domain.frames[DATA] << 12)
    context = VcpuGuestContext(flags=VGCF_in_kernel, ctrlreg=(0, roots[1], 0, roots[0], 0, 0, 0, 0))
    for _ in range(2):
        assert errno_of(lambda: control.set_vcpu_context(domain.domid, 0, context)) == XEN_EINVAL
    domain.destroy()


def test_their_runstate_is_told_nobody(control: Control) -> None:
    """Where it was to be written is another's memory by now."""
    domain = SmallDomain(control, REGISTER_RUNSTATE)
    domain.mapping.memory.cast("Q")[:2] = memoryview(struct.pack("<2Q", SHUTDOWN_suspend, address(DATA) + AREA)).cast(
        "Q"
    )
    domain.run()
    assert domain.wait_for_shutdown() == SHUTDOWN_suspend
    assert any(domain.mapping.memory[AREA : AREA + 48])
    control.destroy_domain(domain.domid)
    told = bytes(domain.mapping.memory)
    reset(control, domain.domid)
    assert bytes(domain.mapping.memory) == told
    domain.mapping.release()


def test_their_cpu_policy(control: Control) -> None:
    domid = control.create_domain(PAGES)
    mapping = control.map_foreign(domid, control.populate_physmap(domid, 0, 1)[0])
    control.destroy_domain(domid)
    control.domctl(XEN_DOMCTL_set_cpu_policy, domid, XenDomctlCpuPolicy())
    mapping.release()


def test_their_grant_tables(control: Control) -> None:
    domain = SmallDomain(control)
    control.destroy_domain(domain.domid)
    find(control, domain).grant_table.grow(3)
    frame = find(control, domain).grant_table.frames[2]
    assert errno_of(lambda: control.map_foreign(domain.domid, frame)) == XEN_EBUSY
    domain.mapping.release()


def test_their_page_tables_are_not_pinned(control: Control) -> None:
    domain = SmallDomain(control)
    lent = lend(control, domain, STACK)
    control.destroy_domain(domain.domid)
    assert errno_of(lambda: control.pin_table(domain.domid, 1, domain.frames[STACK])) == XEN_EINVAL
    domain.mapping.release()
    lent.unmap()
