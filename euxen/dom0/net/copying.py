"""Grant copies for packets: GNTTABOP_copy, as its native function, with what a thread of Domain 0's needs for it."""

from __future__ import annotations

from euxen.abi.grant_table import (
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTST_okay,
    GnttabCopy,
    GnttabCopyPtr,
)
from euxen.abi.structure import Structure, array, u64
from euxen.abi.xen import DOMID_SELF
from euxen.cpu.native.language import copy, load64, native, store16, store32, store64
from euxen.cpu.native.memory import Record
from euxen.dom0.net.packet import OWN, NetPacket, NetPiece
from euxen.hypervisor.control import Control
from euxen.hypervisor.grants.acquiring import AGAIN
from euxen.hypervisor.grants.copying import copy_between, release_both
from euxen.hypervisor.grants.records import CopyBuf
from euxen.hypervisor.records import DomainRecord, MachineRecord

PAGE_SHIFT, PAGE_SIZE = 12, 4096
SOURCE = GnttabCopy.offsetof("source")
DEST = GnttabCopy.offsetof("dest")
WHAT = GnttabCopyPtr.offsetof("u")


class CopierRecord(Structure):
    """What belongs to whoever copies; used by one thread at a time."""

    domain: int = u64()  # DomainRecord of the caller
    op: int = array(u64(), GnttabCopy.size // 8)
    source: int = array(u64(), CopyBuf.size // 8)
    dest: int = array(u64(), CopyBuf.size // 8)


class Copier(Record):
    """One that copies in the name of a Domain 0."""

    def __init__(self, control: Control) -> None:
        super().__init__(CopierRecord)
        self["domain"] = control.caller.record.address


@native
def _side(ptr: int, domid: int, what: int, offset: int) -> int:
    """Name one side of a copy; whether it is a grant."""
    store16(ptr + GnttabCopyPtr.offset, offset)
    if domid == OWN:
        store16(ptr + GnttabCopyPtr.domid, DOMID_SELF)
        store64(ptr + WHAT, what)
        return 0
    store16(ptr + GnttabCopyPtr.domid, domid)
    store32(ptr + WHAT, what)
    return 1


@native
def copy_chunk(
    copier: int, source: int, source_what: int, source_offset: int, dest: int, what: int, offset: int, size: int
) -> int:
    """Copy within one page of each side: GNTST_*. A side is a domid and a grant, or OWN and a frame."""
    op = copier + CopierRecord.op
    flags = 0
    if _side(op + SOURCE, source, source_what, source_offset):
        flags |= GNTCOPY_source_gref
    if _side(op + DEST, dest, what, offset):
        flags |= GNTCOPY_dest_gref
    store16(op + GnttabCopy.len, size)
    store16(op + GnttabCopy.flags, flags)
    domain = load64(copier + CopierRecord.domain)
    while True:
        status = copy_between(domain, op, copier + CopierRecord.source, copier + CopierRecord.dest)
        if status != AGAIN:
            return status
        copy_end(copier)


@native
def copy_end(copier: int) -> int:
    """Let go of what the last copies were about."""
    return release_both(copier + CopierRecord.source, copier + CopierRecord.dest)


@native
def host_address(copier: int, machine_address: int) -> int:
    """Where Domain 0 has its own memory before it."""
    machine = load64(load64(copier + CopierRecord.domain) + DomainRecord.machine)
    return load64(machine + MachineRecord.ram) + machine_address


@native
def gather(copier: int, packet: int, target: int, most: int) -> int:
    """Copy a packet's first ``most`` bytes to a machine address in Domain 0's own memory: GNTST_*."""
    granter = load64(packet + NetPacket.granter)
    piece = load64(packet + NetPacket.pieces)
    end = piece + load64(packet + NetPacket.count) * NetPiece.size
    status = GNTST_okay
    while piece < end and most > 0 and status == GNTST_okay:
        size = min(load64(piece + NetPiece.size_), most)
        frame = load64(piece + NetPiece.frame)
        most -= size
        if granter == OWN:
            copy(host_address(copier, target), host_address(copier, frame), size)
            target += size
        else:
            offset = load64(piece + NetPiece.offset)
            while size > 0 and status == GNTST_okay:
                at = target & (PAGE_SIZE - 1)
                part = min(size, PAGE_SIZE - at)
                status = copy_chunk(copier, granter, frame, offset, OWN, target >> PAGE_SHIFT, at, part)
                offset += part
                target += part
                size -= part
        piece += NetPiece.size
    copy_end(copier)
    return status
