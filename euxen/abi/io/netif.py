"""Virtual network interfaces: requests, extra information, responses. xen/include/public/io/netif.h

A packet on the transmit ring is a request, extra descriptors where NETTXF_extra_info says so, and further
requests while NETTXF_more_data says so. The first request's ``size`` is that of the whole packet, each
further one's that of its own part. On the receive ring, responses come likewise.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, Union, array, nested, s16, u8, u16, u32

XEN_NETIF_NR_SLOTS_MIN = 18  # requests in one packet that every backend must take
XEN_NETIF_MAX_TX_SIZE = 0xFFFF  # bytes

# netif_tx_request.flags
NETTXF_csum_blank = 1 << 0  # the checksum is still to be filled in
NETTXF_data_validated = 1 << 1  # the checksum need not be looked at
NETTXF_more_data = 1 << 2  # the packet goes on in the next request
NETTXF_extra_info = 1 << 3  # extra descriptors follow


class NetifTxRequest(Structure):
    """struct netif_tx_request. xen/include/public/io/netif.h"""

    gref: int = u32()  # the frame
    offset: int = u16()  # in it, in bytes
    flags: int = u16()  # NETTXF_*
    id: int = u16()  # echoed in the response
    size_: int = u16()  # of the packet, or from its second request on of the part; in bytes


# netif_extra_info.type
XEN_NETIF_EXTRA_TYPE_NONE = 0
XEN_NETIF_EXTRA_TYPE_GSO = 1
XEN_NETIF_EXTRA_TYPE_MCAST_ADD = 2
XEN_NETIF_EXTRA_TYPE_MCAST_DEL = 3
XEN_NETIF_EXTRA_TYPE_HASH = 4
XEN_NETIF_EXTRA_TYPE_MAX = 5

# netif_extra_info.flags
XEN_NETIF_EXTRA_FLAG_MORE = 1 << 0  # another one follows

# netif_extra_info.u.gso.type
XEN_NETIF_GSO_TYPE_NONE = 0
XEN_NETIF_GSO_TYPE_TCPV4 = 1
XEN_NETIF_GSO_TYPE_TCPV6 = 2


class NetifExtraInfoGso(Structure):
    """u.gso of struct netif_extra_info. xen/include/public/io/netif.h"""

    size_: int = u16()  # most bytes of payload in each segment
    type: int = u8()  # XEN_NETIF_GSO_TYPE_*
    pad: int = u8()
    features: int = u16()


class NetifExtraInfoMcast(Structure):
    """u.mcast of struct netif_extra_info. xen/include/public/io/netif.h"""

    addr: tuple[int, ...] = array(u8(), 6)  # Ethernet address


class NetifExtraInfoHash(Structure):
    """u.hash of struct netif_extra_info. xen/include/public/io/netif.h"""

    type: int = u8()  # bit number of a XEN_NETIF_CTRL_HASH_TYPE_*
    algorithm: int = u8()  # XEN_NETIF_CTRL_HASH_ALGORITHM_*
    value: tuple[int, ...] = array(u8(), 4)  # least significant byte first


class NetifExtraInfoU(Union):
    """u of struct netif_extra_info. xen/include/public/io/netif.h"""

    gso: NetifExtraInfoGso = nested(NetifExtraInfoGso)
    mcast: NetifExtraInfoMcast = nested(NetifExtraInfoMcast)
    hash: NetifExtraInfoHash = nested(NetifExtraInfoHash)
    pad: tuple[int, ...] = array(u16(), 3)


class NetifExtraInfo(Structure):
    """struct netif_extra_info. xen/include/public/io/netif.h

    Lies in an entry of either ring, in place of a request or response.
    """

    type: int = u8()  # XEN_NETIF_EXTRA_TYPE_*
    flags: int = u8()  # XEN_NETIF_EXTRA_FLAG_MORE
    u: NetifExtraInfoU = nested(NetifExtraInfoU)


class NetifTxResponse(Structure):
    """struct netif_tx_response. xen/include/public/io/netif.h"""

    id: int = u16()
    status: int = s16()  # NETIF_RSP_*


class NetifRxRequest(Structure):
    """struct netif_rx_request. xen/include/public/io/netif.h"""

    id: int = u16()  # echoed in the response
    pad: int = u16()
    gref: int = u32()  # the frame to fill


# netif_rx_response.flags
NETRXF_data_validated = 1 << 0  # the checksum need not be looked at
NETRXF_csum_blank = 1 << 1  # the checksum is still to be filled in
NETRXF_more_data = 1 << 2  # the packet goes on in the next response
NETRXF_extra_info = 1 << 3  # extra descriptors follow
NETRXF_gso_prefix = 1 << 4  # deprecated


class NetifRxResponse(Structure):
    """struct netif_rx_response. xen/include/public/io/netif.h

    Lies in the entry of the request that it answers: frontends rely on that.
    """

    id: int = u16()
    offset: int = u16()  # of the data in the frame, in bytes
    flags: int = u16()  # NETRXF_*
    status: int = s16()  # bytes received, or a negative NETIF_RSP_*


# status
NETIF_RSP_DROPPED = -2
NETIF_RSP_ERROR = -1
NETIF_RSP_OKAY = 0
NETIF_RSP_NULL = 1  # answers an extra descriptor: nothing


class NetifTxSringEntry(Union):
    """union netif_tx_sring_entry. xen/include/public/io/netif.h"""

    req: NetifTxRequest = nested(NetifTxRequest)
    rsp: NetifTxResponse = nested(NetifTxResponse)


class NetifRxSringEntry(Union):
    """union netif_rx_sring_entry. xen/include/public/io/netif.h"""

    req: NetifRxRequest = nested(NetifRxRequest)
    rsp: NetifRxResponse = nested(NetifRxResponse)


# The control ring, by which a frontend sets how packets are hashed onto queues.

XEN_NETIF_CTRL_HASH_TYPE_IPV4 = 1 << 0
XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP = 1 << 1
XEN_NETIF_CTRL_HASH_TYPE_IPV6 = 1 << 2
XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP = 1 << 3

XEN_NETIF_CTRL_HASH_ALGORITHM_NONE = 0
XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ = 1

# xen_netif_ctrl_request.type
XEN_NETIF_CTRL_TYPE_INVALID = 0
XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS = 1
XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS = 2
XEN_NETIF_CTRL_TYPE_SET_HASH_KEY = 3
XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE = 4
XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE = 5
XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING = 6
XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM = 7
XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE = 8
XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING = 9
XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING = 10

# xen_netif_ctrl_response.status
XEN_NETIF_CTRL_STATUS_SUCCESS = 0
XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED = 1
XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER = 2
XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW = 3


class XenNetifCtrlRequest(Structure):
    """struct xen_netif_ctrl_request. xen/include/public/io/netif.h"""

    id: int = u16()  # echoed in the response
    type: int = u16()  # XEN_NETIF_CTRL_TYPE_*
    data: tuple[int, ...] = array(u32(), 3)


class XenNetifCtrlResponse(Structure):
    """struct xen_netif_ctrl_response. xen/include/public/io/netif.h"""

    id: int = u16()
    type: int = u16()
    status: int = u32()  # XEN_NETIF_CTRL_STATUS_*
    data: int = u32()


XEN_NETIF_CTRLF_GREF_readonly = 1 << 0


class XenNetifGref(Structure):
    """struct xen_netif_gref. xen/include/public/io/netif.h"""

    ref: int = u32()
    flags: int = u16()  # XEN_NETIF_CTRLF_GREF_*
    status: int = u16()  # OUT: XEN_NETIF_CTRL_STATUS_*
