"""Who may do what to a node.

A node's permissions are a list such as ``n3 r0 b7``. Its first entry names the owner, and the
access of everybody who is not named further on. The owner and Domain 0 may do everything.
Specified in docs/misc/xenstore.txt, SET_PERMS.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from euxen.dom0.xenstore.errors import XenstoreError

DOMID_MAX = 65535  # xenstore.txt: <domid> is a "decimal number 0..65535"


class Access(enum.IntFlag):
    """What one entry of a permission list allows."""

    NONE = 0
    READ = 1
    WRITE = 2
    BOTH = READ | WRITE


_LETTERS = {"n": Access.NONE, "r": Access.READ, "w": Access.WRITE, "b": Access.BOTH}
_LETTER_OF = {access: letter for letter, access in _LETTERS.items()}
_ENTRY = re.compile(rb"([nrwb])([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Permissions:
    """The permission list of one node."""

    owner: int
    others: Access = Access.NONE
    """What a domain may do that neither owns the node nor is named in ``named``."""
    named: tuple[tuple[int, Access], ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[bytes]) -> Permissions:
        """Read entries such as ``b"n3"``. Raises XenstoreError EINVAL for anything else, or none."""
        found: list[tuple[int, Access]] = []
        for entry in entries:
            match = _ENTRY.fullmatch(entry)
            if match is None or int(match[2]) > DOMID_MAX:
                raise XenstoreError("EINVAL")
            found.append((int(match[2]), _LETTERS[match[1].decode()]))
        if not found:
            raise XenstoreError("EINVAL")
        (owner, others), *named = found
        return cls(owner, others, tuple(named))

    def entries(self) -> list[str]:
        """The list as it is written: ``["n3", "r0"]``."""
        return [f"{_LETTER_OF[access]}{domid}" for domid, access in ((self.owner, self.others), *self.named)]

    def of(self, domid: int) -> Access:
        """What a domain may do; where it is named twice, the first entry counts."""
        if domid == self.owner:
            return Access.BOTH
        return next((access for named, access in self.named if named == domid), self.others)

    def without(self, domid: int) -> Permissions:
        """The list with no entry that names ``domid`` beside the owner."""
        if all(named != domid for named, _ in self.named):
            return self
        return replace(self, named=tuple(entry for entry in self.named if entry[0] != domid))


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a connection acts for."""

    domid: int
    target: int | None = None
    """The domain whose rights it has beside its own, as SET_TARGET gave it."""

    @property
    def privileged(self) -> bool:
        """Whether it has the rights of Domain 0, to which permissions and most quotas do not apply."""
        return self.domid == 0 or self.target == 0

    def may(self, wanted: Access, permissions: Permissions) -> bool:
        """Whether a node with these permissions lets it do what is wanted."""
        return (
            self.privileged
            or wanted in permissions.of(self.domid)
            or (self.target is not None and wanted in permissions.of(self.target))
        )

    def owns(self, permissions: Permissions) -> bool:
        """Whether it may set the permissions of a node."""
        return self.privileged or permissions.owner in (self.domid, self.target)

    def inherit(self, parent: Permissions) -> Permissions:
        """The permissions of a node that it makes below a node with permissions ``parent``.

        They are the parent's, but a domain owns what it makes below somebody else's node: so its
        quota counts the node, and the node goes when the domain goes.
        """
        return parent if self.owns(parent) else replace(parent, owner=self.domid)
