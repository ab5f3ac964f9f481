"""What a domain is made of, with its files read: a configuration to a ``Request``."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid4

from euxen.hypervisor.control import DEFAULT_GRANT_LIMITS, DEFAULT_MAX_EVTCHN_PORT, GrantLimits
from euxen.toolstack.config.model import DomainConfig
from euxen.toolstack.devices import Device
from euxen.toolstack.disks import disk_device
from euxen.toolstack.errors import UserError
from euxen.toolstack.files import read_file
from euxen.toolstack.kernel.image import KernelImage, read_kernel
from euxen.toolstack.kernel.layout import GuestKind
from euxen.toolstack.nics import nic_device

LIBXL_MAXMEM_CONSTANT = 1 << 20
"""How much more than its memory a domain may have, in bytes: tools/libs/light/libxl_internal.h. A PVH guest needs some
of it for its special pages and ACPI tables."""


@dataclass(frozen=True)
class Request:
    """What a domain is made of."""

    name: str
    image: KernelImage
    ramdisk: bytes
    command_line: str
    memory: int
    """What it has, in bytes."""
    uuid: UUID
    max_memory: int = 0
    """What it can ever have, in bytes; 0 is what it has."""
    max_event_channels: int = DEFAULT_MAX_EVTCHN_PORT
    grant_limits: GrantLimits = DEFAULT_GRANT_LIMITS
    kind: GuestKind = GuestKind.PV
    vcpus: int = 1
    """How many vCPUs are online at the start."""
    max_vcpus: int = 1
    ramdisk_path: str | None = None
    devices: tuple[Device, ...] = ()

    @property
    def most_memory(self) -> int:
        """What it can ever have, in bytes."""
        return max(self.memory, self.max_memory)

    @property
    def allowed_memory(self) -> int:
        """What Xen may ever give it, in bytes."""
        return self.most_memory + (LIBXL_MAXMEM_CONSTANT if self.kind is GuestKind.PVH else 0)

    @property
    def online(self) -> tuple[bool, ...]:
        """Of each vCPU, whether it is online at the start."""
        return tuple(vcpu < self.vcpus for vcpu in range(self.max_vcpus))


def request_for(config: DomainConfig) -> Request:
    """Read what a domain is made of. Raises UserError for files and limits that cannot be used."""
    assert config.kernel is not None  # there are no boot loaders
    image = read_kernel(config.kernel)
    image.layout(config.type)  # says why, where the kernel cannot be such a guest
    memory, ramdisk = config.memory << 20, b""
    if config.ramdisk is not None:
        too_large = f"more than the domain's memory, {config.memory} MiB; give it more"
        ramdisk = read_file(config.ramdisk, "a RAM disk", memory, too_large)
    return Request(
        name=config.name,
        image=image,
        ramdisk=ramdisk,
        command_line=config.cmdline,
        memory=memory,
        uuid=config.uuid or uuid4(),
        kind=config.type,
        max_memory=config.maxmem << 20,
        vcpus=config.vcpus,
        max_vcpus=config.maxvcpus,
        max_event_channels=config.max_event_channels,
        grant_limits=grant_limits(config),
        ramdisk_path=None if config.ramdisk is None else str(config.ramdisk),
        devices=(*map(disk_device, config.disks), *map(nic_device, config.nics)),
    )


def grant_limits(config: DomainConfig) -> GrantLimits:
    """How much the domain may lend and borrow. Raises UserError for what Xen refuses."""
    default = DEFAULT_GRANT_LIMITS
    frames, tracked, version = config.max_grant_frames, config.max_maptrack_frames, config.max_grant_version
    limits = GrantLimits(
        default.max_grant_frames if frames is None else frames,
        default.max_maptrack_frames if tracked is None else tracked,
        default.max_version if version is None else version,
    )
    if not 1 <= limits.max_version <= default.max_version:
        raise UserError(f"max_grant_version={version} is no version of grant tables; it has to be 1 or 2")
    if frames == 0:
        raise UserError("a grant table has at least one frame: max_grant_frames=0 is too few")
    return limits
