"""What a domain shall be: DomainConfig, made from an xl.cfg or directly.

The fields have the names of xl.cfg(5); their defaults are xl's and libxl's (parse_config_data in
tools/xl/xl_parse.c, libxl__domain_build_info_setdefault in tools/libs/light/libxl_create.c).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from uuid import UUID

from euxen.toolstack.config.cpuid import CpuidMask
from euxen.toolstack.config.cpus import CpuList
from euxen.toolstack.config.devices import P9, Channel, Vfb
from euxen.toolstack.config.disk import Disk
from euxen.toolstack.config.errors import OptionError
from euxen.toolstack.config.nic import Nic
from euxen.toolstack.kernel.layout import GuestKind

DEFAULT_MEMORY = 32
"""MiB; libxl__domain_build_info_setdefault."""
MAX_MEMORY = 16 << 20
"""MiB: all that Xen can use in a host; SUPPORT.md."""
MAX_VCPUS = {GuestKind.PV: 8192, GuestKind.PVH: 128}
"""SUPPORT.md; domain_max_vcpus in xen/arch/x86/include/asm/domain.h."""


class ActionOnShutdown(StrEnum):
    """What becomes of a domain that has shut down; ``libxl_action_on_shutdown``."""

    DESTROY = "destroy"
    RESTART = "restart"
    RENAME_RESTART = "rename-restart"
    PRESERVE = "preserve"
    COREDUMP_DESTROY = "coredump-destroy"
    COREDUMP_RESTART = "coredump-restart"
    SOFT_RESET = "soft-reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedParams:
    """What a scheduler shall know of a domain; ``libxl_domain_sched_params``. None is its default."""

    cpu_weight: int | None = None
    cap: int | None = None
    period: int | None = None
    slice: int | None = None
    latency: int | None = None
    extratime: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainConfig:
    """A domain to be. Making one raises OptionError for what cannot be.

    Text may hold bytes that are no text as surrogates, as ``os.fsdecode`` makes them.
    """

    name: str
    uuid: UUID | None = None
    """None: whoever creates the domain makes one up."""
    type: GuestKind = GuestKind.PV
    kernel: Path | None = None
    """Needed, unless a bootloader finds one."""
    ramdisk: Path | None = None
    cmdline: str = ""
    bootloader: str | None = None
    bootloader_args: tuple[str, ...] = ()
    memory: int = DEFAULT_MEMORY
    """MiB that the domain starts with."""
    maxmem: int = 0
    """MiB that it can ever have; 0 becomes ``memory``."""
    vcpus: int = 1
    """vCPUs that are online at the start."""
    maxvcpus: int = 0
    """vCPUs that it can ever have; 0 becomes ``vcpus``."""
    on_poweroff: ActionOnShutdown = ActionOnShutdown.DESTROY
    on_reboot: ActionOnShutdown = ActionOnShutdown.RESTART
    on_watchdog: ActionOnShutdown = ActionOnShutdown.DESTROY
    on_crash: ActionOnShutdown = ActionOnShutdown.DESTROY
    on_soft_reset: ActionOnShutdown = ActionOnShutdown.SOFT_RESET
    pool: str | None = None
    cpus: tuple[CpuList, ...] = ()
    """Hard affinity of vCPU 0, 1, ...; any CPU for a vCPU behind the last."""
    cpus_soft: tuple[CpuList, ...] = ()
    sched_params: SchedParams = SchedParams()
    cpuid: tuple[CpuidMask, ...] = ()
    max_event_channels: int = 1023
    max_grant_frames: int | None = None
    max_maptrack_frames: int | None = None
    max_grant_version: int | None = None
    """None is Xen's default for the last three."""
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    p9s: tuple[P9, ...] = ()
    vfbs: tuple[Vfb, ...] = ()
    channels: tuple[Channel, ...] = ()
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """Sentences for whoever wrote the configuration: what of it has no effect."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "maxmem", self.maxmem or self.memory)
        object.__setattr__(self, "maxvcpus", self.maxvcpus or self.vcpus)
        if not self.name:
            raise OptionError("name", "Domain name must be specified.")
        if self.kernel is None and not self.bootloader:
            raise OptionError("kernel", "Neither kernel nor bootloader specified")
        _check_range("memory", self.memory, 1, MAX_MEMORY)
        _check_range("maxmem", self.maxmem, 1, MAX_MEMORY)
        _check_range("vcpus", self.vcpus, 1, MAX_VCPUS[self.type])
        _check_range("maxvcpus", self.maxvcpus, 1, MAX_VCPUS[self.type])
        if self.maxmem < self.memory:
            raise OptionError("maxmem", f"maxmem < memory: {self.maxmem} MiB at most, and {self.memory} MiB at first")
        if self.maxvcpus < self.vcpus:
            raise OptionError("maxvcpus", f"maxvcpus < vcpus: {self.maxvcpus} at most, and {self.vcpus} at first")
        _check_distinct("disk", "vdev", [disk.vdev for disk in self.disks])
        _check_distinct("vif", "devid", [str(nic.devid) for nic in self.nics])

    @classmethod
    def from_text(cls, text: str, filename: str, overrides: Sequence[str] = ()) -> DomainConfig:
        """Read a configuration, and assignments from a command line that are to count more, as ``xl create`` does.

        ``filename`` is for messages only. Raises ConfigError, whose sentences begin with their places.
        """
        from euxen.toolstack.config.reader import read  # which makes DomainConfigs

        return read(text, filename, overrides)

    def within(self, *, max_vcpus: int) -> DomainConfig:
        """The same with no more vCPUs than that, and a warning if that makes a difference."""
        if self.maxvcpus <= max_vcpus:
            return self
        vcpus = "1 vCPU" if max_vcpus == 1 else f"{max_vcpus} vCPUs"
        warning = f"{self.name} is to have {self.maxvcpus} vCPUs, and gets {vcpus}: euxen runs no more in a guest yet."
        return replace(
            self,
            vcpus=min(self.vcpus, max_vcpus),
            maxvcpus=max_vcpus,
            cpus=self.cpus[:max_vcpus],
            cpus_soft=self.cpus_soft[:max_vcpus],
            warnings=(*self.warnings, warning),
        )


def _check_range(option: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise OptionError(option, f"{option} has to be from {lowest} to {highest}, and is {value}")


def _check_distinct(option: str, what: str, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise OptionError(option, f"{option} has the {what} {value} more than once")
