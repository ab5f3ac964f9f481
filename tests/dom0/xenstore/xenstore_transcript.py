"""Transcripts: what clients ask xenstored, what it answers, and what it tells of its own accord.

A line is a client, a request, and the reply behind ``->``; payloads are written as in
docs/misc/xenstore.txt, with ``|`` for a nul::

    D1      WRITE        data/a|hello     -> OK|
    D1      WATCH_EVENT  data/a|token|
    D1.1    READ         data/b|          -> ERROR ENOENT|

``D1`` is the ring of domain 1 and ``D1.1`` its transaction 1, whatever number it is really given.
Under a request stands every
WATCH_EVENT that it gives rise to; if one is missing or too many, the transcript does not hold.
``{x*2048}`` is an x 2048 times. Lines in brackets are not requests: ``[quota nodes=12]`` sets
limits before the start; ``[shut down 1]`` and ``[gone 1]`` happen to a domain; ``[include homes.inc]``
puts another file there.

``# oxenstored: ERROR EQUOTA|`` behind a request is what oxenstored of Xen 4.17 answers where that is
something else, ``# oxenstored: skip`` that it is not asked. Where there is such a remark, its events
are those that further remarks under the request name, ``# oxenstored: D1 WATCH_EVENT data/a|token|``;
``# oxenstored: no event`` stands for itself.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import euxen.abi.io.xs_wire as abi
from euxen.dom0.xenstore import Packet

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))

TYPES = {
    name.removeprefix("XS_"): value
    for name, value in vars(abi).items()
    if re.fullmatch("XS_[A-Z_]+", name) and isinstance(value, int)
}
_REQUEST = re.compile(
    r"D(?P<domid>\d+)(?:\.(?P<tx_id>\d+))? +(?P<type>[A-Z_]+|\d+)(?: +(?P<payload>\S.*?|))? *-> ?(?P<reply>.*)"
)
_EVENT = re.compile(r"D(?P<domid>\d+) +WATCH_EVENT +(?P<payload>.*)")
_BRACKETS = re.compile(r"\[(?P<words>.*)\]")

SKIP = "skip"

Events = dict[int, list[bytes]]


class Xenstored(Protocol):
    """Something that answers requests: euxen's xenstored, or Xen's."""

    def ask(self, domid: int, request: Packet) -> tuple[Packet, Events]:
        """The reply, and the payloads of all watch events that came since."""

    def happen(self, words: str) -> Events:
        """Do what stands in brackets; the watch events."""


@dataclass
class Step:
    """One request or happening, and what is to follow."""

    line: int
    text: str
    domid: int = 0
    request: Packet | None = None
    reply: str = ""
    events: defaultdict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    oxenstored_reply: str | None = None
    oxenstored_events: defaultdict[int, list[bytes]] | None = None


def load(path: Path) -> tuple[dict[str, int], list[Step]]:
    """The quotas and the steps of a transcript."""
    quotas: dict[str, int] = {}
    steps: list[Step] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text, _, remark = line.partition(" # oxenstored: ")
        if line.startswith("# oxenstored: "):
            text, remark = "", line.removeprefix("# oxenstored: ")
        if not text.strip() or text.startswith("#"):
            if remark:
                _differ(steps[-1], remark.strip())
            continue
        text = text.rstrip()
        if match := _BRACKETS.fullmatch(text):
            if match["words"].startswith("include "):
                steps += load(path.with_name(match["words"].split()[1]))[1]
            elif match["words"].startswith("quota "):
                quotas |= {name: int(value) for name, value in re.findall(r"(\S+)=(\d+)", text)}
            else:
                steps.append(Step(number, text))
        elif match := _EVENT.fullmatch(text):
            steps[-1].events[int(match["domid"])].append(unescape(match["payload"]))
        elif match := _REQUEST.fullmatch(text):
            kind = TYPES[match["type"]] if match["type"] in TYPES else int(match["type"])
            request = Packet(kind, unescape(match["payload"] or ""), number, int(match["tx_id"] or 0))
            steps.append(Step(number, text, int(match["domid"]), request, match["reply"]))
            if remark:
                _differ(steps[-1], remark.strip())
        else:
            raise ValueError(f"{path.name}:{number}: no request, event or happening: {text}")
    return quotas, steps


def _differ(step: Step, remark: str) -> None:
    if step.oxenstored_events is None:
        step.oxenstored_events = defaultdict(list)
    if match := _EVENT.fullmatch(remark):
        step.oxenstored_events[int(match["domid"])].append(unescape(match["payload"]))
    elif remark != "no event":
        step.oxenstored_reply = remark


def unescape(text: str) -> bytes:
    """A payload as it is sent, from how it is written."""
    text = re.sub(r"\{(.)\*(\d+)\}", lambda match: match[1] * int(match[2]), text).replace("|", "\0")
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), text).encode("latin-1")


def escape(payload: bytes) -> str:
    """A payload as it is written."""
    text = "".join(
        "|" if byte == 0 else chr(byte) if 32 <= byte < 127 and byte != ord("|") else f"\\x{byte:02x}"
        for byte in payload
    )
    return re.sub(r"(.)\1{31,}", lambda match: f"{{{match[1]}*{len(match[0])}}}", text)


def play(steps: Iterable[Step], xenstored: Xenstored, *, as_oxenstored: bool = False) -> list[str]:
    """Ask everything in order; the differences from what is written, each with its line."""
    differences: list[str] = []
    transactions: dict[tuple[int, int], int] = {}
    for step in steps:
        expected, expected_events = step.reply, step.events
        if as_oxenstored and step.oxenstored_reply is not None:
            expected = step.oxenstored_reply
        if as_oxenstored and step.oxenstored_events is not None:
            expected_events = step.oxenstored_events
        if expected == SKIP:
            continue
        if step.request is None:
            events = xenstored.happen(step.text[1:-1])
        else:
            tx_id = transactions.get((step.domid, step.request.tx_id), step.request.tx_id)
            answer, events = xenstored.ask(step.domid, replace(step.request, tx_id=tx_id))
            if answer.type == abi.XS_TRANSACTION_START and re.fullmatch(r"\d+\|", expected):
                transactions[step.domid, int(expected[:-1])] = int(answer.payload[:-1])
                expected = f"{int(answer.payload[:-1])}|"
            kind = abi.XS_ERROR if expected.startswith("ERROR ") else step.request.type
            payload = unescape(expected.removeprefix("ERROR "))
            if step.request.type in (abi.XS_WATCH, abi.XS_UNWATCH):
                tx_id = 0
            if answer != Packet(kind, payload, step.request.req_id, tx_id):
                differences.append(f"line {step.line}: {step.text}\n    the reply: {answer}")
        for domid in sorted({*events, *expected_events}):
            got, wanted = events.get(domid, []), expected_events.get(domid, [])
            if got != wanted:
                differences.append(
                    f"line {step.line}: {step.text}\n    D{domid} is told {[escape(event) for event in got]}"
                    f"\n    instead of   {[escape(event) for event in wanted]}"
                )
    return differences
