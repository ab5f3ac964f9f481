"""Pages of an HVM domain, mapped by Domain 0 by their guest frames."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from euxen.abi.arch_x86_xen import XEN_X86_EMU_LAPIC
from euxen.abi.domctl import XEN_DOMCTL_CDF_hap, XEN_DOMCTL_CDF_hvm
from euxen.abi.errno import XEN_EINVAL
from euxen.cpu.unicorn.engine import UnicornEngine
from euxen.hypervisor.audit import audit
from euxen.hypervisor.control import Control
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.hypervisor import Hypervisor
from euxen.hypervisor.machine import PAGE_SIZE, Machine

GFN = 0x1234


@dataclass
class Guest:
    """An HVM domain with three guest frames in a row, whose machine frames are in no row."""

    hypervisor: Hypervisor
    control: Control
    domid: int

    def frame(self, gfn: int) -> memoryview:
        domain = self.hypervisor.find(self.domid)
        assert domain is not None
        mfn = domain.mfn_of(gfn)
        assert mfn is not None
        return self.hypervisor.machine.frame(mfn)


@pytest.fixture
def guest(native: None) -> Guest:
    hypervisor = Hypervisor(Machine(16 << 20), UnicornEngine)
    control = Control(hypervisor, hypervisor.kernel)
    flags = XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap
    domid = control.create_domain(64, flags=flags, emulation_flags=XEN_X86_EMU_LAPIC)
    for gfn in (GFN + 1, GFN, GFN + 2):
        control.populate_physmap(domid, gfn, 1)
    return Guest(hypervisor, control, domid)


@pytest.mark.parametrize("offset", [0, 1, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 7])
@pytest.mark.parametrize("size", [0, 1, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 2])
def test_a_copy_lands_at_the_guests_addresses(guest: Guest, offset: int, size: int) -> None:
    data = bytes(number % 251 + 1 for number in range(size))
    guest.control.copy_to_foreign(guest.domid, GFN, data, offset)
    memory = b"".join(guest.frame(GFN + page) for page in range(3))
    assert memory == bytes(offset) + data + bytes(3 * PAGE_SIZE - offset - size)


def test_a_mapping_is_the_guests_page(guest: Guest) -> None:
    with guest.control.map_foreign(guest.domid, GFN + 2) as page:
        guest.frame(GFN + 2)[:4] = b"here"
        assert bytes(page[:4]) == b"here"


def test_where_the_guest_has_nothing(guest: Guest) -> None:
    for first, pages in ((GFN - 1, 2), (GFN, 4), (1 << 50, 1)):
        with pytest.raises(XenError) as refused:
            guest.control.map_foreign(guest.domid, first, pages)
        assert refused.value.errno == XEN_EINVAL


def test_what_is_mapped_is_accounted_for(guest: Guest) -> None:
    mapping = guest.control.map_foreign(guest.domid, GFN, 3)
    assert audit(guest.hypervisor) == []
    mapping.release()
    mapping.release()
    assert audit(guest.hypervisor) == []
    guest.control.destroy_domain(guest.domid)
    assert guest.hypervisor.find(guest.domid) is None
