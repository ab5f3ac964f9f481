"""Every option of xl.cfg(5), and what becomes of it here. Those that are not in this table are not known to xl either.

An option that is ignored or refused still has to make sense, unless xl does not look at it for such guests.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Form(Enum):
    """What a value has to be."""

    STRING = auto()
    NUMBER = auto()
    BOOLEAN = auto()
    STRINGS = auto()
    STRING_OR_STRINGS = auto()
    LISTS = auto()
    ANY = auto()


class Treatment(Enum):
    """What is done with a value."""

    HONOURED = auto()
    IGNORED = auto()
    """With a warning."""
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Option:
    """An option. ``neutral`` are values that ask for nothing, so that nothing is said of them."""

    form: Form
    treatment: Treatment
    why: str = ""
    neutral: tuple[str, ...] = ()


def _honoured(form: Form) -> Option:
    return Option(form, Treatment.HONOURED)


def _ignored(form: Form, why: str, *neutral: str) -> Option:
    return Option(form, Treatment.IGNORED, why, neutral or ("0",) if form is Form.BOOLEAN else neutral)


def _refused(form: Form, why: str, *neutral: str) -> Option:
    return Option(form, Treatment.REFUSED, why, neutral)


_HVM = Option(Form.ANY, Treatment.IGNORED, "only HVM guests have it")
_ARM = Option(Form.ANY, Treatment.IGNORED, "only guests on Arm have it")
_NO_DEVICE_MODEL = "euxen has no device model"
_NO_FRAMEBUFFER = "euxen has no framebuffers yet"
_NO_PASSTHROUGH = "euxen passes no devices of the host through"
_NO_XSM = "euxen has no XSM"
_NO_SCHEDULING = "euxen does not yet share out the CPUs by it"
_NO_LIMIT = "euxen does not yet limit it"

OPTIONS: dict[str, Option] = {
    # The domain.
    "name": _honoured(Form.STRING),
    "uuid": _honoured(Form.STRING),
    "type": _honoured(Form.STRING),
    "builder": _honoured(Form.STRING),
    **dict.fromkeys(
        ("on_poweroff", "on_reboot", "on_watchdog", "on_crash", "on_soft_reset"),
        _ignored(Form.STRING, "a domain in the foreground is destroyed when it ends", "destroy"),
    ),
    "seclabel": _ignored(Form.STRING, _NO_XSM),
    "init_seclabel": _ignored(Form.STRING, _NO_XSM),
    "nomigrate": _ignored(Form.BOOLEAN, "euxen does not migrate guests yet"),
    "driver_domain": _ignored(Form.BOOLEAN, "euxen has no driver domains yet"),
    "xend_suspend_evtchn_compat": _ignored(Form.BOOLEAN, "euxen does not suspend guests yet"),
    "max_grant_frames": _honoured(Form.NUMBER),
    "max_maptrack_frames": _honoured(Form.NUMBER),
    "max_grant_version": _honoured(Form.NUMBER),
    "max_event_channels": _honoured(Form.NUMBER),
    "vmtrace_buf_kb": _ignored(Form.NUMBER, "euxen does not trace processors", "0"),
    # What it starts with.
    "kernel": _honoured(Form.STRING),
    "ramdisk": _honoured(Form.STRING),
    "cmdline": _honoured(Form.STRING),
    "root": _honoured(Form.STRING),
    "extra": _honoured(Form.STRING),
    "bootloader": _refused(Form.STRING, "euxen runs no boot loader yet; say kernel= instead", ""),
    "bootloader_args": _ignored(Form.STRING_OR_STRINGS, "euxen runs no boot loader yet"),
    "firmware": _refused(Form.STRING, "euxen brings no pvgrub; give its file as kernel="),
    "device_tree": _ARM,
    # Memory.
    "memory": _honoured(Form.NUMBER),
    "maxmem": _honoured(Form.NUMBER),
    "vnuma": _refused(Form.LISTS, "euxen has no virtual NUMA; say maxmem= and maxvcpus= instead"),
    "e820_host": _ignored(Form.BOOLEAN, _NO_PASSTHROUGH),
    # CPUs and time.
    "vcpus": _honoured(Form.NUMBER),
    "maxvcpus": _honoured(Form.NUMBER),
    "pool": _ignored(Form.STRING, "euxen has no CPU pools yet", "Pool-0"),
    "cpus": _ignored(Form.STRING_OR_STRINGS, "euxen does not pin vCPUs yet", "all"),
    "cpus_soft": _ignored(Form.STRING_OR_STRINGS, "euxen does not pin vCPUs yet", "all"),
    "cpu_weight": _ignored(Form.NUMBER, _NO_SCHEDULING, "256"),
    "cap": _ignored(Form.NUMBER, _NO_SCHEDULING, "0"),
    "period": _ignored(Form.NUMBER, _NO_SCHEDULING),
    "slice": _ignored(Form.NUMBER, _NO_SCHEDULING),
    "latency": _ignored(Form.NUMBER, _NO_SCHEDULING),
    "extratime": _ignored(Form.NUMBER, _NO_SCHEDULING),
    "cpuid": _ignored(Form.STRING_OR_STRINGS, "euxen shows all guests the same CPUID yet", "host"),
    "msr_relaxed": _ignored(Form.BOOLEAN, "euxen treats unknown MSRs as Xen does by default"),
    "tsc_mode": _ignored(Form.STRING, "euxen has one mode of the TSC", "default", "0"),
    "timer_mode": _ignored(Form.STRING, "euxen has one mode of timers"),
    "localtime": _ignored(Form.BOOLEAN, "the guest's clock shows UTC"),
    "rtc_timeoffset": _ignored(Form.NUMBER, "the guest's clock shows UTC", "0"),
    # Devices.
    "disk": _honoured(Form.STRINGS),
    "vif": _honoured(Form.STRINGS),
    "vif2": _ignored(Form.ANY, "netchannel2 is no more"),
    "p9": _ignored(Form.STRINGS, "euxen has no 9pfs shares yet"),
    "channel": _ignored(Form.STRINGS, "euxen has no channels yet"),
    "pvcalls": _ignored(Form.STRINGS, "euxen has no PV calls"),
    "vtpm": _ignored(Form.STRINGS, "euxen has no virtual TPMs"),
    "vfb": _ignored(Form.STRINGS, _NO_FRAMEBUFFER),
    "vkb": _ignored(Form.STRINGS, "euxen has no keyboards yet"),
    "vdispl": _ignored(Form.STRINGS, "euxen has no displays"),
    "vsnd": _ignored(Form.LISTS, "euxen has no sound cards"),
    "vnc": _ignored(Form.BOOLEAN, _NO_FRAMEBUFFER),
    "vnclisten": _ignored(Form.STRING, _NO_FRAMEBUFFER),
    "vncpasswd": _ignored(Form.STRING, _NO_FRAMEBUFFER, ""),
    "vncdisplay": _ignored(Form.NUMBER, _NO_FRAMEBUFFER),
    "vncunused": _ignored(Form.BOOLEAN, _NO_FRAMEBUFFER, "0", "1"),
    "sdl": _ignored(Form.BOOLEAN, _NO_FRAMEBUFFER),
    "opengl": _ignored(Form.BOOLEAN, _NO_FRAMEBUFFER),
    "display": _ignored(Form.STRING, _NO_FRAMEBUFFER),
    "xauthority": _ignored(Form.STRING, _NO_FRAMEBUFFER),
    "keymap": _ignored(Form.STRING, _NO_FRAMEBUFFER),
    "vncviewer": _ignored(Form.NUMBER, "nothing starts a VNC viewer", "0"),
    # Devices of the host.
    "pci": _ignored(Form.STRINGS, _NO_PASSTHROUGH),
    "pci_msitranslate": _ignored(Form.NUMBER, _NO_PASSTHROUGH, "0", "1"),
    "pci_power_mgmt": _ignored(Form.NUMBER, _NO_PASSTHROUGH, "0"),
    "pci_permissive": _ignored(Form.NUMBER, _NO_PASSTHROUGH, "0"),
    "pci_seize": _ignored(Form.NUMBER, _NO_PASSTHROUGH, "0"),
    "rdm": _HVM,
    "dtdev": _ignored(Form.STRINGS, _NO_PASSTHROUGH),
    "usbctrl": _ignored(Form.STRINGS, _NO_PASSTHROUGH),
    "usbdev": _ignored(Form.STRINGS, _NO_PASSTHROUGH),
    "ioports": _ignored(Form.STRINGS, _NO_PASSTHROUGH),
    "iomem": _ignored(Form.STRINGS, _NO_PASSTHROUGH),
    "irqs": _ignored(Form.STRINGS, _NO_PASSTHROUGH),
    "passthrough": _ignored(Form.STRING, _NO_PASSTHROUGH, "default", "disabled"),
    # Guests of kinds that euxen does not have.
    "pvshim": _ignored(Form.BOOLEAN, "euxen runs PV guests without a shim"),
    "pvshim_path": _ignored(Form.STRING, "euxen runs PV guests without a shim"),
    "pvshim_cmdline": _ignored(Form.STRING, "euxen runs PV guests without a shim"),
    "pvshim_extra": _ignored(Form.STRING, "euxen runs PV guests without a shim"),
    "acpi": _ignored(Form.BOOLEAN, "PVH guests always have ACPI tables, and PV guests never", "0", "1"),
    "apic": Option(Form.ANY, Treatment.IGNORED, "PVH guests always have a local APIC, and PV guests never"),
    "hap": _ignored(Form.BOOLEAN, "euxen pages as it does", "0", "1"),
    "oos": _ignored(Form.BOOLEAN, "euxen pages as it does", "0", "1"),
    "shadow_memory": _ignored(Form.NUMBER, "euxen needs no memory for shadow page tables"),
    "nestedhvm": _ignored(Form.BOOLEAN, "euxen's CPUs have no hardware virtualization"),
    "altp2m": _ignored(Form.STRING, "euxen has no alternate p2m", "disabled", "0"),
    **dict.fromkeys(
        (
            *("acpi_firmware", "acpi_laptop_slate", "acpi_s3", "acpi_s4", "altp2mhvm", "bios"),
            *("bios_path_override", "boot", "firmware_override", "gfx_passthru", "hdtype", "hpet", "mca_caps"),
            *("mmio_hole", "ms_vm_genid", "nographic", "nx", "pae", "rdm_mem_boundary", "serial"),
            *("smbios_firmware", "soundhw", "spice", "spice_clipboard_sharing", "spice_image_compression"),
            *("spice_streaming_video", "spiceagent_mouse", "spicedisable_ticketing", "spicehost", "spicepasswd"),
            *("spiceport", "spicetls_port", "spiceusbredirection", "spicevdagent", "stdvga", "usb", "usbdevice"),
            *("usbversion", "vendor_device", "vga", "videoram", "viridian", "vkb_device", "vpt_align"),
            "xen_platform_pci",
        ),
        _HVM,
    ),
    **dict.fromkeys(("gic_version", "tee", "vpmu", "vuart"), _ARM),
    **dict.fromkeys(
        (
            *("device_model", "device_model_override", "device_model_user", "device_model_stubdomain_seclabel"),
            *("device_model_version", "stubdomain_cmdline", "stubdomain_kernel", "stubdomain_ramdisk"),
        ),
        _ignored(Form.STRING, _NO_DEVICE_MODEL),
    ),
    **dict.fromkeys(
        ("device_model_args", "device_model_args_hvm", "device_model_args_pv"),
        _ignored(Form.STRINGS, _NO_DEVICE_MODEL),
    ),
    **dict.fromkeys(("device_model_stubdomain_override", "dm_restrict"), _ignored(Form.BOOLEAN, _NO_DEVICE_MODEL)),
    "stubdomain_memory": _ignored(Form.NUMBER, _NO_DEVICE_MODEL),
}
