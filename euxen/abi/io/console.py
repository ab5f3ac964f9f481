"""The console ring: one page, shared by a domain and its console backend. xen/include/public/io/console.h"""

from __future__ import annotations

from euxen.abi.structure import Structure, chars, u32


class XenconsInterface(Structure):
    """struct xencons_interface. xen/include/public/io/console.h

    Indices run freely: their low bits, up to the length of the buffer, say where in it.
    """

    in_: bytes = chars(1024)  # to the domain
    out: bytes = chars(2048)  # from the domain
    in_cons: int = u32()  # the domain's
    in_prod: int = u32()  # the backend's
    out_cons: int = u32()  # the backend's
    out_prod: int = u32()  # the domain's
