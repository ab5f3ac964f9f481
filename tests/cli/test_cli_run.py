"""`euxen run`: how it ends, and that bad input is refused in one sentence that leaves nothing behind."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from terminal import EUXEN, PATIENCE, run
from toolstack.kernel.elf_writer import HYPERCALL_PAGE, PHYS32_ENTRY, Elf, Load, bzimage, note, pv_notes

from euxen.abi import sched
from euxen.toolstack.debian import DebianGuest


@pytest.fixture(scope="module", autouse=True)
def compiled(native: None) -> None:
    """So that no test waits for the compiler."""


def files(guest: DebianGuest, ramdisk: Path | None = None) -> list[str]:
    """The options for a Debian guest."""
    return [
        "--kernel",
        str(guest.kernel),
        "--ramdisk",
        str(ramdisk or guest.initramfs),
        "--extra",
        "console=hvc0 quiet",
    ]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, which is also the one for temporary files."""
    place = tmp_path / "workplace"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("TMPDIR", str(place))
    return place


def refusal(*arguments: str | Path, status: int = 1) -> str:
    """What the command says when it refuses: one line."""
    done = run("run", *arguments)
    assert done.stdout == b""
    told = done.stderr.decode()
    assert done.returncode == status, told
    assert told.startswith("euxen")
    assert told.endswith("\n")
    assert told.count("\n") == 1
    return told.partition(": ")[2].rstrip("\n")


class TestOptions:
    @pytest.mark.parametrize("memory", ["0", "-1", "abc", "1e3", "256M", "", " 256", "999999999999", "\u0663"])
    def test_memory(self, memory: str) -> None:
        told = refusal("--kernel", "x", f"--memory={memory}", status=2)
        assert told.startswith(f"argument --memory: {memory!r} is no number of MiB from 1 to 16777216")

    @pytest.mark.parametrize("timeout", ["0", "-3", "nan", "soon", ""])
    def test_timeout(self, timeout: str) -> None:
        told = refusal("--kernel", "x", f"--timeout={timeout}", status=2)
        assert told.startswith(f"argument --timeout: {timeout!r} is no number of seconds above 0")

    @pytest.mark.parametrize("name", ["two\nlines", "x" * 256, "\x1b[31m"])
    def test_name(self, name: str) -> None:
        assert refusal("--kernel", "x", f"--name={name}").startswith(f"{name!r} is no name for a domain")

    def test_empty_name(self) -> None:
        assert refusal("--kernel", "x", "--name=") == "Domain name must be specified."

    def test_more_memory_than_the_host_has(self, tmp_path: Path) -> None:
        told = refusal("--kernel", tiny.kernel(tmp_path / "k", tiny.SPIN), "--memory", "16777216")
        assert told.startswith("the domain would take ")

    @pytest.mark.parametrize("arguments", [["--colour"], ["--mem", "64"], ["--kernel"], ["--log=1"]])
    def test_what_is_no_option(self, arguments: list[str]) -> None:
        assert refusal(*arguments, status=2).endswith(" --help'")

    def test_no_kernel(self) -> None:
        assert refusal("--memory", "64").startswith("no kernel is given: name one with --kernel FILE")

    def test_help_tells_every_exit_status(self) -> None:
        told = " ".join(run("run", "--help").stdout.decode().split())
        for status in ("0 poweroff", "1 could", "2 wrong", "3 reboot", "4 crash", "5 suspend", "6 left", "124 timeout"):
            assert status in told


