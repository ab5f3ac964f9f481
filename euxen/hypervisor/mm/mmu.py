"""The hypercalls by which a PV guest changes entries of its page tables: mmu_update and update_va_mapping.

Source: xen/arch/x86/mm.c, do_mmu_update and __do_update_va_mapping.
"""

from __future__ import annotations

from euxen.abi.errno import XEN_EFAULT, XEN_EINVAL, XEN_ENOSYS, XEN_EPERM
from euxen.abi.xen import (
    DOMID_SELF,
    MMU_MACHPHYS_UPDATE,
    MMU_NORMAL_PT_UPDATE,
    MMU_PT_UPDATE_NO_TRANSLATE,
    MMU_PT_UPDATE_PRESERVE_AD,
    UVMF_ALL,
    UVMF_FLUSHTYPE_MASK,
    UVMF_INVLPG,
    UVMF_LOCAL,
    UVMF_TLB_FLUSH,
    MmuUpdate,
)
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import call2, load64, native, store64
from euxen.hypervisor.continuation import DEFER, create_continuation
from euxen.hypervisor.guest_access import LOAD, addr_ok, copy_from_guest, get_guest, guest_host, put_guest
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.mm.entries import _PAGE_PRESENT, PADDR_MASK
from euxen.hypervisor.mm.p2m import get_page_from_gfn
from euxen.hypervisor.mm.page import (
    ERESTART,
    frame_of,
    get_page_from_mfn,
    host_of,
    level_of,
    put_page,
    write_word,
)
from euxen.hypervisor.mm.pagetable import (
    get_page_type,
    put_old_guest_table,
    put_page_type,
)
from euxen.hypervisor.mm.update import mod_l1_entry, mod_ln_entry
from euxen.hypervisor.records import DomainRecord, MachineRecord, PageInfo, VcpuRecord

MMU_UPDATE_PREEMPTED = 1 << 31
PSE = 0x80
GO_ON = 1 << 42
"""What the start of a batch says where there is nothing to answer yet."""


@native
def is_self(domid: int) -> int:
    """Whether a domid names the caller as get_pg_owner wants it: nobody may give his own number."""
    return 1 if domid & 0xFFFF == DOMID_SELF else 0


@native
def owns_tables(domain: int, foreign: int) -> int:
    """Whether the page tables that mmu_update is for are the caller's: the upper half is their domain's, plus one."""
    owner = (foreign >> 16) & 0xFFFF
    return 1 if owner == 0 or owner - 1 == load64(domain + DomainRecord.domain_id) else 0


@native
def done_before(block: int, vcpu: int, count: int, pdone: int) -> int:
    """How much of a batch that was preempted is done already: the caller's counter knows."""
    if count & MMU_UPDATE_PREEMPTED and pdone and get_guest(block, pdone, 4) == 0:
        return load64(vcpu + VcpuRecord.word)
    return 0


@native
def start_batch(vcpu: int, requests: int, count: int, pdone: int, foreign: int) -> int:
    """What there is to answer before a batch is looked at, or GO_ON."""
    if put_old_guest_table(load64(vcpu + VcpuRecord.domain)):
        return create_continuation(vcpu, requests, count, pdone, foreign)
    if count == MMU_UPDATE_PREEMPTED and requests == 0:
        return foreign << 32 >> 32
    if not addr_ok(requests):
        return -XEN_EFAULT
    return GO_ON if is_self(foreign) else DEFER


@native
def next_request(block: int, owner: int, done: int, place: int, source: int, size: int) -> int:
    """Copy the next request of a batch to ``place``; -ERESTART if the ``owner`` of the tables or others go first."""
    if put_old_guest_table(owner) or (done and load64(block + CpuBlock.kicked)):
        return -ERESTART
    return -XEN_EFAULT if copy_from_guest(block, place, source, size) else 0


