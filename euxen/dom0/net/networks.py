"""The bridges of Domain 0 by their names, made when they are first needed, with what leads from them to the world."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from euxen.dom0.net.lan import Lan, Port
from euxen.dom0.net.nat import Forward, NatError, NatMissing, NatPort
from euxen.dom0.net.pcap import PcapWriter
from euxen.hypervisor.control import Control
from euxen.hypervisor.errors import XenError

DEFAULT_BRIDGE = "xenbr0"
"""As xl has it, and the one that leads to the world."""


class _Capture:
    """A capture that may end while somebody writes to it."""

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        """Raises OSError."""
        self._writer: PcapWriter | None = PcapWriter(path.open("wb"))
        self._path, self._log = path, log
        self._lock = threading.Lock()

    def write(self, time: int, frames: list[bytes]) -> None:
        """Guests go on where the disk is full."""
        with self._lock:
            if self._writer is None:
                return
            try:
                self._writer.write(time, frames)
            except OSError as error:
                self._writer = None
                self._log(f"{self._path} cannot be written any more ({error.strerror}); the capture ends")

    def close(self) -> None:
        """The end."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None


@dataclass
class _Network:
    lan: Lan
    nat: NatPort | None
    users: int = 0


class Networks:
    """All bridges."""

    def __init__(self, control: Control, log: Callable[[str], None]) -> None:
        """``log`` is given lines for people."""
        self._control, self._log = control, log
        self._networks: dict[str, _Network] = {}
        self._lock = threading.Lock()
        self._captures: dict[str, _Capture] = {}

    @property
    def lans(self) -> dict[str, Lan]:
        """The bridges that there are."""
        return {name: network.lan for name, network in self._networks.items()}

    def join(self, name: str, port: Port, forwards: Sequence[Forward] = ()) -> Lan:
        """Make a port one of a bridge's; ``forwards`` lead to it. Raises XenError or NatError."""
        with self._lock:
            network = self._networks.get(name)
            if network is None:
                network = self._networks[name] = self._make(name)
            network.users += 1
            network.lan.add(port)
        if network.nat is not None:
            try:
                network.nat.attach(port, forwards)
            except NatMissing as error:
                self._log(f"{port.name}: {error}")
            except (NatError, XenError):
                self.leave(network.lan, port)
                raise
        return network.lan

    def leave(self, lan: Lan, port: Port) -> None:
        """Take a port away; with the last one the bridge goes."""
        network = self._networks[lan.name]
        lan.remove(port)
        if network.nat is not None:
            network.nat.detach(port)
        with self._lock:
            network.users -= 1
            if not network.users:
                del self._networks[lan.name]
                if network.nat is not None:
                    lan.remove(network.nat)
                lan.close()

    @contextlib.contextmanager
    def capture(self, name: str, path: Path) -> Iterator[None]:
        """Write what passes a bridge, or a port by its name ("vif1.0"), to a file; it need not be there yet.

        Raises OSError.
        """
        capture = self._captures[name] = _Capture(path, self._log)
        try:
            yield
        finally:
            del self._captures[name]
            capture.close()

    def _make(self, name: str) -> _Network:
        lan = Lan(self._control, name, self._captures)
        nat = None
        if name == DEFAULT_BRIDGE:
            nat = NatPort(self._control, lan, self._log)
            lan.add(nat)
        return _Network(lan, nat)
