"""The fuzzer's guest: a kernel of a few instructions that makes the hypercalls it is given.

It takes a batch from its queue, writes the results down and suspends itself; whoever resumes it has put the next
batch there. Its pages, from BASE on: code, queue, results, an area for what arguments point to, and a vCPU's state.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import replace
from uuid import UUID

from euxen.abi.sched import SCHEDOP_shutdown, SHUTDOWN_suspend
from euxen.abi.xen import HYPERVISOR_sched_op
from euxen.hypervisor.pcpu import Pcpu
from euxen.hypervisor.records import PageInfo
from euxen.toolstack.create import create, destroy
from euxen.toolstack.fuzz.calls import Call, Surroundings
from euxen.toolstack.fuzz.victim import Victim
from euxen.toolstack.kernel.elf import EM_X86_64, Segment
from euxen.toolstack.kernel.image import KernelImage
from euxen.toolstack.kernel.notes import XenNotes
from euxen.toolstack.machine import Host
from euxen.toolstack.request import Request

PAGE_SIZE = 4096
BASE = 0x10_0000
QUEUE, RESULTS, AREA = (BASE + number * PAGE_SIZE for number in (1, 2, 3))
AREA_PAGES = 16
CONTEXT = AREA + AREA_PAGES * PAGE_SIZE
CONTEXT_PAGES = 2
"""For a struct vcpu_guest_context, which no slot has room for."""
PAGES = 3 + AREA_PAGES + CONTEXT_PAGES
BATCH = 64
"""How many calls the queue holds."""
SLOT = AREA_PAGES * PAGE_SIZE // BATCH
"""Bytes of the area that are for each call of a batch."""
CALL = struct.Struct("<6Q")
END = QUEUE + BATCH * CALL.size
"""Behind the queue: how many calls are in it, and the reason why the guest suspends itself."""
MEMORY = 8 << 20
SPREAD = 64
"""So many pages from BASE on are what the calls are about."""
FIELDS, TYPE, OWNER = PageInfo.size // 8, PageInfo.type_info // 8, PageInfo.owner // 8
PATIENCE = 0.5
"""Seconds after which a guest that does not come back has spoiled itself."""

CODE = b"".join(
    (
        b"\xbd" + struct.pack("<I", QUEUE),  # start: mov $QUEUE, %ebp
        b"\xbb" + struct.pack("<I", RESULTS),  # mov $RESULTS, %ebx
        b"\x44\x8b\x24\x25" + struct.pack("<I", END),  # mov END, %r12d
        b"\x48\x8b\x45\x00",  # next: mov (%rbp), %rax
        b"\x48\x8b\x7d\x08",  # mov 8(%rbp), %rdi
        b"\x48\x8b\x75\x10",  # mov 16(%rbp), %rsi
        b"\x48\x8b\x55\x18",  # mov 24(%rbp), %rdx
        b"\x4c\x8b\x55\x20",  # mov 32(%rbp), %r10
        b"\x4c\x8b\x45\x28",  # mov 40(%rbp), %r8
        b"\x0f\x05",  # syscall
        b"\x48\x89\x03",  # mov %rax, (%rbx)
        b"\x83\xc5\x30",  # add $48, %ebp
        b"\x83\xc3\x08",  # add $8, %ebx
        b"\x41\xff\xcc",  # dec %r12d
        b"\x75\xd8",  # jnz next
        b"\xb8" + struct.pack("<I", HYPERVISOR_sched_op),  # mov $sched_op, %eax
        b"\xbf" + struct.pack("<I", SCHEDOP_shutdown),  # mov $SCHEDOP_shutdown, %edi
        b"\xbe" + struct.pack("<I", END + 4),  # mov $END + 4, %esi
        b"\x0f\x05",  # syscall
        b"\xeb\xb3",  # jmp start
    )
)

BEHIND_BATCH = BASE + len(CODE) - 2
"""Where the guest is when it has suspended itself."""


def _image() -> KernelImage:
    segment = Segment(BASE, BASE, PAGES * PAGE_SIZE, memoryview(CODE))
    notes = XenNotes(loader="generic", guest_os="euxen-fuzz", xen_ver="xen-3.0", virt_base=0)
    return KernelImage(
        "the fuzzer's kernel", "ELF", None, None, 64, EM_X86_64, BASE, (segment,), notes, memoryview(b"")
    )


class FuzzGuest:
    """A domain that makes hypercalls. ``close`` destroys it."""

    def __init__(self, host: Host, privileged: bool = False) -> None:
        """A privileged one has a victim to play with."""
        self._host = host
        self.domid = create(host, Request("fuzz", _image(), b"", "", MEMORY, UUID(int=0)), lambda: None).domid
        domain = host.hypervisor.find(self.domid)
        assert domain is not None
        self.domain = domain
        domain.record["is_privileged"] = int(privileged)
        self.victim = Victim(host.hypervisor, host.control) if privileged else None
        self._pcpu = Pcpu(domain)
        host.control.unpause_domain(self.domid)
        frames = self._frames()
        first = BASE >> 12
        self._pages = [host.control.map_foreign(self.domid, frames[pfn]) for pfn in range(first, first + PAGES)]
        tables = {frame for frame in frames if 1 <= self._type(frame) <= 4}
        addresses = tuple(range(BASE, BASE + SPREAD * PAGE_SIZE, PAGE_SIZE))
        self.surroundings = Surroundings(tuple(frames), tuple(sorted(tables)), addresses, SLOT)
        if self.victim is not None:
            self.surroundings = replace(
                self.surroundings, context=CONTEXT, others=(self.victim.domid,), other_frames=self.victim.frames
            )

    def _frames(self) -> list[int]:
        """The guest's machine frames, by pfn: the machine-to-physical table the other way round."""
        machine, owner = self._host.machine, self.domain.record.address
        words = machine.frame_table.words()
        mine = [frame for frame in range(machine.record["heap_top"]) if words[frame * FIELDS + OWNER] == owner]
        return sorted(
            (frame for frame in mine if machine.m2p[frame] < MEMORY // PAGE_SIZE), key=machine.m2p.__getitem__
        )

    def _type(self, frame: int) -> int:
        return int(self._host.machine.frame_table.words()[frame * FIELDS + TYPE]) >> 61

    @staticmethod
    def slot(number: int) -> int:
        """The linear address of the memory of a batch's call."""
        return AREA + number * SLOT

    def make(self, calls: list[Call], context: bytes = b"") -> list[int] | None:
        """Make a batch of calls; their results, or None where the guest did not come back.

        ``context`` is the state of a vCPU that calls may point to.
        """
        queue = self._pages[1].memory
        for number in range(CONTEXT_PAGES):
            part = context[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]
            self._pages[3 + AREA_PAGES + number].memory[: len(part)] = part
        for number, call in enumerate(calls):
            CALL.pack_into(queue, number * CALL.size, call.number, *call.arguments)
            page, offset = divmod(number * SLOT, PAGE_SIZE)
            memory = call.memory[:SLOT]
            self._pages[3 + page].memory[offset : offset + len(memory)] = memory
        struct.pack_into("<II", queue, END - QUEUE, len(calls), SHUTDOWN_suspend)
        alarm = threading.Timer(PATIENCE, self._pcpu.stop)
        alarm.start()
        try:
            if not self._run_batch():
                return None
        finally:
            alarm.cancel()
        return list(struct.unpack_from(f"<{len(calls)}Q", self._pages[2].memory))

    def _run_batch(self) -> bool:
        """Let the guest go on until it is through; whether it gets there. Where it shuts itself down, it goes on."""
        while True:
            self._host.control.resume_domain(self.domid)
            self._pcpu.run()
            if not self.domain.is_shut_down or self.domain.crash_reason is not None:
                return False
            if self._pcpu.registers.rip == BEHIND_BATCH:
                return True

    def close(self) -> None:
        """Destroy the domain."""
        for page in self._pages:
            page.release()
        for domain in self._host.hypervisor.domains[:0:-1]:  # it may have made some
            if self.victim is not None and domain is not self.domain:
                self._host.control.destroy_domain(domain.domid)
        destroy(self._host, self.domid)
