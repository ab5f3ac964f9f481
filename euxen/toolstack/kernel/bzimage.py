"""bzImage: Linux's own boot code with the compressed vmlinux inside. Linux: Documentation/x86/boot.rst

Xen starts the vmlinux and never runs the boot code, so all that matters is where the payload lies.
"""

from __future__ import annotations

import struct

from euxen.abi.structure import Structure, chars, u8, u16, u32, u64
from euxen.toolstack.kernel.decompress import LIMIT, compression_of, decompress
from euxen.toolstack.kernel.errors import KernelError

_SECTOR = 512
_PAYLOAD_SINCE = 0x0208
"""The first boot protocol that tells where the payload is."""
_BANNER_MAX = 256


class SetupHeader(Structure, packed=True):
    """struct setup_header as far as Xen reads it. Linux: arch/x86/include/uapi/asm/bootparam.h"""

    setup_sects: int = u8()
    root_flags: int = u16()
    syssize: int = u32()
    ram_size: int = u16()
    vid_mode: int = u16()
    root_dev: int = u16()
    boot_flag: int = u16()
    jump: int = u16()
    header: bytes = chars(4)
    version: int = u16()
    realmode_swtch: int = u32()
    start_sys_seg: int = u16()
    kernel_version: int = u16()
    type_of_loader: int = u8()
    loadflags: int = u8()
    setup_move_size: int = u16()
    code32_start: int = u32()
    ramdisk_image: int = u32()
    ramdisk_size: int = u32()
    bootsect_kludge: int = u32()
    heap_end_ptr: int = u16()
    ext_loader_ver: int = u8()
    ext_loader_type: int = u8()
    cmd_line_ptr: int = u32()
    initrd_addr_max: int = u32()
    kernel_alignment: int = u32()
    relocatable_kernel: int = u8()
    min_alignment: int = u8()
    xloadflags: int = u16()
    cmdline_size: int = u32()
    hardware_subarch: int = u32()
    hardware_subarch_data: int = u64()
    payload_offset: int = u32()
    payload_length: int = u32()


_HEADER_AT = 0x1F1
"""Where in the file the setup header starts."""


def is_bzimage(data: memoryview) -> bool:
    """Whether ``data`` has Linux's boot header."""
    magic = _HEADER_AT + SetupHeader.offsetof("header")
    return len(data) >= _HEADER_AT + SetupHeader.size and bytes(data[magic : magic + 4]) == b"HdrS"


def unpack(data: memoryview) -> tuple[str, bytes]:
    """The name of the payload's compression and the ELF image inside a bzImage. Raises KernelError."""
    header = SetupHeader.unpack_from(data, _HEADER_AT)
    if header.version < _PAYLOAD_SINCE:
        major, minor = divmod(header.version, 256)
        raise KernelError(
            f"it is a bzImage of boot protocol {major}.{minor:02}, which does not say where its ELF image is; "
            "use a kernel of Linux 2.6.24 or later, or its vmlinux"
        )
    start = (header.setup_sects + 1) * _SECTOR + header.payload_offset
    end = start + header.payload_length
    if end > len(data):
        raise KernelError(
            f"it is a bzImage that is cut off: its payload should end at byte {end}, "
            f"but the file has {len(data)} bytes; get the kernel again"
        )
    payload = data[start:end]
    compression = compression_of(payload)
    if compression is None:
        raise KernelError(
            f"it is a bzImage whose payload starts with {bytes(payload[:4]).hex(' ') or 'nothing'}, which is no "
            "compression that Linux uses; get the kernel again"
        )
    # Linux's build appends the unpacked size to each payload (gzip's own format ends with it already).
    if len(payload) < 4:
        raise KernelError("it is a bzImage whose payload is too short; get the kernel again")
    size = struct.unpack_from("<I", payload, len(payload) - 4)[0]
    if size > LIMIT:
        raise KernelError(f"it is a bzImage that claims to unpack to {size} bytes; get the kernel again")
    image = decompress(payload if compression == "gzip" else payload[:-4], compression, size)
    if len(image) != size:
        raise KernelError(
            f"it is a bzImage whose payload unpacks to {len(image)} bytes instead of {size}; get the kernel again"
        )
    return compression, image


def banner(data: memoryview) -> str | None:
    """What the kernel says it is: "6.1.0-9-amd64 (debian-kernel@...) #1 SMP ...", or None where it says nothing."""
    header = SetupHeader.unpack_from(data, _HEADER_AT)
    if not header.kernel_version:
        return None
    start = header.kernel_version + _SECTOR
    text = bytes(data[start : start + _BANNER_MAX]).split(b"\0", 1)[0].decode("ascii", "replace")
    return "".join(c for c in text if c.isprintable()) or None
