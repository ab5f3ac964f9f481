"""Domains in any order of creation, use and end agree with a model of a few lines: their list, flags and memory."""

from __future__ import annotations

import unittest
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from small_domains import make_control

from euxen.abi.domctl import (
    XEN_DOMINF_dying,
    XEN_DOMINF_paused,
    XEN_DOMINF_shutdown,
    XEN_DOMINF_shutdownmask,
    XEN_DOMINF_shutdownshift,
)
from euxen.abi.errno import XEN_EBUSY, XEN_EINVAL, XEN_ENOMEM, XEN_EOVERFLOW, XEN_ESRCH
from euxen.hypervisor.control import Control
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.foreign import ForeignMapping

pytestmark = pytest.mark.usefixtures("native")
MEMORY = 24 << 20
MAX_PAUSES = 255
INVALID_CODE = 0xFFFF


@dataclass(eq=False)
class Model:
    """What should be known of a domain."""

    domid: int
    max_pages: int
    frames: list[int] = field(default_factory=list)
    pauses: int = 1
    code: int | None = None
    claimed: int = 0
    dead: bool = False
    mappings: dict[int, list[ForeignMapping]] = field(default_factory=dict)
    """By frame."""

    @property
    def pages(self) -> int:
        """How many it has: of a dead one's, those that are mapped."""
        return sum(frame in self.mappings for frame in self.frames) if self.dead else len(self.frames)


