/*
 * What a PVH guest finds when it starts. Xen: docs/misc/pvh.pandoc, xen/include/public/arch-x86/hvm/start_info.h,
 * cpuid_hypervisor_leaves in xen/arch/x86/traps.c.
 */
#include "runtime/kernel.h"

TEST(registers)
{
    CHECK_EQ(boot.cr0 & ~0x10u, CR0_PE);
    CHECK_EQ(boot.cr4, 0);
    CHECK_EQ(boot.eflags, 2);
    CHECK_EQ(boot.eax, 0);
    CHECK_EQ(boot.cs | boot.ds | boot.ss, 0);
}

TEST(start_info)
{
    CHECK_EQ(start_info->magic, XEN_HVM_START_MAGIC_VALUE);
    CHECK_EQ(start_info->version, 1);
    CHECK_EQ(start_info->nr_modules, 0);
    CHECK(start_info->rsdp_paddr);
    CHECK(!memcmp((void *)(ulong)start_info->rsdp_paddr, "RSD PTR ", 8));
    CHECK(start_info->memmap_entries >= 2);
}

TEST(memory_map_is_the_one_of_start_info)
{
    static struct { u64 address, size; u32 type; } __attribute__((packed)) entries[32];
    const struct hvm_memmap_table_entry *table = (void *)(ulong)start_info->memmap_paddr;
    struct xen_memory_map map = {.nr_entries = ARRAY_SIZE(entries)};

    set_xen_guest_handle(map.buffer, entries);
    REQUIRE_EQ(hypercall(memory_op, XENMEM_memory_map, &map), 0);
    REQUIRE_EQ(map.nr_entries, start_info->memmap_entries);
    for ( unsigned int at = 0; at < map.nr_entries; at++ )
    {
        CHECK_EQ(entries[at].address, table[at].addr);
        CHECK_EQ(entries[at].size, table[at].size);
        CHECK_EQ(entries[at].type, table[at].type);
    }
    map.nr_entries = 1;
    CHECK_EQ(hypercall(memory_op, XENMEM_memory_map, &map), 0);
    CHECK_EQ(map.nr_entries, 1);
}

TEST(cpuid_leaves)
{
    u32 registers[4];

    cpuid(1, 0, registers);
    CHECK_EQ(registers[2] >> 31, 1);
    CHECK_EQ(registers[1] >> 24, 0);
    cpuid(XEN_CPUID_LEAF(0), 0, registers);
    CHECK(registers[0] >= XEN_CPUID_LEAF(4));
    CHECK_EQ(registers[1], XEN_CPUID_SIGNATURE_EBX);
    CHECK_EQ(registers[2], XEN_CPUID_SIGNATURE_ECX);
    CHECK_EQ(registers[3], XEN_CPUID_SIGNATURE_EDX);
    cpuid(XEN_CPUID_LEAF(1), 0, registers);
    CHECK_EQ(registers[0], 4 << 16 | 17);
    cpuid(XEN_CPUID_LEAF(2), 0, registers);
    CHECK_EQ(registers[0], 1);
    CHECK_EQ(registers[1], 0x40000000);
    cpuid(XEN_CPUID_LEAF(4), 0, registers);
    CHECK(registers[0] & XEN_HVM_CPUID_VCPU_ID_PRESENT);
    CHECK(registers[0] & XEN_HVM_CPUID_DOMID_PRESENT);
    CHECK(registers[0] & XEN_HVM_CPUID_UPCALL_VECTOR);
    CHECK(!(registers[0] & (XEN_HVM_CPUID_APIC_ACCESS_VIRT | XEN_HVM_CPUID_X2APIC_VIRT)));
    CHECK_EQ(registers[1], 0);
    CHECK(registers[2] > 0 && registers[2] < DOMID_FIRST_RESERVED);
}

TEST(features)
{
    struct xen_feature_info features = {0};

    REQUIRE_EQ(hypercall(xen_version, XENVER_get_features, &features), 0);
    CHECK(features.submap & 1u << XENFEAT_hvm_callback_vector);
    CHECK(features.submap & 1u << XENFEAT_hvm_safe_pvclock);
    CHECK(features.submap & 1u << XENFEAT_memory_op_vnode_supported);
    CHECK(!(features.submap & 1u << XENFEAT_hvm_pirqs));
    CHECK(!(features.submap & 1u << XENFEAT_mmu_pt_update_preserve_ad));
    CHECK(!(features.submap & 1u << XENFEAT_pae_pgdir_above_4gb));
}

TEST(parameters)
{
    CHECK(get_param(HVM_PARAM_STORE_PFN));
    CHECK(get_param(HVM_PARAM_STORE_EVTCHN));
    CHECK(get_param(HVM_PARAM_CONSOLE_PFN));
    CHECK(get_param(HVM_PARAM_CONSOLE_EVTCHN));
}
