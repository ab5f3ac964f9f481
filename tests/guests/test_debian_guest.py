"""Debian as a guest of each kind: what works in it is what Xen gave it. Both its kernels, as the packages have them."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator

import pytest
from terminal import run

from euxen.toolstack.debian import DebianGuest
from euxen.toolstack.initramfs import Entry, newc

SCRIPT = """
echo "== what it is"
cat /sys/hypervisor/type /sys/hypervisor/guest_type
uname -r
cat /proc/cmdline
sed -n 's/^MemTotal: *//p' /proc/meminfo
grep -c ^processor /proc/cpuinfo

echo "== events"
dmesg | sed -n 's/.*xen:events: //p'

echo "== firmware tables"
ls /sys/firmware/acpi/tables 2> /dev/null | grep -v '^d'
dmesg | sed -n 's/.*ACPI: \\([0-9]*\\) ACPI AML tables successfully.*/loaded \\1/p'
dmesg | sed -n 's/.*ACPI \\(Error\\|Warning\\|BIOS Error.*\\): //p'

echo "== forks"
i=0
while [ $i -lt 300 ]; do
    [ "$(echo $i)" = $i ] && i=$((i + 1))
done
echo $i

echo "== pipes"
seq 1 2000 | sort -rn | tac | sort -n | md5sum
seq 1 200 | xargs -n 1 -P 4 sh -c 'exit 0' && echo all

echo "== memory"
sha256sum /bin/busybox
dd if=/dev/zero bs=1M count=48 2> /dev/null | tr '\\0' 'x' > /tmp/large
cp /tmp/large /tmp/copy && cmp /tmp/large /tmp/copy && sha1sum < /tmp/copy
rm /tmp/large /tmp/copy

echo "== arithmetic"
awk 'BEGIN { for (i = 1; i <= 20000; i++) { s += 1 / i; p = p * 0.75 + s } printf "%.15g %.15g\\n", s, p }'

echo "== signals"
sleep 1000 &
kill $!
wait $!
echo $?
sh -c 'kill -SEGV $$'
echo $?
(trap 'echo caught' USR1; kill -USR1 $(exec sh -c 'echo $PPID'); :)

echo "== time"
date +%s
sleep 0.2
cat /sys/devices/system/clocksource/clocksource0/current_clocksource

echo "== end"
"""


class Story:
    """What the script said, by its headings."""

    def __init__(self, console: str) -> None:
        parts = re.split(r"^== (.+)$", console.replace("\r\n", "\n"), flags=re.MULTILINE)
        self.console = console
        self.said = {name: text.strip().split("\n") for name, text in zip(parts[1::2], parts[2::2], strict=True)}

    def __getitem__(self, name: str) -> list[str]:
        assert name in self.said, self.console
        return self.said[name]


@pytest.fixture(scope="module", params=["debian_cloud", "debian_full"])
def guest(request: pytest.FixtureRequest) -> DebianGuest:
    """Each of the kernels."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, DebianGuest)
    return found


@pytest.fixture(scope="module", params=["pv", "pvh"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of guest."""
    return str(request.param)


@pytest.fixture(scope="module")
def story(guest: DebianGuest, kind: str, native: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """One boot that runs the script."""
    ramdisk = tmp_path_factory.mktemp("guest") / "initramfs.cpio"
    script = Entry("script", stat.S_IFREG | 0o755, SCRIPT.encode())
    ramdisk.write_bytes(guest.initramfs.read_bytes() + newc([script]))
    files = ["--kernel", str(guest.kernel), "--ramdisk", str(ramdisk)]
    done = run("run", "--type", kind, *files, "--root", "none", "--extra", "console=hvc0 quiet", "--memory", "200")
    told = done.stdout.decode()
    assert done.returncode == 0, told + done.stderr.decode()
    assert done.stderr == b""
    yield Story(told)


def test_it_came_to_the_end(story: Story) -> None:
    assert re.search(r"reboot: (System halted|Power down)", story["end"][0])
    assert not re.search(r"BUG|WARNING|Oops|Call Trace|stuck|hung", story.console)


def test_it_sees_xen(story: Story, guest: DebianGuest, kind: str) -> None:
    hypervisor, way, release, command_line, memory, processors = story["what it is"]
    assert (hypervisor, way, release) == ("xen", kind.upper(), guest.version)
    assert command_line == "root=none console=hvc0 quiet"
    assert 120 << 10 < int(memory.removesuffix(" kB")) < 200 << 10
    assert processors == "1"


def test_events(story: Story, kind: str) -> None:
    by_vector = ["Xen HVM callback vector for event delivery is enabled"] if kind == "pvh" else []
    assert story["events"] == ["Using FIFO-based ABI", *by_vector]


UNHANDLED = (0, 1, 3, 4, 5, 6, 7)
NO_HANDLER = [f"No handler or method for GPE {event:02}, disabling event (20220331/evgpe-839)" for event in UNHANDLED]


def test_firmware_tables(story: Story, kind: str) -> None:
    """Linux takes all that a PVH guest gets, loads what is code in it, and misses what it misses under Xen.

    There, too, the FADT tells of a port for general-purpose events, where a guest finds nothing, and the DSDT has a
    method for event 2 alone.
    """
    if kind == "pv":
        assert story["firmware tables"] == [""]
    else:
        assert story["firmware tables"] == ["APIC", "DSDT", "FACP", "FACS", "loaded 1", *NO_HANDLER]


def test_forks(story: Story) -> None:
    assert story["forks"] == ["300"]


def test_pipes(story: Story) -> None:
    numbers = "".join(f"{number}\n" for number in range(1, 2001)).encode()
    assert story["pipes"] == [f"{hashlib.md5(numbers).hexdigest()}  -", "all"]


def test_memory_keeps_what_is_written(story: Story, guest: DebianGuest) -> None:
    busybox, copy = story["memory"]
    assert busybox.split()[0] == hashlib.sha256(guest.busybox.read_bytes()).hexdigest()
    assert copy.split()[0] == hashlib.sha1(b"x" * (48 << 20)).hexdigest()


def test_arithmetic(story: Story) -> None:
    """To the last bit: both do it in double precision, in the same order."""
    harmonic = power = 0.0
    for number in range(1, 20001):
        harmonic += 1 / number
        power = power * 0.75 + harmonic
    assert story["arithmetic"] == [f"{harmonic:.15g} {power:.15g}"]


def test_signals(story: Story) -> None:
    assert [line for line in story["signals"] if line in ("143", "139", "caught")] == ["143", "139", "caught"]


def test_time_of_day(story: Story) -> None:
    seconds, source = story["time"]
    assert source == "xen"
    assert int(seconds) > 1_700_000_000
