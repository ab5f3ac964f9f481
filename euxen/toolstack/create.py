"""Creating and destroying a domain, as libxl does: memory and vCPUs, xenstore nodes, daemons, devices.

The nodes are those of xenstore-paths(7).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

from euxen.dom0.console.ring import ConsoleRing
from euxen.dom0.xenstore_client import XenStoreRefused
from euxen.hypervisor.control import DEFAULT_GRANT_LIMITS, DEFAULT_MAX_EVTCHN_PORT, GrantLimits
from euxen.hypervisor.errors import XenError
from euxen.toolstack.builder.pv import PvBuilder, Rings
from euxen.toolstack.config.model import DomainConfig
from euxen.toolstack.devices import Device, attach, detach, devices_of
from euxen.toolstack.disks import disk_device
from euxen.toolstack.errors import UserError
from euxen.toolstack.files import read_file
from euxen.toolstack.kernel.image import KernelImage, read_kernel
from euxen.toolstack.machine import Host
from euxen.toolstack.nics import nic_device

PAGE_SHIFT = 12
CONSOLE_LIMIT = 1 << 20
NEEDED_EVENT_CHANNELS = 2


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
    devices: tuple[Device, ...] = ()

    @property
    def most_memory(self) -> int:
        """What it can ever have, in bytes."""
        return max(self.memory, self.max_memory)


def request_for(config: DomainConfig) -> Request:
    """Read what a PV domain is made of. Raises UserError for files and limits that cannot be used."""
    assert config.kernel is not None  # there are no boot loaders
    image = read_kernel(config.kernel)
    image.layout(config.type)  # says why, where the kernel cannot be such a guest
    memory, ramdisk = config.memory << 20, b""
    if config.ramdisk is not None:
        too_large = f"more than the domain's memory, {config.memory} MiB; give it more"
        ramdisk = read_file(config.ramdisk, "a RAM disk", memory, too_large)
    uuid = config.uuid or uuid4()
    return Request(
        config.name,
        image,
        ramdisk,
        config.cmdline,
        memory,
        uuid,
        config.maxmem << 20,
        config.max_event_channels,
        grant_limits(config),
        (*map(disk_device, config.disks), *map(nic_device, config.nics)),
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


@dataclass(frozen=True)
class RunningDomain:
    """A domain that was created, not yet running."""

    domid: int
    console: ConsoleRing


def create(host: Host, request: Request, wake: Callable[[], None]) -> RunningDomain:
    """Create a PV domain, paused; ``wake`` is called, in any thread, when it may have written to its console.

    Raises UserError, with nothing left behind.
    """
    control = host.control
    pages, max_pages = request.memory >> PAGE_SHIFT, request.most_memory >> PAGE_SHIFT
    if request.max_event_channels < NEEDED_EVENT_CHANNELS:
        raise UserError(
            f"{request.name} is to have {request.max_event_channels} event channel at most (max_event_channels); "
            f"xenstore and its console need {NEEDED_EVENT_CHANNELS}"
        )
    try:
        domid = control.create_domain(
            max_pages,
            max_evtchn_port=request.max_event_channels,
            handle=request.uuid.bytes,
            grant_limits=request.grant_limits,
        )
    except XenError as error:
        raise UserError(f"Xen cannot make the domain ({error}); ask for less memory or smaller tables") from error
    try:
        rings = Rings(xenstore_port=control.alloc_unbound(domid, 0), console_port=control.alloc_unbound(domid, 0))
        builder = PvBuilder(control, domid, request.image, pages, max_pages)
        built = builder.build(request.ramdisk, request.command_line, rings)
        _write_nodes(host, domid, request, built.console_frame, built.xenstore_frame, rings)
        host.services.xenstore.introduce(domid, built.xenstore_frame, rings.xenstore_port)
        console = host.services.attach_console(domid, rings.console_port, wake)
        for device in request.devices:
            attach(host.services.xenstore, domid, device)
    except BaseException:
        destroy(host, domid)
        raise
    return RunningDomain(domid, console)


def _write_nodes(host: Host, domid: int, request: Request, console: int, xenstore: int, rings: Rings) -> None:
    store = host.services.xenstore
    home, vm = f"/local/domain/{domid}", f"/vm/{request.uuid}"
    guest_may_read = ("n0", f"r{domid}")
    store.mkdir(home)
    store.set_permissions(home, *guest_may_read)
    store.write_all(vm, {"name": request.name, "uuid": str(request.uuid), "start_time": f"{host.started:.2f}"})
    store.write_all(
        home,
        {
            "vm": vm,
            "name": request.name,
            "domid": str(domid),
            "cpu/0/availability": "online",
            "memory/static-max": str(request.most_memory >> 10),
            "memory/target": str(request.memory >> 10),
            "memory/videoram": "0",
            "device/suspend/event-channel": "",
            "control/platform-feature-multiprocessor-suspend": "1",
            "control/platform-feature-xs_reset_watches": "1",
            "store/ring-ref": str(xenstore),
            "store/port": str(rings.xenstore_port),
            "console/backend-id": "0",
            "console/limit": str(CONSOLE_LIMIT),
            "console/output": "pty",
            "console/port": str(rings.console_port),
            "console/ring-ref": str(console),
            "console/type": "xenconsoled",
        },
    )
    # What the guest itself writes.
    for name in ("control/shutdown", "control/feature-poweroff", "control/feature-reboot", "control/feature-suspend"):
        store.write(f"{home}/{name}", "")
        store.set_permissions(f"{home}/{name}", f"n{domid}")
    for name in ("control/sysrq", "data", "drivers", "feature", "attr", "error", "device/suspend/event-channel"):
        store.write(f"{home}/{name}", "")
        store.set_permissions(f"{home}/{name}", f"n{domid}")


def destroy(host: Host, domid: int) -> None:
    """Destroy a domain and forget it (xl destroy). The daemons have let go of it when this returns."""
    store, home = host.services.xenstore, f"/local/domain/{domid}"
    for device in devices_of(store, domid):
        if not detach(store, domid, device):
            host.services.log(f"{device.title} of domain {domid}: its back end does not let go")
    with contextlib.suppress(XenStoreRefused):
        store.remove(f"/libxl/{domid}")
    host.control.destroy_domain(domid)
    host.services.domain_events.tell()
    with contextlib.suppress(XenStoreRefused):  # one that could not be built has no nodes yet
        store.remove(store.read(f"{home}/vm"))
        store.remove(home)
