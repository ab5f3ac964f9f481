/*
 * Hypercalls of HVM guests: how they are made, who may, and which there are.
 * Xen: hvm_hypercall in xen/arch/x86/hvm/hypercall.c, svm_init_hypercall_page, copy_from_user_hvm.
 */
#include "runtime/kernel.h"

#define NO_MEMORY (HOLE + 0x10)

TEST(by_vmcall_vmmcall_and_page)
{
    long version = hypercall(xen_version, XENVER_version, 0);

    CHECK_EQ(version, 4 << 16 | 17);
    CHECK_EQ(vmcall(__HYPERVISOR_xen_version, XENVER_version, 0), version);
    CHECK_EQ(vmmcall(__HYPERVISOR_xen_version, XENVER_version, 0), version);
}

static ulong version_by_vmcall(ulong unused)
{
    return vmcall(__HYPERVISOR_xen_version, XENVER_version, 0);
}

static ulong version_by_vmmcall(ulong unused)
{
    return vmmcall(__HYPERVISOR_xen_version, XENVER_version, 0);
}

TEST(not_from_user_mode)
{
    CHECK_EQ((long)in_user(version_by_vmcall, 0), -XEN_EPERM);
    CHECK_EQ((long)in_user(version_by_vmmcall, 0), -XEN_EPERM);
}

TEST(the_page)
{
    static u8 page[PAGE_SIZE] PAGE_ALIGNED;

    for ( unsigned int number = 0; number < 64; number++ )
    {
        const u8 *stub = (u8 *)hypercall_page[number];

        if ( number == __HYPERVISOR_iret )
        {
            CHECK_EQ(*(u16 *)stub, 0x0b0f);
            continue;
        }
        CHECK_EQ(stub[0], 0xb8);
        CHECK_EQ(*(u32 *)(stub + 1), number);
        CHECK_EQ(stub[8], 0xc3);
    }
    /* Anywhere, and as often as one likes; not where no memory is, and there is only one. */
    wrmsr(0x40000000, (ulong)page);
    CHECK(!memcmp(page, hypercall_page, PAGE_SIZE));
    CHECK_EQ(WRMSR_TRAP(0x40000000, (ulong)page + 1), X86_GP);
    CHECK_EQ(WRMSR_TRAP(0x40000000, HOLE), X86_GP);
    CHECK_EQ(WRMSR_TRAP(0x40000000, 1ull << 52), X86_GP);
    CHECK_EQ(rdmsr(0x40000000), 0);
}

