"""`euxen run CONFIG`: a domain as an xl.cfg describes it."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

import pytest
import tiny
from terminal import run

from euxen.abi import sched
from euxen.toolstack.debian import DebianGuest

POWEROFF = tiny.SHUTDOWN.format(reason=sched.SHUTDOWN_poweroff)

pytestmark = pytest.mark.usefixtures("native")


def config(directory: Path, **settings: object) -> Path:
    """Write a configuration: a tiny guest, unless other settings are given."""
    chosen = {"name": "guest", "kernel": str(directory / "kernel"), "memory": 16, **settings}
    tiny.kernel(directory / "kernel", POWEROFF)
    path = directory / "guest.cfg"
    lines = [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in chosen.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def refusal(*arguments: str | Path, status: int = 1) -> str:
    done = run("run", *arguments)
    told = done.stderr.decode()
    assert (done.returncode, done.stdout) == (status, b""), told
    assert told.startswith("euxen")
    assert told.count("\n") == 1
    return told.partition(": ")[2].rstrip("\n")


def test_a_domain(tmp_path: Path) -> None:
    done = run("run", config(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_debian(debian_cloud: DebianGuest, tmp_path: Path) -> None:
    """Name, identity, memory and command line arrive in the guest."""
    uuid = uuid4()
    files = {"kernel": str(debian_cloud.kernel), "ramdisk": str(debian_cloud.initramfs)}
    path = config(
        tmp_path, **files, name="Ana's", uuid=str(uuid), memory=160, maxmem=320, root="none", extra="console=hvc0 quiet"
    )
    script = b"""
cat /sys/hypervisor/uuid
cat /proc/cmdline
echo online: $(sed -n 's/MemTotal: *//p' /proc/meminfo)
dmesg | grep 'usable$'
poweroff -f
"""
    done = run("run", path, stdin=script)
    told = done.stdout.decode()
    assert done.returncode == 0
    assert f"{uuid}\r\n" in told
    assert "root=none console=hvc0 quiet\r\n" in told
    online = re.search(r"online: (\d+) kB", told)
    assert online
    assert 100 << 10 < int(online[1]) < 160 << 10
    assert f"Xen: [mem 0x0000000000100000-{(320 << 20) - 1:#018x}] usable" in told


def test_settings_behind_it_count_more(tmp_path: Path) -> None:
    tiny.kernel(tmp_path / "other", tiny.INVALID)
    done = run("run", config(tmp_path), f'kernel="{tmp_path}/other"', 'name="other"')
    assert done.returncode == 4
    assert b"euxen: other crashed. " in done.stderr


def test_warnings_come_with_their_places(tmp_path: Path) -> None:
    path = config(tmp_path, vcpus=2, vtpm="['']", colour="blue")
    path.write_text(path.read_text().replace("\"['']\"", "['']"))
    done = run("run", path)
    assert done.returncode == 0
    assert sorted(done.stderr.decode().splitlines()) == [
        f"euxen: {path}:5: `vtpm' is ignored: euxen has no virtual TPMs",
        f"euxen: {path}:6: unknown option `colour' is ignored",
        "euxen: guest is to have 2 vCPUs, and gets 1 vCPU: euxen runs no more in a guest yet.",
    ]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"memory": "much"}, "guest.cfg:3: "),
        ({"memory": 0}, "guest.cfg:3: "),
        ({"type": "hvm"}, 'type="hvm" is refused: euxen has no HVM guests yet'),
        ({"type": "pvh"}, "cannot be a PVH guest: no XEN_ELFNOTE_PHYS32_ENTRY: built without CONFIG_PVH; use type = "),
        ({"name": ""}, "Domain name must be specified."),
        ({"name": "\x1b[31m"}, "is no name for a domain"),
        ({"kernel": "/no/such"}, "/no/such cannot be read (No such file or directory)"),
        ({"ramdisk": "/no/such"}, "/no/such cannot be read (No such file or directory); give the path of a RAM disk"),
        ({"memory": 1}, "1 MiB is too little memory: "),
        ({"memory": 64, "maxmem": 32}, "maxmem < memory"),
        ({"memory": 16777216}, "the domain would take "),
        ({"bootloader": "pygrub"}, "`bootloader' is refused"),
        ({"disk": ["/no/such,raw,xvda,w"]}, "disk xvda: /no/such is not there"),
        ({"disk": ["/,raw,xvda,r"]}, "disk xvda: / is neither a file nor a block device"),
        ({"disk": ["/no/such,raw,foo,w"]}, "disk foo: Invalid or unsupported virtual disk identifier foo"),
    ],
)
def test_refusals(settings: dict[str, object], told: str, tmp_path: Path) -> None:
    assert told in refusal(config(tmp_path, **settings))


@pytest.mark.parametrize("text", ["kernel = ", "= 3\n", '"\n', "name = [1, 2\n", "\xff\xfe = 1"])
def test_what_is_no_configuration(text: str, tmp_path: Path) -> None:
    (tmp_path / "guest.cfg").write_bytes(text.encode("latin-1"))
    assert refusal(tmp_path / "guest.cfg").startswith(f"{tmp_path}/guest.cfg:1: ")


def test_what_is_no_text_is_told_as_text(tmp_path: Path) -> None:
    (tmp_path / "guest.cfg").write_bytes(b"name = \x1b[31m\xff\n")
    assert "\\x1b[31m\\xff" in refusal(tmp_path / "guest.cfg")


@pytest.mark.parametrize("size", [100, 2 << 20])
def test_a_kernel_in_its_place(size: int, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(b"\x7fELF".ljust(size, b"\0"))
    told = refusal(tmp_path / "vmlinuz")
    assert told.endswith("; name a kernel with --kernel")
    assert " no configuration file" in told


def test_what_becomes_of_an_ended_domain(tmp_path: Path) -> None:
    done = run("run", config(tmp_path, on_poweroff="preserve"))
    told = "`on_poweroff' is ignored: a domain in the foreground is destroyed when it ends"
    assert done.stderr == f"euxen: {tmp_path}/guest.cfg:4: {told}\n".encode()


@pytest.mark.parametrize("name", ["no such", ".", "/dev/zero"])
def test_what_is_no_file(name: str) -> None:
    assert refusal(name).endswith("; give the path of a configuration file")


@pytest.mark.parametrize(
    "option", ["--kernel=k", "--ramdisk=r", "--extra=e", "--root=r", "--type=pv", "--memory=1", "--name=n"]
)
def test_options_beside_a_configuration(option: str, tmp_path: Path) -> None:
    told = refusal(config(tmp_path), option, status=2)
    assert told.startswith(f"argument {option.partition('=')[0]}: not allowed with CONFIG; say ")


def test_timeout(tmp_path: Path) -> None:
    tiny.kernel(tmp_path / "other", tiny.SPIN)
    done = run("run", config(tmp_path), f'kernel="{tmp_path}/other"', "--timeout", "0.5")
    assert (done.returncode, done.stderr) == (124, b"euxen: guest was destroyed after 0.5 s.\n")