@native
def finish_batch(vcpu: int, rest: int, count: int, pdone: int, foreign: int, error: int) -> int:
    """The answer to a batch of which ``count`` requests are left, or have the rest of it done later."""
    if error == -ERESTART:
        return create_continuation(vcpu, rest, count | MMU_UPDATE_PREEMPTED, pdone, foreign)
    if put_old_guest_table(load64(vcpu + VcpuRecord.domain)):
        # What the answer is going to be takes the place of an argument that is not needed any more.
        return create_continuation(vcpu, 0, MMU_UPDATE_PREEMPTED, 0, error)
    return error


@native
def _mod_l1_entry(host: int, value: int, command: int, domain: int, pg_owner: int) -> int:
    """``mod_l1_entry``, where the frame of another's HVM domain may be one of its guest frames."""
    preserve_ad = 1 if command == MMU_PT_UPDATE_PRESERVE_AD else 0
    translate = load64(pg_owner + DomainRecord.p2m) and command != MMU_PT_UPDATE_NO_TRANSLATE
    if not translate or not value & _PAGE_PRESENT:
        return mod_l1_entry(host, value, preserve_ad, domain, pg_owner)
    page = get_page_from_gfn(pg_owner, (value & PADDR_MASK) >> pg.PAGE_SHIFT)
    if not page:
        return -XEN_EINVAL
    frame = frame_of(load64(domain + DomainRecord.machine), page)
    error = mod_l1_entry(host, (value & ~PADDR_MASK) | (frame << pg.PAGE_SHIFT), preserve_ad, domain, pg_owner)
    put_page(page)
    return error


@native
def _pt_update(domain: int, pointer: int, value: int, command: int, pg_owner: int) -> int:
    """One MMU_NORMAL_PT_UPDATE, or another MMU_PT_UPDATE_*: to a page table of any level, or to ordinary memory.

    The table is ``domain``'s, and what a level 1 table maps is ``pg_owner``'s.
    """
    preserve_ad = 1 if command == MMU_PT_UPDATE_PRESERVE_AD else 0
    machine = load64(domain + DomainRecord.machine)
    page = get_page_from_gfn(domain, (pointer & PADDR_MASK) >> pg.PAGE_SHIFT)
    if not page:
        return -XEN_EINVAL
    host = host_of(machine, frame_of(machine, page)) + (pointer & 0xFFF)
    info = load64(page + PageInfo.type_info)
    level = level_of(info)
    error = -XEN_EINVAL
    if info & pg.PGT_validated and info & pg.PGT_count_mask:
        if level == 1:
            error = _mod_l1_entry(host, value, command, domain, pg_owner)
        elif level <= 4 and pg_owner == domain:
            error = mod_ln_entry(host, value, level, page, preserve_ad, domain)
        elif info & pg.PGT_type_mask == pg.PGT_writable_page:
            error = write_word(domain, host, value)
    elif get_page_type(page, pg.PGT_writable_page) == 0:
        error = write_word(domain, host, value)
        put_page_type(page)
    put_page(page)
    return error


@native
def _machphys_update(domain: int, pointer: int, pfn: int) -> int:
    """One MMU_MACHPHYS_UPDATE."""
    machine = load64(domain + DomainRecord.machine)
    frame = (pointer & PADDR_MASK) >> pg.PAGE_SHIFT
    page = get_page_from_mfn(domain, frame)
    if not page:
        return -XEN_EINVAL
    store64(load64(machine + MachineRecord.m2p) + frame * 8, pfn)
    put_page(page)
    return 0


@native
def do_mmu_update(block: int, requests: int, count: int, pdone: int, foreign: int) -> int:
    """HYPERVISOR_mmu_update."""
    vcpu = load64(block + CpuBlock.vcpu)
    domain = load64(vcpu + VcpuRecord.domain)
    count &= 0xFFFF_FFFF
    answer = start_batch(vcpu, requests, count, pdone, foreign)
    if answer != GO_ON:
        return answer
    if not owns_tables(domain, foreign):
        return DEFER
    return mmu_update(block, requests, count, pdone, foreign, domain, domain, 1)


