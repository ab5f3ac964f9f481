"""The states through which a frontend and its backend meet and part. xen/include/public/io/xenbus.h

Each writes its own to ``state`` in its xenstore directory, as a decimal number, and watches the other's.
"""

from __future__ import annotations

from enum import IntEnum

XenbusStateUnknown = 0
XenbusStateInitialising = 1
XenbusStateInitWait = 2  # ready early, waits for the peer or for hotplug scripts
XenbusStateInitialised = 3  # waits for a connection from the peer
XenbusStateConnected = 4
XenbusStateClosing = 5  # after an error, or because the device is unplugged
XenbusStateClosed = 6
XenbusStateReconfiguring = 7
XenbusStateReconfigured = 8


class XenbusState(IntEnum):
    """The states by name."""

    Unknown = XenbusStateUnknown
    Initialising = XenbusStateInitialising
    InitWait = XenbusStateInitWait
    Initialised = XenbusStateInitialised
    Connected = XenbusStateConnected
    Closing = XenbusStateClosing
    Closed = XenbusStateClosed
    Reconfiguring = XenbusStateReconfiguring
    Reconfigured = XenbusStateReconfigured
