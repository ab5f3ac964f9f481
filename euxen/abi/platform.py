"""HYPERVISOR_platform_op: what Domain 0's kernel does to the hardware. xen/include/public/platform.h

Every command has its number here; those that a PV Domain 0 needs without real firmware below it have
their structure, named after the arrow.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, Union, chars, nested, u8, u16, u32, u64

XENPF_INTERFACE_VERSION = 0x03000001

XENPF_settime32 = 17  # -> settime32
XENPF_add_memtype = 31
XENPF_del_memtype = 32
XENPF_read_memtype = 33
XENPF_microcode_update = 35
XENPF_platform_quirk = 39
XENPF_get_cpu_version = 48  # -> pcpu_version
XENPF_efi_runtime_call = 49
XENPF_firmware_info = 50  # -> firmware_info
XENPF_enter_acpi_sleep = 51  # -> enter_acpi_sleep
XENPF_change_freq = 52
XENPF_getidletime = 53  # -> getidletime
XENPF_set_processor_pminfo = 54
XENPF_get_cpuinfo = 55  # -> pcpu_info
XENPF_cpu_online = 56  # -> cpu_ol
XENPF_cpu_offline = 57  # -> cpu_ol
XENPF_cpu_hotadd = 58
XENPF_mem_hotadd = 59
XENPF_core_parking = 60
XENPF_resource_op = 61
XENPF_settime64 = 62  # -> settime64
XENPF_settime = XENPF_settime64
XENPF_get_symbol = 63


class XenpfSettime32(Structure):
    """struct xenpf_settime32. xen/include/public/platform.h

    Sets the wall clock to ``secs`` and ``nsecs`` after 1970 when system time was ``system_time``.
    """

    secs: int = u32()
    nsecs: int = u32()
    system_time: int = u64()  # in ns


class XenpfSettime64(Structure):
    """struct xenpf_settime64. xen/include/public/platform.h"""

    secs: int = u64()
    nsecs: int = u32()
    mbz: int = u32()  # must be 0
    system_time: int = u64()  # in ns


# xenpf_firmware_info.type
XEN_FW_DISK_INFO = 1
XEN_FW_DISK_MBR_SIGNATURE = 2
XEN_FW_VBEDDC_INFO = 3
XEN_FW_EFI_INFO = 4
XEN_FW_KBD_SHIFT_FLAGS = 5


class XenpfFirmwareInfoDiskInfo(Structure):
    """u.disk_info of struct xenpf_firmware_info. xen/include/public/platform.h

    What the BIOS's INT 0x13 says of a disk.
    """

    device: int = u8()
    version: int = u8()
    interface_support: int = u16()
    legacy_max_cylinder: int = u16()
    legacy_max_head: int = u8()
    legacy_sectors_per_track: int = u8()
    edd_params: int = u64()  # guest pointer to a buffer that begins with its length


class XenpfFirmwareInfoDiskMbrSignature(Structure):
    """u.disk_mbr_signature of struct xenpf_firmware_info. xen/include/public/platform.h"""

    device: int = u8()
    mbr_signature: int = u32()


class XenpfFirmwareInfoVbeddcInfo(Structure):
    """u.vbeddc_info of struct xenpf_firmware_info. xen/include/public/platform.h"""

    capabilities: int = u8()
    edid_transfer_time: int = u8()
    edid: int = u64()  # guest pointer to 128 bytes


class XenpfFirmwareInfoU(Union):
    """u of struct xenpf_firmware_info. xen/include/public/platform.h

    Only a host with EFI has ``efi_info``: it is left as bytes.
    """

    disk_info: XenpfFirmwareInfoDiskInfo = nested(XenpfFirmwareInfoDiskInfo)
    disk_mbr_signature: XenpfFirmwareInfoDiskMbrSignature = nested(XenpfFirmwareInfoDiskMbrSignature)
    vbeddc_info: XenpfFirmwareInfoVbeddcInfo = nested(XenpfFirmwareInfoVbeddcInfo)
    kbd_shift_flags: int = u8()
    efi_info: bytes = chars(32)


class XenpfFirmwareInfo(Structure):
    """struct xenpf_firmware_info. xen/include/public/platform.h"""

    type: int = u32()  # XEN_FW_*
    index: int = u32()
    u: XenpfFirmwareInfoU = nested(XenpfFirmwareInfoU)  # OUT


XENPF_ACPI_SLEEP_EXTENDED = 0x00000001


class XenpfEnterAcpiSleep(Structure):
    """struct xenpf_enter_acpi_sleep. xen/include/public/platform.h"""

    val_a: int = u16()  # PM1a control, or sleep type A
    val_b: int = u16()  # PM1b control, or sleep type B
    sleep_state: int = u32()  # n of ACPI's Sn
    flags: int = u32()  # XENPF_ACPI_SLEEP_EXTENDED


class XenpfGetidletime(Structure):
    """struct xenpf_getidletime. xen/include/public/platform.h"""

    cpumap_bitmap: int = u64()  # guest pointer to a bit map: IN, pCPUs asked for; OUT, those there are
    cpumap_nr_cpus: int = u32()  # bits in it
    idletime: int = u64()  # guest pointer to uint64_t[], by pCPU: OUT, in ns
    now: int = u64()  # OUT: system time in ns


# xenpf_pcpuinfo.flags
XEN_PCPU_FLAGS_ONLINE = 1
XEN_PCPU_FLAGS_INVALID = 2  # no such pCPU


class XenpfPcpuinfo(Structure):
    """struct xenpf_pcpuinfo. xen/include/public/platform.h"""

    xen_cpuid: int = u32()
    max_present: int = u32()  # OUT: the highest pCPU there is
    flags: int = u32()  # OUT: XEN_PCPU_FLAGS_*
    apic_id: int = u32()  # OUT
    acpi_id: int = u32()  # OUT


class XenpfPcpuVersion(Structure):
    """struct xenpf_pcpu_version. xen/include/public/platform.h"""

    xen_cpuid: int = u32()
    max_present: int = u32()  # OUT: the highest pCPU there is
    vendor_id: bytes = chars(12)  # OUT
    family: int = u32()  # OUT
    model: int = u32()  # OUT
    stepping: int = u32()  # OUT


class XenpfCpuOl(Structure):
    """struct xenpf_cpu_ol. xen/include/public/platform.h"""

    cpuid: int = u32()


class XenPlatformOpU(Union):
    """u of struct xen_platform_op. xen/include/public/platform.h"""

    settime: XenpfSettime64 = nested(XenpfSettime64)
    settime32: XenpfSettime32 = nested(XenpfSettime32)
    settime64: XenpfSettime64 = nested(XenpfSettime64)
    firmware_info: XenpfFirmwareInfo = nested(XenpfFirmwareInfo)
    enter_acpi_sleep: XenpfEnterAcpiSleep = nested(XenpfEnterAcpiSleep)
    getidletime: XenpfGetidletime = nested(XenpfGetidletime)
    pcpu_info: XenpfPcpuinfo = nested(XenpfPcpuinfo)
    pcpu_version: XenpfPcpuVersion = nested(XenpfPcpuVersion)
    cpu_ol: XenpfCpuOl = nested(XenpfCpuOl)
    pad: bytes = chars(128)


class XenPlatformOp(Structure):
    """struct xen_platform_op. xen/include/public/platform.h"""

    cmd: int = u32()  # XENPF_*
    interface_version: int = u32(default=XENPF_INTERFACE_VERSION)
    u: XenPlatformOpU = nested(XenPlatformOpU)
