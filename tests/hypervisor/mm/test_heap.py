"""The heap: no frame twice, aligned extents, and what was freed can be had again, cleared."""

from __future__ import annotations

import ctypes
import random

import pytest

from euxen.hypervisor.machine import PAGE_SIZE, Machine
from euxen.hypervisor.mm import heap

MEMORY = 64 << 20


@pytest.fixture
def machine(native: None) -> Machine:
    """A machine on which nothing was allocated."""
    return Machine(MEMORY)


def frames_of(first: int, order: int) -> range:
    """The frames of an extent."""
    return range(first, first + (1 << order))


def test_every_frame_once(machine: Machine) -> None:
    free = machine.record["free_pages"]
    frames = [machine.allocate_run(0) for _ in range(free)]
    assert None not in frames and len(set(frames)) == free
    assert machine.record["free_pages"] == 0 and machine.allocate_run(0) is None


@pytest.mark.parametrize("order", [0, 1, 5, 6, 7, 9])
def test_extents_are_aligned_and_apart(machine: Machine, order: int) -> None:
    taken: set[int] = set()
    while (first := machine.allocate_run(order)) is not None:
        assert first % (1 << order) == 0
        assert taken.isdisjoint(frames_of(first, order))
        taken.update(frames_of(first, order))
    assert len(taken) > MEMORY // PAGE_SIZE * 3 // 4


def test_no_extent_that_is_larger_than_the_machine(machine: Machine) -> None:
    assert machine.allocate_run(15) is None


def test_a_hole_is_found_and_cleared(machine: Machine) -> None:
    while machine.allocate_run(0) is not None:
        pass
    hole = 8192
    for frame in frames_of(hole, 9):
        machine.frame(frame)[:4] = b"old!"
        heap.free_frame(machine.record.address, frame)
    assert machine.allocate_run(10) is None
    assert machine.allocate_run(9) == hole
    assert not any(machine.ram[hole * PAGE_SIZE : (hole + 512) * PAGE_SIZE])
    assert machine.allocate_run(0) is None


def test_random_sequences_agree_with_a_set(machine: Machine) -> None:
    chance = random.Random(4)
    free = machine.record["free_pages"]
    held: list[int] = []
    for _ in range(3000):
        if chance.random() < 0.55:
            order = chance.choice((0, 0, 0, 1, 2, 3, 6, 8))
            first = machine.allocate_run(order)
            if first is not None:
                held += frames_of(first, order)
        elif held:
            chance.shuffle(held)
            for _ in range(min(len(held), chance.randrange(40))):
                heap.free_frame(machine.record.address, held.pop())
        assert len(set(held)) == len(held)
        assert machine.record["free_pages"] == free - len(held)


def resident(machine: Machine) -> int:
    """Bytes of the host's that the machine's memory takes."""
    pages = ctypes.create_string_buffer(machine.frames)
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(machine.ram_address), ctypes.c_size_t(MEMORY), pages) == 0
    return sum(page & 1 for page in pages.raw) * PAGE_SIZE


def test_free_memory_goes_back_to_the_host(machine: Machine) -> None:
    free, before = machine.record["free_pages"], resident(machine)
    frames = [frame for _ in range(20) for frame in frames_of(machine.allocate_run(3) or 0, 3)]
    kept = set(frames[::7])
    for frame in frames:
        machine.frame(frame)[:4] = b"data"
    assert resident(machine) == before + len(frames) * PAGE_SIZE
    for frame in set(frames) - kept:
        heap.free_frame(machine.record.address, frame)
    machine.return_free_memory()
    assert resident(machine) == before + len(kept) * PAGE_SIZE
    assert machine.record["free_pages"] == free - len(kept)
    for frame in frames:
        assert bytes(machine.frame(frame)[:4]) == (b"data" if frame in kept else bytes(4))
    assert not any(any(machine.frame(machine.allocate_run(0) or 0)) for _ in range(2 * len(frames)))
