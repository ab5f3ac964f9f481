"""One block ring at work, over storage that is as slow or as bad as a test wants it to be."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from front_ring import Front

from euxen.abi.grant_table import GNTST_bad_gntref
from euxen.abi.io.blkif import (
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
)
from euxen.dom0.backends.block.grants import MAX_PERSISTENT, UNUSED, PersistentGrants
from euxen.dom0.backends.block.protocol import ABIS, Disk
from euxen.dom0.backends.block.queue import WORKERS, Queue
from euxen.dom0.backends.pool import Pool
from euxen.dom0.backends.ring import BackRing
from euxen.dom0.storage.storage import Geometry
from euxen.hypervisor.granted import GrantedPage

PATIENCE = 20.0
ABI = ABIS["x86_64-abi"]
SIZE = 1 << 20


class Grants:
    """Domain 0's hypercalls on grants: every reference below 5000 is one, and lends a page of its own."""

    def __init__(self) -> None:
        self.frames: dict[int, bytearray] = {}
        self.mapped: dict[int, int] = {}
        """References by handles."""
        self.writable: set[int] = set()
        """References that were ever mapped writable."""
        self.calls = 0

    def map_each_grant(self, domid: int, refs: Sequence[int], writable: bool = True) -> list[GrantedPage | int]:
        pages: list[GrantedPage | int] = []
        for ref in refs:
            if ref >= 5000:
                pages.append(GNTST_bad_gntref)
                continue
            self.calls += 1
            self.mapped[self.calls] = ref
            if writable:
                self.writable.add(ref)
            memory = memoryview(self.frames.setdefault(ref, bytearray(4096)))
            pages.append(GrantedPage(memory if writable else memory.toreadonly(), self.calls))
        return pages

    def unmap_grants(self, pages: Sequence[GrantedPage]) -> None:
        for page in pages:
            page.memory.release()
            del self.mapped[page.handle]


class Slow:
    """Storage in memory. ``gate`` is called before anything is done, with what it is and where."""

    def __init__(self) -> None:
        self.geometry = Geometry(SIZE)
        self.content = bytearray(SIZE)
        self.gate: Callable[[str, int], None] = lambda what, offset: None
        self.can_try = False
        self.told: list[str] = []

    def _enter(self, what: str, offset: int) -> None:
        self.gate(what, offset)
        self.told.append(f"{what} {offset}")

    def try_read(self, buffers: Sequence[memoryview], offset: int) -> bool:
        if offset >= SIZE // 2:
            return False
        self.told.append(f"try {offset}")
        self._fill(buffers, offset)
        return True

    def _fill(self, buffers: Sequence[memoryview], offset: int) -> None:
        for buffer in buffers:
            buffer[:] = self.content[offset : offset + len(buffer)]
            offset += len(buffer)

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        self._enter("read", offset)
        self._fill(buffers, offset)

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        self._enter("write", offset)
        for buffer in buffers:
            self.content[offset : offset + len(buffer)] = buffer
            offset += len(buffer)

    def flush(self) -> None:
        self._enter("flush", 0)

    def discard(self, offset: int, size: int) -> None:
        self._enter("discard", offset)

    def close(self) -> None:
        pass


