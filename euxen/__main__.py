"""The command ``euxen``, and ``python -m euxen``."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Run the command. Ctrl-C while it is still being imported ends it as quietly as later."""
    try:
        from euxen.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
