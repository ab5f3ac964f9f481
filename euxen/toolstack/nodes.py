"""The xenstore nodes that libxl makes for a domain without devices.

libxl__domain_make and libxl__domain_build in tools/libs/light/libxl_create.c, libxl__build_post in libxl_dom.c, and
libxl__device_console_add; docs/misc/xenstore-paths.pandoc says what they mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from euxen.toolstack.builder.common import BuiltDomain, Rings
from euxen.toolstack.kernel.layout import GuestKind
from euxen.toolstack.request import Request

CONSOLE_LIMIT = 1 << 20
DM_VERSION = "qemu_xen"
"""What libxl says of every domain, device model or not."""
WRITTEN_BY_GUEST = (
    *("control/shutdown", "control/feature-poweroff", "control/feature-reboot", "control/feature-suspend"),
    *("control/sysrq", "data", "drivers", "feature", "attr", "error", "device/suspend/event-channel"),
)


@dataclass(frozen=True)
class Node:
    """A node to be made. Without ``permissions`` it has those of its parent."""

    path: str
    value: str = ""
    permissions: tuple[str, ...] = ()


def home_of(domid: int) -> str:
    """Where the nodes are that a domain looks at."""
    return f"/local/domain/{domid}"


def libxl_home_of(domid: int) -> str:
    """Where libxl keeps what it has to know of a domain."""
    return f"/libxl/{domid}"


def domain_nodes(request: Request, domid: int, built: BuiltDomain, rings: Rings, started: float) -> Iterator[Node]:
    """All nodes, parents first. ``started`` is the time of day, in seconds since 1970."""
    home, libxl, vm = home_of(domid), libxl_home_of(domid), f"/vm/{request.uuid}"
    guest_may_read = ("n0", f"r{domid}")
    yield Node(home, permissions=guest_may_read)
    yield Node(vm, permissions=guest_may_read)
    yield Node(libxl, permissions=("n0",))
    yield Node(f"{libxl}/device")
    yield Node(f"{libxl}/type", request.kind)
    yield Node(f"{libxl}/dm-version", DM_VERSION)
    for name, value in _vm(request, started).items():
        yield Node(f"{vm}/{name}", value)
    values = {
        "vm": vm,
        "name": request.name,
        "domid": str(domid),
        **{f"cpu/{vcpu}/availability": "online" if on else "offline" for vcpu, on in enumerate(request.online)},
        "memory/static-max": str(request.most_memory >> 10),
        "memory/target": str(request.memory >> 10),
        "memory/videoram": "0",
        "control/platform-feature-multiprocessor-suspend": "1",
        "control/platform-feature-xs_reset_watches": "1",
        "store/ring-ref": str(built.xenstore_frame),
        "store/port": str(rings.xenstore_port),
        "console/backend-id": "0",
        "console/limit": str(CONSOLE_LIMIT),
        "console/output": "pty",
        "console/port": str(rings.console_port),
        "console/ring-ref": str(built.console_frame),
        "console/type": "xenconsoled",
    }
    for name, value in values.items():
        yield Node(f"{home}/{name}", value)
    for name in WRITTEN_BY_GUEST:
        yield Node(f"{home}/{name}", permissions=(f"n{domid}",))


def _vm(request: Request, started: float) -> dict[str, str]:
    """What /vm says, which is more of PV guests."""
    values = {"uuid": str(request.uuid), "name": request.name, "start_time": f"{started:.2f}"}
    if request.kind is GuestKind.PV:
        values |= {"image/ostype": "linux", "image/kernel": request.image.path}
        if request.ramdisk_path is not None:
            values["image/ramdisk"] = request.ramdisk_path
        if request.command_line:
            values["image/cmdline"] = request.command_line
    return values
