"""The FIFO ABI of event channels: an event word per port, linked into queues by priority.

Source: xen/common/event_fifo.c.

Words and control blocks lie in the guest's memory, and the guest can write there whatever it likes: Xen follows no
link, and what it has to know, the end of each queue, it keeps to itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from euxen.abi.errno import XEN_EINVAL, XEN_ENOSPC
from euxen.abi.event_channel import (
    EVTCHN_2L_NR_CHANNELS,
    EVTCHN_FIFO_BUSY,
    EVTCHN_FIFO_LINK_MASK,
    EVTCHN_FIFO_LINKED,
    EVTCHN_FIFO_MASKED,
    EVTCHN_FIFO_MAX_QUEUES,
    EVTCHN_FIFO_NR_CHANNELS,
    EVTCHN_FIFO_PENDING,
    EVTCHN_FIFO_PRIORITY_DEFAULT,
    EvtchnFifoControlBlock,
)
from euxen.cpu.native.language import and32, cas32, load32, load64, native, or32, signed, store32, store64, ult
from euxen.cpu.native.memory import Memory, Record
from euxen.cpu.native.spinlock import lock_both, unlock_both
from euxen.hypervisor import event_2l
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.mm import p2m, pagetable
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.records import (
    PAGE_SIZE,
    DomainRecord,
    EvtchnFifoQueue,
    EvtchnFifoRecord,
    EvtchnFifoVcpu,
    EvtchnRecord,
    VcpuRecord,
)
from euxen.hypervisor.sched import check_pollers, vcpu_of
from euxen.hypervisor.upcall import mark_events_pending

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain
    from euxen.hypervisor.vcpu import Vcpu

PENDING, MASKED = 1 << EVTCHN_FIFO_PENDING, 1 << EVTCHN_FIFO_MASKED
LINKED, BUSY = 1 << EVTCHN_FIFO_LINKED, 1 << EVTCHN_FIFO_BUSY
WORDS_PER_PAGE = PAGE_SIZE // 4
MAX_PAGES = EVTCHN_FIFO_NR_CHANNELS // WORDS_PER_PAGE
READY = EvtchnFifoControlBlock.offsetof("ready")
HEAD = EvtchnFifoControlBlock.offsetof("head")
QUEUES = EvtchnFifoVcpu.offsetof("queue")
EVENT_ARRAY = EvtchnFifoRecord.offsetof("event_array")
MAX_OFFSET = PAGE_SIZE - EvtchnFifoControlBlock.size
LINK_TRIES = 4
"""The guest may change a linked word so often while it is BUSY: it can set and clear MASKED, and clear PENDING and
LINKED."""
QUEUE_TRIES = 3


@native
def word_of(domain: int, port: int) -> int:
    """Where the event word of a port is, or 0 where the guest has given no page for it."""
    fifo = load64(domain + DomainRecord.evtchn_fifo)
    if not ult(port, load64(fifo + EvtchnFifoRecord.num_evtchns)):
        return 0
    return load64(fifo + EVENT_ARRAY + port // WORDS_PER_PAGE * 8) + port % WORDS_PER_PAGE * 4


@native
def _word(channel: int) -> int:
    return word_of(load64(channel + EvtchnRecord.domain), load64(channel + EvtchnRecord.port))


@native
def init(channel: int) -> int:
    """A port is bound (evtchn_fifo_init)."""
    store64(channel + EvtchnRecord.priority, EVTCHN_FIFO_PRIORITY_DEFAULT)
    return 0


@native
def _set_link(word: int, link: int) -> int:
    """Let a word link to a port, if it is still linked itself; whether the port is linked (evtchn_fifo_set_link)."""
    seen = load32(word)
    if not seen & LINKED:
        return 0
    if cas32(word, seen, (seen & ~(BUSY | EVTCHN_FIFO_LINK_MASK)) | link) == seen:
        return 1
    # Have the guest wait that wants to unmask it, or this could go on for ever.
    or32(word, BUSY)
    seen = load32(word)
    for _attempt in range(LINK_TRIES):
        if not seen & LINKED:
            and32(word, ~BUSY)
            return 0
        found = cas32(word, seen, (seen & ~(BUSY | EVTCHN_FIFO_LINK_MASK)) | link)
        if found == seen:
            return 1
        seen = found
    # A guest that plays with the word loses the event.
    and32(word, ~BUSY)
    return 1


@native
def _queue(vcpu: int, priority: int) -> int:
    return load64(vcpu + VcpuRecord.evtchn_fifo) + QUEUES + priority * EvtchnFifoQueue.size


@native
def _last_queue(channel: int) -> int:
    """The queue on which a port was put last."""
    last = load64(channel + EvtchnRecord.last_queue)
    return _queue(vcpu_of(load64(channel + EvtchnRecord.domain), last >> 8), last & 0xFF)


@native
def _enqueue(vcpu: int, channel: int, queue: int, old: int) -> int:
    """Put a port at the end of a queue; whether the queue has a new head. Both locks are held."""
    domain = load64(vcpu + VcpuRecord.domain)
    port = load64(channel + EvtchnRecord.port)
    # If it was the end of its queue, that is empty now; linking to it would corrupt the new one.
    if load64(old + EvtchnFifoQueue.tail) == port:
        store64(old + EvtchnFifoQueue.tail, 0)
    if old != queue:
        moved = load64(vcpu + VcpuRecord.vcpu_id) << 8 | load64(queue + EvtchnFifoQueue.priority)
        store64(channel + EvtchnRecord.last_queue, moved)
    tail = load64(queue + EvtchnFifoQueue.tail)
    linked = _set_link(word_of(domain, tail), port) if tail else 0
    if not linked:
        store32(load64(queue + EvtchnFifoQueue.head), port)
    store64(queue + EvtchnFifoQueue.tail, port)
    return 0 if linked else 1


@native
def _post(vcpu: int, channel: int, word: int, queue: int, old: int) -> int:
    """Make a port pending that has a word, and give both locks back."""
    control_block = load64(load64(vcpu + VcpuRecord.evtchn_fifo) + EvtchnFifoVcpu.control_block)
    is_new = 0
    new_head = 0
    # A vCPU without a control block may not have unmasked anything, so the event is nobody's.
    if control_block:
        is_new = 0 if or32(word, PENDING) & PENDING else 1
        if not load32(word) & MASKED and not or32(word, LINKED) & LINKED:
            new_head = _enqueue(vcpu, channel, queue, old)
    bit = 1 << load64(queue + EvtchnFifoQueue.priority)
    unlock_both(queue + EvtchnFifoQueue.lock, old + EvtchnFifoQueue.lock)
    if new_head and not or32(control_block + READY, bit) & bit:
        mark_events_pending(vcpu)
    if is_new:
        check_pollers(load64(vcpu + VcpuRecord.domain), load64(channel + EvtchnRecord.port))
    return 0


@native
def set_pending(vcpu: int, channel: int) -> int:
    """Make a port pending (evtchn_fifo_set_pending)."""
    word = _word(channel)
    if not word:
        store64(channel + EvtchnRecord.pending, 1)
        return 0
    for _attempt in range(QUEUE_TRIES):
        queue = _queue(vcpu, load64(channel + EvtchnRecord.priority))
        old = _last_queue(channel)
        lock_both(queue + EvtchnFifoQueue.lock, old + EvtchnFifoQueue.lock)
        # The priority may have been changed, and another sender may have moved the port, before we had the locks.
        if queue == _queue(vcpu, load64(channel + EvtchnRecord.priority)) and old == _last_queue(channel):
            return _post(vcpu, channel, word, queue, old)
        unlock_both(queue + EvtchnFifoQueue.lock, old + EvtchnFifoQueue.lock)
    return 0


@native
def clear_pending(channel: int) -> int:
    """Take back what is pending; the guest takes the port off its queue (evtchn_fifo_clear_pending)."""
    word = _word(channel)
    if word:
        and32(word, ~PENDING)
    return 0


@native
def unmask(channel: int) -> int:
    """Clear a port's mask bit, and queue it if it is pending (evtchn_fifo_unmask)."""
    word = _word(channel)
    if word:
        and32(word, ~MASKED)
        if load32(word) & PENDING:
            domain = load64(channel + EvtchnRecord.domain)
            set_pending(vcpu_of(domain, load64(channel + EvtchnRecord.notify_vcpu)), channel)
    return 0


