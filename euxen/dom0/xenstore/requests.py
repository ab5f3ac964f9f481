"""Requests on nodes: what may be made in a transaction as well as outside of one.

Each function takes the view to act on, the caller, the quotas and the request's payload, gives the
payload of the reply, and raises XenstoreError. It touches nothing else, so that a transaction can
make it again. Specified in docs/misc/xenstore.txt, "Database read, write and permissions operations".
"""

from __future__ import annotations

import re
from collections.abc import Callable

from euxen.abi.io.xs_wire import (
    XENSTORE_PAYLOAD_MAX,
    XS_DIRECTORY,
    XS_DIRECTORY_PART,
    XS_GET_DOMAIN_PATH,
    XS_GET_PERMS,
    XS_MKDIR,
    XS_READ,
    XS_RM,
    XS_SET_PERMS,
    XS_WRITE,
)
from euxen.dom0.xenstore.errors import XenstoreError
from euxen.dom0.xenstore.paths import Path, home, is_special, parse, unparse
from euxen.dom0.xenstore.permissions import DOMID_MAX, Identity, Permissions
from euxen.dom0.xenstore.quota import Quota
from euxen.dom0.xenstore.transaction import Change, View
from euxen.dom0.xenstore.tree import Node, Tree

OK = b"OK\0"

_DECIMAL = re.compile(rb"-?[0-9]{1,20}")


def strings(payload: bytes, at_least: int, at_most: int) -> list[bytes]:
    """Cut ``<foo>|`` arguments out of a payload. Raises XenstoreError EINVAL for another number of them."""
    *found, rest = payload.split(b"\0")
    if rest or not at_least <= len(found) <= at_most:
        raise XenstoreError("EINVAL")
    return found


def decimal(text: bytes, most: int = (1 << 63) - 1, least: int = 0) -> int:
    """Read a number from ``least`` to ``most``. Raises XenstoreError EINVAL."""
    if not _DECIMAL.fullmatch(text) or not least <= int(text) <= most:
        raise XenstoreError("EINVAL")
    return int(text)


def _directory(view: View, who: Identity, quota: Quota, payload: bytes) -> bytes:
    """DIRECTORY <path>| gives <child-leaf-name>|*"""
    return _children(view.tree.read(who, _only_path(who, quota, payload)))


def _directory_part(view: View, who: Identity, quota: Quota, payload: bytes) -> bytes:
    """DIRECTORY_PART <path>|<offset> gives <gencnt>|<child-leaf-name>|*

    The last part ends in an empty name, which xenstore.txt leaves out and libxenstore waits for.
    """
    raw, offset = strings(payload, 2, 2)
    node = view.tree.read(who, parse(raw, who.domid, quota.path_max))
    generation = b"%d\0" % node.generation
    names = _children(node)[decimal(offset) :]
    room = XENSTORE_PAYLOAD_MAX - len(generation) - 1
    if len(names) <= room:
        return generation + names + b"\0"
    return generation + names[: names.rindex(b"\0", 0, room) + 1]


def _read(view: View, who: Identity, quota: Quota, payload: bytes) -> bytes:
    """READ <path>| gives <value|>"""
    return view.tree.read(who, _only_path(who, quota, payload)).value


def _get_perms(view: View, who: Identity, quota: Quota, payload: bytes) -> bytes:
    """GET_PERMS <path>| gives <perm-as-string>|+"""
    node = view.tree.read(who, _only_path(who, quota, payload))
    return "".join(f"{entry}\0" for entry in node.permissions.entries()).encode()


def _get_domain_path(view: View, who: Identity, quota: Quota, payload: bytes) -> bytes:
    """GET_DOMAIN_PATH <domid>| gives <path>|"""
    (domid,) = strings(payload, 1, 1)
    return unparse(home(decimal(domid, DOMID_MAX))) + b"\0"


def _write(view: View, who: Identity, quota: Quota, payload: bytes) -> bytes:
    """WRITE <path>|<value|>"""
    raw, nul, value = payload.partition(b"\0")
    if not nul:
        raise XenstoreError("EINVAL")
    path = parse(raw, who.domid, quota.path_max)
    return _changed(view, view.tree.write(who, path, value, quota), path)


def _mkdir(view: View, who: Identity, quota: Quota, payload: bytes) -> bytes:
    """MKDIR <path>|"""
    path = _only_path(who, quota, payload)
    return _changed(view, view.tree.mkdir(who, path, quota), path)


def _rm(view: View, who: Identity, quota: Quota, payload: bytes) -> bytes:
    """RM <path>|"""
    path = _only_path(who, quota, payload)
    return _changed(view, view.tree.remove(who, path), path, removal=True)


def _set_perms(view: View, who: Identity, quota: Quota, payload: bytes) -> bytes:
    """SET_PERMS <path>|<perm-as-string>|+?

    The ``?`` is what follows the last nul: reserved, and passed over.
    """
    raw, *entries = payload.split(b"\0")[:-1] or [b""]
    path = parse(raw, who.domid, quota.path_max)
    permissions = Permissions.parse(entries)
    return _changed(view, view.tree.set_permissions(who, path, permissions, quota), path)


def _only_path(who: Identity, quota: Quota, payload: bytes) -> Path:
    (raw,) = strings(payload, 1, 1)
    return parse(raw, who.domid, quota.path_max)


def _children(node: Node) -> bytes:
    return "".join(f"{name}\0" for name in sorted(node.children)).encode()


def _changed(view: View, tree: Tree, path: Path, *, removal: bool = False) -> bytes:
    """Take over a tree; watches hear of it if it is another one.

    Special paths are not told: what is watched there are events, not nodes.
    """
    if tree is not view.tree and not is_special(path):
        view.changes.append(Change(path, removal))
    view.tree = tree
    return OK


NodeRequest = Callable[[View, Identity, Quota, bytes], bytes]

NODE_REQUESTS: dict[int, NodeRequest] = {
    XS_DIRECTORY: _directory,
    XS_DIRECTORY_PART: _directory_part,
    XS_READ: _read,
    XS_GET_PERMS: _get_perms,
    XS_GET_DOMAIN_PATH: _get_domain_path,
    XS_WRITE: _write,
    XS_MKDIR: _mkdir,
    XS_RM: _rm,
    XS_SET_PERMS: _set_perms,
}
