"""Whether a vCPU can have the state that somebody wants for it.

Source: arch_set_info_guest in xen/arch/x86/domain.c.
"""

from __future__ import annotations

from euxen.abi.arch_x86_xen import FIRST_RESERVED_GDT_ENTRY, VcpuGuestContext, VGCF_in_kernel
from euxen.abi.errno import XEN_EINVAL, XEN_EOPNOTSUPP
from euxen.abi.xen import (
    VMASST_TYPE_4gb_segments,
    VMASST_TYPE_4gb_segments_notify,
    VMASST_TYPE_architectural_iopl,
    VMASST_TYPE_m2p_strict,
    VMASST_TYPE_pae_extended_cr3,
    VMASST_TYPE_runstate_update_flag,
    VMASST_TYPE_writable_pagetables,
)
from euxen.cpu.native.language import signed
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.guest_access import addr_ok

MAX_LDT_ENTRIES = 8192
PAGE_MASK = 0xFFF
BREAKPOINTS = 4
DR6, DR7 = 6, 7
ASSISTS = {
    VMASST_TYPE_4gb_segments,
    VMASST_TYPE_4gb_segments_notify,
    VMASST_TYPE_writable_pagetables,
    VMASST_TYPE_pae_extended_cr3,
    VMASST_TYPE_architectural_iopl,
    VMASST_TYPE_runstate_update_flag,
    VMASST_TYPE_m2p_strict,
}
VALID_ASSISTS = sum(1 << assist for assist in ASSISTS)


def canonical(address: int) -> bool:
    """Whether a 64-bit address is one that a CPU accepts."""
    return (address >> 47) in (0, 0x1FFFF)


def check(context: VcpuGuestContext) -> None:
    """Raises XenError for a state that no vCPU can have. Its page tables and its GDT are looked at elsewhere."""
    registers, debug = context.user_regs, context.debugreg
    addresses = (
        registers.rip,
        registers.rsp,
        context.kernel_sp,
        context.ldt_base,
        context.fs_base,
        context.gs_base_kernel,
        context.gs_base_user,
        context.event_callback_eip,
        context.syscall_callback_eip,
        context.failsafe_callback_eip,
        *(trap.address for trap in context.trap_ctxt),
    )
    in_kernel = context.flags & VGCF_in_kernel
    wrong = (
        debug[DR6] >> 32
        or debug[DR7] >> 32
        or not all(addr_ok(signed(address)) for address in debug[:BREAKPOINTS])
        or not all(canonical(address) for address in addresses)
        or not addr_ok(signed(context.ldt_base))
        or context.ldt_base & PAGE_MASK
        or context.ldt_ents > MAX_LDT_ENTRIES
        or context.gdt_ents > FIRST_RESERVED_GDT_ENTRY
        or context.vm_assist & ~VALID_ASSISTS
        or (not in_kernel and not context.ctrlreg[1])
    )
    if wrong:
        raise XenError(XEN_EINVAL)
    if not in_kernel:
        raise XenError(XEN_EOPNOTSUPP)