@native
def is_pending(channel: int) -> int:
    """Whether an event is pending on a port (evtchn_fifo_is_pending)."""
    word = _word(channel)
    return 1 if word and load32(word) & PENDING else 0


@native
def is_masked(channel: int) -> int:
    """Whether the guest has masked a port, or has no word for it (evtchn_fifo_is_masked)."""
    word = _word(channel)
    return 0 if word and not load32(word) & MASKED else 1


@native
def is_busy(channel: int) -> int:
    """Whether a closed port is still on a queue, so that it can't be bound again (evtchn_fifo_is_busy)."""
    word = _word(channel)
    return 1 if word and load32(word) & LINKED else 0


class EvtchnFifo:
    """The FIFO ABI of one domain, from its first control block until it is reset or dies.

    The guest's pages stay writable pages of its as long. When they are given back nobody can be sending: all ports
    are closed then.
    """

    def __init__(self, domain: Domain) -> None:
        """Prepare it, without any page. The domain has it once ``install`` is called."""
        self._domain = domain
        self._pages: list[int] = []
        self._record = Record(EvtchnFifoRecord)
        self._vcpus = Memory(EvtchnFifoVcpu.size * domain.max_vcpus)
        for vcpu in domain.vcpus:
            record = self._vcpu(vcpu)
            for priority in range(EVTCHN_FIFO_MAX_QUEUES):
                offset = record.address - self._vcpus.address + QUEUES + priority * EvtchnFifoQueue.size
                Record(EvtchnFifoQueue, self._vcpus, offset)["priority"] = priority
            vcpu.record["evtchn_fifo"] = record.address

    def _vcpu(self, vcpu: Vcpu) -> Record:
        return Record(EvtchnFifoVcpu, self._vcpus, vcpu.vcpu_id * EvtchnFifoVcpu.size)

    def install(self) -> None:
        """Let the domain's ports be FIFO ports."""
        self._domain.record["evtchn_fifo"] = self._record.address

    def _map_guest_page(self, gfn: int) -> int:
        """Hold a page of the guest's, and return its host address (map_guest_page)."""
        machine = self._domain.machine
        page = p2m.get_page_and_type_from_gfn(self._domain.record.address, signed(gfn), pg.PGT_writable_page)
        if not page:
            raise XenError(XEN_EINVAL)
        self._pages.append(page)
        return machine.ram_address + pg.frame_of(machine.record.address, page) * PAGE_SIZE

    def map_control_block(self, vcpu: Vcpu, gfn: int, offset: int) -> None:
        """Give a vCPU its control block, once. Raises XenError."""
        record = self._vcpu(vcpu)
        if record["control_block"]:
            raise XenError(XEN_EINVAL)
        block = self._map_guest_page(gfn) + offset
        for priority in range(EVTCHN_FIFO_MAX_QUEUES):
            at = record.address - self._vcpus.address + QUEUES + priority * EvtchnFifoQueue.size
            Record(EvtchnFifoQueue, self._vcpus, at)["head"] = block + HEAD + 4 * priority
        record["control_block"] = block  # last: whoever sees it uses the heads

    def add_page(self, gfn: int) -> tuple[int, int]:
        """Add a page of event words; the ports that it is for, from the first to before the last. Raises XenError."""
        first = self._record["num_evtchns"]
        slot = first // WORDS_PER_PAGE
        if slot >= MAX_PAGES:
            raise XenError(XEN_ENOSPC)
        address = self._map_guest_page(gfn)
        pages = self._record.memory.view[EVENT_ARRAY : EVENT_ARRAY + 8 * MAX_PAGES].cast("Q")
        pages[slot] = address
        self._record["num_evtchns"] = first + WORDS_PER_PAGE  # last: whoever sees it uses the page
        return first, first + WORDS_PER_PAGE

    @property
    def frames(self) -> list[int]:
        """The machine frames of the guest's that are in use, each as often as it is."""
        return [pg.frame_of(self._domain.machine.record.address, page) for page in self._pages]

    def destroy(self) -> None:
        """Go back to the two-level ABI, and give the guest's pages back."""
        self._domain.record["evtchn_fifo"] = 0
        for vcpu in self._domain.vcpus:
            vcpu.record["evtchn_fifo"] = 0
        for page in self._pages:
            pagetable.put_page_and_type(page)
        self._pages.clear()


@native
def save_pending(channel: int) -> int:
    """A port that was bound before the domain had the FIFO ABI: keep what is pending (setup_ports)."""
    if load64(channel + EvtchnRecord.port) < EVTCHN_2L_NR_CHANNELS and event_2l.is_pending(channel):
        store64(channel + EvtchnRecord.pending, 1)
    return init(channel)


@native
def raise_saved(channel: int) -> int:
    """There is a word for a port now: raise what came before (add_page_to_event_array)."""
    if load64(channel + EvtchnRecord.pending):
        domain = load64(channel + EvtchnRecord.domain)
        set_pending(vcpu_of(domain, load64(channel + EvtchnRecord.notify_vcpu)), channel)
    return 0
