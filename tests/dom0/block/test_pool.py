"""The threads that do what would keep others waiting."""

from __future__ import annotations

import threading

import pytest

from euxen.dom0.backends.pool import Pool

PATIENCE = 20.0


def test_jobs_overlap() -> None:
    """As many at once as there are threads: each waits for all the others."""
    pool, barrier, closed = Pool("test", 4), threading.Barrier(4), threading.Event()

    def wait() -> None:
        barrier.wait(PATIENCE)

    for _ in range(4):
        pool.put(wait)
    pool.close(closed.set)
    assert closed.wait(PATIENCE)
    assert not barrier.broken


def test_all_jobs_are_done_before_it_is_closed() -> None:
    pool, done, closed = Pool("test", 3), list[int](), threading.Event()

    def job(depth: int) -> None:
        done.append(depth)
        if depth:
            pool.put(lambda: job(depth - 1))
            pool.put(lambda: job(depth - 1))

    gate = threading.Event()

    def wait() -> None:
        gate.wait(PATIENCE)

    pool.put(wait)
    pool.put(lambda: job(6))
    pool.close(closed.set)
    gate.set()
    assert closed.wait(PATIENCE)
    assert len(done) == 127


def test_one_that_was_never_used_closes_at_once() -> None:
    closed = threading.Event()
    Pool("test").close(closed.set)
    assert closed.is_set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_job_that_fails_keeps_nobody_from_working() -> None:
    pool, done, closed = Pool("test", 1), threading.Event(), threading.Event()

    def fail() -> None:
        raise ValueError("an error of ours")

    pool.put(fail)
    pool.put(done.set)
    pool.close(closed.set)
    assert done.wait(PATIENCE)
    assert closed.wait(PATIENCE)
