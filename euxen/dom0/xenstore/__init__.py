"""xenstored: the database through which domains and their toolstack find and configure each other.

It is a state machine: bytes in, bytes out. It opens nothing, waits for nothing and reads no clock;
whoever embeds it brings the bytes, in one thread at a time. One ``XenStore`` holds what all clients
share, one ``Connection`` is one client, and ``receive`` is all that ever happens to them:

>>> from euxen.dom0.xenstore import Packet, PacketReader, XenStore, receive
>>> from euxen.abi.io.xs_wire import XS_READ, XS_WATCH, XS_WRITE
>>> store = XenStore()
>>> tool = store.connect()
>>> def ask(type, payload):
...     receive(store, tool, Packet(type, payload, req_id=1).encode())
...     answers = PacketReader()
...     answers.feed(tool.data_to_send(65536))
...     while packet := answers.next_packet():
...         print(packet.type, packet.payload)
>>> ask(XS_WRITE, b"/local/domain/7/name\\0guest")
11 b'OK\\x00'
>>> ask(XS_READ, b"/local/domain/7/name\\0")
2 b'guest'
>>> ask(XS_WATCH, b"/local/domain/7\\0token\\0")
4 b'OK\\x00'
15 b'/local/domain/7\\x00token\\x00'
>>> ask(XS_READ, b"/local/domain/8/name\\0")
16 b'ENOENT\\x00'

A domain talks through a ring in a page that it shares with xenstored: ``XenStoreRing``. After
anything was received, ``XenStore.take_ready`` names the connections that have bytes to send.

To read it from the bottom: ``wire`` (packets), ``paths``, ``permissions``, ``tree`` (the database),
``transaction``, ``requests`` (on nodes), ``watch``, ``connection``, ``store`` (what is shared),
``domains`` and ``control`` (Domain 0's requests), ``server`` (every request), ``ring``.

The law is docs/misc/xenstore.txt and xenstore-ring.txt. Where they are silent it does what
oxenstored of Xen 4.17 does, and where they ask for what oxenstored lacks, what xenstored does.
"""

from euxen.dom0.xenstore.connection import Connection
from euxen.dom0.xenstore.quota import Quota
from euxen.dom0.xenstore.ring import XenStoreRing
from euxen.dom0.xenstore.server import receive, reply, serve
from euxen.dom0.xenstore.store import Host, XenStore
from euxen.dom0.xenstore.wire import Packet, PacketReader, ProtocolError

__all__ = [
    "Connection",
    "Host",
    "Packet",
    "PacketReader",
    "ProtocolError",
    "Quota",
    "XenStore",
    "XenStoreRing",
    "receive",
    "reply",
    "serve",
]
