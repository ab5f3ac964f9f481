/*
 * What Xen once got wrong about managing domains, tried again by a privileged one. docs/advisories.md says of each what
 * it was.
 */
#include "runtime/domains.h"

#include <xen/grant_table.h>

/* A vCPU that begins in a program has to have page tables for it. */
TEST(xsa_1_programs_without_page_tables)
{
    static vcpu_guest_context_t context;
    struct child child;
    struct xen_domctl op;

    build_child(&child, count_code, count_code_end);
    op = new_domctl(XEN_DOMCTL_getvcpucontext, child.domid);
    set_xen_guest_handle(op.u.vcpucontext.ctxt, &context);
    REQUIRE_EQ(domctl(&op), 0);
    REQUIRE_EQ(plain_domctl(XEN_DOMCTL_setvcpucontext, child.domid), 0);
    context.flags &= ~VGCF_in_kernel;
    context.ctrlreg[1] = 0;
    op.cmd = XEN_DOMCTL_setvcpucontext;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);
    unpause(child.domid);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_getvcpucontext, child.domid), -XEN_ENODATA);
    unmap_child(&child);
    destroy(child.domid);
}

/* Page tables of a domain that has none of Xen's kind: here Domain 0, whose kernel is no guest's. */
TEST(xsa_109_tables_of_domains_without)
{
    static const unsigned int commands[] = {
        MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE,
        MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR, MMUEXT_SET_LDT, MMUEXT_TLB_FLUSH_ALL, MMUEXT_INVLPG_LOCAL,
    };
    u64 *tables = make_tables(), frame = start_info->shared_info / PAGE_SIZE, mine = virt_to_mfn(alloc_page());

    /* Neither its pages, nor ours in its name. */
    for ( u64 mfn = frame - 16; mfn <= frame + 16; mfn++ )
        for ( unsigned int i = 0; i < ARRAY_SIZE(commands); i++ )
        {
            mmuext_op_t op = {.cmd = commands[i], .arg1.mfn = mfn == frame + 16 ? mine : mfn};

            CHECK(hypercall(mmuext_op, &op, 1, NULL, 0) < 0);
        }
    CHECK_EQ(foreign_mmu_update(virt_to_maddr(tables), make_pte(mine, PTE_RW), 1 << 16 | DOMID_SELF), -XEN_EINVAL);
    CHECK_EQ(foreign_mmu_update(virt_to_maddr(tables), make_pte(mine, PTE_RW), 1 << 16), -XEN_EINVAL);
    CHECK_EQ(tables[0], 0);
    CHECK_EQ(flags_of(0) & ~(XEN_DOMINF_blocked | XEN_DOMINF_running), 0);
}

/* A domain that pauses itself would wait for itself for ever. */
TEST(xsa_127_commands_that_pause_their_caller)
{
    static const unsigned int commands[] = {
        XEN_DOMCTL_pausedomain, XEN_DOMCTL_destroydomain, XEN_DOMCTL_resumedomain, XEN_DOMCTL_gettscinfo,
        XEN_DOMCTL_settscinfo, XEN_DOMCTL_setdebugging, XEN_DOMCTL_set_cpu_policy, XEN_DOMCTL_max_vcpus,
        XEN_DOMCTL_setvcpucontext, XEN_DOMCTL_getvcpucontext, XEN_DOMCTL_shadow_op, XEN_DOMCTL_setvcpuextstate,
        XEN_DOMCTL_getvcpuextstate,
    };

    for ( unsigned int i = 0; i < ARRAY_SIZE(commands); i++ )
        CHECK_EQ(plain_domctl(commands[i], 1), -XEN_EINVAL);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_get_ext_vcpucontext, 1), -XEN_ESRCH);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_set_ext_vcpucontext, 1), -XEN_ESRCH);
    CHECK_EQ(flags_of(1), XEN_DOMINF_running);
}