class Domains(RuleBasedStateMachine):
    """The rules are hypercalls of Domain 0, right ones and wrong ones."""

    domains = Bundle("domains")
    mapped = Bundle("mapped")

    def __init__(self) -> None:
        super().__init__()
        self.control: Control = make_control(MEMORY)
        self.free = self.control.caller.machine.record["free_pages"]
        self.models: list[Model] = []

    @property
    def free_now(self) -> int:
        """What is free, by the model: each domain has frames for its shared_info and its grant table as well."""
        return self.free - sum(model.pages + 2 for model in self.models)

    @property
    def claims(self) -> int:
        return sum(model.claimed for model in self.models)

    @staticmethod
    def attempt(expected: int, operation: object, *arguments: object) -> None:
        """Make a hypercall that succeeds, for 0, or fails with an errno."""
        assert callable(operation)
        try:
            operation(*arguments)
        except XenError as error:
            assert error.errno == expected
        else:
            assert expected == 0

    @rule(target=domains, max_pages=st.integers(0, 40))
    def create(self, max_pages: int) -> Model:
        model = Model(self.control.create_domain(max_pages), max_pages)
        assert model.domid not in {other.domid for other in self.models}
        self.models.append(model)
        return model

    def is_known(self, model: Model) -> bool:
        return model in self.models

    @rule(model=domains, count=st.integers(1, 30))
    def populate(self, model: Model, count: int) -> None:
        before = len(model.frames)
        room = max(0, model.max_pages - before) if self.is_known(model) and not model.dead else 0
        if count > room:
            self.attempt(XEN_ENOMEM, self.control.populate_physmap, model.domid, before, count)
            if room:
                model.frames = self.frames_of(model)
                assert len(model.frames) == before + room
        else:
            model.frames += self.control.populate_physmap(model.domid, before, count)
        given = len(model.frames) - before
        model.claimed -= min(model.claimed, given)

    def frames_of(self, model: Model) -> list[int]:
        """Which frames are a domain's, as the frame table has it."""
        machine = self.control.caller.machine
        domain = self.control._hypervisor.find(model.domid)
        assert domain is not None
        words = machine.frame_table.words()
        owned = [frame for frame in range(machine.frames) if words[4 * frame + 2] == domain.record.address]
        xens = {domain.shared_info_frame, *domain.grant_table.frames}
        return [frame for frame in owned if frame not in xens]

    @rule(model=domains)
    def pause(self, model: Model) -> None:
        known = self.is_known(model)
        expected = 0 if model.pauses < MAX_PAUSES else XEN_EOVERFLOW
        self.attempt(expected if known else XEN_ESRCH, self.control.pause_domain, model.domid)
        model.pauses += known

    @rule(model=domains)
    def unpause(self, model: Model) -> None:
        known = self.is_known(model)
        expected = 0 if model.pauses else XEN_EINVAL
        self.attempt(expected if known else XEN_ESRCH, self.control.unpause_domain, model.domid)
        model.pauses -= known and bool(model.pauses)

    @rule(model=domains, code=st.integers(0, 5))
    def shutdown(self, model: Model, code: int) -> None:
        known = self.is_known(model)
        self.attempt(0 if known else XEN_ESRCH, self.control.shutdown_domain, model.domid, code)
        if known and model.code is None:
            model.code = code

    @rule(model=domains)
    def resume(self, model: Model) -> None:
        known = self.is_known(model)
        self.attempt(0 if known else XEN_ESRCH, self.control.resume_domain, model.domid)
        model.code = None

    @rule(model=domains, pages=st.integers(0, 60))
    def claim(self, model: Model, pages: int) -> None:
        expected = 0
        more = pages - len(model.frames)
        if (
            not self.is_known(model)
            or model.dead
            or (pages and (model.claimed or more <= 0 or pages > model.max_pages))
        ):
            expected = XEN_EINVAL
        elif pages and more > self.free_now - self.claims:
            expected = XEN_ENOMEM
        self.attempt(expected, self.control.claim_pages, model.domid, pages)
        if expected == 0:
            model.claimed = more if pages else 0

    @rule(target=mapped, model=domains, number=st.integers(0, 30))
    def map_page(self, model: Model, number: int) -> tuple[Model, int] | None:
        if not self.is_known(model):
            self.attempt(XEN_ESRCH, self.control.map_foreign, model.domid, 1)
            return None
        if not model.frames:
            return None
        frame = model.frames[number % len(model.frames)]
        if model.dead and frame not in model.mappings:
            self.attempt(XEN_EBUSY, self.control.map_foreign, model.domid, frame)
            return None
        model.mappings.setdefault(frame, []).append(self.control.map_foreign(model.domid, frame))
        return model, frame

    @rule(mapping=consumes(mapped))
    def unmap_page(self, mapping: tuple[Model, int] | None) -> None:
        if mapping is None:
            return
        model, frame = mapping
        model.mappings[frame].pop().release()
        if not model.mappings[frame]:
            del model.mappings[frame]
        self.forget_gone(model)

    @rule(model=domains)
    def destroy(self, model: Model) -> None:
        known = self.is_known(model)
        self.attempt(0 if known else XEN_ESRCH, self.control.destroy_domain, model.domid)
        if known:
            model.dead, model.claimed = True, 0
            self.forget_gone(model)

    def forget_gone(self, model: Model) -> None:
        if model.dead and not model.mappings and model in self.models:
            self.models.remove(model)

    @invariant()
    def the_list_agrees(self) -> None:
        infos = self.control.domain_list(1)
        assert [info.domain for info in infos] == sorted(model.domid for model in self.models)
        by_domid = {model.domid: model for model in self.models}
        for info in infos:
            model = by_domid[info.domain]
            assert info.tot_pages == model.pages
            assert info.max_pages == model.max_pages
            assert info.outstanding_pages == model.claimed
            assert bool(info.flags & XEN_DOMINF_paused) == bool(model.pauses)
            assert bool(info.flags & XEN_DOMINF_shutdown) == (model.code is not None)
            assert bool(info.flags & XEN_DOMINF_dying) == model.dead
            code = info.flags >> XEN_DOMINF_shutdownshift
            assert code == (INVALID_CODE if model.code is None else model.code & XEN_DOMINF_shutdownmask)

    @invariant()
    def memory_agrees(self) -> None:
        info = self.control.physinfo()
        assert info.free_pages == self.free_now
        assert info.outstanding_pages == self.claims

    def teardown(self) -> None:
        """Nothing is left, whatever happened."""
        for model in list(self.models):
            for mappings in model.mappings.values():
                for mapping in mappings:
                    mapping.release()
            if not model.dead:
                self.control.destroy_domain(model.domid)
        assert [info.domain for info in self.control.domain_list()] == [0]
        assert self.control.caller.machine.record["free_pages"] == self.free


Domains.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


TestDomains: type[unittest.TestCase] = Domains.TestCase
