"""How much of xenstored a domain may use.

The names are those of docs/misc/xenstore.txt (GET_QUOTA), the numbers those of Xen's
oxenstored.conf. Domain 0 is bound only by ``node_size`` and ``path_max``, which keep the store in
a shape that every client can read.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of one xenstored."""

    nodes: int = 1000
    """Nodes that a domain may own."""
    watches: int = 100
    """Watches that a domain may have. As in both xenstoreds of Xen, one more fits."""
    transactions: int = 10
    """Transactions that a domain may have open. As in both xenstoreds of Xen, one more fits."""
    requests: int = 1024
    """Requests that a domain may make in one transaction."""
    permissions: int = 5
    """Entries in the permission list of a node that a domain sets."""
    node_size: int = 2048
    """Bytes in the value of a node."""
    path_max: int = 1024
    """Bytes in a path, not counting a leading ``/local/domain/<domid>/``."""
    outstanding: int = 1024
    """Packets waiting for a client to read them, above which no request of its is taken."""
    watch_events: int = 1024
    """Watch events waiting for a client, above which events of one watch become one event."""

    def items(self) -> list[tuple[str, int]]:
        """Every limit with the name that CONTROL knows it by, such as ``node-size``."""
        return [(field.name.replace("_", "-"), getattr(self, field.name)) for field in fields(self)]
