"""The one way in which a request fails."""

from __future__ import annotations


class XenstoreError(Exception):
    """A request is refused; its reply is XS_ERROR with ``name`` as payload.

    ``name`` is one of the error names of xsd_errors in xen/include/public/io/xs_wire.h, since a
    client knows no others.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