/* Nothing comes back in an answer but the answer: what is between its fields is as it was, or zero. */
TEST(xsa_132_padding_of_answers)
{
    struct child child;
    struct xen_domctl op;
    const u8 *bytes = (u8 *)&op.u;

    build_child(&child, count_code, count_code_end);
    for ( unsigned int fill = 0; fill < 256; fill += 0xff )
    {
        op = new_domctl(XEN_DOMCTL_gettscinfo, child.domid);
        memset(&op.u, fill, sizeof(op.u));
        REQUIRE_EQ(domctl(&op), 0);
        CHECK(!op.u.tsc_info.pad || op.u.tsc_info.pad == fill * 0x01010101u);
        for ( unsigned int i = sizeof(op.u.tsc_info); i < sizeof(op.u); i++ )
            CHECK_EQ(bytes[i], fill);

        op = new_domctl(XEN_DOMCTL_getdomaininfo, child.domid);
        memset(&op.u, fill, sizeof(op.u));
        REQUIRE_EQ(domctl(&op), 0);
        CHECK(!op.u.getdomaininfo.pad1 || op.u.getdomaininfo.pad1 == fill * 0x0101);
        for ( unsigned int i = sizeof(op.u.getdomaininfo); i < sizeof(op.u); i++ )
            CHECK_EQ(bytes[i], fill);

        op = new_domctl(XEN_DOMCTL_getvcpuinfo, child.domid);
        memset(&op.u, fill, sizeof(op.u));
        op.u.getvcpuinfo.vcpu = 0;
        REQUIRE_EQ(domctl(&op), 0);
        for ( unsigned int i = sizeof(op.u.getvcpuinfo); i < sizeof(op.u); i++ )
            CHECK_EQ(bytes[i], fill);
    }
    unmap_child(&child);
    destroy(child.domid);
}

/* Whatever goes wrong when frames are asked for, the next to ask is answered. */
TEST(xsa_334_resources_that_are_refused)
{
    struct child child;
    xen_pfn_t frames[2];
    struct gnttab_query_size size;

    build_child(&child, count_code, count_code_end);
    for ( unsigned int i = 0; i < 4; i++ )
    {
        struct xen_mem_acquire_resource resource = {
            .domid = child.domid, .type = XENMEM_resource_grant_table, .nr_frames = 1};

        set_xen_guest_handle(resource.frame_list, frames);
        resource.id = 2;
        CHECK_EQ(hypercall(memory_op, XENMEM_acquire_resource, &resource), -XEN_EINVAL);
        resource.id = XENMEM_resource_grant_table_id_status;
        CHECK_EQ(hypercall(memory_op, XENMEM_acquire_resource, &resource), -XEN_EINVAL);
        resource.id = XENMEM_resource_grant_table_id_shared;
        resource.frame = 1u << 20;
        CHECK_EQ(hypercall(memory_op, XENMEM_acquire_resource, &resource), -XEN_EINVAL);
        resource.frame = ~0u;
        CHECK_EQ(hypercall(memory_op, XENMEM_acquire_resource, &resource), -XEN_EINVAL);
        resource.frame = 0;
        resource.nr_frames = 1u << 30;
        CHECK_EQ(hypercall(memory_op, XENMEM_acquire_resource, &resource), -XEN_EINVAL);
        resource.nr_frames = 2;
        set_xen_guest_handle(resource.frame_list, (void *)UNMAPPED);
        CHECK_EQ(hypercall(memory_op, XENMEM_acquire_resource, &resource), -XEN_EFAULT);
        set_xen_guest_handle(resource.frame_list, frames);
        REQUIRE_EQ(hypercall(memory_op, XENMEM_acquire_resource, &resource), 0);
        size = (struct gnttab_query_size){.dom = child.domid, .status = 99};
        REQUIRE_EQ(hypercall(grant_table_op, GNTTABOP_query_size, &size, 1), 0);
        CHECK_EQ(size.status, GNTST_okay);
        CHECK_EQ(size.nr_frames, 2);
    }
    unmap_child(&child);
    destroy(child.domid);
}
