"""Creating and destroying a domain, as libxl does: memory and vCPUs, xenstore nodes, daemons."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from euxen.abi.arch_x86_xen import XEN_X86_EMU_LAPIC
from euxen.abi.domctl import XEN_DOMCTL_CDF_hap, XEN_DOMCTL_CDF_hvm
from euxen.abi.hvm_params import HVM_PARAM_TIMER_MODE, HVMPTM_no_delay_for_missed_ticks
from euxen.dom0.console.ring import ConsoleRing
from euxen.dom0.xenstore_client import XenStoreClient, XenStoreRefused
from euxen.hypervisor.control import Control
from euxen.hypervisor.errors import XenError
from euxen.toolstack.builder.common import BuiltDomain, Rings
from euxen.toolstack.builder.pv import PvBuilder
from euxen.toolstack.builder.pvh import PvhBuilder
from euxen.toolstack.errors import UserError
from euxen.toolstack.kernel.layout import GuestKind
from euxen.toolstack.machine import Host
from euxen.toolstack.nodes import Node, domain_nodes, home_of, libxl_home_of
from euxen.toolstack.request import Request

PAGE_SHIFT = 12
MIB = 1 << 20
NEEDED_EVENT_CHANNELS = 2


@dataclass(frozen=True)
class RunningDomain:
    """A domain that was created, not yet running."""

    domid: int
    console: ConsoleRing


def create(host: Host, request: Request, wake: Callable[[], None]) -> RunningDomain:
    """Create a domain, paused; ``wake`` is called, in any thread, when it may have written to its console.

    Raises UserError, with nothing left behind.
    """
    control = host.control
    if request.max_event_channels < NEEDED_EVENT_CHANNELS:
        raise UserError(
            f"{request.name} is to have {request.max_event_channels} event channel at most (max_event_channels); "
            f"xenstore and its console need {NEEDED_EVENT_CHANNELS}"
        )
    is_pvh = request.kind is GuestKind.PVH
    try:
        domid = control.create_domain(
            request.allowed_memory >> PAGE_SHIFT,
            max_vcpus=request.max_vcpus,
            max_evtchn_port=request.max_event_channels,
            handle=request.uuid.bytes,
            grant_limits=request.grant_limits,
            flags=XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap if is_pvh else 0,
            emulation_flags=XEN_X86_EMU_LAPIC if is_pvh else 0,
        )
    except XenError as error:
        raise UserError(f"Xen cannot make the domain ({error}); ask for less memory or smaller tables") from error
    try:
        rings = Rings(xenstore_port=control.alloc_unbound(domid, 0), console_port=control.alloc_unbound(domid, 0))
        built = (_build_pvh if is_pvh else _build_pv)(control, domid, request, rings)
        for node in domain_nodes(request, domid, built, rings, host.started):
            _make(host.services.xenstore, node)
        host.services.xenstore.introduce(domid, built.xenstore_frame, rings.xenstore_port)
        console = host.services.attach_console(domid, rings.console_port, wake)
    except BaseException:
        destroy(host, domid)
        raise
    return RunningDomain(domid, console)


def _build_pv(control: Control, domid: int, request: Request, rings: Rings) -> BuiltDomain:
    pages, max_pages = request.memory >> PAGE_SHIFT, request.most_memory >> PAGE_SHIFT
    builder = PvBuilder(control, domid, request.image, pages, max_pages)
    return builder.build(request.ramdisk, request.command_line, rings)


def _build_pvh(control: Control, domid: int, request: Request, rings: Rings) -> BuiltDomain:
    """It has all the memory that it can ever have, and gives back what is above its target: there is no other way."""
    control.set_hvm_param(domid, HVM_PARAM_TIMER_MODE, HVMPTM_no_delay_for_missed_ticks)
    control.set_paging_mempool_size(domid, paging_memory(request))
    builder = PvhBuilder(control, domid, request.image, request.most_memory >> PAGE_SHIFT, request.online)
    return builder.build(request.ramdisk, request.command_line, rings)


def paging_memory(request: Request) -> int:
    """What Xen may use for the p2m of a PVH domain, in bytes (libxl__get_required_paging_memory)."""
    return request.max_vcpus * MIB + (request.most_memory // MIB << PAGE_SHIFT)


def _make(store: XenStoreClient, node: Node) -> None:
    store.write(node.path, node.value)
    if node.permissions:
        store.set_permissions(node.path, *node.permissions)


def destroy(host: Host, domid: int) -> None:
    """Destroy a domain and forget it (xl destroy). The daemons have let go of it when this returns."""
    host.control.destroy_domain(domid)
    host.services.domain_events.tell()
    store = host.services.xenstore
    with contextlib.suppress(XenStoreRefused):  # one that could not be built has no nodes yet
        store.remove(store.read(f"{home_of(domid)}/vm"))
        store.remove(home_of(domid))
        store.remove(libxl_home_of(domid))
