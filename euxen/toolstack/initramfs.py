"""Write an initial RAM disk for Linux: a cpio archive in the format "newc".

Linux: Documentation/driver-api/early-userspace/buffer-format.rst. The same contents give the same bytes: entries are
sorted, belong to root and have no times. Nothing is compressed, because a guest would unpack it at its own pace.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_ALIGN = 4
_MAX_FILE = (1 << 32) - 1

INIT = """\
#!/bin/sh
# The first program of a Debian guest made by euxen.
export PATH=/bin HOME=/root
[ -e /bin/mount ] || /bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
hostname debian

# Debian has the front ends as modules; load those that this guest has devices for. The kernel loads others itself.
set -- /sys/bus/xen/devices/vbd-* && [ -e "$1" ] && modprobe xen-blkfront
set -- /sys/bus/xen/devices/vif-* && [ -e "$1" ] && modprobe xen-netfront

for device in /sys/bus/xen/devices/vbd-*; do
    tries=0
    while [ -e "$device" ] && [ ! -e "$device/block" ] && [ $tries -lt 50 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
done

read -r release < /proc/sys/kernel/osrelease
guest=
[ -e /sys/hypervisor/guest_type ] && read -r guest < /sys/hypervisor/guest_type && guest=", $guest guest"
echo "euxen: Debian kernel $release$guest"

if [ -e /script ]; then
    sh /script
else
    # A terminal of its own for the shell: without one it has no job control and no Ctrl-C.
    cd /root
    setsid cttyhack sh
fi
poweroff -f
"""
"""``/init``: a shell on the console, or ``/script`` where the RAM disk has one; then power off."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory, symbolic link (``data`` is its target) or device in the archive."""

    name: str
    """Without a leading slash."""
    mode: int
    """As in ``st_mode``: type and permissions."""
    data: bytes = b""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device."""


def newc(entries: Iterable[Entry]) -> bytes:
    """The cpio archive with the entries, in their order. Raises ValueError where one does not fit the format."""
    archive = bytearray()
    for inode, entry in enumerate(entries, start=1):
        _append(archive, entry, inode)
    _append(archive, Entry(_TRAILER, 0), 0)
    return bytes(archive)


def _append(archive: bytearray, entry: Entry, inode: int) -> None:
    name = entry.name.encode() + b"\0"
    if len(entry.data) > _MAX_FILE:
        raise ValueError(f"{entry.name} is too large for a cpio archive")
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device of the file (2), device that it is (2), name size, checksum
    numbers = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    archive += _MAGIC + b"".join(b"%08x" % number for number in numbers) + name
    archive += bytes(-len(archive) % _ALIGN)
    archive += entry.data
    archive += bytes(-len(archive) % _ALIGN)


def build_initramfs(busybox: Path, extra: Mapping[str, bytes | Path] | None = None) -> bytes:
    """A RAM disk with busybox, links for its applets and ``INIT``.

    ``extra`` adds files by their names, or replaces these (``init``, say): the bytes, or the path of a file to
    copy. Programs and scripts are found by how they start, and made executable. Raises OSError where a file cannot
    be read.
    """
    files: dict[str, bytes | Path] = {"bin/busybox": busybox, "init": INIT.encode(), **(extra or {})}
    entries = {
        "dev/console": Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        **{name: _directory(name) for name in ("dev", "proc", "sys", "root", "tmp")},
        # Scripts look for programs in all of these.
        **{name: _link(name, "bin") for name in ("sbin",)},
        **{name: _link(name, "../bin") for name in ("usr/bin", "usr/sbin")},
    }
    for applet in ("sh", *_applets(busybox)):
        entries[f"bin/{applet}"] = _link(f"bin/{applet}", "busybox")
    for name, content in files.items():
        name = name.strip("/")
        entries[name] = _file(name, content if isinstance(content, bytes) else content.read_bytes())
    for name in list(entries):
        for parent in PurePosixPath(name).parents[:-1]:
            entries.setdefault(str(parent), _directory(str(parent)))
    return newc(entries[name] for name in sorted(entries))


def _applets(busybox: Path) -> list[str]:
    """What busybox can do; nothing where this host cannot run it, and then ``INIT`` asks it in the guest."""
    if not os.access(busybox, os.X_OK):
        return []
    try:
        done = subprocess.run([busybox.absolute(), "--list"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [name for name in done.stdout.split() if name != "busybox"]


def _directory(name: str) -> Entry:
    return Entry(name, stat.S_IFDIR | 0o755)


def _link(name: str, target: str) -> Entry:
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def _file(name: str, data: bytes) -> Entry:
    program = data.startswith((b"\x7fELF", b"#!"))
    return Entry(name, stat.S_IFREG | (0o755 if program else 0o644), data)
