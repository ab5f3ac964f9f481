"""Network specifications: the rules of xl-network-configuration(5), and what is said of what breaks them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euxen.toolstack.config.errors import ConfigError
from euxen.toolstack.config.nic import Nic, NicType, Rate, parse_nic, parse_rate


def parse(spec: str, devid: int = 0) -> tuple[Nic, list[str]]:
    warnings: list[str] = []
    return parse_nic(spec, devid, warnings.append), warnings


@pytest.mark.parametrize(
    ("spec", "nic"),
    [
        ("", Nic(devid=7)),
        (",,", Nic(devid=7)),
        ("mac=00:16:3E:74:34:32", Nic(devid=7, mac="00:16:3e:74:34:32")),
        ("mac=0:16:3E:1:2:3", Nic(devid=7, mac="00:16:3e:01:02:03")),
        (
            "bridge=xenbr1, model=rtl8139,type=ioemu",
            Nic(devid=7, bridge="xenbr1", model="rtl8139", type=NicType.VIF_IOEMU),
        ),
        ("type=vif", Nic(devid=7, type=NicType.VIF)),
        ("ip=10.0.0.1 fe80::1,script=vif-route", Nic(devid=7, ip="10.0.0.1 fe80::1", script="vif-route")),
        ("gatewaydev=eth0,backend=net,vifname=web", Nic(devid=7, gatewaydev="eth0", backend="net", vifname="web")),
        ("bridge=a,bridge=b=c", Nic(devid=7, bridge="b=c")),
        ("devid=3,mtu=9000", Nic(devid=3, mtu=9000)),
        ("trusted", Nic(devid=7, trusted=True)),
        ("untrusted", Nic(devid=7, trusted=False)),
        ("rate=1MB/s@20ms", Nic(devid=7, rate=Rate(20_000, 20_000))),
    ],
)
def test_meaning(spec: str, nic: Nic) -> None:
    assert parse(spec, 7) == (nic, [])


@pytest.mark.parametrize(
    ("spec", "nic", "warning"),
    [
        (
            "netdev=eth0",
            Nic(devid=0, gatewaydev="eth0"),
            "the netdev parameter is deprecated, please use gatewaydev instead",
        ),
        ("accel=eth0", Nic(devid=0), "the accel parameter for vifs is currently not supported"),
    ],
)
def test_warnings(spec: str, nic: Nic, warning: str) -> None:
    assert parse(spec) == (nic, [warning])


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("foo=1", "unrecognized argument `foo=1'"),
        ("bridge", "unrecognized argument `bridge'"),
        ("BRIDGE=x", "unrecognized argument `BRIDGE=x'"),
        ("trusted=1", "unrecognized argument `trusted=1'"),
        ("mac=00:16", "invalid parameter `mac'"),
        ("mac=00:16:3e:01:02:03:04", "invalid parameter `mac'"),
        ("mac=00:16:3e:01:02:0g", "invalid parameter `mac'"),
        ("type=foo", "invalid parameter `type'"),
        ("devid=x", 'failed to convert "x" to number'),
        ("mtu=", 'failed to convert "" to number'),
        ("mtu=99999999999", 'failed to convert "99999999999" to number'),
        ("rate=x", "config parsing error in vif: invalid rate in `x'"),
        ("forwarddev=eth0", "COLO is not supported: `forwarddev'"),
        ("colo_compare_out=1", "COLO is not supported: `colo_compare_out'"),
    ],
)
def test_refusals(spec: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(spec)
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10Mb/s", Rate(62_500, 50_000)),
        ("250KB/s", Rate(12_500, 50_000)),
        ("1MB/s@20ms", Rate(20_000, 20_000)),
        ("1GB/s", Rate(50_000_000, 50_000)),
        ("8b/s@1s", Rate(1, 1_000_000)),
        ("8B/s@1000000u", Rate(8, 1_000_000)),
        ("8B/s@1000m", Rate(8, 1_000_000)),
        ("8B/s@1", Rate(8, 1_000_000)),
        ("010KB/s@010s", Rate(64_000, 8_000_000)),
        ("4294967295B/s@4294967295us", Rate(4294967295**2 // 10**6, 4294967295)),
    ],
)
def test_rates(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no rate specified in `'"),
        ("@1s", "no rate specified in `@1s'"),
        ("5", "invalid rate in `5'"),
        ("5TB/s", "invalid rate in `5TB/s'"),
        ("-5B/s", "invalid rate in `-5B/s'"),
        ("0B/s", "rate overflow in `0B/s'"),
        ("08B/s", "rate overflow in `08B/s'"),
        ("4294967296B/s", "rate overflow in `4294967296B/s'"),
        ("9" * 5000 + "B/s", "rate overflow in `" + "9" * 5000 + "B/s'"),
        ("4294967295GB/s@10s", "rate overflow in `4294967295GB/s@10s'"),
        ("1B/s@", "invalid replenishment interval in `'"),
        ("1B/s@1h", "invalid replenishment interval in `1h'"),
        ("1B/s@0s", "replenishment interval overflow in `0s'"),
        ("1B/s@4295s", "replenishment interval overflow in `4295s'"),
    ],
)
def test_no_rates(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rate(text)
    assert str(caught.value) == f"config parsing error in vif: {complaint}"


words = st.sampled_from(
    ["mac=", "00:16:3e:", "rate=", "1", "MB/s", "@", "s", "devid=", "mtu=", "trusted", ",", " ", "="]
)


@given(st.one_of(st.text(), st.lists(words).map("".join)))
def test_any_text(spec: str) -> None:
    try:
        parse(spec)
    except ConfigError:
        return
