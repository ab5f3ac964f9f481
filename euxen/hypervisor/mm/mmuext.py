"""HYPERVISOR_mmuext_op: pinning page tables, changing address spaces, flushing TLBs.

Source: do_mmuext_op and new_guest_cr3 in xen/arch/x86/mm.c.
"""

from __future__ import annotations

from euxen.abi.errno import XEN_EACCES, XEN_EINVAL, XEN_ENOSYS, XEN_EOPNOTSUPP, XEN_EPERM
from euxen.abi.xen import (
    MMUEXT_CLEAR_PAGE,
    MMUEXT_COPY_PAGE,
    MMUEXT_FLUSH_CACHE,
    MMUEXT_FLUSH_CACHE_GLOBAL,
    MMUEXT_INVLPG_ALL,
    MMUEXT_INVLPG_LOCAL,
    MMUEXT_INVLPG_MULTI,
    MMUEXT_MARK_SUPER,
    MMUEXT_NEW_BASEPTR,
    MMUEXT_NEW_USER_BASEPTR,
    MMUEXT_PIN_L1_TABLE,
    MMUEXT_PIN_L4_TABLE,
    MMUEXT_SET_LDT,
    MMUEXT_TLB_FLUSH_LOCAL,
    MMUEXT_TLB_FLUSH_MULTI,
    MMUEXT_UNMARK_SUPER,
    MMUEXT_UNPIN_TABLE,
    MmuextOp,
)
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import and64, call2, call3, copy, fill, load32, load64, native, or64, store64
from euxen.hypervisor.guest_access import LOAD, addr_ok, guest_host, put_guest
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.mmu import GO_ON, MMU_UPDATE_PREEMPTED, done_before, finish_batch, next_request, start_batch
from euxen.hypervisor.mm.page import (
    get_page_from_mfn,
    host_of,
    page_of,
    put_page,
)
from euxen.hypervisor.mm.pagetable import (
    get_page_and_type_from_mfn,
    get_page_and_type_preemptible,
    put_old_guest_table,
    put_page_and_type,
    put_page_and_type_preemptible,
)
from euxen.hypervisor.mm.xen_slots import fill_ro_mpt, m2p_strict, zap_ro_mpt
from euxen.hypervisor.records import DomainRecord, PageInfo, VcpuRecord

ARG1 = MmuextOp.offsetof("arg1")
ARG2 = MmuextOp.offsetof("arg2")
MAX_LDT_ENTRIES = 8192
NO_MMUEXT_OP = 14
"""The only number below the highest that means nothing."""


@native
def pin(domain: int, frame: int, kind: int) -> int:
    """MMUEXT_PIN_L1_TABLE to MMUEXT_PIN_L4_TABLE."""
    if load64(domain + DomainRecord.is_dying):
        # Nobody would ever unpin it.
        return -XEN_EINVAL
    error = get_page_and_type_preemptible(domain, frame, kind, 0)
    if error:
        return error
    page = page_of(load64(domain + DomainRecord.machine), frame)
    if or64(page + PageInfo.type_info, pg.PGT_pinned) & pg.PGT_pinned:
        put_page_and_type(page)
        return -XEN_EINVAL
    return 0


@native
def unpin(domain: int, frame: int) -> int:
    """MMUEXT_UNPIN_TABLE."""
    page = get_page_from_mfn(domain, frame)
    if not page:
        return -XEN_EINVAL
    if not and64(page + PageInfo.type_info, ~pg.PGT_pinned) & pg.PGT_pinned:
        put_page(page)
        return -XEN_EINVAL
    put_page_and_type_preemptible(domain, page)
    put_page(page)
    return 0


@native
def new_guest_cr3(block: int, frame: int) -> int:
    """MMUEXT_NEW_BASEPTR; 0 or a negative errno. After -ERESTART it may or may not have happened."""
    vcpu = load64(block + CpuBlock.vcpu)
    domain = load64(vcpu + VcpuRecord.domain)
    old = load64(vcpu + VcpuRecord.guest_table)
    if frame == old:
        store64(block + CpuBlock.flush_pending, 1)
        return 0
    error = put_old_guest_table(domain)
    if not error:
        error = get_page_and_type_preemptible(domain, frame, pg.PGT_l4_page_table, 0)
    if error:
        return error
    if not m2p_strict(domain):
        fill_ro_mpt(domain, frame)
    store64(vcpu + VcpuRecord.guest_table, frame)
    call2(load64(block + CpuBlock.switch_root), block, frame << pg.PAGE_SHIFT)
    if old:
        return put_page_and_type_preemptible(domain, page_of(load64(domain + DomainRecord.machine), old))
    return 0


@native
def _new_user_cr3(block: int, frame: int) -> int:
    """MMUEXT_NEW_USER_BASEPTR; frame 0 leaves the user without a page table."""
    vcpu = load64(block + CpuBlock.vcpu)
    domain = load64(vcpu + VcpuRecord.domain)
    old = load64(vcpu + VcpuRecord.guest_table_user)
    if frame == old:
        return 0
    if frame:
        error = get_page_and_type_preemptible(domain, frame, pg.PGT_l4_page_table, 0)
        if error:
            return error
        if m2p_strict(domain):
            zap_ro_mpt(domain, frame)
    store64(vcpu + VcpuRecord.guest_table_user, frame)
    call2(load64(block + CpuBlock.switch_user_root), block, frame << pg.PAGE_SHIFT)
    if old:
        return put_page_and_type_preemptible(domain, page_of(load64(domain + DomainRecord.machine), old))
    return 0


