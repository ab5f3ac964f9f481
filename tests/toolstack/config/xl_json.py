"""A DomainConfig as ``xl create -n`` prints configurations, as far as DomainConfig holds what that has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from euxen.toolstack.config.cpus import CpuList, cpumap
from euxen.toolstack.config.model import DEFAULT_MEMORY, ActionOnShutdown, DomainConfig
from euxen.toolstack.config.nic import NicType

NODES = (frozenset(range(4)), frozenset(range(4, 8)))
"""The CPUs of the host in pretend_dom0.c."""
_ACTIONS = {ActionOnShutdown.RENAME_RESTART: "restart_rename"}


def as_xl(config: DomainConfig) -> dict[str, Any]:
    """What is said, by libxl's names; what is not said, or is libxl's default, is left out or as in ``normal``."""
    return _told(
        {
            "type": config.type.value,
            "name": config.name,
            "uuid": config.uuid and str(config.uuid),
            "pool_name": config.pool,
            "kernel": config.kernel and str(config.kernel),
            "ramdisk": config.ramdisk and str(config.ramdisk),
            "cmdline": config.cmdline,
            "bootloader": config.bootloader,
            "bootloader_args": list(config.bootloader_args),
            "target_memkb": config.memory << 10,
            "max_memkb": config.maxmem << 10,
            "avail_vcpus": list(range(config.vcpus)),
            "max_vcpus": config.maxvcpus,
            "vcpu_hard_affinity": [_cpus(cpulist) for cpulist in config.cpus],
            "vcpu_soft_affinity": [_cpus(cpulist) for cpulist in config.cpus_soft],
            **{
                name: getattr(config.sched_params, "cpu_weight" if name == "weight" else name)
                for name in ("weight", "cap", "period", "slice", "latency", "extratime")
            },
            **{f"{mask.leaf:x}:{mask.subleaf}:{mask.register}": mask.bits for mask in config.cpuid},
            "event_channels": config.max_event_channels,
            "max_grant_frames": config.max_grant_frames,
            "max_maptrack_frames": config.max_maptrack_frames,
            "max_grant_version": config.max_grant_version,
            **{
                name: _ACTIONS.get(action := getattr(config, name), action.value.replace("-", "_"))
                for name in ("on_poweroff", "on_reboot", "on_watchdog", "on_crash", "on_soft_reset")
            },
            "disks": [
                {
                    "pdev_path": disk.target,
                    "vdev": disk.vdev,
                    "backend": disk.backendtype,
                    "backend_domname": disk.backend,
                    "format": disk.format.value,
                    "script": disk.script,
                    "readwrite": int(disk.readwrite),
                    "is_cdrom": int(disk.is_cdrom),
                    "removable": int(disk.is_cdrom),
                    "direct_io_safe": int(disk.direct_io_safe),
                    "discard_enable": _defbool(disk.discard),
                    "specification": disk.specification,
                }
                for disk in config.disks
            ],
            "nics": [
                {
                    "devid": nic.devid,
                    "mac": nic.mac if nic.mac != "00:00:00:00:00:00" else None,
                    **{name: getattr(nic, name) for name in ("bridge", "gatewaydev", "ip", "script", "model", "mtu")},
                    "ifname": nic.vifname,
                    "backend_domname": nic.backend,
                    "nictype": nic.type and {NicType.VIF: "vif", NicType.VIF_IOEMU: "vif_ioemu"}[nic.type],
                    "rate_bytes_per_interval": nic.rate and nic.rate.bytes_per_interval,
                    "rate_interval_usecs": nic.rate and nic.rate.interval_usecs,
                    "trusted": _defbool(nic.trusted),
                }
                for nic in config.nics
            ],
            "p9s": [
                {"tag": p9.tag, "path": p9.path, "security_model": p9.security_model, "backend_domname": p9.backend}
                for p9 in config.p9s
            ],
            "vfbs": [
                {
                    "enable": _defbool(vfb.vnc),
                    "listen": vfb.vnclisten,
                    "passwd": vfb.vncpasswd,
                    "findunused": _defbool(vfb.vncunused),
                    "vncdisplay": vfb.vncdisplay,
                    "sdl": _defbool(vfb.sdl),
                    "opengl": _defbool(vfb.opengl),
                    "display": vfb.display,
                    "xauthority": vfb.xauthority,
                    "keymap": vfb.keymap,
                }
                for vfb in config.vfbs
            ],
            "channels": [
                {
                    "name": channel.name,
                    "connection": channel.connection.value,
                    "path": channel.path,
                    "backend_domname": channel.backend,
                }
                for channel in config.channels
            ],
        }
    )


def normal(printed: Mapping[str, Any]) -> dict[str, Any]:
    """What xl printed, in the same form."""
    create, build = printed["c_info"], printed["b_info"]
    flat: dict[str, Any] = {
        "target_memkb": DEFAULT_MEMORY << 10,
        "avail_vcpus": [0],
        "max_vcpus": 1,
        "event_channels": 1023,
        **dict.fromkeys(("on_poweroff", "on_reboot", "on_watchdog", "on_crash", "on_soft_reset"), "destroy"),
    }
    flat |= {name: value for name, value in create.items() if name != "run_hotplug_scripts"}
    flat |= {
        name: value
        for name, value in build.items()
        if not isinstance(value, dict) and name not in ("claim_mode", "numa_placement")
    }
    flat |= build["sched_params"]
    flat |= {name: value for name, value in printed.items() if isinstance(value, str)}
    flat.setdefault("max_memkb", flat["target_memkb"])
    for leaf in build.get("cpuid", {}).get("cpuid", ()):
        for register in sorted(leaf.keys() & {"eax", "ebx", "ecx", "edx"}):
            flat[f"{leaf['leaf']:x}:{leaf.get('subleaf')}:{register}"] = leaf[register].replace("s", "k")
    for msr in build.get("cpuid", {}).get("msr", ()):
        flat[f"{msr['index']:x}:None:msr"] = msr["policy"].replace("s", "k")
    flat["disks"] = printed.get("disks", [])
    flat["nics"] = printed.get("nics", [])
    flat["p9s"] = [_without_devid(p9) for p9 in printed.get("p9s", ())]
    flat["vfbs"] = [_vfb(vfb) for vfb in printed.get("vfbs", ())]
    flat["channels"] = [
        {
            **{name: channel[name] for name in ("name", "backend_domname") if name in channel},
            "connection": next(kind for kind in ("pty", "socket") if f"connection.{kind}" in channel),
            "path": channel.get("connection.socket", {}).get("path"),
        }
        for channel in printed.get("channels", ())
    ]
    return _told(flat)


def _vfb(vfb: Mapping[str, Any]) -> dict[str, Any]:
    vnc, sdl = vfb["vnc"], vfb["sdl"]
    return {
        **{name: vnc.get(name) for name in ("enable", "listen", "passwd", "findunused")},
        "vncdisplay": vnc.get("display"),
        "sdl": sdl.get("enable"),
        **{name: sdl.get(name) for name in ("opengl", "display", "xauthority")},
        "keymap": vfb.get("keymap"),
    }


def _told(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is not said, and without what libxl does not print because it is nothing or 0."""
    told = {}
    for name, value in fields.items():
        if isinstance(value, list) and name != "avail_vcpus":
            value = [_told(item) if isinstance(item, dict) else item for item in value]
        if value not in (None, "", []) and (value != 0 or name == "devid"):
            told[name] = value
    return told


def _without_devid(device: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in device.items() if name != "devid"}


def _defbool(value: bool | None) -> str | None:
    return None if value is None else str(value)


def _cpus(cpulist: CpuList) -> list[int]:
    return sorted(cpumap(cpulist, NODES))
