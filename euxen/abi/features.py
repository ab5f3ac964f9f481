"""Features that Xen offers a guest: bit numbers in XENVER_get_features' submap 0. xen/include/public/features.h

A kernel names those it supports, or with a ``!`` needs, in its XEN_ELFNOTE_FEATURES note, without the
``XENFEAT_`` prefix; XEN_ELFNOTE_SUPPORTED_FEATURES says the same as a bit map.
"""

from __future__ import annotations

from enum import IntEnum

XENFEAT_writable_page_tables = 0  # Page tables need no write protection and may be written directly.
XENFEAT_writable_descriptor_tables = 1  # The same for segment descriptor tables.
XENFEAT_auto_translated_physmap = 2  # Xen translates guest frames; the guest sees no machine frames.
XENFEAT_supervisor_mode_kernel = 3  # The guest's kernel runs in ring 0.
XENFEAT_pae_pgdir_above_4gb = 4  # PAE page directories may lie above 4 GiB.
XENFEAT_mmu_pt_update_preserve_ad = 5  # MMU_PT_UPDATE_PRESERVE_AD is there.
XENFEAT_highmem_assist = 6  # MMUEXT_CLEAR_PAGE and MMUEXT_COPY_PAGE are there.
XENFEAT_gnttab_map_avail_bits = 7  # GNTTABOP_map_grant_ref sets the PTE's available bits from its flags.
XENFEAT_hvm_callback_vector = 8  # HVM_PARAM_CALLBACK_IRQ takes a vector.
XENFEAT_hvm_safe_pvclock = 9  # An HVM guest may trust the PV clock.
XENFEAT_hvm_pirqs = 10  # An HVM guest may bind physical interrupts to event channels.
XENFEAT_dom0 = 11  # The kernel can be Domain 0, or the guest is.
XENFEAT_memory_op_vnode_supported = 13  # XENMEMF_vnode names a virtual NUMA node in memory operations.
XENFEAT_ARM_SMCCC_supported = 14  # ARM: the SMC calling convention is there.
XENFEAT_linux_rsdp_unrestricted = 15  # PVH Linux takes the ACPI RSDP anywhere, not just below 1 MiB.
XENFEAT_not_direct_mapped = 16  # The domain's gfn differ from their mfn.
XENFEAT_direct_mapped = 17  # The domain's gfn are their mfn.

XENFEAT_NR_SUBMAPS = 1


class XENFEAT(IntEnum):
    """The features by the names that kernels write in their notes."""

    writable_page_tables = XENFEAT_writable_page_tables
    writable_descriptor_tables = XENFEAT_writable_descriptor_tables
    auto_translated_physmap = XENFEAT_auto_translated_physmap
    supervisor_mode_kernel = XENFEAT_supervisor_mode_kernel
    pae_pgdir_above_4gb = XENFEAT_pae_pgdir_above_4gb
    mmu_pt_update_preserve_ad = XENFEAT_mmu_pt_update_preserve_ad
    highmem_assist = XENFEAT_highmem_assist
    gnttab_map_avail_bits = XENFEAT_gnttab_map_avail_bits
    hvm_callback_vector = XENFEAT_hvm_callback_vector
    hvm_safe_pvclock = XENFEAT_hvm_safe_pvclock
    hvm_pirqs = XENFEAT_hvm_pirqs
    dom0 = XENFEAT_dom0
    memory_op_vnode_supported = XENFEAT_memory_op_vnode_supported
    ARM_SMCCC_supported = XENFEAT_ARM_SMCCC_supported
    linux_rsdp_unrestricted = XENFEAT_linux_rsdp_unrestricted
    not_direct_mapped = XENFEAT_not_direct_mapped
    direct_mapped = XENFEAT_direct_mapped
