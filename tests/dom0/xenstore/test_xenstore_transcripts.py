"""euxen's xenstored holds to every transcript."""

from __future__ import annotations

from pathlib import Path

import pytest
from xenstore_client import Machine
from xenstore_transcript import TRANSCRIPTS, load, play

from euxen.dom0.xenstore import Quota


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    quotas, steps = load(path)
    differences = play(steps, Machine(Quota(**quotas)))
    assert not differences, "\n".join(["", *differences])
