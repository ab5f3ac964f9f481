"""What only an HVM domain has: its saved state, and the pool of its p2m.

Source: arch_do_domctl in xen/arch/x86/domctl.c, paging_domctl in xen/arch/x86/mm/paging.c, hap_set_allocation in
xen/arch/x86/mm/hap/hap.c.
"""

from __future__ import annotations

from euxen.abi.domctl import (
    XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL,
    XEN_DOMCTL_SHADOW_OP_CLEAN,
    XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION,
    XEN_DOMCTL_SHADOW_OP_OFF,
    XEN_DOMCTL_SHADOW_OP_PEEK,
    XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION,
    XenDomctlHvmcontext,
    XenDomctlHvmcontextPartial,
    XenDomctlPagingMempool,
    XenDomctlShadowOp,
)
from euxen.abi.errno import XEN_EINVAL, XEN_ENOBUFS, XEN_ENOMEM, XEN_ENOSPC, XEN_EOPNOTSUPP
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.domctl.request import Domctl
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.hvm import save
from euxen.hypervisor.mm.page import PAGE_SHIFT, PAGE_SIZE

LARGEST_STATE = 1 << 20
PAGES_PER_MIB_SHIFT = 20 - PAGE_SHIFT


def _hvm_domain(request: Domctl) -> Domain:
    if not request.other.is_hvm:
        raise XenError(XEN_EINVAL)
    return request.other


def gethvmcontext(request: Domctl) -> None:
    """XEN_DOMCTL_gethvmcontext."""
    op, domain = request.load(XenDomctlHvmcontext), _hvm_domain(request)
    needed = save.size_needed(domain)
    if op.buffer:
        if op.size_ < needed:
            raise XenError(XEN_ENOSPC)
        with domain.paused():
            state = save.save(domain)
        op.size_ = len(state)
        request.caller.write(op.buffer, state)
    else:
        op.size_ = needed
    request.store(op)


def gethvmcontext_partial(request: Domctl) -> None:
    """XEN_DOMCTL_gethvmcontext_partial: one record."""
    op, domain = request.load(XenDomctlHvmcontextPartial), _hvm_domain(request)
    with domain.paused():
        record = save.save_one(domain, op.type, op.instance)
    if op.buffer:
        if op.bufsz < len(record):
            raise XenError(XEN_ENOBUFS)
        request.caller.write(op.buffer, record)
    op.bufsz = len(record)
    request.store(op)


def sethvmcontext(request: Domctl) -> None:
    """XEN_DOMCTL_sethvmcontext."""
    op, domain = request.load(XenDomctlHvmcontext), _hvm_domain(request)
    if op.size_ > LARGEST_STATE:
        raise XenError(XEN_ENOMEM)
    state = request.caller.read(op.buffer, op.size_)
    with domain.paused():
        save.load(domain, state)
    domain.wake()


# The pool of pages for the p2m.


def get_paging_mempool_size(request: Domctl) -> None:
    """XEN_DOMCTL_get_paging_mempool_size."""
    if not request.domain.is_hvm:
        raise XenError(XEN_EOPNOTSUPP)
    request.store(XenDomctlPagingMempool(size_=request.domain.record["p2m_pool"] * PAGE_SIZE))


def set_paging_mempool_size(request: Domctl) -> None:
    """XEN_DOMCTL_set_paging_mempool_size."""
    if not request.domain.is_hvm:
        raise XenError(XEN_EOPNOTSUPP)
    size = request.load(XenDomctlPagingMempool).size_
    if size % PAGE_SIZE:
        raise XenError(XEN_EINVAL)
    _set_pool(request.domain, size >> PAGE_SHIFT)


def _set_pool(domain: Domain, pages: int) -> None:
    """What is in use stays."""
    with domain.paused():
        domain.record["p2m_pool"] = max(pages, domain.record["p2m_used"])


def shadow_op(request: Domctl) -> None:
    """XEN_DOMCTL_shadow_op, in a Xen without shadow paging: of HVM guests the pool. Nobody's writes are recorded."""
    op, domain = request.load(XenDomctlShadowOp), request.other
    if domain.is_dying:
        return
    if not domain.vcpus:
        raise XenError(XEN_EINVAL)
    if not domain.is_hvm:
        raise XenError(XEN_EOPNOTSUPP)
    allocation = op.op in (XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION, XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION)
    if not allocation and op.op != XEN_DOMCTL_SHADOW_OP_OFF:
        looks = op.op in (XEN_DOMCTL_SHADOW_OP_CLEAN, XEN_DOMCTL_SHADOW_OP_PEEK)
        raise XenError(XEN_EINVAL if looks and op.mode & ~XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL else XEN_EOPNOTSUPP)
    if op.op == XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION:
        _set_pool(domain, op.mb << PAGES_PER_MIB_SHIFT)
    if allocation:
        pages = domain.record["p2m_pool"]
        op.mb = -(-pages >> PAGES_PER_MIB_SHIFT)
        request.store(op)
