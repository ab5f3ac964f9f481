"""The grant table of one domain: making it, asking about it, and its end. Source: xen/common/grant_table.c.

What is done with it is native, in the package ``grants``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from euxen.abi.domctl import XEN_DOMCTL_GRANT_version_mask
from euxen.abi.errno import XEN_EINVAL, XEN_ENOMEM
from euxen.abi.grant_table import GNTST_okay
from euxen.abi.memory import XENMEM_resource_grant_table_id_shared, XENMEM_resource_grant_table_id_status
from euxen.cpu.native.memory import Memory, Record
from euxen.hypervisor.errors import GrantError, XenError
from euxen.hypervisor.grants import tables, unmapping
from euxen.hypervisor.grants.records import (
    INITIAL_NR_GRANT_FRAMES,
    MAPTRACK_PER_PAGE,
    V1_PER_PAGE,
    ActiveEntry,
    GrantMapping,
    GrantTableRecord,
)

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain

OPT_MAX_GRANT_FRAMES = 64
OPT_MAX_MAPTRACK_FRAMES = 1024
MAX_GRANT_VERSION = 2
"""Xen's options gnttab_max_frames, gnttab_max_maptrack_frames and gnttab=max-ver, as they are by default."""


class GrantTable:
    """A table, and what its domain has mapped by those of others. Its frames are Xen's; the guest may map them."""

    def __init__(self, domain: Domain) -> None:
        """Make the table, of INITIAL_NR_GRANT_FRAMES (grant_table_init). Raises XenError."""
        config = domain.config
        max_version = config.grant_opts & XEN_DOMCTL_GRANT_version_mask
        max_grant_frames = OPT_MAX_GRANT_FRAMES if config.max_grant_frames < 0 else config.max_grant_frames
        max_maptrack_frames = OPT_MAX_MAPTRACK_FRAMES if config.max_maptrack_frames < 0 else config.max_maptrack_frames
        if not 1 <= max_version <= MAX_GRANT_VERSION or max_grant_frames < INITIAL_NR_GRANT_FRAMES:
            raise XenError(XEN_EINVAL)
        self._machine = domain.machine
        record = self.record = Record(GrantTableRecord)
        record["domain"], record["version"], record["max_version"] = domain.record.address, 1, max_version
        record["max_grant_frames"], record["max_maptrack_frames"] = max_grant_frames, max_maptrack_frames
        try:
            self._frames = Memory(8 * max_grant_frames)
            self._status_frames = Memory(8 * tables.grant_to_status_frames(max_grant_frames))
            self._active = Memory(max_grant_frames * V1_PER_PAGE * ActiveEntry.size)
            self._maptrack = Memory(max_maptrack_frames * MAPTRACK_PER_PAGE * GrantMapping.size)
        except (OSError, OverflowError) as error:
            raise XenError(XEN_ENOMEM) from error
        record["shared"], record["status"] = self._frames.address, self._status_frames.address
        record["active"], record["maptrack"] = self._active.address, self._maptrack.address
        if tables.grow_table(record.address, INITIAL_NR_GRANT_FRAMES) != GNTST_okay:
            raise XenError(XEN_ENOMEM)
        domain.record["grant_table"] = record.address

    @property
    def frames(self) -> list[int]:
        """The machine frames of the shared table."""
        return list(self._frames.words()[: self.record["nr_grant_frames"]])

    @property
    def status_frames(self) -> list[int]:
        """The machine frames of the status words of a table of version 2."""
        return list(self._status_frames.words()[: self.record["nr_status_frames"]])

    def grow(self, frames: int) -> None:
        """Make the table at least so long (gnttab_grow_table). Raises GrantError."""
        status = tables.grow_table(self.record.address, frames)
        if status != GNTST_okay:
            raise GrantError(status)

    def resource_max_frames(self, resource: int) -> int:
        """How many frames there can be of XENMEM_resource_grant_table_id_* (gnttab_resource_max_frames)."""
        shared = self.record["max_grant_frames"]
        if resource == XENMEM_resource_grant_table_id_status:
            return tables.grant_to_status_frames(shared)
        return shared if resource == XENMEM_resource_grant_table_id_shared else 0

    def acquire_resource(self, resource: int, first: int, count: int) -> list[int]:
        """Frames of the table, which grows if need be (gnttab_acquire_resource). Raises XenError."""
        end = first + count
        status = resource == XENMEM_resource_grant_table_id_status
        if end > self.resource_max_frames(resource) or (status and self.record["version"] != 2):
            raise XenError(XEN_EINVAL)
        try:
            self.grow(tables.status_to_grant_frames(end) if status else end)
        except GrantError:
            raise XenError(XEN_EINVAL) from None
        return (self.status_frames if status else self.frames)[first:end]

    def pins(self) -> dict[int, int]:
        """The grants in use, and how: GNTPIN_* counters by their references."""
        entries = self.record["nr_grant_frames"] * V1_PER_PAGE
        words, stride = self._active.words(), ActiveEntry.size // 8
        return {ref: int(words[ref * stride]) for ref in range(entries) if words[ref * stride]}

    def mappings(self) -> Iterator[tuple[int, int, int]]:
        """What the domain has mapped: whose, by which reference, and GNTMAP_* flags."""
        words, stride = self._maptrack.words(), GrantMapping.size // 8
        for at in range(0, self.record["maptrack_limit"] * stride, stride):
            ref, flags, domid, _ = words[at : at + stride]
            if flags:
                yield domid, ref, flags

    def active_frame(self, ref: int) -> int:
        """The machine frame of a grant in use."""
        return int(self._active.words()[(ref * ActiveEntry.size + ActiveEntry.mfn) // 8])

    def release_mappings(self) -> bool:
        """Give up some of what the domain has mapped, for it dies; whether there is more."""
        return bool(unmapping.release_mappings(self.record["domain"]))

    def destroy(self) -> None:
        """Give the frames back. Nobody refers to them any more."""
        tables.free_frames(self.record.address)
