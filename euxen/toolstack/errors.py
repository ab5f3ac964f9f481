"""What people are told when something is wrong."""

from __future__ import annotations


class UserError(Exception):
    """One clear sentence for a person: what was wrong, where, and what to do.

    ``euxen`` prints it on standard error without a traceback and ends with exit code 1.
    """
