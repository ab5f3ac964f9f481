"""The p2m against a model, with hypercalls at random that give, take and move an HVM domain's memory."""

from __future__ import annotations

import random

import pytest
from small_domains import make_control
from small_hvm import FIRST_GFN, PAGES, SmallHvm

from euxen.abi import memory as mem
from euxen.hypervisor.audit import audit
from euxen.hypervisor.control import Control
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.mm import p2m

ROUNDS = 400
MOST_PAGES = 24
GFNS = [*range(FIRST_GFN, FIRST_GFN + 12), 0x1000, 0x1001, 0x3_0000, (1 << 28) - 1]
BEYOND = 1 << 28
NOWHERE = (BEYOND, (1 << 64) - 1)
XEN = "xen"
"""In the model: the frame of shared_info, which is the domain's to see but not to have."""


class Model:
    """Which page is at which guest frame: pages are numbers."""

    def __init__(self) -> None:
        self.pages: dict[int, int | str] = dict(zip(range(FIRST_GFN, FIRST_GFN + PAGES), range(PAGES), strict=True))
        self.next = PAGES
        self.lost = 0
        """Pages that the domain still has, nowhere."""
        self.xen_is_lent = True
        """Whether the domain has a reference to shared_info, which it can give away once, and then only look at it."""

    @property
    def held(self) -> int:
        return self.lost + sum(page is not XEN for page in self.pages.values())

    def can_name(self, gfn: int) -> bool:
        """Whether there is a page of the domain's, for those who look for one."""
        return gfn in self.pages and (self.pages[gfn] is not XEN or self.xen_is_lent)

    def put(self, gfn: int, page: int | str) -> None:
        """A page comes to a frame from wherever it is; what was there is nowhere any more."""
        if self.pages.get(gfn) == page:
            return
        for other in [other for other, there in self.pages.items() if there == page]:
            del self.pages[other]
        if gfn in self.pages and self.pages[gfn] is not XEN:
            self.lost += 1
        self.pages[gfn] = page


class Twins:
    """The domain and its model."""

    def __init__(self, control: Control, chance: random.Random) -> None:
        self.control, self.chance = control, chance
        self.guest = SmallHvm(control, "hlt", spare=MOST_PAGES - PAGES)
        self.model = Model()

    def populate(self) -> None:
        gfn = self.chance.choice([*GFNS, *NOWHERE])
        fits = self.model.held < MOST_PAGES and gfn not in NOWHERE
        try:
            self.control.populate_physmap(self.guest.domid, gfn, 1)
        except XenError:
            assert not fits
            # A page that finds no place is the domain's nevertheless.
            self.model.lost += self.model.held < MOST_PAGES
            return
        assert fits
        if gfn in self.model.pages and self.model.pages[gfn] is not XEN:
            self.model.lost += 1
        self.model.pages[gfn] = self.model.next
        self.model.next += 1

    def _one(self, command: int, gfn: int) -> int:
        with self.control._kernel.lend(gfn.to_bytes(8, "little")) as buffer:
            op = mem.XenMemoryReservation(extent_start=buffer.address, nr_extents=1, domid=self.guest.domid)
            return self.control.memory_op(command, op)

    def decrease(self) -> None:
        gfn = self.chance.choice([*GFNS, *NOWHERE])
        done = self._one(mem.XENMEM_decrease_reservation, gfn)
        assert done == self.model.can_name(gfn)
        if done and self.model.pages.pop(gfn) is XEN:
            self.model.xen_is_lent = False

    def _add(self, space: int, index: int, gfn: int) -> bool:
        op = mem.XenAddToPhysmap(domid=self.guest.domid, space=space, idx=index, gpfn=gfn)
        try:
            self.control.memory_op(mem.XENMEM_add_to_physmap, op)
        except XenError:
            return False
        return True

    def move(self) -> None:
        source, target = self.chance.choice([*GFNS, *NOWHERE]), self.chance.choice([*GFNS, *NOWHERE])
        page = self.model.pages.get(source)
        done = self._add(mem.XENMAPSPACE_gmfn, source, target)
        possible = self.model.can_name(source) and target not in NOWHERE
        assert done == possible
        if done and page is not None:
            old = self.model.pages.get(target)
            self.model.put(target, page)
            if old is not None and old is not XEN and old != page:
                # add_to_physmap gives back what was there.
                self.model.lost -= 1
        elif target == BEYOND and self.model.can_name(source):
            # It has left its old place when it finds that there is no new one.
            self.model.lost += self.model.pages.pop(source) is not XEN

    def shared_info(self) -> None:
        gfn = self.chance.choice([*GFNS, *NOWHERE])
        done = self._add(mem.XENMAPSPACE_shared_info, 0, gfn)
        assert done == (gfn not in NOWHERE)
        if done:
            old = self.model.pages.get(gfn)
            self.model.put(gfn, XEN)
            if old is not None and old is not XEN:
                self.model.lost -= 1
        elif gfn == BEYOND:
            self.model.pages = {gfn: page for gfn, page in self.model.pages.items() if page is not XEN}

    def remove(self) -> None:
        gfn = self.chance.choice([*GFNS, *NOWHERE])
        op = mem.XenRemoveFromPhysmap(domid=self.guest.domid, gpfn=gfn)
        try:
            self.control.memory_op(mem.XENMEM_remove_from_physmap, op)
        except XenError:
            assert not self.model.can_name(gfn)
            return
        page = self.model.pages.pop(gfn)
        if page is not XEN:
            self.model.lost += 1

    def check(self) -> None:
        """Both agree on what is where, and on how many pages there are."""
        domain = self.guest.domain
        assert domain.hvm is not None
        used = {gfn: p2m.mfn_of(entry) for gfn, entry in domain.hvm.p2m.used()}
        assert used.keys() == self.model.pages.keys()
        by_page: dict[int | str, int] = {self.model.pages[gfn]: mfn for gfn, mfn in used.items()}
        assert len(set(used.values())) == len(by_page) == len(used)
        assert (domain.shared_info_frame in used.values()) == (XEN in self.model.pages.values())
        assert domain.record["tot_pages"] == self.model.held
        assert not (wrong := audit(self.control._hypervisor)), "\n".join(wrong)


@pytest.mark.parametrize("seed", range(8))
def test_p2m(seed: int, native: None) -> None:
    control = make_control()
    free = control._hypervisor.machine.record["free_pages"]
    chance = random.Random(seed)
    twins = Twins(control, chance)
    actions = [twins.populate, twins.populate, twins.decrease, twins.move, twins.move, twins.shared_info, twins.remove]
    for number in range(ROUNDS):
        chance.choice(actions)()
        if number % 20 == 0:
            twins.check()
    twins.check()
    twins.guest.destroy()
    assert control._hypervisor.machine.record["free_pages"] == free
