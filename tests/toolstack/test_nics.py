"""Network interfaces of a configuration: the nodes that come of them, and what is said of those that cannot be."""

from __future__ import annotations

import re

import pytest

from euxen.dom0.net import nat
from euxen.dom0.net.nat import NatMissing, NatPort
from euxen.dom0.services import Services
from euxen.toolstack.config.nic import Nic, parse_nic
from euxen.toolstack.devices import Device, attach, detach, devices_of
from euxen.toolstack.errors import UserError
from euxen.toolstack.machine import Host, memory_for
from euxen.toolstack.nics import nic_device, with_forwards

pytestmark = pytest.mark.usefixtures("native")
DOMID = 5
FRONTEND, BACKEND = f"/local/domain/{DOMID}/device/vif/0", f"/local/domain/0/backend/vif/{DOMID}/0"
LIBXL = f"/libxl/{DOMID}/device/vif/0"


@pytest.fixture
def services() -> Services:
    return Host(memory_for(0, 4)).services


def nodes(services: Services, directory: str) -> dict[str, str]:
    return {name: services.xenstore.read(f"{directory}/{name}") for name in services.xenstore.list(directory)}


def nic(specification: str, devid: int = 0) -> Device:
    return nic_device(parse_nic(specification, devid, lambda warning: None))


def test_nodes(services: Services) -> None:
    device = nic("mac=00:16:3e:01:02:03,bridge=br1,rate=10Mb/s@20ms,ip=10.0.0.1,vifname=mine,model=e1000")
    attach(services.xenstore, DOMID, device)
    assert nodes(services, FRONTEND) == {
        "backend": BACKEND,
        "backend-id": "0",
        "state": "1",
        "handle": "0",
        "mac": "00:16:3e:01:02:03",
        "mtu": "1500",
        "trusted": "1",
    }
    by_libxl = {
        "frontend": FRONTEND,
        "frontend-id": str(DOMID),
        "online": "1",
        "script": "/etc/xen/scripts/vif-bridge",
        "mac": "00:16:3e:01:02:03",
        "vifname": "mine",
        "ip": "10.0.0.1",
        "rate": "25000,20000",
        "bridge": "br1",
        "handle": "0",
        "type": "vif",
        "mtu": "1500",
    }
    assert nodes(services, LIBXL) == {"backend": BACKEND, **by_libxl, "state": "1", "hotplug-status": ""}
    features = ["sg", "gso-tcpv4", "gso-tcpv6", "ipv6-csum-offload", "rx-copy", "multicast-control", "ctrl-ring"]
    features += ["dynamic-multicast-control", "split-event-channels"]
    assert nodes(services, BACKEND) == {
        **by_libxl,
        "state": "2",
        "hotplug-status": "connected",
        **{f"feature-{name}": "1" for name in features},
        "feature-rx-flip": "0",
        "multi-queue-max-queues": "8",
    }
    assert [port.name for port in services.networks.lans["br1"].ports] == ["mine"]
    detach(services.xenstore, DOMID, device)
    assert services.networks.lans == {} and devices_of(services.xenstore, DOMID) == []


def test_defaults() -> None:
    device = nic("", 3)
    assert re.fullmatch("00:16:3e:[0-7][0-9a-f](:[0-9a-f]{2}){2}", device.backend["mac"])
    assert device.backend["mac"] == device.frontend["mac"]
    assert device.backend["bridge"] == "xenbr0" and device.devid == 3
    assert "rate" not in device.backend and "vifname" not in device.backend
    assert nic_device(Nic(devid=0)).backend["mac"] != nic_device(Nic(devid=0)).backend["mac"]
    assert nic("untrusted,mtu=9000").frontend["trusted"] == "0"
    assert nic("mtu=9000").frontend["mtu"] == nic("mtu=9000").backend["mtu"] == "9000"


@pytest.mark.parametrize(
    ("specification", "sentence"),
    [
        ("backend=driver", "backend=driver names another domain; only Domain 0 has back ends yet"),
        ("script=vif-route", "there are no scripts here (script=vif-route); name a bridge"),
        ("type=ioemu", "a PV guest has no emulated interfaces (type=ioemu)"),
    ],
)
def test_what_there_is_not(specification: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        nic(specification, 2)
    assert str(caught.value) == f"network interface 2: {sentence}"


def test_what_changes_nothing() -> None:
    nic("backend=0,script=vif-bridge,type=vif")
    nic("backend=Domain-0,script=/etc/xen/scripts/vif-bridge")


# Ports that are forwarded.


def test_forwards() -> None:
    first, second = nic("mac=00:16:3e:00:00:01", 0), nic("mac=00:16:3e:00:00:02", 1)
    assert with_forwards((first, second), []) == (first, second)
    changed, same = with_forwards((first, second), ["tcp:2222:22", "udp:53:5353"])
    assert changed.backend["forward"] == "tcp:2222:22 udp:53:5353" and same == second


@pytest.mark.parametrize("text", ["", "22", "2222:22", "tcp:0:22", "tcp:2222:65536", "icmp:1:2", "tcp:1:2:3"])
def test_bad_forwards(text: str) -> None:
    with pytest.raises(UserError, match="names no ports: it has to be like tcp:2222:22, the host's before the guest's"):
        with_forwards((nic("", 0),), [text])


@pytest.mark.parametrize("devices", [(), (nic("bridge=br1"),)])
def test_nobody_to_forward_to(devices: tuple[Device, ...]) -> None:
    with pytest.raises(UserError, match=r"first interface \(vif\) is on xenbr0 can"):
        with_forwards(devices, ["tcp:2222:22"])


def test_a_port_that_is_taken(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """passt says so and ends; then there is no such interface."""
    monkeypatch.setattr(nat, "passt_command", lambda *_: ["sh", "-c", "echo Failed to bind port 2222 >&2; exit 1"])
    monkeypatch.setattr("shutil.which", lambda name: "/bin/true")
    (device,) = with_forwards((nic(""),), ["tcp:2222:22"])
    with pytest.raises(UserError) as caught:
        attach(services.xenstore, DOMID, device)
    assert str(caught.value) == "network interface 0: passt cannot forward ports: Failed to bind port 2222"
    assert services.networks.lans == {} and devices_of(services.xenstore, DOMID) == []


def test_without_passt(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is an interface all the same, and a sentence in the log."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    lines: list[str] = []
    services.networks._log = lines.append
    attach(services.xenstore, DOMID, nic(""))
    (line,) = lines
    assert line.startswith("vif5.0: passt is not on this host, so guests on xenbr0 reach each other and nobody else")
    lan = services.networks.lans["xenbr0"]
    with pytest.raises(NatMissing):
        NatPort(services.control, lan, lines.append).attach(lan.ports[1])
    detach(services.xenstore, DOMID, nic(""))
