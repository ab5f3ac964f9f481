"""Requests by which Domain 0 tells xenstored of domains.

Specified in docs/misc/xenstore.txt, "Domain management and xenstored communications". That the
caller is Domain 0 was checked before. Each function gives the payload of the reply, and raises
XenstoreError.
"""

from __future__ import annotations

from dataclasses import replace

from euxen.abi.xen import DOMID_FIRST_RESERVED, DOMID_SELF
from euxen.dom0.xenstore.errors import XenstoreError
from euxen.dom0.xenstore.permissions import DOMID_MAX
from euxen.dom0.xenstore.requests import OK, decimal, strings
from euxen.dom0.xenstore.store import Domain, XenStore

_GFN_MAX = (1 << 63) - 1
_PORT_MAX = (1 << 32) - 1


def introduce(store: XenStore, payload: bytes) -> bytes:
    """INTRODUCE <domid>|<gfn>|<evtchn>|?"""
    arguments = payload.split(b"\0")[:-1]  # the "?" behind the last nul is reserved, and passed over
    if len(arguments) < 3:
        raise XenstoreError("EINVAL")
    domid, gfn, port = arguments[:3]
    store.introduce(_real_domid(domid), decimal(gfn, _GFN_MAX, -_GFN_MAX), decimal(port, _PORT_MAX))
    return OK


def release(store: XenStore, payload: bytes) -> bytes:
    """RELEASE <domid>|"""
    (domid,) = strings(payload, 1, 1)
    store.release(_real_domid(domid))
    return OK


def is_introduced(store: XenStore, payload: bytes) -> bytes:
    """IS_DOMAIN_INTRODUCED <domid>| gives T| or F|"""
    (domid,) = strings(payload, 1, 1)
    return b"T\0" if decimal(domid, DOMID_MAX) in (*store.domains, DOMID_SELF) else b"F\0"


def resume(store: XenStore, payload: bytes) -> bytes:
    """RESUME <domid>|"""
    (domid,) = strings(payload, 1, 1)
    _known(store, domid, "EINVAL").shut_down = False
    return OK


def set_target(store: XenStore, payload: bytes) -> bytes:
    """SET_TARGET <domid>|<tdomid>|"""
    domid, target = strings(payload, 2, 2)
    connection = _known(store, domid, "ENOENT").connection
    connection.identity = replace(connection.identity, target=decimal(target, DOMID_FIRST_RESERVED - 1))
    return OK


def _real_domid(text: bytes) -> int:
    return decimal(text, DOMID_FIRST_RESERVED - 1, 1)


def _known(store: XenStore, text: bytes, otherwise: str) -> Domain:
    domain = store.domains.get(decimal(text, DOMID_FIRST_RESERVED - 1))
    if domain is None:
        raise XenstoreError(otherwise)
    return domain
