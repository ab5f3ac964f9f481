"""Paths: how they are written, what is allowed in them, and what they are relative to.

Inside xenstored a path is a tuple of names, absolute, with ``()`` for the root. On the wire it is
absolute, relative to the caller's ``/local/domain/<domid>``, or special: ``@introduceDomain``.
Specified in docs/misc/xenstore.txt; the lengths in xen/include/public/io/xs_wire.h.
"""

from __future__ import annotations

import re

from euxen.abi.io.xs_wire import XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX
from euxen.dom0.xenstore.errors import XenstoreError

Path = tuple[str, ...]

ROOT: Path = ()
INTRODUCE_DOMAIN: Path = ("@introduceDomain",)
RELEASE_DOMAIN: Path = ("@releaseDomain",)

_ABSOLUTE = re.compile(rb"/|(?:/[-\w@]+)+")  # \w of a bytes pattern is ASCII only
_HOME = re.compile(rb"/local/domain/[0-9]+/")


def home(domid: int) -> Path:
    """The path that the relative paths of a domain start from."""
    return ("local", "domain", str(domid))


def is_special(path: Path) -> bool:
    """Whether the path is one of the events that xenstored invents, or lies below one."""
    return path[:1] in (INTRODUCE_DOMAIN, RELEASE_DOMAIN)


def is_relative(raw: bytes) -> bool:
    """Whether a path, as sent, is relative to the sender's home."""
    return raw[:1] not in (b"/", b"@")


def parse(raw: bytes, domid: int, path_max: int) -> Path:
    """Read a path that domain ``domid`` sent, without its nul.

    ``path_max`` limits its length in bytes. The part that names a domain's home does not count, so
    that a path which fits stays fitting when the domain is migrated to a longer domid.

    Raises XenstoreError EINVAL for an empty or overlong path, doubled and trailing slashes, and
    any character but ASCII letters, digits and ``-/_@``.
    """
    if not raw or len(raw) > (XENSTORE_REL_PATH_MAX if is_relative(raw) else XENSTORE_ABS_PATH_MAX):
        raise XenstoreError("EINVAL")
    if is_relative(raw):
        absolute = b"/local/domain/%d/%s" % (domid, raw)
    else:
        absolute = raw if raw.startswith(b"/") else b"/" + raw
    if not _ABSOLUTE.fullmatch(absolute):
        raise XenstoreError("EINVAL")
    below_home = _HOME.match(absolute)
    if len(absolute) - (below_home.end() if below_home else 0) > path_max:
        raise XenstoreError("EINVAL")
    return tuple(absolute[1:].decode("ascii").split("/")) if absolute != b"/" else ROOT


def unparse(path: Path) -> bytes:
    """Write a path absolutely, or as a special one."""
    text = "/".join(path).encode("ascii")
    return text if text.startswith(b"@") else b"/" + text


def unparse_relative(path: Path, domid: int) -> bytes:
    """Write a path below the home of ``domid`` relative to it."""
    return "/".join(path[len(home(domid)) :]).encode("ascii")
