"""What each request does: ``reply`` is the whole server as one function.

Requests on nodes are in ``requests``, Domain 0's own in ``domains`` and ``control``; here are those
that set up watches and transactions, and the order in which a request is checked. Specified in
docs/misc/xenstore.txt; where that is silent, oxenstored of Xen 4.17 is followed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from euxen.abi.io.xs_wire import (
    XENSTORE_ERROR_PROTO,
    XS_CONTROL,
    XS_INTRODUCE,
    XS_IS_DOMAIN_INTRODUCED,
    XS_RELEASE,
    XS_RESET_WATCHES,
    XS_RESUME,
    XS_SET_TARGET,
    XS_TRANSACTION_END,
    XS_TRANSACTION_START,
    XS_UNWATCH,
    XS_WATCH,
)
from euxen.dom0.xenstore import control, domains
from euxen.dom0.xenstore.connection import Connection
from euxen.dom0.xenstore.errors import XenstoreError
from euxen.dom0.xenstore.paths import is_relative, is_special, parse
from euxen.dom0.xenstore.requests import NODE_REQUESTS, OK, decimal, strings
from euxen.dom0.xenstore.store import XenStore
from euxen.dom0.xenstore.transaction import Perform, Transaction, View
from euxen.dom0.xenstore.watch import Event, Watch
from euxen.dom0.xenstore.wire import Packet, ProtocolError


def receive(store: XenStore, connection: Connection, data: bytes) -> None:
    """Take bytes that a client sent, and answer the requests that are whole.

    A transport reads them from the client only while ``XenStore.wants_input``. What is to be sent
    then waits in the connections that ``XenStore.take_ready`` names. A client that breaks the
    protocol has ``Connection.broken`` set; its transport is to disconnect it.
    """
    connection.reader.feed(data)
    serve(store, connection)


def serve(store: XenStore, connection: Connection) -> None:
    """Answer requests that were received already, as long as the client reads its replies.

    A transport calls it when the client has read some, since requests may have waited for that.
    """
    while store.may_serve(connection):
        try:
            request = connection.reader.next_packet()
        except ProtocolError as error:
            store.fail(connection, XENSTORE_ERROR_PROTO, str(error))
            return
        if request is None:
            return
        connection.send(reply(store, connection, request))
        store.replied(connection)


def reply(store: XenStore, connection: Connection, request: Packet) -> Packet:
    """Carry out one request and give the reply to it.

    The watch events that it gives rise to wait in the store, so that they come behind the reply.
    """
    if request.type in (XS_WATCH, XS_UNWATCH):
        request = replace(request, tx_id=0)  # "The tx_id in a WATCH request is ignored."
    try:
        if request.tx_id and request.tx_id not in connection.transactions:
            raise XenstoreError("EIO")
        if request.type in NODE_REQUESTS:
            return _reply_about_nodes(store, connection, request)
        if request.type in SESSION_REQUESTS:
            return request.reply(SESSION_REQUESTS[request.type](store, connection, request))
        if request.type not in DOMAIN0_REQUESTS:
            raise XenstoreError("ENOSYS")
        if not connection.identity.privileged:
            raise XenstoreError("EACCES")
        return request.reply(DOMAIN0_REQUESTS[request.type](store, request.payload))
    except XenstoreError as refused:
        return request.error(refused.name)


def _reply_about_nodes(store: XenStore, connection: Connection, request: Packet) -> Packet:
    perform = _performer(store, connection)
    if request.tx_id:
        transaction = connection.transactions[request.tx_id]
        if transaction.requests >= store.quota.requests and not connection.identity.privileged:
            raise XenstoreError("ENOSPC")
        return transaction.perform(perform, request)
    view = View(store.tree)
    answer = perform(view, request)
    store.install(view)
    return answer


def _performer(store: XenStore, connection: Connection) -> Perform:
    def perform(view: View, request: Packet) -> Packet:
        try:
            payload = NODE_REQUESTS[request.type](view, connection.identity, store.quota, request.payload)
        except XenstoreError as refused:
            return request.error(refused.name)
        return request.reply(payload)

    return perform


def _watch(store: XenStore, connection: Connection, request: Packet) -> bytes:
    """WATCH <wpath>|<token>|[<depth>|]"""
    raw, token, *rest = strings(request.payload, 2, 3)
    depth = decimal(rest[0]) if rest else None
    path = parse(raw, connection.identity.domid, store.quota.path_max)
    if is_special(path) and depth not in (None, 1):
        raise XenstoreError("EINVAL")
    if len(connection.watches) > store.quota.watches and not connection.identity.privileged:
        raise XenstoreError("ENOSPC")
    if (path, token) in connection.watches:
        raise XenstoreError("EEXIST")
    watch = Watch(connection, path, token, is_relative(raw), depth)
    connection.watches[path, token] = watch
    store.watches.add(watch)
    store.tell(Event(watch, path))  # "When a watch is first set up it is triggered once straight away"
    return OK


def _unwatch(store: XenStore, connection: Connection, request: Packet) -> bytes:
    """UNWATCH <wpath>|<token>|"""
    raw, token = strings(request.payload, 2, 2)
    path = parse(raw, connection.identity.domid, store.quota.path_max)
    watch = connection.watches.pop((path, token), None)
    if watch is None:
        raise XenstoreError("ENOENT")
    store.watches.remove([watch])
    return OK


def _reset_watches(store: XenStore, connection: Connection, request: Packet) -> bytes:
    """RESET_WATCHES |"""
    store.forget_session(connection)
    return OK


def _transaction_start(store: XenStore, connection: Connection, request: Packet) -> bytes:
    """TRANSACTION_START | gives <transid>|"""
    if request.tx_id:
        raise XenstoreError("EBUSY")
    if len(connection.transactions) > store.quota.transactions and not connection.identity.privileged:
        raise XenstoreError("ENOSPC")
    return b"%d\0" % connection.open_transaction(Transaction(store.tree))


def _transaction_end(store: XenStore, connection: Connection, request: Packet) -> bytes:
    """TRANSACTION_END T| or F|"""
    if not request.tx_id:
        raise XenstoreError("ENOENT")
    verdict = request.payload.split(b"\0")[0]
    if verdict not in (b"T", b"F"):
        raise XenstoreError("EINVAL")
    transaction = connection.transactions.pop(request.tx_id)
    if verdict == b"T":
        store.install(transaction.commit(store.tree, _performer(store, connection)))
    return OK


SESSION_REQUESTS: dict[int, Callable[[XenStore, Connection, Packet], bytes]] = {
    XS_WATCH: _watch,
    XS_UNWATCH: _unwatch,
    XS_RESET_WATCHES: _reset_watches,
    XS_TRANSACTION_START: _transaction_start,
    XS_TRANSACTION_END: _transaction_end,
}

DOMAIN0_REQUESTS: dict[int, Callable[[XenStore, bytes], bytes]] = {
    XS_INTRODUCE: domains.introduce,
    XS_RELEASE: domains.release,
    XS_IS_DOMAIN_INTRODUCED: domains.is_introduced,
    XS_RESUME: domains.resume,
    XS_SET_TARGET: domains.set_target,
    XS_CONTROL: control.control,
}
