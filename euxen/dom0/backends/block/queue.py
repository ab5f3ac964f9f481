"""One block ring at work: requests are taken, done and answered, by any thread of the device's pool.

An event has a worker take all that is on the ring. What it can read without waiting it answers at once; the rest is
for all workers, so that it overlaps, and each takes a part whenever it has time. A part is answered as one: its pages
are let go, its responses pushed, and the front end notified once, if it wants that.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from euxen.abi.io.blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
)
from euxen.dom0.backends.block.grants import Loan, PersistentGrants
from euxen.dom0.backends.block.protocol import (
    Abi,
    BadRequest,
    Disk,
    Request,
    Unsupported,
    indirect_segments,
    name_of,
    parse,
)
from euxen.dom0.backends.pool import Pool
from euxen.dom0.backends.ring import BackRing, RingError
from euxen.dom0.storage import Storage

WORKERS = 4
"""How many threads a device has: so many requests that have to wait can do so at once."""


Answer = tuple[Request, int]
"""A request, and BLKIF_RSP_*."""


class Queue:
    """A ring of a disk. ``kick`` and what the pool does for it are all that happens to it."""

    def __init__(
        self,
        ring: BackRing,
        abi: Abi,
        disk: Disk,
        storage: Storage,
        grants: PersistentGrants,
        pool: Pool,
        notify: Callable[[], None],
        broken: Callable[[str], None],
        log: Callable[[str], None],
    ) -> None:
        """``broken`` is called with a sentence if the front end makes nonsense of the ring, ``log`` if I/O fails."""
        self.disk = disk
        self._ring, self._abi, self._storage = ring, abi, storage
        self._grants, self._pool, self._notify, self._broken, self._log = grants, pool, notify, broken, log
        self._lock = threading.Lock()
        """Held by whoever looks at the ring, or at what follows."""
        self._called = False
        """Whether a worker is on its way to look at the ring."""
        self._stopped = False
        self._held: deque[Request] = deque()
        """Requests that were taken from the ring and wait: the first is a write barrier."""
        self._to_do: deque[Request] = deque()
        """Requests that wait for a worker who has time."""
        self._under_way = 0
        """Requests that are being done."""
        self._alone = False
        """Whether that is a write barrier, beside which nothing is done."""

    def kick(self) -> None:
        """From any thread: there may be requests."""
        if not self._called:
            self._called = True
            self._pool.put(self._work)

    def stop(self) -> None:
        """Take no more requests. What is under way is still done and answered."""
        with self._lock:
            self._stopped = True

    def close(self) -> None:
        """Let go of the ring and the front end's pages. Nothing is under way any more."""
        self._ring.close()
        self._grants.close()

    def _work(self) -> None:
        self._called = False
        while requests := self._take():
            self._do(requests)

    # Taking requests.

    def _take(self) -> list[Request]:
        """What may be done now. Bad requests are answered at once."""
        bad = False
        try:
            with self._lock:
                while not self._held and not self._stopped:
                    entries = self._ring.take(self._ring.size)
                    if not entries and not self._ring.has_more():
                        break
                    bad |= self._sort(entries)
                notify = bad and self._ring.push()
                requests = self._release()
        except RingError as error:
            self.stop()
            self._broken(str(error))
            return []
        if notify:
            self._notify()
        return requests

    def _sort(self, entries: Sequence[bytes]) -> bool:
        """Hold the good requests, and answer the others; whether there were any."""
        bad = False
        for entry in entries:
            try:
                request = parse(self._abi, entry, self.disk.unit)
                if not request.indirect_segments:
                    self.disk.check(request)
                self._held.append(request)
            except BadRequest:
                self._put(*name_of(self._abi, entry), BLKIF_RSP_ERROR)
                bad = True
            except Unsupported:
                self._put(*name_of(self._abi, entry), BLKIF_RSP_EOPNOTSUPP)
                bad = True
        return bad

    def _release(self) -> list[Request]:
        """Of what is held, all up to a barrier; or a barrier, when all before it is done."""
        if self._alone or self._stopped or not self._held:
            return []
        requests = []
        if self._held[0].operation == BLKIF_OP_WRITE_BARRIER:
            if self._under_way:
                return []
            self._alone = True
            requests.append(self._held.popleft())
        else:
            while self._held and self._held[0].operation != BLKIF_OP_WRITE_BARRIER:
                requests.append(self._held.popleft())
        self._under_way += len(requests)
        return requests

    # Doing them.

    def _do(self, requests: list[Request]) -> None:
        """Do requests in any order, and answer them."""
        if any(request.indirect_segments for request in requests):
            requests = self._with_segments(requests)
        slow = self._try_reads(requests)
        with self._lock:
            self._to_do.extend(slow)
        for _number in range(min(len(slow), WORKERS) - 1):
            self._pool.put(self._help)
        self._help()

    def _help(self) -> None:
        while part := self._next_part():
            self._do_part(part)

    def _next_part(self) -> list[Request]:
        """Less the less there is: one that takes long keeps few others waiting, and none if there are few."""
        with self._lock:
            size = min(max(len(self._to_do) // (2 * WORKERS), 1), len(self._to_do))
            return [self._to_do.popleft() for _number in range(size)]

    def _with_segments(self, requests: list[Request]) -> list[Request]:
        """Look into indirect pages. A copy of each is made, and then checked."""
        refs = [ref for request in requests for ref in request.indirect_grefs]
        loan, good, bad = self._grants.borrow(refs, False), list[Request](), list[Answer]()
        for request in requests:
            try:
                if request.indirect_segments:
                    pages = [bytes(_page(loan, ref)) for ref in request.indirect_grefs]
                    request.segments = indirect_segments(pages, request.indirect_segments, self.disk.unit)
                    self.disk.check(request)
                good.append(request)
            except (BadRequest, Unsupported):
                bad.append((request, BLKIF_RSP_ERROR))
        loan.end()
        self._answer(bad)
        return good

    def _try_reads(self, requests: list[Request]) -> list[Request]:
        """Do and answer the reads that need no waiting; the other requests."""
        refs = [
            segment[0] for request in requests if request.operation == BLKIF_OP_READ for segment in request.segments
        ]
        if not refs or not self._storage.can_try:
            return requests
        loan, answers, slow = self._grants.borrow(refs, True), list[Answer](), list[Request]()
        for request in requests:
            try:
                if request.operation == BLKIF_OP_READ and self._storage.try_read(
                    _buffers(loan, request), self.disk.offset(request)
                ):
                    answers.append((request, BLKIF_RSP_OKAY))
                else:
                    slow.append(request)
            except (BadRequest, OSError):
                slow.append(request)  # and it fails again
        loan.end()
        self._answer(answers)
        return slow

    def _do_part(self, requests: list[Request]) -> None:
        reads = [
            segment[0] for request in requests if request.operation == BLKIF_OP_READ for segment in request.segments
        ]
        writes = [
            segment[0] for request in requests if request.operation != BLKIF_OP_READ for segment in request.segments
        ]
        to_read, to_write = self._grants.borrow(reads, True), self._grants.borrow(writes, False)
        answers = []
        for request in requests:
            loan = to_read if request.operation == BLKIF_OP_READ else to_write
            answers.append((request, self._status_of(request, loan)))
        to_read.end()
        to_write.end()
        self._answer(answers)

    def _status_of(self, request: Request, loan: Loan) -> int:
        """Do a request: BLKIF_RSP_*."""
        try:
            self._do_one(request, loan)
            return BLKIF_RSP_OKAY
        except BadRequest:
            return BLKIF_RSP_ERROR
        except OSError as error:
            self._log(f"operation {request.operation} at sector {request.sector} failed: {error.strerror or error}")
            return BLKIF_RSP_ERROR
        except Exception:  # an error of ours: say so, and keep nobody waiting for it
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
            return BLKIF_RSP_ERROR

    def _do_one(self, request: Request, loan: Loan) -> None:
        """Raises BadRequest or OSError."""
        operation, storage, offset = request.operation, self._storage, self.disk.offset(request)
        if operation == BLKIF_OP_DISCARD:
            storage.discard(offset, request.sectors * self.disk.unit)
            return
        buffers = _buffers(loan, request)
        if operation == BLKIF_OP_READ:
            storage.read(buffers, offset)
            return
        if operation != BLKIF_OP_WRITE:
            storage.flush()
        if buffers:
            storage.write(buffers, offset)
            if operation == BLKIF_OP_WRITE_BARRIER:
                storage.flush()

    # Answering.

    def _answer(self, answers: Iterable[Answer]) -> None:
        """Answer requests that were under way; their pages are let go."""
        with self._lock:
            count = 0
            for request, status in answers:
                self._put(request.id, request.operation, status)
                count += 1
            if not count:
                return
            notify = self._ring.push()
            self._under_way -= count
            if not self._under_way:
                self._alone = False
            waiting = bool(self._held) and not self._under_way
        if notify:
            self._notify()
        if waiting:
            self.kick()

    def _put(self, number: int, operation: int, status: int) -> None:
        self._ring.put(self._abi.response.pack(number, operation, status))


def _refs(requests: Iterable[Request]) -> list[int]:
    return [segment[0] for request in requests for segment in request.segments]


def _page(loan: Loan, ref: int) -> memoryview:
    """A page that was mapped. Raises BadRequest."""
    page = loan.pages.get(ref)
    if page is None:
        raise BadRequest(f"grant {ref} cannot be mapped")
    return page


def _buffers(loan: Loan, request: Request) -> list[memoryview]:
    """Where a request's data is. Raises BadRequest."""
    pages = loan.pages
    try:
        return [pages[gref][start:end] for gref, start, end in request.segments]
    except KeyError as missing:
        raise BadRequest(f"grant {missing} cannot be mapped") from None
