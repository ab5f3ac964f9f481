"""HYPERVISOR_xen_version. Source: xen/common/kernel.c."""

from __future__ import annotations

import sys

from euxen.abi import version as abi
from euxen.abi.arch_x86_xen import HYPERVISOR_VIRT_START
from euxen.abi.errno import XEN_EINVAL, XEN_ENODATA, XEN_ENOSYS
from euxen.abi.features import (
    XENFEAT_auto_translated_physmap,
    XENFEAT_direct_mapped,
    XENFEAT_gnttab_map_avail_bits,
    XENFEAT_highmem_assist,
    XENFEAT_hvm_callback_vector,
    XENFEAT_hvm_safe_pvclock,
    XENFEAT_memory_op_vnode_supported,
    XENFEAT_mmu_pt_update_preserve_ad,
    XENFEAT_not_direct_mapped,
    XENFEAT_pae_pgdir_above_4gb,
    XENFEAT_writable_page_tables,
)
from euxen.abi.structure import Structure
from euxen.abi.xen import VMASST_TYPE_pae_extended_cr3
from euxen.hypervisor import xsm
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.vcpu import Vcpu

XEN_VERSION, XEN_SUBVERSION = 4, 17
XEN_EXTRAVERSION = ".7-euxen"
XEN_CAPABILITIES = "xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 "
PAGE_SIZE = 4096
COMMAND_LINE_LENGTH = 1024

FEATURES = (
    XENFEAT_mmu_pt_update_preserve_ad,
    XENFEAT_highmem_assist,
    XENFEAT_gnttab_map_avail_bits,
    XENFEAT_memory_op_vnode_supported,
    XENFEAT_direct_mapped,
)
HVM_FEATURES = (
    XENFEAT_memory_op_vnode_supported,
    XENFEAT_writable_page_tables,
    XENFEAT_auto_translated_physmap,
    XENFEAT_hvm_callback_vector,
    XENFEAT_hvm_safe_pvclock,
    XENFEAT_not_direct_mapped,
)
DENIED = b"<denied>\0"
COMPILER = f"Python {sys.version.split()[0]}".encode()


def _put(vcpu: Vcpu, address: int, data: bytes | Structure) -> int:
    vcpu.write(address, bytes(data))
    return 0


def xen_version(vcpu: Vcpu, command: int, argument: int, *_rest: int) -> int:
    """What this Xen is and can do. What only a privileged domain may know reads as ``<denied>``."""
    command &= 0xFFFF_FFFF
    if command == abi.XENVER_version:
        return XEN_VERSION << 16 | XEN_SUBVERSION
    if command == abi.XENVER_pagesize:
        if argument:
            raise XenError(XEN_EINVAL)
        return PAGE_SIZE
    if command == abi.XENVER_extraversion:
        return _put(vcpu, argument, XEN_EXTRAVERSION.encode().ljust(abi.XEN_EXTRAVERSION_LEN, b"\0"))
    if command == abi.XENVER_compile_info:
        return _put(vcpu, argument, abi.XenCompileInfo(compiler=COMPILER, compile_by=b"euxen"))
    if command == abi.XENVER_capabilities:
        return _put(vcpu, argument, XEN_CAPABILITIES.encode().ljust(abi.XEN_CAPABILITIES_INFO_LEN, b"\0"))
    if command == abi.XENVER_changeset:
        return _put(vcpu, argument, bytes(abi.XEN_CHANGESET_INFO_LEN))
    if command == abi.XENVER_platform_parameters:
        start = HYPERVISOR_VIRT_START if vcpu.hvm is None else 0
        return _put(vcpu, argument, abi.XenPlatformParameters(virt_start=start))
    if command == abi.XENVER_get_features:
        return _get_features(vcpu, argument)
    if command == abi.XENVER_guest_handle:
        return _put(vcpu, argument, vcpu.domain.handle.bytes)
    if command == abi.XENVER_commandline:
        return _put(vcpu, argument, _command_line(vcpu))
    if command == abi.XENVER_build_id:
        xsm.xen_version(vcpu.domain, command)
        raise XenError(XEN_ENODATA)
    raise XenError(XEN_ENOSYS)


def _command_line(vcpu: Vcpu) -> bytes:
    """That of Xen, which is empty."""
    try:
        xsm.xen_version(vcpu.domain, abi.XENVER_commandline)
    except XenError:
        return DENIED
    return bytes(COMMAND_LINE_LENGTH)


def _get_features(vcpu: Vcpu, argument: int) -> int:
    info = abi.XenFeatureInfo.unpack_from(vcpu.read(argument, abi.XenFeatureInfo.size))
    if info.submap_idx:
        raise XenError(XEN_EINVAL)
    info.submap = sum(1 << bit for bit in (FEATURES if vcpu.hvm is None else HVM_FEATURES))
    if vcpu.domain.record["vm_assist"] >> VMASST_TYPE_pae_extended_cr3 & 1:
        info.submap |= 1 << XENFEAT_pae_pgdir_above_4gb
    return _put(vcpu, argument, info)
