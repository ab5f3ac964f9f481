"""Random sequences of lending, borrowing, letting go and dying, compared with a model of a few lines.

After each step: every frame has the references that its mappings hold, and no others; every grant is pinned by those
who have it mapped; a dead domain is there for as long as somebody has a page of it. At the end no frame is lost.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from grant_guest import GrantGuest, new_hypervisor, place
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from euxen.abi import grant_table as abi
from euxen.abi.xen import DOMID_SELF
from euxen.hypervisor.control import Control
from euxen.hypervisor.errors import GrantError
from euxen.hypervisor.granted import GrantedPages
from euxen.hypervisor.grants.records import (
    GNTPIN_devr_inc,
    GNTPIN_devw_inc,
    GNTPIN_hstr_inc,
    GNTPIN_hstw_inc,
)
from euxen.hypervisor.mm import reservation

REFS, PAGES, PLACES, MOST_GUESTS = 3, 2, 3, 3
FIRST_REF = 20
HOST, DEVICE, READ_ONLY = abi.GNTMAP_host_map, abi.GNTMAP_device_map, abi.GNTMAP_readonly
KINDS = [HOST, DEVICE, HOST | DEVICE, HOST | READ_ONLY, DEVICE | READ_ONLY, HOST | DEVICE | READ_ONLY]
INCREMENTS = {HOST: GNTPIN_hstw_inc, HOST | READ_ONLY: GNTPIN_hstr_inc, DEVICE: GNTPIN_devw_inc}
INCREMENTS[DEVICE | READ_ONLY] = GNTPIN_devr_inc


@dataclass
class Mapping:
    """A handle that a domain has."""

    user: int
    granter: int
    ref: int
    frame: int
    flags: int
    handle: int = 0
    place: int = 0
    pages: GrantedPages | None = None
    """Domain 0's."""

    @property
    def pins(self) -> int:
        """What it adds to the pin of the grant."""
        return sum(INCREMENTS[kind | self.flags & READ_ONLY] for kind in (HOST, DEVICE) if self.flags & kind)

    @property
    def writable(self) -> bool:
        return not self.flags & READ_ONLY


@dataclass
class Frame:
    """A page that a guest lends."""

    owner: int
    is_held: bool = True
    """Whether the owner has it, because it lives."""


@dataclass
class Model:
    """What there should be."""

    living: set[int] = field(default_factory=lambda: {0})
    frames: dict[int, Frame] = field(default_factory=dict)
    entries: dict[tuple[int, int], tuple[int, int, bool]] = field(default_factory=dict)
    """By granter and reference: to whom, which frame, and whether read-only."""
    mappings: list[Mapping] = field(default_factory=list)
    tables: dict[tuple[int, int], tuple[int, bool]] = field(default_factory=dict)
    """By guest and place: which frame the page-table entry maps, and whether writable."""

    def users(self, granter: int, ref: int) -> list[Mapping]:
        return [m for m in self.mappings if (m.granter, m.ref) == (granter, ref)]

    def references(self, frame: int) -> tuple[int, int]:
        """How many references there are, and how many of them to the type."""
        holds = [writable for mapped, writable in self.tables.values() if mapped == frame]
        for mapping in self.mappings:
            if mapping.frame == frame:
                holds += [mapping.writable] * bool(mapping.flags & DEVICE)
                holds += [mapping.writable] * bool(mapping.pages)
        return self.frames[frame].is_held + len(holds), sum(holds)

    def is_there(self, domid: int) -> bool:
        """Whether a domain lives, or has a page that is in use."""
        own = [number for number, frame in self.frames.items() if frame.owner == domid]
        return domid in self.living or any(self.references(number)[0] for number in own)

    def may_borrow(self, user: int, granter: int, ref: int, readonly: bool) -> int:
        """The frame that a domain gets, or 0."""
        to, frame, entry_readonly = self.entries.get((granter, ref), (-1, 0, False))
        users = self.users(granter, ref)
        if not users:
            allowed = to == user and (readonly or not entry_readonly)
        else:
            frame = users[0].frame
            upgrade = not readonly and not any(mapping.writable for mapping in users)
            allowed = users[0].user == user and not (upgrade and entry_readonly)
        return frame if allowed and self.is_of(granter, frame) else 0

    def is_of(self, domid: int, frame: int) -> bool:
        """Whether a frame is a domain's, be it that only others have it."""
        return self.frames[frame].owner == domid and self.references(frame)[0] > 0