class Machine:
    """A front end and a queue for it."""

    def __init__(self, keep: bool = False) -> None:
        self.front, self.grants, self.storage = Front(1, ABI.entry_size), Grants(), Slow()
        self.notified = threading.Semaphore(0)
        self.notifications = 0
        self.broken: list[str] = []
        self.log: list[str] = []
        self.pool = Pool("test", WORKERS)
        self.kept = PersistentGrants(self.grants, 1, keep)  # type: ignore[arg-type]
        self.queue = Queue(
            BackRing(self.front.pages, ABI.entry_size),
            ABI,
            Disk(SIZE, 512, 512, True, True),
            self.storage,
            self.kept,
            self.pool,
            self._notify,
            self.broken.append,
            self.log.append,
        )
        self.seen: list[tuple[int, int]] = []

    def _notify(self) -> None:
        self.notifications += 1
        self.notified.release()

    def ask(self, number: int, operation: int, page: int = 0, ref: int | None = None) -> None:
        """Put a request for one page of the disk."""
        segment = struct.pack("<IBBxx", number if ref is None else ref, 0, 7)
        segments = b"" if operation == BLKIF_OP_FLUSH_DISKCACHE else segment
        self.front.put(struct.pack("<BBHxxxxQQ", operation, len(segments) // 8, 0, number, page * 8) + segments)

    def go(self) -> None:
        self.front.push()
        self.queue.kick()

    def answers(self, count: int) -> dict[int, int]:
        """Wait for so many answers; their statuses by their numbers."""
        deadline = time.monotonic() + PATIENCE
        found: dict[int, int] = {}
        while len(found) < count:
            while (response := self.front.take(16)) is not None:
                number, _operation, status = ABI.response.unpack(response)
                found[number] = status
            self.front.set_index("rsp_event", self.front.rsp_cons + 1)
            if len(found) < count and self.front.rsp_cons == self.front.index("rsp_prod"):
                assert self.notified.acquire(timeout=max(deadline - time.monotonic(), 0)), (found, self.storage.told)
        assert len(found) == count
        return found

    def close(self) -> None:
        closed = threading.Event()
        self.queue.stop()
        self.pool.close(closed.set)
        assert closed.wait(PATIENCE)
        self.queue.close()
        assert not self.grants.mapped, "pages are still mapped"


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


def test_data(machine: Machine) -> None:
    machine.grants.frames[1] = bytearray(b"w" * 4096)
    machine.ask(1, BLKIF_OP_WRITE, 3)
    machine.go()
    assert machine.answers(1) == {1: BLKIF_RSP_OKAY}
    machine.ask(2, BLKIF_OP_READ, 3)
    machine.go()
    assert machine.answers(1) == {2: BLKIF_RSP_OKAY}
    assert machine.grants.frames[2] == b"w" * 4096
    assert machine.grants.writable == {2}


def test_what_is_slow_keeps_nothing_else_waiting(machine: Machine) -> None:
    """Requests overlap, and are answered as they are done: the first one last."""
    release = threading.Event()

    def gate(what: str, offset: int) -> None:
        if offset == 0:
            assert release.wait(PATIENCE)

    machine.storage.gate = gate
    machine.ask(1, BLKIF_OP_READ, 0)
    machine.go()
    for number in range(2, 12):
        machine.ask(number, BLKIF_OP_WRITE, number)
        machine.go()
    assert machine.answers(10) == dict.fromkeys(range(2, 12), BLKIF_RSP_OKAY)
    release.set()
    assert machine.answers(1) == {1: BLKIF_RSP_OKAY}


def test_a_batch_is_divided_among_the_workers(machine: Machine) -> None:
    barrier = threading.Barrier(WORKERS)

    def gate(what: str, offset: int) -> None:
        barrier.wait(PATIENCE)

    machine.storage.gate = gate
    for number in range(WORKERS):
        machine.ask(number, BLKIF_OP_READ, number)
    machine.go()
    assert machine.answers(WORKERS) == dict.fromkeys(range(WORKERS), BLKIF_RSP_OKAY)


def test_one_notification_for_many_answers(machine: Machine) -> None:
    """What the host has in memory is read at once, and told of once."""
    machine.storage.can_try = True
    for number in range(32):
        machine.ask(number, BLKIF_OP_READ, number)
    machine.go()
    assert len(machine.answers(32)) == 32
    assert machine.notifications == 1
    assert sorted(machine.storage.told) == sorted(f"try {number * 4096}" for number in range(32))


def test_no_notification_that_nobody_wants(machine: Machine) -> None:
    machine.front.set_index("rsp_event", 8)
    for number in range(7):
        machine.ask(number, BLKIF_OP_WRITE, number)
    machine.go()
    deadline = time.monotonic() + PATIENCE
    while machine.front.index("rsp_prod") < 7 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert machine.front.index("rsp_prod") == 7
    assert machine.notifications == 0
    machine.ask(7, BLKIF_OP_WRITE, 7)
    machine.go()
    assert len(machine.answers(8)) == 8
    assert machine.notifications == 1


def test_what_the_host_has_not_in_memory_is_read_as_well(machine: Machine) -> None:
    machine.storage.can_try = True
    machine.storage.content[SIZE // 2 :] = b"z" * (SIZE // 2)
    for number in range(8):
        machine.ask(number, BLKIF_OP_READ, number if number % 2 else 128 + number)
    machine.go()
    assert machine.answers(8) == dict.fromkeys(range(8), BLKIF_RSP_OKAY)
    assert machine.grants.frames[2] == b"z" * 4096


def test_a_barrier(machine: Machine) -> None:
    """What came before it is done before, what came behind it afterwards, however slow it is."""
    machine.storage.gate = lambda what, offset: time.sleep(0.02 if offset == 0 else 0)
    for number in range(6):
        machine.ask(number, BLKIF_OP_WRITE, number)
    machine.ask(6, BLKIF_OP_WRITE_BARRIER, 6)
    for number in range(7, 12):
        machine.ask(number, BLKIF_OP_WRITE, number)
    machine.ask(12, BLKIF_OP_WRITE_BARRIER, 12)
    machine.go()
    assert machine.answers(13) == dict.fromkeys(range(13), BLKIF_RSP_OKAY)
    told = machine.storage.told
    assert {*told[:6]} == {f"write {number * 4096}" for number in range(6)}
    assert told[6:9] == ["flush 0", f"write {6 * 4096}", "flush 0"]
    assert {*told[9:14]} == {f"write {number * 4096}" for number in range(7, 12)}
    assert told[14:] == ["flush 0", f"write {12 * 4096}", "flush 0"]


def test_a_flush(machine: Machine) -> None:
    machine.ask(1, BLKIF_OP_FLUSH_DISKCACHE)
    machine.go()
    assert machine.answers(1) == {1: BLKIF_RSP_OKAY}
    assert machine.storage.told == ["flush 0"]


def test_input_and_output_that_fails(machine: Machine) -> None:
    def gate(what: str, offset: int) -> None:
        if offset == 4096:
            raise OSError(28, "No space left on device")

    machine.storage.gate = gate
    for number in range(4):
        machine.ask(number, BLKIF_OP_WRITE, number)
    machine.go()
    assert machine.answers(4) == {0: 0, 1: BLKIF_RSP_ERROR, 2: 0, 3: 0}
    assert machine.log == ["operation 1 at sector 8 failed: No space left on device"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_ours_keeps_nobody_waiting(machine: Machine) -> None:
    def gate(what: str, offset: int) -> None:
        raise ValueError("an error of ours")

    machine.storage.gate = gate
    machine.ask(1, BLKIF_OP_READ)
    machine.go()
    assert machine.answers(1) == {1: BLKIF_RSP_ERROR}


def test_grants_that_are_none(machine: Machine) -> None:
    machine.ask(1, BLKIF_OP_READ, 1, ref=6000)
    machine.ask(2, BLKIF_OP_WRITE, 2, ref=6000)
    machine.ask(3, BLKIF_OP_WRITE, 3)
    machine.ask(4, 99)
    machine.go()
    assert machine.answers(4) == {1: BLKIF_RSP_ERROR, 2: BLKIF_RSP_ERROR, 3: 0, 4: BLKIF_RSP_EOPNOTSUPP}


def test_nonsense_stops_the_ring(machine: Machine) -> None:
    machine.front.set_index("req_prod", 1000)
    machine.queue.kick()
    deadline = time.monotonic() + PATIENCE
    while not machine.broken and time.monotonic() < deadline:
        time.sleep(0.001)
    assert machine.broken == ["front end provided bogus ring requests (1000 - 0 = 1000 of 32): the ring is stopped"]
    machine.queue.kick()
    assert len(machine.broken) == 1


def test_pages_are_kept_for_who_uses_them_again() -> None:
    machine = Machine(keep=True)
    for round_ in range(3):
        for number in range(16):
            machine.ask(number, BLKIF_OP_READ if round_ % 2 else BLKIF_OP_WRITE, number)
        machine.go()
        machine.answers(16)
    assert machine.grants.calls == machine.kept.kept == 16
    machine.close()


class TestPersistentGrants:
    """Which pages are kept, and how long."""

    def make(self, keep: bool = True) -> tuple[PersistentGrants, Grants, list[float]]:
        control, time_ = Grants(), [0.0]
        return PersistentGrants(control, 1, keep, lambda: time_[0]), control, time_  # type: ignore[arg-type]

    def test_no_more_than_a_limit(self) -> None:
        grants, control, _time = self.make()
        loan = grants.borrow(range(MAX_PERSISTENT + 10), False)
        assert len(loan.pages) == MAX_PERSISTENT + 10
        loan.end()
        assert len(control.mapped) == grants.kept == MAX_PERSISTENT
        grants.close()
        assert not control.mapped

    def test_what_is_not_used_for_long_is_let_go(self) -> None:
        grants, control, time_ = self.make()
        grants.borrow([1, 2], True).end()
        time_[0] = UNUSED - 1
        grants.borrow([2], True).end()
        time_[0] = UNUSED + 1
        held = grants.borrow([3], True)
        assert sorted(control.mapped.values()) == [2, 3]
        time_[0] = 3 * UNUSED
        grants.borrow([4], True).end()
        assert sorted(control.mapped.values()) == [3, 4]  # 3 is in use
        held.end()
        grants.close()
        assert not control.mapped

    def test_nothing_is_kept_for_others(self) -> None:
        grants, control, _time = self.make(keep=False)
        loan = grants.borrow([1, 1, 2, 9999], False)
        assert sorted(loan.pages) == [1, 2]
        assert all(page.readonly for page in loan.pages.values())
        loan.end()
        assert not control.mapped
