"""Disks of a configuration: the nodes that come of them, and what is said of those that cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from euxen.dom0.services import Services
from euxen.toolstack.config.disk import parse_disk
from euxen.toolstack.devices import attach, detach, devices_of
from euxen.toolstack.disks import disk_device
from euxen.toolstack.errors import UserError
from euxen.toolstack.machine import Host, memory_for

pytestmark = pytest.mark.usefixtures("native")
DOMID = 5
FRONTEND, BACKEND = f"/local/domain/{DOMID}/device/vbd/51712", f"/local/domain/0/backend/qdisk/{DOMID}/51712"
LIBXL = f"/libxl/{DOMID}/device/vbd/51712"


@pytest.fixture
def services() -> Services:
    return Host(memory_for(0)).services


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


def nodes(services: Services, directory: str) -> dict[str, str]:
    return {name: services.xenstore.read(f"{directory}/{name}") for name in services.xenstore.list(directory)}


def test_nodes(services: Services, image: Path) -> None:
    device = disk_device(parse_disk(f"{image},raw,xvda,rw"))
    attach(services.xenstore, DOMID, device)
    assert nodes(services, FRONTEND) == {
        "backend": BACKEND,
        "backend-id": "0",
        "state": "1",
        "virtual-device": "51712",
        "device-type": "disk",
        "protocol": "x86_64-abi",
    }
    by_libxl = {
        "frontend": FRONTEND,
        "frontend-id": str(DOMID),
        "online": "1",
        "removable": "0",
        "bootable": "1",
        "dev": "xvda",
        "type": "qdisk",
        "mode": "w",
        "device-type": "disk",
        "discard-enable": "1",
        "params": f"aio:{image}",
    }
    assert nodes(services, LIBXL) == {**by_libxl, "backend": BACKEND, "state": "1"}
    backend = nodes(services, BACKEND)
    assert backend.pop("state") == "2"
    assert by_libxl.items() <= backend.items()
    offered = {name: backend[name] for name in backend if name.startswith(("feature-", "m"))}
    del offered["mode"]
    assert offered == {
        "feature-barrier": "1",
        "feature-discard": "1",
        "feature-flush-cache": "1",
        "feature-max-indirect-segments": "256",
        "feature-persistent": "1",
        "max-ring-page-order": "4",
        "max-ring-pages": "16",
        "multi-queue-max-queues": "4",
    }
    assert [found.devid for found in devices_of(services.xenstore, DOMID)] == [51712]
    assert detach(services.xenstore, DOMID, devices_of(services.xenstore, DOMID)[0])
    assert services.backends.devices == []
    for gone in (FRONTEND, BACKEND, LIBXL):
        with pytest.raises(Exception, match="ENOENT"):
            services.xenstore.list(gone)
    attach(services.xenstore, DOMID, device)  # the image is free again
    detach(services.xenstore, DOMID, device)


def test_a_cd_rom(services: Services, image: Path) -> None:
    device = disk_device(parse_disk(f"vdev=xvda, cdrom, target={image}"))
    attach(services.xenstore, DOMID, device)
    backend = nodes(services, BACKEND)
    assert (backend["removable"], backend["mode"], backend["device-type"]) == ("1", "r", "cdrom")
    assert backend["feature-discard"] == "0"
    detach(services.xenstore, DOMID, device)
    empty = disk_device(parse_disk("vdev=xvda, cdrom"))
    attach(services.xenstore, DOMID, empty)
    backend = nodes(services, BACKEND.replace("qdisk", "vbd"))
    assert (backend["params"], backend["type"]) == ("", "phy")
    detach(services.xenstore, DOMID, empty)


def test_no_discard(services: Services, image: Path) -> None:
    device = disk_device(parse_disk(f"{image},raw,xvda,rw,no-discard"))
    attach(services.xenstore, DOMID, device)
    assert nodes(services, BACKEND)["feature-discard"] == "0"
    detach(services.xenstore, DOMID, device)


def refused(services: Services, specification: str) -> str:
    with pytest.raises(UserError) as caught:
        attach(services.xenstore, DOMID, disk_device(parse_disk(specification)))
    assert services.backends.devices == []
    return str(caught.value)


def test_images_that_cannot_be_used(services: Services, tmp_path: Path, image: Path) -> None:
    assert refused(services, "/missing,raw,xvda,w") == "disk xvda: /missing is not there"
    odd = tmp_path / "odd"
    odd.write_bytes(bytes(1000))
    assert refused(services, f"{odd},raw,xvda,w") == (
        f"disk xvda: {odd} has 1000 bytes, and a disk has a multiple of 512; 'truncate --size=%512' rounds it up"
    )
    assert refused(services, f"{tmp_path},raw,xvda,r") == f"disk xvda: {tmp_path} is neither a file nor a block device"
    first = disk_device(parse_disk(f"{image},raw,xvdb,w"))
    attach(services.xenstore, DOMID, first)
    with pytest.raises(UserError, match="is in use: another guest has it as a disk, or this one twice"):
        attach(services.xenstore, DOMID, disk_device(parse_disk(f"{image},raw,xvda,w")))
    detach(services.xenstore, DOMID, first)


def test_a_name_with_what_is_not_printable(services: Services, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/a\x1b[31m\xff")
    assert refused(services, f"{name},raw,xvda,w") == f"disk xvda: {tmp_path}/a\\x1b[31m\\xff is not there"


@pytest.mark.parametrize(
    ("specification", "sentence"),
    [
        ("/d,raw,foo,w", "disk foo: Invalid or unsupported virtual disk identifier foo"),
        ("/d,raw,xvda,w,backend=storage", "disk xvda: backend=storage names another domain; only Domain 0 has"),
        ("vdev=xvda,script=block-iscsi,target=x", r"disk xvda: there are no scripts here \(script=block-iscsi\)"),
        ("vdev=xvda,backendtype=tap,target=/x", "disk xvda: backendtype=tap is not supported; leave it out"),
        ("vdev=xvda,backendtype=phy,target=/x", "disk xvda: /x is no block device, which backendtype=phy asks for"),
        ("vdev=xvda,specification=virtio,target=/x", "disk xvda: specification=virtio is not supported"),
    ],
)
def test_what_there_is_not(specification: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        disk_device(parse_disk(specification))