class Grants(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.hypervisor = new_hypervisor()
        self.free = self.hypervisor.machine.record["free_pages"]
        self.control = Control(self.hypervisor, self.hypervisor.kernel)
        self.guests: dict[int, GrantGuest] = {}
        self.dead: dict[int, GrantGuest] = {}
        self.model = Model()
        for _ in range(2):
            self.create()

    @precondition(lambda self: len(self.guests) < MOST_GUESTS)
    @rule()
    def create(self) -> None:
        guest = GrantGuest(self.hypervisor)
        self.guests[guest.domid] = guest
        self.model.living.add(guest.domid)
        for number in range(PAGES):
            self.model.frames[guest.pool(number)] = Frame(guest.domid)

    def _guest(self, data: st.DataObject) -> GrantGuest:
        return data.draw(st.sampled_from(list(self.guests.values())))

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), ref=st.integers(0, REFS - 1), page=st.integers(0, PAGES - 1), readonly=st.booleans())
    def lend(self, data: st.DataObject, ref: int, page: int, readonly: bool) -> None:
        guest = self._guest(data)
        to = data.draw(st.sampled_from([0, *self.guests]))
        flags = abi.GTF_permit_access | (abi.GTF_readonly if readonly else 0)
        guest.grant(FIRST_REF + ref, to, guest.pool(page), flags)
        self.model.entries[guest.domid, ref] = (to, guest.pool(page), readonly)

    @precondition(lambda self: self.model.entries)
    @rule(data=st.data(), kind=st.sampled_from(KINDS), where=st.integers(0, PLACES - 1))
    def borrow(self, data: st.DataObject, kind: int, where: int) -> None:
        granter, ref = data.draw(st.sampled_from(list(self.model.entries)))
        user = data.draw(st.sampled_from([0, *self.guests]))
        if user == 0:
            kind &= ~DEVICE
            kind |= HOST
        expected = self.model.may_borrow(user, granter, ref, bool(kind & READ_ONLY))
        expected = expected if self.model.is_there(granter) else 0
        mapping = Mapping(user, granter, ref, expected, kind, place=where)
        if user == 0:
            self._borrow_for_domain_0(mapping)
        else:
            self._borrow_for_guest(self.guests[user], mapping)

    def _borrow_for_domain_0(self, mapping: Mapping) -> None:
        try:
            mapping.pages = self.control.map_grants(mapping.granter, [FIRST_REF + mapping.ref], mapping.writable)
        except GrantError:
            assert not mapping.frame
        else:
            assert mapping.frame
            self.model.mappings.append(mapping)

    def _borrow_for_guest(self, guest: GrantGuest, mapping: Mapping) -> None:
        op = guest.map(mapping.granter, FIRST_REF + mapping.ref, place(mapping.place), mapping.flags)
        if not mapping.frame:
            assert op.status < 0
            return
        assert (op.status, op.dev_bus_addr) == (abi.GNTST_okay, mapping.frame << 12)
        mapping.handle = op.handle
        if mapping.flags & HOST:
            self.model.tables[guest.domid, mapping.place] = (mapping.frame, mapping.writable)
        self.model.mappings.append(mapping)

    @precondition(lambda self: self.model.mappings)
    @rule(data=st.data(), part=st.sampled_from([HOST, DEVICE, HOST | DEVICE]))
    def give_back(self, data: st.DataObject, part: int) -> None:
        mapping = data.draw(st.sampled_from(self.model.mappings))
        if mapping.pages is not None:
            mapping.pages.unmap()
            self.model.mappings.remove(mapping)
            return
        guest = self.guests[mapping.user]
        address = place(mapping.place) if part & HOST else 0
        bus = mapping.frame << 12 if part & DEVICE else 0
        status = guest.unmap(mapping.handle, address, bus)
        where = (mapping.user, mapping.place)
        fits = self.model.tables.get(where) == (mapping.frame, mapping.writable)
        if not self.model.is_there(mapping.granter) or (part & mapping.flags & HOST and not fits):
            assert status == abi.GNTST_general_error
            guest.domain.shutdown_code = None
            return
        assert status == abi.GNTST_okay
        if part & mapping.flags & HOST:
            del self.model.tables[where]
        mapping.flags &= ~part
        if not mapping.flags & (HOST | DEVICE):
            self.model.mappings.remove(mapping)

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), where=st.integers(0, PLACES - 1))
    def overwrite(self, data: st.DataObject, where: int) -> None:
        guest = self._guest(data)
        assert guest.set_entry(place(where), 0) == 0
        self.model.tables.pop((guest.domid, where), None)

    @precondition(lambda self: self.guests and self.model.entries)
    @rule(data=st.data(), length=st.sampled_from([0, 1, 4096, 4097]))
    def copy(self, data: st.DataObject, length: int) -> None:
        """Whatever comes of it, nothing stays in use."""
        guest = self._guest(data)
        granter, ref = data.draw(st.sampled_from(list(self.model.entries)))
        op = abi.GnttabCopy(len=length, flags=abi.GNTCOPY_source_gref)
        op.source.u.ref, op.source.domid = FIRST_REF + ref, granter
        op.dest.u.gmfn, op.dest.domid = guest.pool(0), DOMID_SELF
        status = guest.copy(op)
        if length == 4096:
            source = self.model.may_borrow(guest.domid, granter, ref, True) if granter in self.guests else 0
            dest = self.model.is_of(guest.domid, guest.pool(0))
            assert (status == abi.GNTST_okay) == (bool(source) and dest)

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), page=st.integers(0, PAGES - 1))
    def give_up(self, data: st.DataObject, page: int) -> None:
        """A guest gives a page back to Xen, lent or not. It may become another guest's."""
        guest = self._guest(data)
        frame = self.model.frames[guest.pool(page)]
        held = reservation.guest_remove_page(guest.domain.record.address, guest.pool(page))
        assert held == (frame.owner == guest.domid and frame.is_held)
        frame.is_held &= not held

    @precondition(lambda self: self.guests)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        guest = self._guest(data)
        guest.close()
        del self.guests[guest.domid]
        self.dead[guest.domid] = guest
        model = self.model
        model.living.remove(guest.domid)
        for frame in model.frames.values():
            frame.is_held &= frame.owner != guest.domid
        model.mappings = [mapping for mapping in model.mappings if mapping.user != guest.domid]
        model.tables = {where: what for where, what in model.tables.items() if where[0] != guest.domid}

    @invariant()
    def references_are_those_of_the_mappings(self) -> None:
        for number, frame in self.model.frames.items():
            guest = self.guests.get(frame.owner) or self.dead[frame.owner]
            expected = self.model.references(number)
            if expected[0]:
                assert guest.references(number) == expected
                assert guest.owner(number) == guest.domain.record.address

    @invariant()
    def pins_are_those_of_the_mappings(self) -> None:
        for domid, guest in (self.guests | self.dead).items():
            there = self.hypervisor.find(domid) is not None
            assert there == self.model.is_there(domid)
            if there:
                expected: dict[int, int] = {}
                for mapping in self.model.mappings:
                    if mapping.granter == domid:
                        ref = FIRST_REF + mapping.ref
                        expected[ref] = expected.get(ref, 0) + mapping.pins
                assert guest.domain.grant_table.pins() == expected

    def teardown(self) -> None:
        for mapping in self.model.mappings:
            if mapping.pages is not None:
                mapping.pages.unmap()
        for guest in self.guests.values():
            guest.close()
        assert self.hypervisor.domains == [self.hypervisor.domain0]
        assert self.hypervisor.machine.record["free_pages"] == self.free
        windows = self.hypervisor.machine._write_windows.words()
        assert not any(windows[frame] & 0xFFFF_FFFF for frame in self.model.frames)


