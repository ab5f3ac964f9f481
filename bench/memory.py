"""How much memory a process takes beside its guest's RAM, which euxen keeps in a memfd and so counts as shared."""

import re
from dataclasses import dataclass
from pathlib import Path

_FIELD = re.compile(r"^(VmHWM|VmRSS|RssShmem):\s+(\d+) kB$", re.MULTILINE)


@dataclass
class Peak:
    """The peaks over the samples of one process, in KiB: feed it /proc/PID/status (proc(5)) now and then."""

    resident: int = 0
    shared: int = 0
    unshared_at_once: int = 0

    def sample(self, pid: int) -> None:
        """Look at a running process; one that has gone is left out."""
        try:
            self.feed(Path(f"/proc/{pid}/status").read_text())
        except (FileNotFoundError, ProcessLookupError):
            return

    def feed(self, status: str) -> None:
        fields = {name: int(kib) for name, kib in _FIELD.findall(status)}
        if len(fields) < 3:  # a process that has exited but was not waited for has no memory to speak of
            return
        self.resident = max(self.resident, fields["VmHWM"])
        self.shared = max(self.shared, fields["RssShmem"])
        self.unshared_at_once = max(self.unshared_at_once, fields["VmRSS"] - fields["RssShmem"])

    @property
    def beside_ram(self) -> int:
        """The most that was resident beside the guest's RAM, in KiB.

        Both terms can only be too low: the samples miss what comes and goes between them, and the kernel's own
        high-water mark, which misses nothing, may have been reached before the guest had touched all of its RAM.
        """
        return max(self.unshared_at_once, self.resident - self.shared)
