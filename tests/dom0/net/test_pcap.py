"""Captures, as tcpdump reads them."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from euxen.dom0.net.pcap import PcapWriter, pcap_record

ARP = bytes.fromhex("ffffffffffff00163e0000010806000108000604000100163e0000010a00020f0000000000000a000202")


class Kept(io.BytesIO):
    """A file whose contents are there when it is closed."""

    def close(self) -> None:
        """Not yet."""


def test_file() -> None:
    file = Kept()
    writer = PcapWriter(file)
    writer.write(1_700_000_000_123_456_789, [ARP, memoryview(ARP)[:20]])
    writer.close()
    data = file.getvalue()
    assert struct.unpack_from("<IHHiIII", data) == (0xA1B23C4D, 2, 4, 0, 0, 1 << 18, 1)
    assert struct.unpack_from("<IIII", data, 24) == (1_700_000_000, 123_456_789, len(ARP), len(ARP))
    assert data[40 : 40 + len(ARP)] == ARP
    assert struct.unpack_from("<IIII", data, 40 + len(ARP)) == (1_700_000_000, 123_456_789, 20, 20)
    assert data[56 + len(ARP) :] == ARP[:20]


def test_times_after_2106_go_round() -> None:
    assert struct.unpack_from("<I", pcap_record((1 << 32) * 1_000_000_000, ARP)) == (0,)


def test_tcpdump_reads_it(tmp_path: Path) -> None:
    if shutil.which("tcpdump") is None:
        pytest.fail("this test needs tcpdump", pytrace=False)
    path = tmp_path / "arp.pcap"
    PcapWriter(path.open("wb")).write(1_700_000_000_000_000_000, [ARP])
    done = subprocess.run(["tcpdump", "-n", "-tt", "--nano", "-r", path], capture_output=True, text=True, check=True)
    assert done.stdout == "1700000000.000000000 ARP, Request who-has 10.0.2.2 tell 10.0.2.15, length 28\n"