def test_random_sequences(native: None) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Grants, settings=settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=checks)
    )


def test_many_threads(native: None) -> None:
    """Three domains use the same grants of a fourth, of each other and their own at the same time, natively."""
    hypervisor = new_hypervisor()
    free = hypervisor.machine.record["free_pages"]
    guests = [GrantGuest(hypervisor) for _ in range(3)]
    lender = guests[0]
    for number, guest in enumerate(guests):
        lender.grant(FIRST_REF + number, guest.domid, lender.pool(0))
    failures: list[object] = []

    def use(number: int) -> None:
        guest = guests[number]
        try:
            for count in range(4000):
                kind = KINDS[count % len(KINDS)]
                handle = guest.map_handle(lender.domid, FIRST_REF + number, place(number), kind)
                op = abi.GnttabCopy(len=64, flags=abi.GNTCOPY_dest_gref)
                op.source.u.gmfn, op.source.domid = guest.pool(1), DOMID_SELF
                op.dest.u.ref, op.dest.domid = FIRST_REF + number, lender.domid
                assert guest.copy(op) == abi.GNTST_okay
                assert guest.unmap(handle, place(number), lender.pool(0) << 12) == abi.GNTST_okay
        except BaseException as failure:  # told in the test's own thread
            failures.append(failure)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert lender.domain.grant_table.pins() == {}
    assert lender.references(lender.pool(0)) == (1, 0)
    for guest in guests:
        guest.close()
    assert hypervisor.machine.record["free_pages"] == free