NO_NOTES = "cannot be a PV guest: no Xen ELF notes"
KERNELS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "it is empty; give vmlinuz or vmlinux"),
    "text": (lambda: b"#!/bin/sh\n" * 99, "it is neither ELF nor bzImage"),
    "zeroes": (lambda: bytes(1 << 20), "it is neither ELF nor bzImage"),
    "cut off": (lambda: Elf(notes=pv_notes()).build()[:80], "cannot be used as a kernel"),
    "a packed one, cut off": (lambda: gzip.compress(Elf(notes=pv_notes()).build())[:-20], "cannot be used as a kernel"),
    "a bzImage, cut off": (lambda: bzimage(_payload(Elf().build()))[:-9], "it is a bzImage that is cut off"),
    "without notes": (lambda: Elf().build(), NO_NOTES),
    "a bzImage without notes": (lambda: bzimage(_payload(Elf().build())), NO_NOTES),
    "32 bits": (lambda: Elf(bits=32, notes=pv_notes()).build(), "32-bit PV kernel"),
    "too large": (
        lambda: Elf(loads=[Load(memsz=1 << 30)], notes=pv_notes()).build(),
        "64 MiB is too little memory: the kernel",
    ),
    "a hypercall page nowhere": (
        lambda: Elf(notes=pv_notes(note(HYPERCALL_PAGE, 1 << 40))).build(),
        "wants its hypercall page at 0x10000000000, where a domain of 64 MiB has no memory",
    ),
    "a hypercall page before its memory": (
        lambda: Elf(notes=pv_notes(note(HYPERCALL_PAGE, (1 << 64) - 4096))).build(),
        "wants its hypercall page at 0xfffffffffffff000",
    ),
}


PVH_KERNELS: dict[str, tuple[Callable[[], bytes], str]] = {
    "no entry": (lambda: Elf(notes=pv_notes()).build(), "no XEN_ELFNOTE_PHYS32_ENTRY: built without CONFIG_PVH"),
    "an entry outside": (
        lambda: Elf(notes=note(PHYS32_ENTRY, 0x300000)).build(),
        "entry 0x300000 outside the kernel, 0x100000 to 0x100040",
    ),
    "no page": (
        lambda: Elf(loads=[Load(0x100010)], notes=note(PHYS32_ENTRY, 0x100010)).build(),
        "start of the kernel 0x100010 not page-aligned",
    ),
    "too large": (
        lambda: Elf(loads=[Load(memsz=1 << 30)], notes=note(PHYS32_ENTRY, 0x100000)).build(),
        "64 MiB is too little memory: the kernel would end at 1025 MiB; give the domain more",
    ),
    "behind its memory": (
        lambda: Elf(loads=[Load(0x8000000)], notes=note(PHYS32_ENTRY, 0x8000000)).build(),
        "64 MiB is too little memory: the space below the kernel would end at 128 MiB",
    ),
    "above 4 GiB": (
        lambda: Elf(loads=[Load(0xFFFFF000, memsz=0x1001)], notes=note(PHYS32_ENTRY, 0xFFFFF000)).build(),
        "above 4 GiB, where its 32-bit entry cannot reach",
    ),
    "without notes": (lambda: Elf().build(), "cannot be a PVH guest: no Xen ELF notes"),
}


def _payload(image: bytes) -> bytes:
    return gzip.compress(image)


