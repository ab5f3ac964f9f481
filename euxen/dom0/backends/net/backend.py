"""A virtual interface on XenBus: what is told to a front end, what it answers, and the queues that come of it.

The nodes are those of Linux's xen-netback (drivers/net/xen-netback/xenbus.c), the toolstack's those of libxl.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from euxen.abi.io.netif import (
    NETIF_RSP_ERROR,
    NETIF_RSP_OKAY,
    XEN_NETIF_CTRL_HASH_ALGORITHM_NONE,
    XEN_NETIF_EXTRA_TYPE_MCAST_ADD,
    XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
    XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6,
)
from euxen.dom0.backends.net import control as control_ring
from euxen.dom0.backends.net import forwarding
from euxen.dom0.backends.net.control import Hashing
from euxen.dom0.backends.net.credit import Credit, parse_rate
from euxen.dom0.backends.net.hashing import flow_of, hash_packets
from euxen.dom0.backends.net.queue import Features, FrontendError, Link, Receiver, Transmitter
from euxen.dom0.backends.net.receive import CHECKSUM_IPV4, CHECKSUM_IPV6
from euxen.dom0.backends.ring import BackRing, RingError
from euxen.dom0.evtchn import Evtchn
from euxen.dom0.net.lan import Lan, Port
from euxen.dom0.net.nat import Forward, NatError
from euxen.dom0.net.networks import DEFAULT_BRIDGE, Networks
from euxen.dom0.net.packet import STRIDE, NetPacket, set_word, word_at
from euxen.dom0.xenbus.device import DeviceError, Nodes
from euxen.hypervisor.control import Control
from euxen.hypervisor.errors import GrantError, XenError
from euxen.hypervisor.granted import GrantedPages

MAX_QUEUES = 8
MAX_PORT = 1 << 17
MAX_MULTICAST = 64
"""Groups that a front end may ask for (XEN_NETBK_MCAST_MAX)."""
ROUNDS = 16
"""Batches after which others have their turn."""
BROADCAST = b"\xff" * 6
GROUP = 1
NO_MEMORY = "Domain 0 has no memory for it ({error})"


@dataclass
class _Queue:
    """Two rings, and the ports of their events."""

    link: Link
    pages: GrantedPages
    ports: list[int] = field(default_factory=list)
    """Our ends: of the transmit ring, and of the receive ring, which may be the same."""
    credit: Credit | None = None
    """What may still be sent; None if that is not limited."""
    timer: threading.Timer | None = None


class NetBackend(Port):
    """The driver of one interface, which is a port of a bridge from the day that the toolstack makes it."""

    def __init__(
        self,
        control: Control,
        events: Evtchn,
        networks: Networks,
        log: Callable[[str], None],
        nodes: Nodes,
        fail: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``fail`` is told why the interface cannot go on."""
        self._control, self._events, self._networks = control, events, networks
        self._log, self._nodes, self._fail, self._clock = log, nodes, fail, clock
        self.name = nodes.configured("vifname") or f"vif{nodes.place.domid}.{nodes.place.devid}"
        self._lan: Lan | None = None
        self._queues: list[_Queue] = []
        self._multicast: set[bytes] | None = None
        """The groups that the front end asked for; None while it gets all."""
        self._hashing = Hashing(1, self._read)
        self._control_ring: BackRing | None = None
        self._control_page: GrantedPages | None = None
        self._control_port: list[int] = []
        self._broken = False

    # What a driver does.

    def publish(self) -> Mapping[str, str]:
        """Join the bridge, and say what can be asked of an interface."""
        if self._lan is None:
            try:
                self._lan = self._networks.join(
                    self._nodes.configured("bridge") or DEFAULT_BRIDGE, self, self._forwards()
                )
            except XenError as error:
                raise DeviceError(NO_MEMORY.format(error=error)) from None
            except NatError as error:
                raise DeviceError(str(error)) from None
        return {
            "feature-sg": "1",
            "feature-gso-tcpv4": "1",
            "feature-gso-tcpv6": "1",
            "feature-ipv6-csum-offload": "1",
            "feature-rx-copy": "1",
            "feature-rx-flip": "0",
            "feature-multicast-control": "1",
            "feature-dynamic-multicast-control": "1",
            "feature-split-event-channels": "1",
            "multi-queue-max-queues": str(MAX_QUEUES),
            "feature-ctrl-ring": "1",
            "hotplug-status": "connected",
        }

    def connect(self) -> Mapping[str, str]:
        """Serve the front end's rings."""
        nodes = self._nodes
        if not nodes.front_number("request-rx-copy", 0):
            raise DeviceError("the front end does not take copies (request-rx-copy), and there is nothing else")
        count = nodes.front_number("multi-queue-num-queues", 1)
        if not 1 <= count <= MAX_QUEUES:
            raise DeviceError(f"guest requested {count} queues, exceeding the maximum of {MAX_QUEUES}.")
        self._multicast = set() if nodes.front_number("request-multicast-control", 0) else None
        self._hashing = Hashing(count, self._read)
        self._broken = False
        try:
            for number in range(count):
                directory = f"queue-{number}/" if count > 1 else ""
                self._connect_queue(directory)
            self._connect_control_ring()
        except (DeviceError, XenError) as error:
            self._let_go()
            sentence = str(error) if isinstance(error, DeviceError) else NO_MEMORY.format(error=error)
            raise DeviceError(sentence) from None
        for queue in list(self._queues):
            self._transmit(queue)  # what came before
        return {}

    def _forwards(self) -> list[Forward]:
        """Ports of the host's that lead to the guest: ``tcp:2222:22``, in blanks."""
        forwards = []
        for text in (self._nodes.configured("forward") or "").split():
            protocol, host_port, guest_port = text.split(":")
            forwards.append(Forward(protocol, int(host_port), int(guest_port)))
        return forwards

    def _features(self) -> Features:
        """What the front end takes."""
        number = self._nodes.front_number
        gso = 0
        if number("feature-gso-tcpv4", 0):
            gso |= 1 << XEN_NETIF_GSO_TYPE_TCPV4
        if number("feature-gso-tcpv6", 0):
            gso |= 1 << XEN_NETIF_GSO_TYPE_TCPV6
        checksums = 0 if number("feature-no-csum-offload", 0) else CHECKSUM_IPV4
        if number("feature-ipv6-csum-offload", 0):
            checksums |= CHECKSUM_IPV6
        return Features(number("feature-sg", 0) != 0, gso, checksums)

    def _connect_queue(self, directory: str) -> None:
        """Map two rings and bind their ports. Raises DeviceError or XenError."""
        nodes, domid, lan = self._nodes, self._nodes.place.domid, self._lan
        assert lan is not None
        refs = [nodes.front_number(f"{directory}{name}-ring-ref") for name in ("tx", "rx")]
        features, remote = self._features(), self._remote_ports(directory)
        try:
            pages = self._control.map_grants(domid, refs)
        except GrantError as error:
            raise DeviceError(f"mapping shared-frames {refs[0]}/{refs[1]} failed: {error}") from None
        transmitter = None
        try:
            transmitter = Transmitter(self._control, pages.pages[0], domid)
            receiver = Receiver(self._control, pages.pages[1], domid, features)
        except XenError:
            if transmitter is not None:
                transmitter.close()
            pages.unmap()
            raise
        queue = _Queue(Link(self._control, lan, transmitter, receiver), pages)
        # Nothing is put onto the ring before there is a port by which to tell of it: the front end would not be told.
        queue.link.record["broken"] = 1
        self._queues.append(queue)
        rate = parse_rate(nodes.configured("rate"))
        if rate is not None:
            queue.credit = Credit(rate, self._clock())
            transmitter.record["credit"] = rate.size
        self._bind(queue, remote)

    def _bind(self, queue: _Queue, remote: list[int]) -> None:
        """Bind a queue's ports, and have native code listen. Raises DeviceError."""
        record, ports = queue.link.record, queue.ports
        handlers: list[tuple[Callable[[], bool], int]] = [
            (lambda: self._transmit(queue), forwarding.forward.address),
            (lambda: self._more_room(queue), forwarding.more_room.address),
        ]
        if len(remote) == 1:
            handlers = [(lambda: bool(self._more_room(queue) | self._transmit(queue)), forwarding.both.address)]
        for port, (handler, _native) in zip(remote, handlers, strict=True):
            try:
                ports.append(self._events.bind_interdomain(self._nodes.place.domid, port, handler, locked=False))
            except XenError as error:
                raise DeviceError(f"mapping tx/rx port {port} failed: {error}") from None
        record["transmit_port"], record["receive_port"] = ports[0], ports[-1]
        for port, (_handler, native) in zip(ports, handlers, strict=True):
            self._events.handle_natively(port, native, record.address)
        record["broken"] = 0

    def _remote_ports(self, directory: str) -> list[int]:
        """The front end's ports: one, or one for each ring. Raises DeviceError."""
        nodes = self._nodes
        if nodes.front(f"{directory}event-channel-tx") is None:
            return [nodes.front_number(f"{directory}event-channel", most=MAX_PORT)]
        return [nodes.front_number(f"{directory}event-channel-{ring}", most=MAX_PORT) for ring in ("tx", "rx")]

    def _connect_control_ring(self) -> None:
        """Map the control ring, if there is one. Raises DeviceError."""
        nodes, domid = self._nodes, self._nodes.place.domid
        if nodes.front("ctrl-ring-ref") is None:
            return
        ref = nodes.front_number("ctrl-ring-ref")
        port = nodes.front_number("event-channel-ctrl", most=MAX_PORT)
        try:
            self._control_page = self._control.map_grants(domid, [ref])
            self._control_ring = BackRing(self._control_page.pages, control_ring.ENTRY_SIZE)
            self._control_port.append(
                self._events.bind_interdomain(domid, port, self._serve_control_ring, locked=False)
            )
        except (GrantError, XenError) as error:
            raise DeviceError(f"mapping shared-frame {ref} port {port} failed: {error}") from None

    def disconnect(self, done: Callable[[], None]) -> None:
        """Let go of the rings."""
        self._let_go()
        done()

    def _let_go(self) -> None:
        lan = self._lan
        if lan is None:
            return
        # With the bridge's lock nobody is at work for the rings.
        with lan.lock:
            queues, self._queues = self._queues, []
            for queue in queues:
                queue.link.record["broken"] = 1
            ring, self._control_ring = self._control_ring, None
            lan.changed()
        for port in {port for queue in queues for port in queue.ports} | set(self._control_port):
            self._events.unbind(port)
        self._control_port.clear()
        for queue in queues:
            if queue.timer is not None:
                queue.timer.cancel()
            queue.link.close()
            queue.pages.unmap()
        if ring is not None:
            ring.close()
        if self._control_page is not None:
            self._control_page.unmap()
            self._control_page = None

    def close(self) -> None:
        """Leave the bridge."""
        lan, self._lan = self._lan, None
        if lan is not None:
            self._networks.leave(lan, self)

    # What the front end sends.

    def _transmit(self, queue: _Queue) -> bool:
        """Send on what the front end has to send; whether there is more."""
        lan = self._lan
        if lan is None:
            return False
        with lan.lock:
            if self._broken or queue not in self._queues:
                return False
            try:
                return self._transmit_some(lan, queue)
            except FrontendError as error:
                self._fail_once(str(error))
                return False

    def _transmit_some(self, lan: Lan, queue: _Queue) -> bool:
        link = queue.link
        packets = link.transmitter.packets
        for _round in range(ROUNDS):
            count, done = link.take()
            if count:
                self._note_groups(packets, count)
                lan.receive(self, packets + done * STRIDE, count - done)
                link.finish(count)
            if link.transmitter.wants_credit:
                if not self._renew_credit(queue):
                    return False
            elif not link.transmitter.record["stop"]:
                return False
        return True

    def learned(self, header: int, target: Port) -> None:
        """Let native code send such packets on, where the other port is an interface with one queue, too."""
        targets = target.only_link() if isinstance(target, NetBackend) else 0
        if targets:
            for queue in self._queues:
                forwarding.remember(queue.link.record.address, header, targets)

    def only_link(self) -> int:
        """The LinkRecord of an interface to which packets need not be spread, or 0."""
        hashed = self._hashing.algorithm != XEN_NETIF_CTRL_HASH_ALGORITHM_NONE
        return 0 if hashed or self._broken or len(self._queues) != 1 else self._queues[0].link.record.address

    def _renew_credit(self, queue: _Queue) -> bool:
        """Whether there is credit for the next packet; if not, the queue is looked at when there is."""
        assert queue.credit is not None
        transmitter = queue.link.transmitter
        queue.credit.bytes = transmitter.record["credit"]
        wait = queue.credit.wait(transmitter.wants_credit, self._clock())
        transmitter.record["credit"] = queue.credit.bytes
        if not wait:
            return True
        if queue.timer is not None:
            return False
        queue.timer = threading.Timer(wait, self._transmit_again, (queue,))
        queue.timer.daemon = True
        queue.timer.start()
        return False

    def _transmit_again(self, queue: _Queue) -> None:
        queue.timer = None
        while self._transmit(queue):
            pass

    def _note_groups(self, packets: int, count: int) -> None:
        """Do what a batch says of groups."""
        for packet in range(packets, packets + count * STRIDE, STRIDE):
            request = word_at(packet, NetPacket.mcast)
            kind, address = request & 0xFF, (request >> 8).to_bytes(7, "little")[:6]
            if kind == XEN_NETIF_EXTRA_TYPE_MCAST_ADD:
                groups = self._multicast if self._multicast is not None else set()
                good = len(groups) < MAX_MULTICAST or address in groups
                if good:
                    groups.add(address)
                set_word(packet, NetPacket.status, (NETIF_RSP_OKAY if good else NETIF_RSP_ERROR) & (1 << 64) - 1)
            elif kind == XEN_NETIF_EXTRA_TYPE_MCAST_DEL:
                (self._multicast or set()).discard(address)
                set_word(packet, NetPacket.status, NETIF_RSP_OKAY)

    # What it gets.

    def send(self, packets: int, count: int, source: Port) -> None:
        """Give the front end a batch, whose packets have the same addresses."""
        if self._broken or not self._queues:
            return
        if self._multicast is not None:
            destination = ctypes.string_at(word_at(packets, NetPacket.header), 6)
            if destination[0] & GROUP and destination not in self._multicast and destination != BROADCAST:
                return
        try:
            self._spread(packets, count)
        except FrontendError as error:
            self._fail_once(str(error))

    def _spread(self, packets: int, count: int) -> None:
        """Choose queues."""
        hashing, queues = self._hashing, self._queues
        hashed = hashing.algorithm != XEN_NETIF_CTRL_HASH_ALGORITHM_NONE
        if hashed:
            hash_packets(packets, count, hashing.types, hashing.key.address)
        if len(queues) == 1:
            queues[0].link.send(packets, count)
            return
        end = packets + count * STRIDE
        while packets < end:
            chosen = self._choose(packets, hashed)
            last = packets + STRIDE
            while last < end and self._choose(last, hashed) == chosen:
                last += STRIDE
            queues[chosen].link.send(packets, (last - packets) // STRIDE)
            packets = last

    def _choose(self, packet: int, hashed: bool) -> int:
        if hashed:
            return self._hashing.queue_for(word_at(packet, NetPacket.hash) & 0xFFFF_FFFF) % len(self._queues)
        flow = flow_of(word_at(packet, NetPacket.header), word_at(packet, NetPacket.header_size))
        return flow % len(self._queues)

    def _more_room(self, queue: _Queue) -> bool:
        """The front end may take more."""
        lan = self._lan
        if lan is not None and queue.link.receiver.waiting:
            with lan.lock:
                if not self._broken and queue in self._queues:
                    try:
                        queue.link.kick()
                    except FrontendError as error:
                        self._fail_once(str(error))
        return False

    # Control.

    def _serve_control_ring(self) -> bool:
        lan = self._lan
        if lan is None:
            return False
        with lan.lock:
            if self._broken or self._control_ring is None:
                return False
            try:
                wants_event = control_ring.serve(self._control_ring, self._hashing)
            except RingError as error:
                self._fail_once(str(error))
                return False
            wants_hash = int(self._hashing.algorithm != XEN_NETIF_CTRL_HASH_ALGORITHM_NONE)
            for queue in self._queues:
                queue.link.receiver.record["wants_hash"] = wants_hash
            lan.changed()  # what was sent natively is spread now, perhaps
        if wants_event:
            self._notify(self._control_port)
        return False

    def _read(self, gref: int, size: int) -> bytes | None:
        """Copy the beginning of a page of the front end's."""
        try:
            page = self._control.map_grants(self._nodes.place.domid, [gref], writable=False)
        except GrantError:
            return None
        try:
            return bytes(page.pages[0][:size])
        finally:
            page.unmap()

    def _notify(self, ports: list[int]) -> None:
        for port in ports:
            try:
                self._events.notify(port)
            except XenError as error:
                self._fail_once(f"the front end cannot be notified: {error}")

    def _fail_once(self, sentence: str) -> None:
        if not self._broken:
            self._broken = True
            for queue in self._queues:
                queue.link.record["broken"] = 1
            self._fail(sentence)


def net_drivers(
    control: Control, events: Evtchn, networks: Networks, log: Callable[[str], None]
) -> dict[str, Callable[[Nodes, Callable[[str], None]], NetBackend]]:
    """Makers of drivers, by the kinds of back ends that they are for."""

    def make(nodes: Nodes, fail: Callable[[str], None]) -> NetBackend:
        return NetBackend(control, events, networks, log, nodes, fail)

    return {"vif": make}
