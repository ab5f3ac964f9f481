"""The one exception that a kernel image can cause."""

from __future__ import annotations

from euxen.toolstack.errors import UserError


class KernelError(UserError):
    """A kernel image that cannot be used. Modules below ``image`` leave the file's name out; ``image`` adds it."""