@pytest.mark.usefixtures("workplace")
class TestKernels:
    @pytest.mark.parametrize("kind", KERNELS)
    def test_content(self, kind: str, tmp_path: Path, workplace: Path) -> None:
        content, told = KERNELS[kind]
        (tmp_path / "kernel").write_bytes(content())
        assert told in refusal("--kernel", tmp_path / "kernel", "--memory", "64")
        assert list(workplace.iterdir()) == []

    def test_real_ones_that_are_cut_off(self, debian_cloud: DebianGuest, tmp_path: Path, workplace: Path) -> None:
        content = debian_cloud.kernel.read_bytes()
        for part in (100, 1000, len(content) // 2, len(content) * 9 // 10):
            (tmp_path / "kernel").write_bytes(content[:part])
            refusal("--kernel", tmp_path / "kernel")
        assert list(workplace.iterdir()) == []

    def test_32_bit_grub(self, grub_xen: dict[str, Path]) -> None:
        assert "32-bit PV kernel" in refusal("--kernel", grub_xen["i386-xen"])

    def test_missing(self, tmp_path: Path) -> None:
        assert refusal("--kernel", tmp_path / "no such") == (
            f"{tmp_path}/no such cannot be read (No such file or directory); give the path of a kernel image"
        )

    def test_a_directory(self, tmp_path: Path) -> None:
        assert "is no regular file" in refusal("--kernel", tmp_path)

    def test_one_without_a_name(self) -> None:
        assert refusal("--kernel", "/") == "/ is no regular file; give the path of a kernel image"

    def test_a_pipe_that_nobody_writes_to(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        assert "is no regular file" in refusal("--kernel", tmp_path / "pipe")

    def test_unreadable(self) -> None:
        # For root, too, whom no permissions stop: nothing is mapped at its beginning.
        assert "/proc/self/mem cannot be read (Input/output error)" in refusal("--kernel", "/proc/self/mem")

    def test_debian_in_too_little_memory(self, debian_cloud: DebianGuest) -> None:
        for memory in ("1", "20", "60"):
            told = refusal("--kernel", debian_cloud.kernel, "--memory", memory)
            assert told.startswith(f"{memory} MiB is too little memory: the ")
            assert told.endswith(" MiB; give the domain more")


@pytest.mark.usefixtures("workplace")
class TestRamdisks:
    def test_larger_than_the_memory(self, tmp_path: Path) -> None:
        (tmp_path / "ramdisk").touch()
        os.truncate(tmp_path / "ramdisk", (32 << 20) + 1)
        told = refusal("--kernel", self.tiny(tmp_path), "--ramdisk", tmp_path / "ramdisk", "--memory", "32")
        assert told == (f"{tmp_path}/ramdisk has 33554433 bytes, more than the domain's memory, 32 MiB; give it more")

    def test_too_large_beside_the_kernel(self, tmp_path: Path) -> None:
        (tmp_path / "ramdisk").write_bytes(bytes(31 << 20))
        told = refusal("--kernel", self.tiny(tmp_path), "--ramdisk", tmp_path / "ramdisk", "--memory", "32")
        assert told.startswith("32 MiB is too little memory: the ")
        assert told.endswith("; give the domain more")

    @pytest.mark.parametrize("path", ["no such", ".", "/dev/zero", "/proc/self/mem"])
    def test_no_file(self, path: str, tmp_path: Path) -> None:
        told = refusal("--kernel", self.tiny(tmp_path), "--ramdisk", path)
        assert told.endswith("; give the path of a RAM disk")

    @staticmethod
    def tiny(directory: Path) -> Path:
        return tiny.kernel(directory / "kernel", tiny.SPIN)

    @pytest.mark.parametrize("damage", ["cut off", "noise"])
    def test_a_damaged_one_is_the_guests_to_judge(
        self, damage: str, debian_cloud: DebianGuest, tmp_path: Path, workplace: Path
    ) -> None:
        """Xen looks into no RAM disk. Linux does, and gives up: that is a crash, told in one sentence."""
        content = debian_cloud.initramfs.read_bytes()
        (tmp_path / "ramdisk").write_bytes(content[:500_000] if damage == "cut off" else bytes(range(256)) * 4000)
        done = run("run", *files(debian_cloud, tmp_path / "ramdisk"))
        assert b"Kernel panic" in done.stdout
        assert done.stderr == (
            b"euxen: vmlinuz gave up and reported a crash; its console may say why, and --log shows Xen's log.\n"
        )
        assert done.returncode == 4
        assert list(workplace.iterdir()) == []


NEEDS_MUCH_MEMORY = pytest.mark.skipif(
    os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 5 << 30, reason="this host has less than 5 GiB"
)


class TestPvh:
    """As what a PVH guest ends, and which cannot be one."""

    @pytest.mark.parametrize(
        ("reason", "status", "told"),
        [
            (sched.SHUTDOWN_poweroff, 0, ""),
            (sched.SHUTDOWN_reboot, 3, "euxen: guest asked for a reboot.\n"),
            (sched.SHUTDOWN_suspend, 5, "euxen: guest suspended itself, and was destroyed.\n"),
            (sched.SHUTDOWN_crash, 4, "euxen: guest gave up and reported a crash; "),
        ],
    )
    def test_what_the_guest_says(self, reason: int, status: int, told: str, tmp_path: Path) -> None:
        kernel = tiny.pvh_kernel(tmp_path / "guest", tiny.PVH_SHUTDOWN.format(reason=reason))
        done = run("run", "--type", "pvh", "--kernel", kernel, "--memory", "16")
        assert done.stderr.decode().startswith(told)
        assert (done.returncode, done.stdout) == (status, b"")
        assert done.stderr.count(b"\n") == (1 if told else 0)

    def test_a_triple_fault(self, tmp_path: Path) -> None:
        """Real machines start again then, and so does a domain, if nobody has told Xen otherwise."""
        kernel = tiny.pvh_kernel(tmp_path / "guest", tiny.PVH_TRIPLE_FAULT)
        done = run("run", "--type", "pvh", "--kernel", kernel, "--memory", "16", "--log")
        assert done.returncode == 3
        assert b"Triple fault" in done.stderr
        assert done.stderr.endswith(b"euxen: guest asked for a reboot.\n")

    @pytest.mark.parametrize("code", [tiny.SPIN, tiny.PVH_BLOCK])
    def test_timeout(self, code: str, tmp_path: Path) -> None:
        kernel = tiny.pvh_kernel(tmp_path / "guest", code)
        done = run("run", "--type", "pvh", "--kernel", kernel, "--memory", "16", "--timeout", "0.5")
        assert (done.returncode, done.stderr) == (124, b"euxen: guest was destroyed after 0.5 s.\n")

    @pytest.mark.parametrize("most", [64, pytest.param(4200, marks=NEEDS_MUCH_MEMORY)])
    def test_a_configuration(self, most: int, tmp_path: Path) -> None:
        """With more memory later than at the start, and some of it above 4 GiB."""
        kernel = tiny.pvh_kernel(tmp_path / "guest", tiny.PVH_SHUTDOWN.format(reason=sched.SHUTDOWN_poweroff))
        (tmp_path / "cfg").write_text(f'name="guest"\ntype="pvh"\nkernel="{kernel}"\nmemory=16\nmaxmem={most}\n')
        done = run("run", tmp_path / "cfg")
        assert (done.returncode, done.stderr) == (0, b"")

    def test_nobody_guesses_the_kind(self, grub_xen: dict[str, Path]) -> None:
        """A kernel that can be nothing but a PVH guest has to be called so, as xl would have it."""
        told = refusal("--kernel", grub_xen["i386-xen_pvh"])
        assert told.endswith('; use type = "pvh", or --type pvh')
        assert refusal("--type", "pvh", "--kernel", grub_xen["x86_64-xen"]).endswith("or --type pv")

    @pytest.mark.parametrize("kind", ["hvm", "PVH", "", "pv "])
    def test_what_is_no_kind(self, kind: str) -> None:
        told = refusal(f"--type={kind}", "--kernel", "x", status=2)
        assert told.startswith(f"argument --type: {kind!r} is no kind of guest that there is; it has to be pv or pvh")

    @pytest.mark.parametrize("kernel", PVH_KERNELS)
    def test_kernels(self, kernel: str, tmp_path: Path) -> None:
        content, told = PVH_KERNELS[kernel]
        (tmp_path / "kernel").write_bytes(content())
        assert told in refusal("--type", "pvh", "--kernel", tmp_path / "kernel", "--memory", "64")

    def test_a_ram_disk_without_room(self, tmp_path: Path) -> None:
        kernel = tiny.pvh_kernel(tmp_path / "guest", tiny.SPIN)
        (tmp_path / "ramdisk").write_bytes(bytes(15 << 20))
        told = refusal("--type=pvh", "--kernel", kernel, "--memory=16", "--ramdisk", tmp_path / "ramdisk")
        assert told == "16 MiB is too little memory: the ramdisk would end at 17 MiB; give the domain more"


class TestEndings:
    @pytest.mark.parametrize(
        ("reason", "status", "told"),
        [
            (sched.SHUTDOWN_poweroff, 0, ""),
            (sched.SHUTDOWN_reboot, 3, "euxen: guest asked for a reboot.\n"),
            (sched.SHUTDOWN_suspend, 5, "euxen: guest suspended itself, and was destroyed.\n"),
            (sched.SHUTDOWN_crash, 4, "euxen: guest gave up and reported a crash; "),
            (sched.SHUTDOWN_watchdog, 4, "euxen: guest gave up and reported a crash; "),
            (99, 4, "euxen: guest gave up and reported a crash; "),
        ],
    )
    def test_what_the_guest_says(self, reason: int, status: int, told: str, tmp_path: Path) -> None:
        kernel = tiny.kernel(tmp_path / "guest", tiny.SHUTDOWN.format(reason=reason))
        done = run("run", "--kernel", kernel, "--memory", "16")
        assert done.returncode == status
        assert done.stdout == b""
        assert done.stderr.decode().startswith(told)
        assert done.stderr.count(b"\n") == (1 if told else 0)

    def test_a_guest_that_xen_crashes(self, tmp_path: Path) -> None:
        done = run("run", "--kernel", tiny.kernel(tmp_path / "k", tiny.INVALID), "--memory", "16", "--name", "Ana's")
        *log, last = done.stderr.decode().splitlines()
        assert done.returncode == 4
        assert last.startswith("euxen: Ana's crashed. The guest has no handler for its own invalid opcode (#UD)")
        assert f"RIP:    e033:[<{tiny.BASE:016x}>]" in "\n".join(log)
        assert all(line.startswith("(XEN) ") for line in log)

    @pytest.mark.parametrize("code", [tiny.SPIN, tiny.BLOCK])
    def test_timeout(self, code: str, tmp_path: Path) -> None:
        done = run("run", "--kernel", tiny.kernel(tmp_path / "guest", code), "--memory", "16", "--timeout", "0.5")
        assert done.returncode == 124
        assert done.stderr == b"euxen: guest was destroyed after 0.5 s.\n"

    @pytest.mark.parametrize("timeout", ["inf", "1e300", "99999999999"])
    def test_a_long_timeout(self, timeout: str, tmp_path: Path) -> None:
        kernel = tiny.kernel(tmp_path / "guest", tiny.SHUTDOWN.format(reason=sched.SHUTDOWN_poweroff))
        assert run("run", "--kernel", kernel, "--memory", "16", "--timeout", timeout).returncode == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    @pytest.mark.parametrize("code", [tiny.SPIN, tiny.BLOCK])
    def test_signals(self, number: signal.Signals, code: str, tmp_path: Path) -> None:
        # The guest has run by then: its console's greeting is in Xen's log.
        hello = (
            f'mov $18, %eax; mov $0, %edi; mov $3, %esi; lea text(%rip), %rdx; syscall; {code}; text: .ascii "up\\n"'
        )
        kernel = tiny.kernel(tmp_path / "guest", hello)
        command = [str(EUXEN), "run", "--log", "--memory", "16", "--kernel", str(kernel)]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=default_signals
        ) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == b"(XEN) (d1) up\n"
            process.send_signal(number)
            _, rest = process.communicate(timeout=PATIENCE)
            assert (process.returncode, rest) == (128 + number, b"")

    @pytest.mark.parametrize(
        ("function", "body"),
        [
            ("threading.Thread.start", "original(*arguments); signal.raise_signal(signal.SIGTERM)"),
            ("control.Control.pause_domain", "signal.raise_signal(signal.SIGTERM); original(*arguments)"),
        ],
    )
    def test_signals_at_bad_moments(self, function: str, body: str, tmp_path: Path) -> None:
        """When the domain's thread was just started, and when it is about to be stopped."""
        script = f"""
import signal, sys, threading
from euxen.cli.main import main
from euxen.hypervisor import control

def with_signal(*arguments):
    {body}

original = {function}
{function} = with_signal
sys.exit(main(sys.argv[1:]))
"""
        kernel = tiny.kernel(tmp_path / "guest", tiny.BLOCK)
        command = [sys.executable, "-c", script, "run", "--memory", "16", "--kernel", str(kernel), "--timeout", "0.5"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            try:
                told = process.communicate(timeout=PATIENCE)[1]
            finally:
                process.kill()
        assert (process.returncode, told) == (128 + signal.SIGTERM, b"")

    def test_a_signal_that_is_ignored_stays_so(self, tmp_path: Path) -> None:
        """As nohup(1) starts commands."""
        code = f"mov $18, %eax; mov $0, %edi; mov $3, %esi; lea text(%rip), %rdx; syscall; {tiny.SPIN}"
        kernel = tiny.kernel(tmp_path / "guest", f'{code}; text: .ascii "up\n"')
        command = [str(EUXEN), "run", "--log", "--memory", "16", "--kernel", str(kernel), "--timeout", "1"]
        with subprocess.Popen(
            ["nohup", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            while process.stderr.readline() != b"(XEN) (d1) up\n":
                assert process.poll() is None
            process.send_signal(signal.SIGHUP)
            assert process.communicate(timeout=PATIENCE) == (b"", b"euxen: guest was destroyed after 1 s.\n")
            assert process.returncode == 124


def default_signals() -> None:
    """For a command, whatever started the tests has ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


class TestStreams:
    """The console on whatever standard input and output are."""

    def test_a_file_longer_than_any_buffer(self, debian_cloud: DebianGuest, tmp_path: Path) -> None:
        """Every line of it arrives, as the guest has time for it."""
        lines = [f"echo {number} >> /tmp/lines" for number in range(4000)]
        tail = ["[ $(wc -l < /tmp/lines) = 4000 ] && echo all of ''them", "poweroff -f", ""]
        (tmp_path / "input").write_text("\n".join(["stty -echo", *lines, *tail]))
        with (tmp_path / "input").open("rb") as file:
            done = run("run", *files(debian_cloud), stdin=file.fileno())
        assert b"all of them" in done.stdout
        assert done.returncode == 0

    def test_nobody_types(self, debian_cloud: DebianGuest) -> None:
        done = run("run", *files(debian_cloud), "--timeout", "5", stdin=subprocess.DEVNULL)
        assert done.returncode == 124
        assert b"built-in shell" in done.stdout

    def test_closed_streams(self, tmp_path: Path) -> None:
        kernel = tiny.kernel(tmp_path / "guest", tiny.SHUTDOWN.format(reason=sched.SHUTDOWN_reboot))
        shell = f"exec {EUXEN} run --memory 16 --kernel {kernel} <&- >&-"
        done = subprocess.run(["/bin/sh", "-c", shell], stderr=subprocess.PIPE, check=False)
        assert done.stderr == b"euxen: guest asked for a reboot.\n"
        assert done.returncode == 3

    def test_closed_standard_error(self, tmp_path: Path) -> None:
        """What would be told there is told nobody else, and least of all written to a file that got its number."""
        kernel = tiny.kernel(tmp_path / "guest", tiny.SHUTDOWN.format(reason=sched.SHUTDOWN_reboot))
        shell = f"exec {EUXEN} run --memory 16 --kernel {kernel} <&- 2>&-"
        done = subprocess.run(["/bin/sh", "-c", shell], stdout=subprocess.PIPE, check=False)
        assert (done.returncode, done.stdout) == (3, b"")

    def test_a_full_disk(self, debian_cloud: DebianGuest) -> None:
        command = [str(EUXEN), "run", *files(debian_cloud), "--extra", "console=hvc0"]
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE, check=False
            )
        assert done.stderr == b"euxen: standard output cannot be written (No space left on device)\n"
        assert done.returncode == 1

    def test_a_reader_that_has_enough(self, debian_cloud: DebianGuest) -> None:
        command = [str(EUXEN), "run", *files(debian_cloud), "--extra", "console=hvc0"]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert b"Linux version" in process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait() == 1
