"""Map tracking: which grants a domain has mapped, by handles. Source: xen/common/grant_table.c.

Free handles are taken from the head of a list and put to its tail, and one always stays in it. Frames of them are
added until there are as many as the domain may have.
"""

from __future__ import annotations

from euxen.cpu.native.language import load64, native, store64, ult
from euxen.hypervisor.grants.records import MAPTRACK_PER_PAGE, NO_HANDLE, GrantMapping, GrantTableRecord

TAIL = -1


@native
def maptrack_entry(table: int, handle: int) -> int:
    """The GrantMapping of a handle, or 0 if there is no such handle."""
    if not ult(handle, load64(table + GrantTableRecord.maptrack_limit)):
        return 0
    return load64(table + GrantTableRecord.maptrack) + handle * GrantMapping.size


@native
def _grow(table: int) -> int:
    """Add a frame of handles; 0 if the domain may not have more. The caller takes the first."""
    limit = load64(table + GrantTableRecord.maptrack_limit)
    if limit // MAPTRACK_PER_PAGE >= load64(table + GrantTableRecord.max_maptrack_frames):
        return 0
    store64(table + GrantTableRecord.maptrack_limit, limit + MAPTRACK_PER_PAGE)
    for handle in range(limit, limit + MAPTRACK_PER_PAGE):
        store64(maptrack_entry(table, handle) + GrantMapping.ref, handle + 1)
        store64(maptrack_entry(table, handle) + GrantMapping.flags, 0)
    last = limit + MAPTRACK_PER_PAGE - 1
    if limit == 0:
        store64(maptrack_entry(table, last) + GrantMapping.ref, TAIL)
        store64(table + GrantTableRecord.maptrack_tail, last)
    else:
        store64(maptrack_entry(table, last) + GrantMapping.ref, load64(table + GrantTableRecord.maptrack_head))
    store64(table + GrantTableRecord.maptrack_head, limit)
    return 1


@native
def get_maptrack_handle(table: int) -> int:
    """A free handle, or NO_HANDLE."""
    if load64(table + GrantTableRecord.maptrack_limit) == 0 and not _grow(table):
        return NO_HANDLE
    head = load64(table + GrantTableRecord.maptrack_head)
    following = load64(maptrack_entry(table, head) + GrantMapping.ref)
    if following == TAIL:
        if not _grow(table):
            return NO_HANDLE
        head = load64(table + GrantTableRecord.maptrack_head)
        following = load64(maptrack_entry(table, head) + GrantMapping.ref)
    store64(table + GrantTableRecord.maptrack_head, following)
    return head


@native
def put_maptrack_handle(table: int, handle: int) -> int:
    """Give a handle back."""
    entry = maptrack_entry(table, handle)
    store64(entry + GrantMapping.flags, 0)
    store64(entry + GrantMapping.ref, TAIL)
    tail = load64(table + GrantTableRecord.maptrack_tail)
    store64(maptrack_entry(table, tail) + GrantMapping.ref, handle)
    store64(table + GrantTableRecord.maptrack_tail, handle)
    return 0