@native
def mmu_update(
    block: int, requests: int, count: int, pdone: int, foreign: int, pt_owner: int, pg_owner: int, permitted: int
) -> int:
    """The same for page tables of ``pt_owner``'s, in which pages of ``pg_owner``'s are mapped.

    ``permitted``: whether the caller may do that. If he may not, his first request fails.
    """
    vcpu = load64(block + CpuBlock.vcpu)
    domain = load64(vcpu + VcpuRecord.domain)
    count &= 0xFFFF_FFFF
    before = done_before(block, vcpu, count, pdone)
    count &= ~MMU_UPDATE_PREEMPTED
    request = vcpu + VcpuRecord.scratch
    error = 0
    done = 0
    while done < count:
        error = next_request(block, pt_owner, done, request, requests, MmuUpdate.size)
        if error:
            break
        pointer = load64(request + MmuUpdate.ptr)
        value = load64(request + MmuUpdate.val)
        command = pointer & 7
        if command > MMU_PT_UPDATE_NO_TRANSLATE:
            error = -XEN_ENOSYS
        elif not permitted or (command == MMU_MACHPHYS_UPDATE and pt_owner != domain):
            error = -XEN_EPERM
        elif command == MMU_MACHPHYS_UPDATE:
            # What is where in an HVM domain is not its managers' to say.
            error = -XEN_EINVAL if load64(pg_owner + DomainRecord.p2m) else _machphys_update(pg_owner, pointer, value)
        else:
            error = _pt_update(pt_owner, pointer - command, value, command, pg_owner)
        if error:
            break
        requests += MmuUpdate.size
        done += 1
    if pdone:
        put_guest(block, pdone, before + done, 4)
    return finish_batch(vcpu, requests, count - done, pdone, foreign, error)


@native
def l1_entry_host(block: int, address: int) -> int:
    """Where the level 1 entry for a linear address of the guest's kernel is in the host's memory, or 0."""
    if not addr_ok(address):
        return 0
    ram = load64(block + CpuBlock.ram)
    table = load64(block + CpuBlock.root)
    shift = 39
    while shift > 12:
        entry = load64(ram + table + ((address >> shift) & 0x1FF) * 8)
        if entry & (_PAGE_PRESENT | PSE) != _PAGE_PRESENT:
            return 0
        table = entry & PADDR_MASK
        shift -= 9
    return ram + table + ((address >> 12) & 0x1FF) * 8


@native
def _flush_after(block: int, address: int, flags: int) -> int:
    """The flush that update_va_mapping was asked for. One TLB serves all vCPUs of a domain."""
    kind = flags & UVMF_FLUSHTYPE_MASK
    if kind != UVMF_TLB_FLUSH and kind != UVMF_INVLPG:
        return 0
    mask = flags & ~UVMF_FLUSHTYPE_MASK
    if mask != UVMF_LOCAL and mask != UVMF_ALL and not guest_host(block, mask, LOAD):
        return -XEN_EFAULT
    if kind == UVMF_INVLPG:
        call2(load64(block + CpuBlock.flush_page), block, address)
    else:
        store64(block + CpuBlock.flush_pending, 1)
    return 0


@native
def do_update_va_mapping(block: int, address: int, value: int, flags: int) -> int:
    """HYPERVISOR_update_va_mapping."""
    domain = load64(load64(block + CpuBlock.vcpu) + VcpuRecord.domain)
    return update_va_mapping(block, address, value, flags, domain)


@native
def update_va_mapping(block: int, address: int, value: int, flags: int, pg_owner: int) -> int:
    """The same with a page of ``pg_owner``'s."""
    domain = load64(load64(block + CpuBlock.vcpu) + VcpuRecord.domain)
    machine = load64(domain + DomainRecord.machine)
    host = l1_entry_host(block, address)
    if not host:
        return -XEN_EINVAL
    page = get_page_from_mfn(domain, (host - load64(machine + MachineRecord.ram)) >> pg.PAGE_SHIFT)
    if not page:
        return -XEN_EINVAL
    info = load64(page + PageInfo.type_info)
    error = -XEN_EINVAL
    if info & (pg.PGT_type_mask | pg.PGT_validated) == pg.PGT_l1_page_table | pg.PGT_validated:
        error = _mod_l1_entry(host, value, MMU_NORMAL_PT_UPDATE, domain, pg_owner)
    put_page(page)
    if error:
        return error
    return _flush_after(block, address, flags)
