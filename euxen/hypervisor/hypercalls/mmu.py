"""mmu_update, mmuext_op and update_va_mapping for more than a domain's own: what ``mm`` leaves to Python.

Source: do_mmu_update, do_mmuext_op and do_update_va_mapping_otherdomain in xen/arch/x86/mm.c.
"""

from __future__ import annotations

import contextlib

from euxen.abi.errno import XEN_EINVAL, XEN_EOPNOTSUPP, XEN_ESRCH
from euxen.hypervisor import xsm
from euxen.hypervisor.continuation import PREEMPTED
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import Continuation, XenError
from euxen.hypervisor.foreign import PageOwner, check_mmu_update
from euxen.hypervisor.hypercalls.extents import changing
from euxen.hypervisor.mm import mmu, mmuext
from euxen.hypervisor.vcpu import Vcpu


def _result(vcpu: Vcpu, value: int) -> int:
    """What the guest gets; a batch that was preempted goes on."""
    if value == PREEMPTED:
        raise Continuation(*vcpu.continuation)
    return value


def mmu_update(vcpu: Vcpu, requests: int, count: int, done: int, foreign: int, *_rest: int) -> int:
    """HYPERVISOR_mmu_update: ``foreign`` has the page tables' domain plus one in its upper half, the pages' below."""
    tables, pages = foreign >> 16 & 0xFFFF, foreign & 0xFFFF
    domain = vcpu.domain
    pt_owner = vcpu.domain.hypervisor.find(tables - 1) if tables else domain
    if pt_owner is None:
        raise XenError(XEN_ESRCH)
    pg_owner = PageOwner(domain, pages)
    if pt_owner.is_hvm:
        raise XenError(XEN_EOPNOTSUPP)  # it has no page tables of Xen's
    permitted = 1
    try:
        check_mmu_update(domain, pt_owner, pg_owner)
    except XenError:
        permitted = 0
    arguments = (requests, count, done, foreign)
    with changing(vcpu, pt_owner if permitted else domain, *arguments):
        addresses = (pt_owner.record.address, pg_owner.record.address)
        return _result(vcpu, mmu.mmu_update(vcpu.block, *arguments, *addresses, permitted))


def mmuext_op(vcpu: Vcpu, operations: int, count: int, done: int, foreign: int, *_rest: int) -> int:
    """HYPERVISOR_mmuext_op on pages of another domain's. An HVM domain has none that it could be about."""
    owner = PageOwner(vcpu.domain, foreign & 0xFFFF)
    if owner.domain is not None and owner.domain.is_hvm:
        raise XenError(XEN_EINVAL)
    check_owner(vcpu.domain, owner)
    if vcpu.hvm is not None:
        raise XenError(XEN_EOPNOTSUPP)
    arguments = (operations, count, done, foreign)
    stopped = changing(vcpu, owner.domain, *arguments) if owner.domain is not None else contextlib.nullcontext()
    with stopped:
        return _result(vcpu, mmuext.mmuext_op(vcpu.block, *arguments, owner.record.address))


def check_owner(caller: Domain, owner: PageOwner) -> None:
    """Whether a domain may pin and clear pages of an owner's. Raises XenError."""
    if owner.domain is None:
        xsm.system_pages(caller)
    else:
        xsm.mmuext_op(caller, owner.domain)


def update_va_mapping_otherdomain(vcpu: Vcpu, address: int, value: int, flags: int, domid: int, *_rest: int) -> int:
    """HYPERVISOR_update_va_mapping_otherdomain: map a page of another domain's."""
    owner = PageOwner(vcpu.domain, domid & 0xFFFF)
    check_mmu_update(vcpu.domain, None, owner)
    return mmu.update_va_mapping(vcpu.block, address, value, flags, owner.record.address)
