"""The database: an immutable tree of nodes.

A request that changes something makes a new tree, which shares with the old one all that it did
not touch. So a transaction is two references, undoing is forgetting, and "did anything change?" is
``is``. Walks are loops, because a client chooses how deep the tree is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from euxen.dom0.xenstore.errors import XenstoreError
from euxen.dom0.xenstore.paths import INTRODUCE_DOMAIN, RELEASE_DOMAIN, ROOT, Path
from euxen.dom0.xenstore.permissions import Access, Identity, Permissions
from euxen.dom0.xenstore.quota import Quota

_PERMANENT = (ROOT, INTRODUCE_DOMAIN, RELEASE_DOMAIN)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One node: a value, who may see it, and the nodes below it."""

    permissions: Permissions
    value: bytes = b""
    generation: int = 0
    """Changes whenever the value, the permissions or the list of children does."""
    children: Mapping[str, Node] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """The whole database at one moment, with what its quotas count."""

    root: Node = Node(Permissions(0))
    generation: int = 0
    """The latest that was given to a node."""
    owned: Mapping[int, int] = field(default_factory=dict)
    """How many nodes each domain owns."""

    def find(self, path: Path) -> Node | None:
        """The node at a path, or None."""
        chain = self.chain(path)
        return chain[-1] if len(chain) == len(path) + 1 else None

    def chain(self, path: Path) -> list[Node]:
        """The nodes on the way to a path, from the root to the deepest that exists."""
        nodes = [self.root]
        for name in path:
            child = nodes[-1].children.get(name)
            if child is None:
                break
            nodes.append(child)
        return nodes

    def items(self, top: Path = ROOT) -> Iterator[tuple[Path, Node]]:
        """Every node at and below ``top``, parents first and siblings in the order of their names."""
        start = self.find(top)
        waiting = [] if start is None else [(top, start)]
        while waiting:
            path, node = waiting.pop()
            yield path, node
            waiting += [((*path, name), node.children[name]) for name in sorted(node.children, reverse=True)]

    def read(self, who: Identity, path: Path) -> Node:
        """The node at a path, for reading. Raises XenstoreError ENOENT, EACCES."""
        node = self.find(path)
        if node is None:
            raise XenstoreError("ENOENT")
        _require(who, Access.READ, node)
        return node

    def write(self, who: Identity, path: Path, value: bytes, quota: Quota) -> Tree:
        """Give a node a value, making it and its missing parents.

        Raises XenstoreError E2BIG for a value beyond the quota, EACCES, and ENOSPC for more nodes
        than the quota allows.
        """
        if len(value) > quota.node_size:
            raise XenstoreError("E2BIG")
        chain = self.chain(path)
        _require(who, Access.WRITE, chain[-1])
        if len(chain) <= len(path):
            return self._create(who, path, chain, value, quota)
        return self._replace(path, chain, replace(chain[-1], value=value, generation=self.generation + 1))

    def mkdir(self, who: Identity, path: Path, quota: Quota) -> Tree:
        """Make a node, and its missing parents, where there is none. Raises XenstoreError EACCES, ENOSPC."""
        chain = self.chain(path)
        _require(who, Access.WRITE, chain[-1])
        return self if len(chain) > len(path) else self._create(who, path, chain, b"", quota)

    def remove(self, who: Identity, path: Path) -> Tree:
        """Remove a node and all below it, if it is there.

        Raises XenstoreError ENOENT where not even its parent is, EACCES, and EINVAL for the nodes
        that xenstored cannot be without.
        """
        chain = self.chain(path)
        if len(chain) < len(path):
            raise XenstoreError("ENOENT")
        if len(chain) == len(path):
            return self
        _require(who, Access.WRITE, chain[-1])
        if path in _PERMANENT:
            raise XenstoreError("EINVAL")
        return self._remove(path)

    def set_permissions(self, who: Identity, path: Path, permissions: Permissions, quota: Quota) -> Tree:
        """Give a node permissions.

        Raises XenstoreError ENOENT, EACCES where the caller does not own the node or tries to give
        it away, and ENOSPC for a list beyond the quota.
        """
        chain = self.chain(path)
        if len(chain) <= len(path):
            raise XenstoreError("ENOENT")
        old = chain[-1].permissions
        if not who.owns(old) or (permissions.owner != old.owner and not who.privileged):
            raise XenstoreError("EACCES")
        if len(permissions.entries()) > quota.permissions and not who.privileged:
            raise XenstoreError("ENOSPC")
        return self._set_permissions(path, chain, permissions)

    def without_domain(self, domid: int) -> Tree:
        """The tree after a domain is gone: without the nodes it owned, all below them, and mentions of it.

        A domid is used again one day, and its next bearer must not inherit anything.
        """
        tree = self
        for path, node in self.items():
            rest = node.permissions.without(domid)
            owns = rest.owner == domid
            if (rest is node.permissions and not owns) or tree.find(path) is None:
                continue  # it has nothing to do with the domain, or went with a node above it
            if owns and path not in _PERMANENT:
                tree = tree._remove(path)
            else:
                tree = tree._set_permissions(path, tree.chain(path), replace(rest, owner=0) if owns else rest)
        return tree

    def _create(self, who: Identity, path: Path, chain: list[Node], value: bytes, quota: Quota) -> Tree:
        """Make what is missing of ``path`` below the last node of ``chain``, all of it or nothing."""
        permissions = who.inherit(chain[-1].permissions)
        missing = path[len(chain) - 1 :]
        owned = self.owned.get(permissions.owner, 0) + len(missing)
        if owned > quota.nodes and not who.privileged:
            raise XenstoreError("ENOSPC")
        generation = self.generation + 1
        node = Node(permissions, value, generation)
        for name in reversed(missing[1:]):
            node = Node(permissions, b"", generation, {name: node})
        parent = replace(chain[-1], generation=generation, children={**chain[-1].children, missing[0]: node})
        tree = self._replace(path[: len(chain) - 1], chain, parent)
        return replace(tree, owned={**self.owned, permissions.owner: owned})

    def _remove(self, path: Path) -> Tree:
        owned = dict(self.owned)
        for _, node in self.items(path):
            owned[node.permissions.owner] -= 1
        parents = self.chain(path[:-1])
        children = {name: child for name, child in parents[-1].children.items() if name != path[-1]}
        parent = replace(parents[-1], generation=self.generation + 1, children=children)
        tree = self._replace(path[:-1], parents, parent)
        return replace(tree, owned={owner: count for owner, count in owned.items() if count})

    def _set_permissions(self, path: Path, chain: list[Node], permissions: Permissions) -> Tree:
        node = replace(chain[-1], permissions=permissions, generation=self.generation + 1)
        tree = self._replace(path, chain, node)
        old = chain[-1].permissions.owner
        if old == permissions.owner or not path:
            return tree
        owned = {**self.owned, old: self.owned[old] - 1}
        owned[permissions.owner] = owned.get(permissions.owner, 0) + 1
        return replace(tree, owned={owner: count for owner, count in owned.items() if count})

    def _replace(self, path: Path, chain: list[Node], node: Node) -> Tree:
        """Put a node of the next generation where ``chain`` leads, copying only its ancestors."""
        for name, parent in zip(reversed(path), reversed(chain[: len(path)]), strict=True):
            node = replace(parent, children={**parent.children, name: node})
        return replace(self, root=node, generation=self.generation + 1)


def _require(who: Identity, wanted: Access, node: Node) -> None:
    if not who.may(wanted, node.permissions):
        raise XenstoreError("EACCES")


def new_tree() -> Tree:
    """What is there when xenstored starts."""
    tree = Tree()
    for path in (INTRODUCE_DOMAIN, RELEASE_DOMAIN, ("local",), ("tool",)):
        tree = tree.mkdir(Identity(0), path, Quota())
    return tree
