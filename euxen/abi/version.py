"""HYPERVISOR_xen_version: what Xen is and can do. xen/include/public/version.h

All commands return 0, except XENVER_version, XENVER_pagesize and XENVER_build_id.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, array, chars, u8, u32, u64

XENVER_version = 0  # no argument; returns major << 16 | minor
XENVER_extraversion = 1  # char[XEN_EXTRAVERSION_LEN]
XENVER_compile_info = 2  # XenCompileInfo
XENVER_capabilities = 3  # char[XEN_CAPABILITIES_INFO_LEN]
XENVER_changeset = 4  # char[XEN_CHANGESET_INFO_LEN]
XENVER_platform_parameters = 5  # XenPlatformParameters
XENVER_get_features = 6  # XenFeatureInfo
XENVER_pagesize = 7  # no argument; returns the host's page size in bytes
XENVER_guest_handle = 8  # xen_domain_handle_t: the guest's UUID
XENVER_commandline = 9  # char[1024]
XENVER_build_id = 10  # XenBuildId; returns the number of bytes written, or with no argument the length needed

XEN_EXTRAVERSION_LEN = 16
XEN_CAPABILITIES_INFO_LEN = 1024
XEN_CHANGESET_INFO_LEN = 64


class XenCompileInfo(Structure):
    """struct xen_compile_info. xen/include/public/version.h"""

    compiler: bytes = chars(64)
    compile_by: bytes = chars(16)
    compile_domain: bytes = chars(32)
    compile_date: bytes = chars(32)


class XenPlatformParameters(Structure):
    """struct xen_platform_parameters. xen/include/public/version.h"""

    virt_start: int = u64()  # HYPERVISOR_VIRT_START of this host


class XenFeatureInfo(Structure):
    """struct xen_feature_info. xen/include/public/version.h"""

    submap_idx: int = u32()  # IN: which 32-bit submap, below XENFEAT_NR_SUBMAPS
    submap: int = u32()  # OUT: bit map of XENFEAT_*


class XenBuildId(Structure):
    """struct xen_build_id. xen/include/public/version.h"""

    len: int = u32()  # IN: room in buf, in bytes
    buf: tuple[int, ...] = array(u8(), 0)  # OUT
