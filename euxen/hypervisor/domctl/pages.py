"""A domain's memory, as its builder sees it. Source: xen/common/domctl.c and xen/arch/x86/domctl.c."""

from __future__ import annotations

from euxen.abi.domctl import (
    XEN_DOMCTL_PFINFO_L1TAB,
    XEN_DOMCTL_PFINFO_L2TAB,
    XEN_DOMCTL_PFINFO_L3TAB,
    XEN_DOMCTL_PFINFO_L4TAB,
    XEN_DOMCTL_PFINFO_LPINTAB,
    XEN_DOMCTL_PFINFO_NOTAB,
    XEN_DOMCTL_PFINFO_XTAB,
    XenDomctlGetpageframeinfo3,
    XenDomctlHypercallInit,
    XenDomctlMaxMem,
)
from euxen.abi.errno import XEN_E2BIG, XEN_EINVAL, XEN_EPERM
from euxen.cpu.native.language import signed
from euxen.hypervisor import hypercall_page
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.domctl.request import Domctl
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.hvm.hypercall_page import hvm_page
from euxen.hypervisor.machine import PAGE_SIZE
from euxen.hypervisor.mm import p2m, pagetable
from euxen.hypervisor.mm import page as pg

MAX_FRAMES_AT_ONCE = 1024
MOST_PAGES = (1 << 32) - 1
KIB_SHIFT = 10
TABLES = {
    1: XEN_DOMCTL_PFINFO_L1TAB,
    2: XEN_DOMCTL_PFINFO_L2TAB,
    3: XEN_DOMCTL_PFINFO_L3TAB,
    4: XEN_DOMCTL_PFINFO_L4TAB,
}


def max_mem(request: Domctl) -> None:
    """XEN_DOMCTL_max_mem. A domain that has more already keeps it, and gets none until it has less."""
    pages = request.load(XenDomctlMaxMem).max_memkb >> pg.PAGE_SHIFT - KIB_SHIFT
    request.domain.record["max_pages"] = min(pages, MOST_PAGES)


def getpageframeinfo3(request: Domctl) -> None:
    """XEN_DOMCTL_getpageframeinfo3: which of some frames are page tables. An HVM guest's are none of Xen's business."""
    op = request.load(XenDomctlGetpageframeinfo3)
    if op.num > MAX_FRAMES_AT_ONCE:
        raise XenError(XEN_E2BIG)
    for address in range(op.array, op.array + 8 * op.num, 8):
        frame = int.from_bytes(request.caller.read(address, 8), "little")
        request.caller.write(address, _kind(request.domain, frame).to_bytes(8, "little"))


def _kind(domain: Domain, frame: int) -> int:
    """XEN_DOMCTL_PFINFO_* of a frame."""
    page = p2m.get_page_from_gfn(domain.record.address, signed(frame))
    if not page:
        return XEN_DOMCTL_PFINFO_XTAB
    words, at = domain.machine.frame_table.words(), pg.frame_of(domain.machine.record.address, page) * 4
    count, info = words[at], words[at + 1]
    pg.put_page(page)
    if count & pg.PGC_xen_heap:
        return XEN_DOMCTL_PFINFO_XTAB
    kind = TABLES.get(info >> 61, XEN_DOMCTL_PFINFO_NOTAB)
    if info & pg.PGT_pinned:
        return kind | XEN_DOMCTL_PFINFO_LPINTAB
    return kind if info & pg.PGT_validated else XEN_DOMCTL_PFINFO_NOTAB


def hypercall_init(request: Domctl) -> None:
    """XEN_DOMCTL_hypercall_init: fill a page of the domain's with hypercall stubs."""
    domain, machine = request.domain, request.domain.machine
    page = p2m.get_page_from_gfn(domain.record.address, signed(request.load(XenDomctlHypercallInit).gmfn))
    if not page:
        raise XenError(XEN_EINVAL)
    if pagetable.get_page_type(page, pg.PGT_writable_page):
        pg.put_page(page)
        raise XenError(XEN_EPERM)
    with domain.paused():
        frame = pg.frame_of(machine.record.address, page)
        machine.frame(frame)[:] = hvm_page() if domain.is_hvm else hypercall_page.pv_page()
        if domain.engine is not None:
            domain.engine.invalidate_code(frame * PAGE_SIZE, PAGE_SIZE)
    pagetable.put_page_and_type(page)