@native
def _flush_op(block: int, command: int, address: int, vcpu_mask: int) -> int:
    """The TLB operations of mmuext_op."""
    if command == MMUEXT_TLB_FLUSH_MULTI or command == MMUEXT_INVLPG_MULTI:
        if not guest_host(block, vcpu_mask, LOAD):
            return -XEN_EINVAL
    if command == MMUEXT_INVLPG_LOCAL or command == MMUEXT_INVLPG_MULTI or command == MMUEXT_INVLPG_ALL:
        if addr_ok(address):
            call2(load64(block + CpuBlock.flush_page), block, address)
    else:
        store64(block + CpuBlock.flush_pending, 1)
    return 0


@native
def _set_ldt(vcpu: int, base: int, entries: int) -> int:
    """MMUEXT_SET_LDT."""
    if entries > MAX_LDT_ENTRIES or (entries and (base & 0xFFF or not addr_ok(base))):
        return -XEN_EINVAL
    store64(vcpu + VcpuRecord.ldt_base, base if entries else 0)
    store64(vcpu + VcpuRecord.ldt_ents, entries)
    return 0


@native
def _page_op(domain: int, target: int, source: int, command: int) -> int:
    """MMUEXT_CLEAR_PAGE and MMUEXT_COPY_PAGE."""
    machine = load64(domain + DomainRecord.machine)
    source_page = 0
    if command == MMUEXT_COPY_PAGE:
        source_page = get_page_from_mfn(domain, source)
        if not source_page:
            return -XEN_EINVAL
    error = get_page_and_type_from_mfn(domain, target, pg.PGT_writable_page)
    if not error:
        block = load64(domain + DomainRecord.block)
        if block:
            call3(load64(block + CpuBlock.invalidate_code), block, target << pg.PAGE_SHIFT, pg.PAGE_SIZE)
        if command == MMUEXT_COPY_PAGE:
            copy(host_of(machine, target), host_of(machine, source), pg.PAGE_SIZE)
        else:
            fill(host_of(machine, target), 0, pg.PAGE_SIZE)
        put_page_and_type(page_of(machine, target))
    if source_page:
        put_page(source_page)
    return -XEN_EINVAL if error else 0


@native
def _mmuext(block: int, vcpu: int, op: int, domain: int) -> int:
    """One operation of mmuext_op, on pages of ``domain``'s."""
    command = load32(op)
    arg1 = load64(op + ARG1)
    arg2 = load64(op + ARG2)
    if command >= MMUEXT_PIN_L1_TABLE and command <= MMUEXT_PIN_L4_TABLE:
        return pin(domain, arg1, (command - MMUEXT_PIN_L1_TABLE + 1) << 61)
    if command == MMUEXT_UNPIN_TABLE:
        return unpin(domain, arg1)
    if command == MMUEXT_CLEAR_PAGE or command == MMUEXT_COPY_PAGE:
        return _page_op(domain, arg1, arg2, command)
    if command == MMUEXT_MARK_SUPER or command == MMUEXT_UNMARK_SUPER:
        return -XEN_EOPNOTSUPP
    if command > MMUEXT_UNMARK_SUPER:
        return -XEN_ENOSYS
    # What is left is about the caller's own address space.
    if domain != load64(vcpu + VcpuRecord.domain) and command != NO_MMUEXT_OP:
        return -XEN_EPERM
    if command == MMUEXT_NEW_BASEPTR:
        return new_guest_cr3(block, arg1)
    if command == MMUEXT_NEW_USER_BASEPTR:
        return _new_user_cr3(block, arg1)
    if command >= MMUEXT_TLB_FLUSH_LOCAL and command <= MMUEXT_INVLPG_ALL:
        return _flush_op(block, command, arg1, arg2)
    if command == MMUEXT_FLUSH_CACHE:
        return -XEN_EACCES
    if command == MMUEXT_FLUSH_CACHE_GLOBAL:
        return -XEN_EINVAL
    if command == MMUEXT_SET_LDT:
        return _set_ldt(vcpu, arg1, arg2 & 0xFFFF_FFFF)
    return -XEN_ENOSYS


@native
def do_mmuext_op(block: int, operations: int, count: int, pdone: int, foreign: int) -> int:
    """HYPERVISOR_mmuext_op."""
    vcpu = load64(block + CpuBlock.vcpu)
    count &= 0xFFFF_FFFF
    answer = start_batch(vcpu, operations, count, pdone, foreign)
    if answer != GO_ON:
        return answer
    return mmuext_op(block, operations, count, pdone, foreign, load64(vcpu + VcpuRecord.domain))


@native
def mmuext_op(block: int, operations: int, count: int, pdone: int, foreign: int, pg_owner: int) -> int:
    """The same for pages of ``pg_owner``'s."""
    vcpu = load64(block + CpuBlock.vcpu)
    count &= 0xFFFF_FFFF
    before = done_before(block, vcpu, count, pdone)
    count &= ~MMU_UPDATE_PREEMPTED
    op = vcpu + VcpuRecord.scratch
    error = 0
    done = 0
    while done < count:
        error = next_request(block, pg_owner, done, op, operations, MmuextOp.size)
        if not error:
            error = _mmuext(block, vcpu, op, pg_owner)
        if error:
            break
        operations += MmuextOp.size
        done += 1
    if pdone:
        put_guest(block, pdone, before + done, 4)
    return finish_batch(vcpu, operations, count - done, pdone, foreign, error)