TEST(those_of_pv_guests)
{
    CHECK_EQ(hypercall(set_trap_table, 0), -XEN_ENOSYS);
    CHECK_EQ(hypercall(mmu_update, 0, 0, 0, DOMID_SELF), -XEN_ENOSYS);
    CHECK_EQ(hypercall(set_gdt, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(hypercall(stack_switch, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(hypercall(set_callbacks, 0, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(hypercall(fpu_taskswitch, 1), -XEN_ENOSYS);
    CHECK_EQ(hypercall(set_debugreg, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(hypercall(get_debugreg, 0), -XEN_ENOSYS);
    CHECK_EQ(hypercall(update_descriptor, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(hypercall(update_va_mapping, 0, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(hypercall(set_segment_base, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(hypercall(callback_op, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(hypercall(nmi_op, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(vmcall(__HYPERVISOR_iret, 0, 0), -XEN_ENOSYS);
}

TEST(numbers_that_are_none)
{
    CHECK_EQ(vmcall(__HYPERVISOR_arch_7, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(vmcall(57, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(vmcall(0x7fffffff, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(vmcall(-1, 0, 0), -XEN_ENOSYS);
}

TEST(pointers_to_nothing)
{
    CHECK_EQ(hypercall(xen_version, XENVER_get_features, NO_MEMORY), -XEN_EFAULT);
    CHECK_EQ(hypercall(event_channel_op, EVTCHNOP_send, NO_MEMORY), -XEN_EFAULT);
    CHECK_EQ(hypercall(memory_op, XENMEM_add_to_physmap, NO_MEMORY), -XEN_EFAULT);
    /* As many extents as were done. */
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, NO_MEMORY), 0);
    CHECK_EQ(hypercall(memory_op, XENMEM_decrease_reservation, NO_MEMORY), 0);
    CHECK_EQ(hypercall(hvm_op, HVMOP_get_param, NO_MEMORY), -XEN_EFAULT);
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_register_vcpu_info, 0, NO_MEMORY), -XEN_EFAULT);
    CHECK_EQ(hypercall(sched_op, SCHEDOP_poll, NO_MEMORY), -XEN_EFAULT);
    CHECK_EQ(hypercall(grant_table_op, GNTTABOP_setup_table, NO_MEMORY, 1), -XEN_EFAULT);
    CHECK_EQ(hypercall(multicall, NO_MEMORY, 1), -XEN_EFAULT);
    CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_eoi, NO_MEMORY), -XEN_ENOSYS);
    CHECK_EQ(hypercall(console_io, CONSOLEIO_write, 4, NO_MEMORY), -XEN_EFAULT);
}

/* A structure that lies half in memory. */
TEST(pointers_over_the_edge)
{
    struct xen_hvm_param *op;

    REQUIRE_EQ(populate(TO_PFN(HOLE)), 1);
    op = (struct xen_hvm_param *)(HOLE_PAGE(1) - sizeof(*op));
    op->domid = DOMID_SELF;
    op->index = HVM_PARAM_STORE_PFN;
    CHECK_EQ(hypercall(hvm_op, HVMOP_get_param, op), 0);
    op = (struct xen_hvm_param *)(HOLE_PAGE(1) - 8);
    CHECK_EQ(hypercall(hvm_op, HVMOP_get_param, op), -XEN_EFAULT);
    CHECK_EQ(hypercall(hvm_op, HVMOP_get_param, (void *)-8l), -XEN_EFAULT);
}

TEST(multicalls)
{
    struct xen_feature_info features = {0};
    struct multicall_entry calls[4] = {
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}},
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_get_features, (ulong)&features}},
        {.op = __HYPERVISOR_set_trap_table},
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_get_features, NO_MEMORY}},
    };

    REQUIRE_EQ(hypercall(multicall, calls, 4), 0);
    CHECK_EQ(calls[0].result, 4 << 16 | 17);
    CHECK_EQ(calls[1].result, 0);
    CHECK(features.submap);
    CHECK_EQ((long)calls[2].result, -XEN_ENOSYS);
    CHECK_EQ((long)calls[3].result, -XEN_EFAULT);
}

TEST(strings_of_the_version)
{
    xen_extraversion_t extra;
    xen_capabilities_info_t capabilities;
    struct xen_platform_parameters parameters = {.virt_start = 1};

    CHECK(hypercall(xen_version, XENVER_extraversion, extra) == 0 && extra[0] == '.');
    CHECK_EQ(hypercall(xen_version, XENVER_capabilities, capabilities), 0);
    CHECK_EQ(hypercall(xen_version, XENVER_platform_parameters, &parameters), 0);
    CHECK_EQ(parameters.virt_start, 0);
    CHECK_EQ(hypercall(xen_version, XENVER_pagesize, 0), PAGE_SIZE);
}

TEST(console_io)
{
    static const char text[] = "told by console_io\n";

    CHECK_EQ(hypercall(console_io, CONSOLEIO_write, sizeof(text) - 1, text), 0);
    CHECK_EQ(hypercall(console_io, CONSOLEIO_read, 1, text), -XEN_EPERM);
    for ( const char *at = "told by port 0xe9\n"; *at; at++ )
        asm volatile("outb %0, $0xe9" :: "a"(*at));
}

TEST(of_managers)
{
    static u8 op[128];

    CHECK_EQ(hypercall(sysctl, op), -XEN_EACCES);
    CHECK_EQ(hypercall(domctl, op), -XEN_EACCES);
    CHECK(hypercall(platform_op, op) < 0);
}

/* ---- hvm_op ---- */

static long param(unsigned int command, domid_t domid, unsigned int index, u64 value)
{
    struct xen_hvm_param op = {.domid = domid, .index = index, .value = value};

    return hypercall(hvm_op, command, &op);
}

TEST(parameters_that_a_guest_sets)
{
    CHECK_EQ(set_param(HVM_PARAM_STORE_EVTCHN, 7), 0);
    CHECK_EQ(get_param(HVM_PARAM_STORE_EVTCHN), 7);
    CHECK_EQ(set_param(HVM_PARAM_X87_FIP_WIDTH, 4), 0);
    CHECK_EQ(set_param(HVM_PARAM_X87_FIP_WIDTH, 5), -XEN_EINVAL);
    CHECK_EQ(set_param(HVM_PARAM_STORE_PFN, 1), -XEN_EPERM);
    CHECK_EQ(set_param(HVM_PARAM_CONSOLE_PFN, 1), -XEN_EPERM);
    CHECK_EQ(set_param(HVM_PARAM_IDENT_PT, 1), -XEN_EPERM);
    CHECK_EQ(set_param(HVM_PARAM_TRIPLE_FAULT_REASON, 0), -XEN_EPERM);
    CHECK_EQ(set_param(4, 1), -XEN_EINVAL);
    CHECK_EQ(set_param(24, 1), -XEN_EINVAL);
    CHECK_EQ(set_param(HVM_NR_PARAMS, 1), -XEN_EINVAL);
    CHECK_EQ(set_param(-1, 1), -XEN_EINVAL);
    CHECK_EQ(param(HVMOP_get_param, DOMID_SELF, HVM_PARAM_IDENT_PT, 0), -XEN_EPERM);
    CHECK_EQ(param(HVMOP_get_param, DOMID_SELF, HVM_NR_PARAMS, 0), -XEN_EINVAL);
}

TEST(parameters_of_others)
{
    CHECK_EQ(param(HVMOP_get_param, 0, HVM_PARAM_STORE_PFN, 0), -XEN_EINVAL);
    CHECK_EQ(param(HVMOP_get_param, 0x7000, HVM_PARAM_STORE_PFN, 0), -XEN_ESRCH);
    CHECK_EQ(param(HVMOP_set_param, 0x7000, HVM_PARAM_STORE_EVTCHN, 0), -XEN_ESRCH);
}

TEST(other_operations)
{
    struct xen_hvm_get_time now = {0};
    struct xen_hvm_pagetable_dying dying = {.domid = DOMID_SELF};
    struct xen_hvm_get_mem_type type = {.domid = DOMID_SELF, .pfn = TO_PFN(&hypercall_page)};

    CHECK_EQ(hypercall(hvm_op, HVMOP_get_time, &now), 0);
    CHECK(now.now && now.now <= system_time());
    CHECK_EQ(hypercall(hvm_op, HVMOP_flush_tlbs, 0), 0);
    CHECK_EQ(hypercall(hvm_op, HVMOP_pagetable_dying, &dying), -XEN_EINVAL);
    CHECK_EQ(hypercall(hvm_op, HVMOP_get_mem_type, &type), 0);
    CHECK_EQ(type.mem_type, HVMMEM_ram_rw);
    type.pfn = TO_PFN(HOLE);
    CHECK_EQ(hypercall(hvm_op, HVMOP_get_mem_type, &type), 0);
    CHECK_EQ(type.mem_type, HVMMEM_mmio_dm);
    CHECK_EQ(hypercall(hvm_op, HVMOP_altp2m, 0), -XEN_EOPNOTSUPP);
    CHECK_EQ(hypercall(hvm_op, 1000, 0), -XEN_ENOSYS);
}
