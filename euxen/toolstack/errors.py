"""What people are told when something is wrong."""

from __future__ import annotations


class UserError(Exception):
    """One clear sentence for a person: what was wrong, where, and what to do.

    ``euxen`` prints it on standard error without a traceback and ends with exit code 1. It begins like what follows
    a colon, and ends without a full stop.
    """

    @property
    def sentences(self) -> tuple[str, ...]:
        """One, unless there is more than one thing wrong."""
        return (str(self),)


def printable(text: str) -> str:
    """Text that does no more to a terminal than print, whatever a file or its name holds."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is no text: os.fsdecode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
