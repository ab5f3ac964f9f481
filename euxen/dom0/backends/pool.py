"""A few threads that do what would keep others waiting."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class Pool:
    """Up to ``most`` threads, made when they are needed. Jobs start in the order in which they came."""

    def __init__(self, name: str, most: int = 4) -> None:
        self._name, self._most = name, most
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._idle = 0
        self._closed: Job | None = None

    def put(self, job: Job) -> None:
        """From any thread: have a job done. One that comes after ``close`` is done as well."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
            self._jobs.put(job)

    def close(self, then: Job) -> None:
        """Call ``then``, in any thread, when all jobs are done and all threads end."""
        with self._lock:
            self._closed = then
            if self._threads:
                self._jobs.put(None)
                return
        then()

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                if self._jobs.empty():
                    break
                self._jobs.put(None)  # what came after it is done first
                continue
            try:
                job()
            except Exception:  # an error of ours: say so, and go on
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
            with self._lock:
                if self._jobs.empty():
                    self._idle += 1
        with self._lock:
            self._threads -= 1
            if self._threads:
                self._jobs.put(None)  # for the next
                return
        assert self._closed is not None
        self._closed()
