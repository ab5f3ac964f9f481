"""The xenstore nodes of a domain, against what real xl made for one (Xen 4.17)."""

from __future__ import annotations

from uuid import UUID

import pytest

from euxen.toolstack.builder.common import BuiltDomain, Rings
from euxen.toolstack.kernel.image import parse_kernel
from euxen.toolstack.kernel.layout import GuestKind
from euxen.toolstack.nodes import Node, domain_nodes
from euxen.toolstack.request import Request

from .kernel.elf_writer import PHYS32_ENTRY, Elf, note, pv_notes

UUID_TEXT = "fa10906a-a613-41a6-a658-f25fa2c23da9"
KERNEL = "/boot/vmlinuz-6.1.0-56-cloud-amd64"

# What `xenstore-ls -fp` showed, without the devices, the pseudoterminal of xenconsoled, and what the guest had written.
OF_XL = f"""
/libxl/10 = ""   (n0)
/libxl/10/device = ""   (n0)
/libxl/10/dm-version = "qemu_xen"   (n0)
/libxl/10/type = "pv"   (n0)
/local/domain/10 = ""   (n0,r10)
/local/domain/10/attr = ""   (n10)
/local/domain/10/console/backend-id = "0"   (n0,r10)
/local/domain/10/console/limit = "1048576"   (n0,r10)
/local/domain/10/console/output = "pty"   (n0,r10)
/local/domain/10/console/port = "2"   (n0,r10)
/local/domain/10/console/ring-ref = "493058"   (n0,r10)
/local/domain/10/console/type = "xenconsoled"   (n0,r10)
/local/domain/10/control/feature-poweroff = ""   (n10)
/local/domain/10/control/feature-reboot = ""   (n10)
/local/domain/10/control/feature-suspend = ""   (n10)
/local/domain/10/control/platform-feature-multiprocessor-suspend = "1"   (n0,r10)
/local/domain/10/control/platform-feature-xs_reset_watches = "1"   (n0,r10)
/local/domain/10/control/shutdown = ""   (n10)
/local/domain/10/control/sysrq = ""   (n10)
/local/domain/10/cpu/0/availability = "online"   (n0,r10)
/local/domain/10/cpu/1/availability = "online"   (n0,r10)
/local/domain/10/data = ""   (n10)
/local/domain/10/device/suspend/event-channel = ""   (n10)
/local/domain/10/domid = "10"   (n0,r10)
/local/domain/10/drivers = ""   (n10)
/local/domain/10/error = ""   (n10)
/local/domain/10/feature = ""   (n10)
/local/domain/10/memory/static-max = "262144"   (n0,r10)
/local/domain/10/memory/target = "196608"   (n0,r10)
/local/domain/10/memory/videoram = "0"   (n0,r10)
/local/domain/10/name = "g1"   (n0,r10)
/local/domain/10/store/port = "1"   (n0,r10)
/local/domain/10/store/ring-ref = "493057"   (n0,r10)
/local/domain/10/vm = "/vm/{UUID_TEXT}"   (n0,r10)
/vm/{UUID_TEXT} = ""   (n0,r10)
/vm/{UUID_TEXT}/image/cmdline = "console=hvc0 nobench stay"   (n0,r10)
/vm/{UUID_TEXT}/image/kernel = "{KERNEL}"   (n0,r10)
/vm/{UUID_TEXT}/image/ostype = "linux"   (n0,r10)
/vm/{UUID_TEXT}/image/ramdisk = "/stage/initramfs-domU.cpio.gz"   (n0,r10)
/vm/{UUID_TEXT}/name = "g1"   (n0,r10)
/vm/{UUID_TEXT}/start_time = "1795348261.32"   (n0,r10)
/vm/{UUID_TEXT}/uuid = "{UUID_TEXT}"   (n0,r10)
""".strip().split("\n")

BUILT = BuiltDomain(console_frame=493058, xenstore_frame=493057, segments=())


def request(kind: GuestKind, vcpus: int = 2) -> Request:
    image = parse_kernel(Elf(notes=pv_notes() + note(PHYS32_ENTRY, 0x100000)).build(), KERNEL)
    return Request(
        name="g1",
        image=image,
        ramdisk=b"",
        command_line="console=hvc0 nobench stay",
        memory=192 << 20,
        uuid=UUID(UUID_TEXT),
        max_memory=256 << 20,
        kind=kind,
        vcpus=vcpus,
        max_vcpus=2,
        ramdisk_path="/stage/initramfs-domU.cpio.gz",
    )


def listing(nodes: list[Node]) -> list[str]:
    """As xenstore-ls -fp shows them: a node has its parent's permissions, if nothing else is said."""
    permissions: dict[str, tuple[str, ...]] = {}
    lines = []
    for node in nodes:
        parent = node.path
        while parent not in permissions and not node.permissions:
            parent = parent.rpartition("/")[0]
        permissions[node.path] = node.permissions or permissions[parent]
        lines.append(f'{node.path} = "{node.value}"   ({",".join(permissions[node.path])})')
    return sorted(lines)


def nodes(kind: GuestKind, vcpus: int = 2) -> list[str]:
    rings = Rings(console_port=2, xenstore_port=1)
    return listing(list(domain_nodes(request(kind, vcpus), 10, BUILT, rings, 1795348261.324)))


def test_pv() -> None:
    assert nodes(GuestKind.PV) == OF_XL


def test_pvh() -> None:
    """The same for the guest to see; of its image, libxl says nothing."""
    expected = [line.replace('"pv"', '"pvh"') for line in OF_XL if "/image/" not in line]
    assert nodes(GuestKind.PVH) == expected


@pytest.mark.parametrize("kind", GuestKind)
def test_a_vcpu_that_is_not_there_yet(kind: GuestKind) -> None:
    assert '/local/domain/10/cpu/1/availability = "offline"   (n0,r10)' in nodes(kind, vcpus=1)
