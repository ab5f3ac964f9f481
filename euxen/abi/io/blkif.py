"""Virtual disks: requests and responses. xen/include/public/io/blkif.h

Sectors have 512 bytes, or sector-size where the frontend wrote feature-large-sector-size.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, Union, array, nested, s16, u8, u16, u32, u64

# blkif_request.operation
BLKIF_OP_READ = 0
BLKIF_OP_WRITE = 1
BLKIF_OP_WRITE_BARRIER = 2  # feature-barrier: after all earlier and before all later writes
BLKIF_OP_FLUSH_DISKCACHE = 3  # feature-flush-cache
BLKIF_OP_RESERVED_1 = 4
BLKIF_OP_DISCARD = 5  # feature-discard: BlkifRequestDiscard
BLKIF_OP_INDIRECT = 6  # feature-max-indirect-segments: BlkifRequestIndirect

BLKIF_MAX_SEGMENTS_PER_REQUEST = 11
BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST = 8


class BlkifRequestSegment(Structure):
    """struct blkif_request_segment. xen/include/public/io/blkif.h"""

    gref: int = u32()  # the frame
    first_sect: int = u8()  # first sector in the frame
    last_sect: int = u8()  # last sector in the frame, inclusive


class BlkifRequest(Structure):
    """struct blkif_request. xen/include/public/io/blkif.h"""

    operation: int = u8()  # BLKIF_OP_*
    nr_segments: int = u8()
    handle: int = u16()  # virtual-device
    id: int = u64()  # echoed in the response
    sector_number: int = u64()  # the first
    seg: tuple[BlkifRequestSegment, ...] = array(nested(BlkifRequestSegment), BLKIF_MAX_SEGMENTS_PER_REQUEST)


BLKIF_DISCARD_SECURE = 1 << 0  # discard-secure: leave nothing to recover


class BlkifRequestDiscard(Structure):
    """struct blkif_request_discard. xen/include/public/io/blkif.h"""

    operation: int = u8()  # BLKIF_OP_DISCARD
    flag: int = u8()  # BLKIF_DISCARD_SECURE
    handle: int = u16()
    id: int = u64()
    sector_number: int = u64()
    nr_sectors: int = u64()


class BlkifRequestIndirect(Structure):
    """struct blkif_request_indirect. xen/include/public/io/blkif.h"""

    operation: int = u8()  # BLKIF_OP_INDIRECT
    indirect_op: int = u8()  # BLKIF_OP_READ or BLKIF_OP_WRITE
    nr_segments: int = u16()
    id: int = u64()
    sector_number: int = u64()
    handle: int = u16()
    indirect_grefs: tuple[int, ...] = array(u32(), BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST)  # of BlkifRequestSegment


# blkif_response.status
BLKIF_RSP_EOPNOTSUPP = -2
BLKIF_RSP_ERROR = -1
BLKIF_RSP_OKAY = 0


class BlkifResponse(Structure):
    """struct blkif_response. xen/include/public/io/blkif.h"""

    id: int = u64()
    operation: int = u8()
    status: int = s16()  # BLKIF_RSP_*


class BlkifSringEntry(Union):
    """union blkif_sring_entry. xen/include/public/io/blkif.h"""

    req: BlkifRequest = nested(BlkifRequest)
    rsp: BlkifResponse = nested(BlkifResponse)


# The backend's ``info``
VDISK_CDROM = 0x1
VDISK_REMOVABLE = 0x2
VDISK_READONLY = 0x4
