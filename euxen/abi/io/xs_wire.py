"""xenstore's wire protocol and its ring. xen/include/public/io/xs_wire.h

Every message is an XsdSockmsg and ``len`` bytes of payload.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, chars, u32

# xsd_sockmsg.type
XS_CONTROL = 0
XS_DEBUG = XS_CONTROL
XS_DIRECTORY = 1
XS_READ = 2
XS_GET_PERMS = 3
XS_WATCH = 4
XS_UNWATCH = 5
XS_TRANSACTION_START = 6
XS_TRANSACTION_END = 7
XS_INTRODUCE = 8
XS_RELEASE = 9
XS_GET_DOMAIN_PATH = 10
XS_WRITE = 11
XS_MKDIR = 12
XS_RM = 13
XS_SET_PERMS = 14
XS_WATCH_EVENT = 15
XS_ERROR = 16
XS_IS_DOMAIN_INTRODUCED = 17
XS_RESUME = 18
XS_SET_TARGET = 19
XS_RESET_WATCHES = 21
XS_DIRECTORY_PART = 22
XS_TYPE_COUNT = 23
XS_INVALID = 0xFFFF

XS_WRITE_NONE = "NONE"
XS_WRITE_CREATE = "CREATE"
XS_WRITE_CREATE_EXCL = "CREATE|EXCL"

xsd_errors = (
    "EINVAL",
    "EACCES",
    "EEXIST",
    "EISDIR",
    "ENOENT",
    "ENOMEM",
    "ENOSPC",
    "EIO",
    "ENOTEMPTY",
    "ENOSYS",
    "EROFS",
    "EBUSY",
    "EAGAIN",
    "EISCONN",
    "E2BIG",
    "EPERM",
)
"""What an XS_ERROR may say, NUL-terminated."""


class XsdSockmsg(Structure):
    """struct xsd_sockmsg. xen/include/public/io/xs_wire.h"""

    type: int = u32()  # XS_*
    req_id: int = u32()  # echoed in the reply
    tx_id: int = u32()  # the transaction, or 0
    len: int = u32()  # of the payload, in bytes


# The strings of an XS_WATCH_EVENT
XS_WATCH_PATH = 0
XS_WATCH_TOKEN = 1

XENSTORE_PAYLOAD_MAX = 4096  # bytes; more ends the connection
XENSTORE_ABS_PATH_MAX = 3072  # bytes; more is an error
XENSTORE_REL_PATH_MAX = 2048  # bytes; more is an error

XENSTORE_RING_SIZE = 1024


def MASK_XENSTORE_IDX(idx: int) -> int:
    """Where in its ring an index points."""
    return idx & (XENSTORE_RING_SIZE - 1)


# xenstore_domain_interface.server_features
XENSTORE_SERVER_FEATURE_RECONNECTION = 1
XENSTORE_SERVER_FEATURE_ERROR = 2  # there is an error field

# xenstore_domain_interface.connection
XENSTORE_CONNECTED = 0
XENSTORE_RECONNECT = 1  # the guest asks for a reconnection, which is not done yet

# xenstore_domain_interface.error
XENSTORE_ERROR_NONE = 0
XENSTORE_ERROR_COMM = 1
XENSTORE_ERROR_RINGIDX = 2  # an index is out of range
XENSTORE_ERROR_PROTO = 3  # a payload is too long


class XenstoreDomainInterface(Structure):
    """struct xenstore_domain_interface. xen/include/public/io/xs_wire.h

    Indices run freely; see MASK_XENSTORE_IDX.
    """

    req: bytes = chars(XENSTORE_RING_SIZE)  # requests to xenstore
    rsp: bytes = chars(XENSTORE_RING_SIZE)  # replies and watch events
    req_cons: int = u32()  # xenstore's
    req_prod: int = u32()  # the guest's
    rsp_cons: int = u32()  # the guest's
    rsp_prod: int = u32()  # xenstore's
    server_features: int = u32()  # XENSTORE_SERVER_FEATURE_*
    connection: int = u32()  # XENSTORE_CONNECTED or XENSTORE_RECONNECT
    error: int = u32()  # XENSTORE_ERROR_*
