"""CONTROL: what an administrator may ask of a running xenstored.

The commands are those of xenstored in docs/misc/xenstore.txt that have a meaning here. That the
caller is Domain 0 was checked before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from euxen.dom0.xenstore.errors import XenstoreError
from euxen.dom0.xenstore.permissions import DOMID_MAX
from euxen.dom0.xenstore.requests import OK, decimal, strings
from euxen.dom0.xenstore.store import XenStore


def control(store: XenStore, payload: bytes) -> bytes:
    """CONTROL <command>|[<parameters>|] Raises XenstoreError EINVAL for a command that is not in ``help``."""
    name, *parameters = strings(payload, 1, 8)
    command = _COMMANDS.get(name)
    if command is None:
        raise XenstoreError("EINVAL")
    return command[1](store, parameters)


def _check(store: XenStore, parameters: list[bytes]) -> bytes:
    """Count again what the quotas count. Raises XenstoreError EIO if it was wrong."""
    _no(parameters)
    counted = Counter(node.permissions.owner for path, node in store.tree.items() if path)
    if dict(counted) != dict(store.tree.owned):
        store.log(f"check: domains own {dict(counted)} nodes, but are charged for {dict(store.tree.owned)}")
        raise XenstoreError("EIO")
    return OK


def _print(store: XenStore, parameters: list[bytes]) -> bytes:
    if len(parameters) != 1:
        raise XenstoreError("EINVAL")
    store.log("control: " + parameters[0].decode("latin-1").encode("unicode_escape").decode("ascii"))
    return OK


def _quota(store: XenStore, parameters: list[bytes]) -> bytes:
    match parameters:
        case []:
            return _table("Quota settings:", store.quota.items())
        case [b"set", name, value]:
            if name.decode("ascii", "replace") not in dict(store.quota.items()):
                raise XenstoreError("EINVAL")
            field = name.decode().replace("-", "_")
            store.quota = replace(store.quota, **{field: decimal(value, (1 << 31) - 1, 1)})
            return OK
        case [domid]:
            return _usage(store, decimal(domid, DOMID_MAX))
    raise XenstoreError("EINVAL")


def _usage(store: XenStore, domid: int) -> bytes:
    domain = store.domains.get(domid)
    if domain is None:
        raise XenstoreError("ENOENT")
    connection = domain.connection
    numbers = [
        ("nodes", store.tree.owned.get(domid, 0)),
        ("watches", len(connection.watches)),
        ("transactions", len(connection.transactions)),
        ("outstanding", connection.outstanding),
    ]
    return _table(f"Domain {domid}:", numbers)


def _help(store: XenStore, parameters: list[bytes]) -> bytes:
    _no(parameters)
    return "".join(f"{name.decode()}\t{usage}\n" for name, (usage, _) in _COMMANDS.items()).encode() + b"\0"


def _no(parameters: list[bytes]) -> None:
    if parameters:
        raise XenstoreError("EINVAL")


def _table(title: str, rows: list[tuple[str, int]]) -> bytes:
    return "".join([f"{title}\n", *(f"{name:<16}: {value:8}\n" for name, value in rows)]).encode() + b"\0"


_COMMANDS: dict[bytes, tuple[str, Callable[[XenStore, list[bytes]], bytes]]] = {
    b"check": ("", _check),
    b"print": ("<string>", _print),
    b"quota": ("[set <name> <val>|<domid>]", _quota),
    b"help": ("", _help),
}
