"""What a guest said on its console, and when: the lines of guest/bench.c, read as they arrive."""

import re
from dataclasses import dataclass, field

# Searched for anywhere in a line: firmware and kernels leave lines unfinished and colour what they print.
_WORDS = re.compile(r"\bBENCH (\S+)(?: (\S+))?(?: (\S+))?")

CLOCKS_AGREE_WITHIN = 0.10
"""By how much of the host's time the guest's may differ before it is reported."""


@dataclass(frozen=True)
class Span:
    """How long one workload took, in seconds: by the host's clock and by the guest's own."""

    host: float
    guest: float

    @property
    def clocks_agree(self) -> bool:
        return abs(self.guest - self.host) <= CLOCKS_AGREE_WITHIN * self.host


@dataclass
class Transcript:
    """Feed it each line of the console with the host's time, in seconds since the process was started."""

    ready: float | None = None
    done: bool = False
    failure: str | None = None
    results: dict[str, float] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    _begun: dict[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether nothing more is to be expected of this guest."""
        return self.done or self.failure is not None

    def feed(self, line: str, at: float) -> None:
        found = _WORDS.search(line)
        if found is None:
            return
        match found.groups():
            case "ready", None, None:
                self.ready = at
            case "done", None, None:
                self.done = True
            case "failed", _, _:
                self.failure = line[found.start() :].removeprefix("BENCH failed").strip()
            case "begin", str(name), None:
                self._begun[name] = at
            case "end", str(name), str(elapsed):
                began, guest = self._begun.pop(name, None), _number(elapsed)
                if began is not None and guest is not None:
                    self.spans[name] = Span(at - began, guest)
            case str(name), str(value), str():
                number = _number(value)
                if number is not None:
                    self.results[name] = number


def _number(text: str) -> float | None:
    """A positive number, or None for a line that another one broke into."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None
