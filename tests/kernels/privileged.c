/*
 * What a privileged domain may: manage others, by the hypercalls that Domain 0's kernel and tools have.
 */
#include "runtime/domains.h"

#include <xen/hvm/save.h>

static u64 free_pages(void)
{
    struct xen_sysctl op;

    memset(&op, 0, sizeof(op));
    op.cmd = XEN_SYSCTL_physinfo;
    op.interface_version = XEN_SYSCTL_INTERFACE_VERSION;
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    return op.u.physinfo.free_pages;
}

static struct xen_sysctl new_sysctl(unsigned int command)
{
    struct xen_sysctl op;

    memset(&op, 0, sizeof(op));
    op.cmd = command;
    op.interface_version = XEN_SYSCTL_INTERFACE_VERSION;
    return op;
}

/* ---- Domains ---- */

TEST(created_and_destroyed)
{
    struct xen_domctl op = new_createdomain(0);
    struct xen_domctl_getdomaininfo info;
    u64 free = free_pages();
    domid_t domid;

    memset(op.u.createdomain.handle, 0x5a, sizeof(op.u.createdomain.handle));
    REQUIRE_EQ(domctl(&op), 0);
    domid = op.domain;
    CHECK(domid > 1 && domid < DOMID_FIRST_RESERVED);
    REQUIRE_EQ(getdomaininfo(domid, &info), 0);
    CHECK_EQ(info.domain, domid);
    CHECK_EQ(info.flags, XEN_DOMINF_paused | 0xffff0000u);
    CHECK_EQ(info.tot_pages, 0);
    CHECK_EQ(info.max_pages, 0);
    CHECK_EQ(info.nr_online_vcpus, 0);
    CHECK_EQ(info.max_vcpu_id, XEN_INVALID_MAX_VCPU_ID);
    CHECK_EQ(info.handle[15], 0x5a);
    destroy(domid);
    CHECK_EQ(getdomaininfo(domid, &info), -XEN_ESRCH);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_destroydomain, domid), -XEN_ESRCH);
    CHECK_EQ(free_pages(), free);
}

TEST(domids)
{
    struct xen_domctl op = new_createdomain(0);
    domid_t first, second;

    REQUIRE_EQ(domctl(&op), 0);
    first = op.domain;
    op = new_createdomain(first);
    CHECK_EQ(domctl(&op), -XEN_EEXIST);
    op = new_createdomain(1); /* that is us */
    CHECK_EQ(domctl(&op), -XEN_EEXIST);
    op = new_createdomain(700);
    CHECK_EQ(domctl(&op), 0);
    CHECK_EQ(op.domain, 700);
    op = new_createdomain(DOMID_FIRST_RESERVED);
    REQUIRE_EQ(domctl(&op), 0);
    second = op.domain;
    CHECK_EQ(second, first + 1);
    destroy(first);
    /* Numbers are used again as late as possible. */
    op = new_createdomain(0);
    REQUIRE_EQ(domctl(&op), 0);
    CHECK_EQ(op.domain, second + 1);
    destroy(op.domain);
    destroy(second);
    destroy(700);
}

#define REFUSED(error, field, value)                          \
    do {                                                      \
        struct xen_domctl op_ = new_createdomain(0);          \
        op_.u.createdomain.field = value;                     \
        CHECK_EQ(domctl(&op_), -error);                       \
    } while ( 0 )

TEST(creations_that_are_refused)
{
    u64 free = free_pages();

    REFUSED(XEN_EINVAL, flags, XEN_DOMCTL_CDF_MAX << 1);
    REFUSED(XEN_EINVAL, flags, 1u << 31);
    REFUSED(XEN_EOPNOTSUPP, flags, XEN_DOMCTL_CDF_hvm);
    REFUSED(XEN_EINVAL, flags, XEN_DOMCTL_CDF_hap);
    REFUSED(XEN_EINVAL, flags, XEN_DOMCTL_CDF_iommu);
    REFUSED(XEN_EINVAL, flags, XEN_DOMCTL_CDF_vpmu);
    REFUSED(XEN_EINVAL, flags, XEN_DOMCTL_CDF_nested_virt);
    REFUSED(XEN_EINVAL, flags, XEN_DOMCTL_CDF_s3_integrity);
    REFUSED(XEN_EINVAL, iommu_opts, 1);
    REFUSED(XEN_EINVAL, max_vcpus, 0);
    REFUSED(XEN_EINVAL, max_vcpus, 100000);
    REFUSED(XEN_EINVAL, grant_opts, 0);
    REFUSED(XEN_EINVAL, grant_opts, 3);
    REFUSED(XEN_EINVAL, grant_opts, 0x11);
    REFUSED(XEN_EINVAL, vmtrace_size, PAGE_SIZE);
    REFUSED(XEN_ENODEV, cpupool_id, 1);
    REFUSED(XEN_EINVAL, arch.misc_flags, 2);
    REFUSED(XEN_EINVAL, arch.emulation_flags, 1 << 11);
    REFUSED(XEN_EOPNOTSUPP, arch.emulation_flags, XEN_X86_EMU_LAPIC);
    CHECK_EQ(free_pages(), free);
}

TEST(next_domain)
{
    struct child child;
    struct xen_domctl_getdomaininfo info;

    new_child(&child);
    CHECK_EQ(getdomaininfo(child.domid - 1, &info), 0);
    REQUIRE_EQ(getdomaininfo(2, &info), 0);
    CHECK_EQ(info.domain, child.domid);
    CHECK_EQ(info.tot_pages, CHILD_PAGES);
    CHECK_EQ(info.max_pages, CHILD_PAGES);
    CHECK_EQ(getdomaininfo(child.domid + 1, &info), -XEN_ESRCH);
    CHECK_EQ(getdomaininfo(DOMID_FIRST_RESERVED, &info), -XEN_EINVAL);
    CHECK_EQ(getdomaininfo(DOMID_SELF, &info), -XEN_EINVAL);
    unmap_child(&child);
    destroy(child.domid);
}

TEST(not_for_oneself)
{
    struct xen_domctl op = new_domctl(XEN_DOMCTL_max_vcpus, 1);

    CHECK_EQ(plain_domctl(XEN_DOMCTL_pausedomain, 1), -XEN_EINVAL);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_destroydomain, 1), -XEN_EINVAL);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_resumedomain, 1), -XEN_EINVAL);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_unpausedomain, 1), -XEN_EINVAL); /* it is not paused */
    CHECK_EQ(plain_domctl(XEN_DOMCTL_setvcpucontext, 1), -XEN_EINVAL);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_getvcpucontext, 1), -XEN_EINVAL);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_gettscinfo, 1), -XEN_EINVAL);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_setdebugging, 1), -XEN_EINVAL);
    op.u.max_vcpus.max = 1;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);
    CHECK_EQ(flags_of(1), XEN_DOMINF_running);
}

TEST(commands_there_are_not)
{
    struct xen_domctl op = new_domctl(XEN_DOMCTL_getdomaininfo, 0);

    CHECK_EQ(plain_domctl(0, 1), -XEN_ENOSYS);
    CHECK_EQ(plain_domctl(6, 1), -XEN_ENOSYS);
    CHECK_EQ(plain_domctl(0xffffffff, 1), -XEN_ENOSYS);
    CHECK_EQ(plain_domctl(0, 4711), -XEN_ESRCH);
    op.interface_version++;
    CHECK_EQ(domctl(&op), -XEN_EACCES);
    CHECK_EQ(domctl((void *)UNMAPPED), -XEN_EFAULT);
    CHECK_EQ(domctl((void *)XENS_OWN), -XEN_EFAULT);
}

/* ---- Running them ---- */

TEST(built_and_run)
{
    struct child child;
    struct evtchn_bind_virq virq = {.virq = VIRQ_DOM_EXC};
    struct xen_domctl op;

    build_child(&child, shut_down_code, shut_down_code_end);
    op = new_domctl(XEN_DOMCTL_set_virq_handler, 1);
    op.u.set_virq_handler.virq = VIRQ_DOM_EXC;
    REQUIRE_EQ(domctl(&op), 0);
    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_bind_virq, &virq), 0);
    child.pages[CHILD_DATA][0] = SHUTDOWN_reboot;
    CHECK_EQ(flags_of(child.domid), XEN_DOMINF_paused);
    unpause(child.domid);
    set_port_mask(virq.port, false);
    wait_for_port(virq.port);
    CHECK_EQ(wait_for_shutdown(child.domid), SHUTDOWN_reboot);
    CHECK_EQ(flags_of(child.domid) & ~XEN_DOMINF_running, XEN_DOMINF_shutdown);
    unmap_child(&child);
    destroy(child.domid);
}

/* Whether a child goes on counting. A child that runs has time while we look, as it has a CPU of its own. */
static bool counts(struct child *child)
{
    u64 before = child->pages[CHILD_DATA][0], end = system_time() + 20 * 1000 * 1000;

    while ( child->pages[CHILD_DATA][0] == before )
        if ( system_time() > end )
            return false;
    return true;
}

static void wait_until_it_counts(struct child *child)
{
    while ( !counts(child) )
        ;
}

TEST(pauses_are_counted)
{
    struct child child;

    build_child(&child, count_code, count_code_end);
    unpause(child.domid);
    wait_until_it_counts(&child);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_pausedomain, child.domid), 0);
    CHECK(!counts(&child));
    CHECK_EQ(flags_of(child.domid), XEN_DOMINF_paused);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_pausedomain, child.domid), 0);
    unpause(child.domid);
    CHECK(!counts(&child));
    unpause(child.domid);
    wait_until_it_counts(&child);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_unpausedomain, child.domid), -XEN_EINVAL);
    /* More than 255 times, nobody may pause a domain. */
    for ( unsigned int i = 0; i < 255; i++ )
        REQUIRE_EQ(plain_domctl(XEN_DOMCTL_pausedomain, child.domid), 0);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_pausedomain, child.domid), -XEN_EOVERFLOW);
    unmap_child(&child);
    destroy(child.domid);
}

TEST(destroyed_while_it_runs)
{
    u64 free = free_pages();

    for ( unsigned int i = 0; i < 20; i++ )
    {
        struct child child;

        build_child(&child, count_code, count_code_end);
        unpause(child.domid);
        wait_until_it_counts(&child);
        unmap_child(&child);
        destroy(child.domid);
        CHECK_EQ(plain_domctl(XEN_DOMCTL_pausedomain, child.domid), -XEN_ESRCH);
    }
    CHECK_EQ(free_pages(), free);
}

TEST(crashes_disturb_nobody_else)
{
    struct child counting, crashing;

    build_child(&counting, count_code, count_code_end);
    build_child(&crashing, store_code, store_code_end);
    unpause(counting.domid);
    crashing.pages[CHILD_DATA][0] = XENS_OWN;
    unpause(crashing.domid);
    CHECK_EQ(wait_for_shutdown(crashing.domid), SHUTDOWN_crash);
    wait_until_it_counts(&counting);
    unmap_child(&crashing);
    destroy(crashing.domid);
    wait_until_it_counts(&counting);
    unmap_child(&counting);
    destroy(counting.domid);
}

TEST(remote_shutdown_and_resume)
{
    struct child child;
    sched_remote_shutdown_t remote = {.reason = SHUTDOWN_suspend};

    build_child(&child, count_code, count_code_end);
    unpause(child.domid);
    wait_until_it_counts(&child);
    remote.domain_id = child.domid;
    REQUIRE_EQ(hypercall(sched_op, SCHEDOP_remote_shutdown, &remote), 0);
    CHECK_EQ(wait_for_shutdown(child.domid), SHUTDOWN_suspend);
    REQUIRE_EQ(plain_domctl(XEN_DOMCTL_pausedomain, child.domid), 0);
    CHECK(!counts(&child));
    unpause(child.domid);
    CHECK(!counts(&child));
    /* The first reason counts. */
    remote.reason = SHUTDOWN_crash;
    REQUIRE_EQ(hypercall(sched_op, SCHEDOP_remote_shutdown, &remote), 0);
    CHECK_EQ(wait_for_shutdown(child.domid), SHUTDOWN_suspend);
    REQUIRE_EQ(plain_domctl(XEN_DOMCTL_resumedomain, child.domid), 0);
    wait_until_it_counts(&child);
    CHECK_EQ(flags_of(child.domid), XEN_DOMINF_running);
    unmap_child(&child);
    destroy(child.domid);
    remote.domain_id = child.domid;
    CHECK_EQ(hypercall(sched_op, SCHEDOP_remote_shutdown, &remote), -XEN_ESRCH);
}

TEST(vcpu_context)
{
    static vcpu_guest_context_t context;
    struct child child;
    struct xen_domctl op;

    build_child(&child, count_code, count_code_end);
    unpause(child.domid);
    wait_until_it_counts(&child);
    op = new_domctl(XEN_DOMCTL_getvcpucontext, child.domid);
    set_xen_guest_handle(op.u.vcpucontext.ctxt, &context);
    REQUIRE_EQ(domctl(&op), 0);
    CHECK_EQ(context.flags & (VGCF_in_kernel | VGCF_online), VGCF_in_kernel | VGCF_online);
    CHECK(context.user_regs.rip >= CHILD_ADDRESS(CHILD_CODE) && context.user_regs.rip < CHILD_ADDRESS(CHILD_DATA));
    CHECK_EQ(context.user_regs.rdi, CHILD_ADDRESS(CHILD_DATA));
    CHECK_EQ(context.user_regs.rsp, CHILD_ADDRESS(CHILD_PAGES));
    CHECK_EQ(context.user_regs.cs, FLAT_KERNEL_CS);
    CHECK_EQ(context.ctrlreg[3], xen_pfn_to_cr3(child.frames[CHILD_L4]));
    CHECK_EQ(context.ctrlreg[1], 0);
    /* One that has a state does not get another, but after it lost the first. */
    op = new_domctl(XEN_DOMCTL_setvcpucontext, child.domid);
    set_xen_guest_handle(op.u.vcpucontext.ctxt, &context);
    CHECK_EQ(domctl(&op), -XEN_EOPNOTSUPP);
    wait_until_it_counts(&child);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_setvcpucontext, child.domid), 0);
    CHECK(!counts(&child));
    CHECK_EQ(flags_of(child.domid), 0);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_getvcpucontext, child.domid), -XEN_ENODATA);
    context.user_regs.rip = CHILD_ADDRESS(CHILD_CODE);
    CHECK_EQ(domctl(&op), 0);
    wait_until_it_counts(&child);
    op.u.vcpucontext.vcpu = 1;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);
    unmap_child(&child);
    destroy(child.domid);
}

/* What a vCPU cannot have it does not get, and what was taken for it on the way is given back. */
TEST(contexts_that_are_refused)
{
    static vcpu_guest_context_t context, good;
    struct child child;
    struct xen_domctl op;
    u64 free, *fields[] = {
        &context.user_regs.rip, &context.user_regs.rsp, &context.kernel_sp, &context.fs_base, &context.gs_base_kernel,
        &context.gs_base_user, &context.event_callback_eip, &context.syscall_callback_eip,
        &context.failsafe_callback_eip, &context.trap_ctxt[200].address, &context.debugreg[0], &context.debugreg[3],
    };

    build_child(&child, count_code, count_code_end);
    op = new_domctl(XEN_DOMCTL_getvcpucontext, child.domid);
    set_xen_guest_handle(op.u.vcpucontext.ctxt, &good);
    REQUIRE_EQ(domctl(&op), 0);
    op.cmd = XEN_DOMCTL_setvcpucontext;
    set_xen_guest_handle(op.u.vcpucontext.ctxt, &context);
    REQUIRE_EQ(plain_domctl(XEN_DOMCTL_setvcpucontext, child.domid), 0);
    free = free_pages();
#define REFUSED_CONTEXT(change)                 \
    do {                                        \
        context = good;                         \
        change;                                 \
        CHECK_EQ(domctl(&op), -XEN_EINVAL);     \
    } while ( 0 )
    for ( unsigned int i = 0; i < ARRAY_SIZE(fields); i++ )
        REFUSED_CONTEXT(*fields[i] = NON_CANONICAL);
    REFUSED_CONTEXT(context.debugreg[1] = XENS_OWN);
    REFUSED_CONTEXT(context.debugreg[6] = 1ul << 32);
    REFUSED_CONTEXT(context.debugreg[7] = 1ul << 32);
    REFUSED_CONTEXT(context.ldt_base = XENS_OWN);
    REFUSED_CONTEXT(context.ldt_base = 1);
    REFUSED_CONTEXT(context.ldt_ents = 8193);
    REFUSED_CONTEXT(context.gdt_ents = 7169);
    REFUSED_CONTEXT(context.gdt_ents = 512; context.gdt_frames[0] = child.frames[CHILD_L4]);
    REFUSED_CONTEXT(context.vm_assist = 1u << 6);
    REFUSED_CONTEXT(context.ctrlreg[3] = xen_pfn_to_cr3(child.frames[CHILD_L3]));
    REFUSED_CONTEXT(context.ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn(&context)));
    REFUSED_CONTEXT(context.ctrlreg[1] = xen_pfn_to_cr3(child.frames[CHILD_L3]));
    REFUSED_CONTEXT(context.flags &= ~VGCF_in_kernel);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_getvcpucontext, child.domid), -XEN_ENODATA);
    CHECK_EQ(free_pages(), free);
    /* The table of the first is nobody's but the pin's. */
    struct mmuext_op unpin = {.cmd = MMUEXT_UNPIN_TABLE, .arg1.mfn = child.frames[CHILD_L4]};
    REQUIRE_EQ(hypercall(mmuext_op, &unpin, 1, NULL, child.domid), 0);
    REQUIRE_EQ(foreign_mmu_update(virt_to_maddr(child.entries), make_pte(child.frames[CHILD_L4], PTE_RW),
                                  child.domid), 0);
    REQUIRE_EQ(mmu_update(virt_to_maddr(child.entries), 0), 0);
    context = good;
    /* Privileges that a guest never has, and bits that there are not, are left out. */
    context.user_regs.rflags = FLAGS_IF | FLAGS_IOPL | 1 << 17 | 3 << 19 | ~0ul << 22;
    REQUIRE_EQ(domctl(&op), 0);
    unpause(child.domid);
    wait_until_it_counts(&child);
    op.cmd = XEN_DOMCTL_getvcpucontext;
    set_xen_guest_handle(op.u.vcpucontext.ctxt, &context);
    REQUIRE_EQ(domctl(&op), 0);
    CHECK_EQ(context.user_regs.rflags & (FLAGS_IF | FLAGS_IOPL | 1 << 17 | 3 << 19 | ~0ul << 22),
             FLAGS_IF | FLAGS_IOPL);
    unmap_child(&child);
    destroy(child.domid);
}

TEST(vcpu_info_of_others)
{
    struct child child;
    struct xen_domctl op;

    build_child(&child, count_code, count_code_end);
    op = new_domctl(XEN_DOMCTL_getvcpuinfo, child.domid);
    REQUIRE_EQ(domctl(&op), 0);
    CHECK_EQ(op.u.getvcpuinfo.online, 1);
    CHECK_EQ(op.u.getvcpuinfo.blocked, 0);
    CHECK_EQ(op.u.getvcpuinfo.running, 0);
    CHECK_EQ(op.u.getvcpuinfo.cpu_time, 0);
    unpause(child.domid);
    wait_until_it_counts(&child);
    REQUIRE_EQ(domctl(&op), 0);
    CHECK_EQ(op.u.getvcpuinfo.running, 1);
    CHECK(op.u.getvcpuinfo.cpu_time > 0);
    op.u.getvcpuinfo.vcpu = 1;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);
    unmap_child(&child);
    destroy(child.domid);
}

TEST(affinity)
{
    struct child child;
    struct xen_domctl op;
    u8 hard[8] = {0}, soft[8] = {0};

    new_child(&child);
    op = new_domctl(XEN_DOMCTL_getvcpuaffinity, child.domid);
    CHECK_EQ(domctl(&op), -XEN_EINVAL);
    op.u.vcpuaffinity.flags = XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);
    set_xen_guest_handle(op.u.vcpuaffinity.cpumap_hard.bitmap, hard);
    set_xen_guest_handle(op.u.vcpuaffinity.cpumap_soft.bitmap, soft);
    op.u.vcpuaffinity.cpumap_hard.nr_bits = op.u.vcpuaffinity.cpumap_soft.nr_bits = 64;
    REQUIRE_EQ(domctl(&op), 0);
    CHECK(hard[0] & 1);
    op.cmd = XEN_DOMCTL_setvcpuaffinity;
    hard[0] = 1;
    soft[0] = 0xff;
    REQUIRE_EQ(domctl(&op), 0);
    CHECK_EQ(hard[0], 1);
    CHECK_EQ(soft[0], 1); /* what is left of it */
    hard[0] = 0;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);
    op.cmd = XEN_DOMCTL_getvcpuaffinity;
    REQUIRE_EQ(domctl(&op), 0);
    CHECK_EQ(hard[0], 1);
    unmap_child(&child);
    destroy(child.domid);
}

/* ---- Memory of others ---- */

TEST(dead_domains_live_while_they_are_mapped)
{
    struct child child;
    struct xen_domctl_getdomaininfo info;
    u64 free = free_pages();

    new_child(&child);
    child.pages[CHILD_DATA][7] = 0x1122334455667788;
    destroy(child.domid);
    REQUIRE_EQ(getdomaininfo(child.domid, &info), 0);
    CHECK_EQ(info.domain, child.domid);
    CHECK(info.flags & XEN_DOMINF_dying);
    CHECK_EQ(info.tot_pages, CHILD_PAGES);
    /* Nothing can be done with it any more, but destroying it, which it is. */
    destroy(child.domid);
    struct xen_domctl again = new_createdomain(child.domid);
    CHECK_EQ(domctl(&again), -XEN_EEXIST);
    for ( unsigned int page = 0; page < CHILD_PAGES; page++ )
        if ( page != CHILD_DATA )
            unmap_child_page(&child, page);
    REQUIRE_EQ(getdomaininfo(child.domid, &info), 0);
    CHECK_EQ(info.tot_pages, 1);
    CHECK_EQ(child.pages[CHILD_DATA][7], 0x1122334455667788);
    unmap_child(&child);
    CHECK_EQ(getdomaininfo(child.domid, &info), -XEN_ESRCH);
    CHECK_EQ(free_pages(), free);
}

/* Whatever is asked for a domain that is dead, nothing of it lives any longer than what is mapped. */
TEST(commands_for_the_dead)
{
    static vcpu_guest_context_t context;
    static struct xen_cpuid_leaf leaves[128];
    struct child child;
    struct xen_domctl op;
    u64 free = free_pages();

    for ( unsigned int with_state = 0; with_state < 2; with_state++ )
    {
        build_child(&child, count_code, count_code_end);
        op = new_domctl(XEN_DOMCTL_getvcpucontext, child.domid);
        set_xen_guest_handle(op.u.vcpucontext.ctxt, &context);
        REQUIRE_EQ(domctl(&op), 0);
        op = new_domctl(XEN_DOMCTL_get_cpu_policy, child.domid);
        op.u.cpu_policy.nr_leaves = 128;
        set_xen_guest_handle(op.u.cpu_policy.leaves, leaves);
        REQUIRE_EQ(domctl(&op), 0);
        if ( !with_state )
            REQUIRE_EQ(plain_domctl(XEN_DOMCTL_setvcpucontext, child.domid), 0);
        destroy(child.domid);
        REQUIRE(flags_of(child.domid) & XEN_DOMINF_dying);

        op.cmd = XEN_DOMCTL_set_cpu_policy;
        op.u.cpu_policy.nr_msrs = 0;
        CHECK_EQ(domctl(&op), 0);
        op = new_domctl(XEN_DOMCTL_setvcpucontext, child.domid);
        set_xen_guest_handle(op.u.vcpucontext.ctxt, &context);
        CHECK(domctl(&op) < 0);
        op.cmd = XEN_DOMCTL_getvcpucontext;
        CHECK_EQ(domctl(&op), -XEN_ENODATA);
        op = new_domctl(XEN_DOMCTL_sendtrigger, child.domid);
        op.u.sendtrigger.trigger = XEN_DOMCTL_SENDTRIGGER_NMI;
        CHECK_EQ(domctl(&op), 0);
        op = new_domctl(XEN_DOMCTL_hypercall_init, child.domid);
        op.u.hypercall_init.gmfn = child.frames[CHILD_DATA];
        domctl(&op);
        for ( unsigned int command = 2; command < 90; command++ )
            if ( command != XEN_DOMCTL_unpausedomain )
                plain_domctl(command, child.domid);
        while ( !plain_domctl(XEN_DOMCTL_unpausedomain, child.domid) )
            ;
        CHECK_EQ(plain_domctl(XEN_DOMCTL_resumedomain, child.domid), 0);
        CHECK(flags_of(child.domid) & XEN_DOMINF_dying);
        unmap_child(&child);
        CHECK_EQ(plain_domctl(XEN_DOMCTL_pausedomain, child.domid), -XEN_ESRCH);
    }
    CHECK_EQ(free_pages(), free);
}

/* Domain 0 has the CPU that it has. */
TEST(policy_of_domain_0)
{
    struct xen_domctl op = new_domctl(XEN_DOMCTL_set_cpu_policy, 0);

    CHECK_EQ(domctl(&op), -XEN_EEXIST);
    op.cmd = XEN_DOMCTL_getvcpucontext;
    CHECK_EQ(domctl(&op), -XEN_ENODATA);
}

TEST(mappings_that_are_refused)
{
    struct child child;
    u64 *tables, entry, mine = virt_to_mfn(alloc_page());

    new_child(&child);
    tables = child.entries + CHILD_PAGES;
    entry = virt_to_maddr(tables);
    /* A page has to be its owner's, and to be free for what it is mapped as. */
    CHECK_EQ(foreign_mmu_update(entry, make_pte(mine, PTE_RW), child.domid), -XEN_EBUSY);
    CHECK_EQ(foreign_mmu_update(entry, make_pte(child.frames[0], PTE_RW), 0x1234), -XEN_ESRCH);
    CHECK_EQ(foreign_mmu_update(entry, make_pte(child.frames[0], PTE_RW), 1), -XEN_ESRCH);
    CHECK_EQ(foreign_mmu_update(entry, make_pte(child.frames[0], PTE_RW), DOMID_SELF), -XEN_EBUSY);
    CHECK_EQ(foreign_mmu_update(entry, make_pte(child.frames[0], PTE_RW | PAGE_PSE), child.domid), -XEN_EINVAL);
    CHECK_EQ(foreign_mmu_update(entry, make_pte(1ul << 38, PTE_RW), child.domid), -XEN_EPERM);
    CHECK_EQ(foreign_mmu_update(entry, make_pte(1ul << 38, PTE_RW), DOMID_IO), -XEN_EPERM);
    /* Page tables of others are not for one's own. */
    CHECK_EQ(foreign_mmu_update(virt_to_maddr(entry_of((void *)FREE_AREA, 2)), make_pte(child.frames[0], PTE_RW),
                                child.domid), -XEN_EINVAL);
    /* The machine-to-physical map of others is not changed by naming them as owners of tables. */
    CHECK_EQ(foreign_mmu_update(child.frames[0] * PAGE_SIZE | MMU_MACHPHYS_UPDATE, 5,
                                (child.domid + 1) << 16 | child.domid), -XEN_EPERM);
    CHECK_EQ(foreign_mmu_update(child.frames[0] * PAGE_SIZE | MMU_MACHPHYS_UPDATE, 5, child.domid), 0);
    CHECK_EQ(machine_to_phys_mapping[child.frames[0]], 5);
    CHECK_EQ(tables[0], 0);
    unmap_child(&child);
    destroy(child.domid);
}

TEST(other_ways_to_map)
{
    struct child child;
    void *place = (void *)(FREE_AREA + 100 * PAGE_SIZE);
    mmuext_op_t op = {.cmd = MMUEXT_CLEAR_PAGE};

    new_child(&child);
    child.pages[CHILD_DATA][0] = 42;
    REQUIRE_EQ(hypercall(update_va_mapping_otherdomain, place, make_pte(child.frames[CHILD_DATA], PTE_RO),
                         UVMF_INVLPG, child.domid), 0);
    CHECK_EQ(*(volatile u64 *)place, 42);
    CHECK_EQ(hypercall(update_va_mapping_otherdomain, place, 0, UVMF_INVLPG, 4711), -XEN_ESRCH);
    CHECK_EQ(hypercall(update_va_mapping_otherdomain, place, 0, UVMF_INVLPG, 1), -XEN_ESRCH);
    REQUIRE_EQ(map(place, 0), 0);
    op.arg1.mfn = child.frames[CHILD_DATA];
    CHECK_EQ(hypercall(mmuext_op, &op, 1, NULL, child.domid), 0);
    CHECK_EQ(child.pages[CHILD_DATA][0], 0);
    CHECK_EQ(hypercall(mmuext_op, &op, 1, NULL, 4711), -XEN_ESRCH);
    /* What is about an address space is about one's own. */
    op.cmd = MMUEXT_NEW_BASEPTR;
    CHECK_EQ(hypercall(mmuext_op, &op, 1, NULL, child.domid), -XEN_EPERM);
    op.cmd = MMUEXT_TLB_FLUSH_ALL;
    CHECK_EQ(hypercall(mmuext_op, &op, 1, NULL, child.domid), -XEN_EPERM);
    op.cmd = MMUEXT_SET_LDT;
    CHECK_EQ(hypercall(mmuext_op, &op, 1, NULL, child.domid), -XEN_EPERM);
    unmap_child(&child);
    destroy(child.domid);
}

TEST(xens_own_pages)
{
    xen_pfn_t frame;
    struct xen_machphys_mfn_list list = {.max_extents = 1};
    void *place = (void *)FREE_AREA;

    make_tables();
    set_xen_guest_handle(list.extent_start, &frame);
    REQUIRE_EQ(hypercall(memory_op, XENMEM_machphys_mfn_list, &list), 0);
    REQUIRE_EQ(hypercall(update_va_mapping_otherdomain, place, make_pte(frame, PTE_RO), UVMF_INVLPG, DOMID_XEN), 0);
    CHECK_EQ(memcmp(place, machine_to_phys_mapping, PAGE_SIZE), 0);
    CHECK_EQ(hypercall(update_va_mapping_otherdomain, place, make_pte(frame, PTE_RW), UVMF_INVLPG, DOMID_XEN),
             -XEN_EBUSY);
    CHECK_EQ(map(place, 0), 0);
}

TEST(memory_for_others)
{
    struct child child;
    xen_pfn_t frames[4] = {100, 101, 102, 103};
    struct xen_memory_reservation reservation = {.nr_extents = 4};
    struct xen_domctl op;
    struct xen_domctl_getdomaininfo info;
    domid_t domid;

    new_child(&child);
    domid = child.domid;
    reservation.domid = domid;
    set_xen_guest_handle(reservation.extent_start, frames);
    /* No more than it may have. */
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, &reservation), 0);
    op = new_domctl(XEN_DOMCTL_max_mem, domid);
    op.u.max_mem.max_memkb = (CHILD_PAGES + 3) * 4;
    REQUIRE_EQ(domctl(&op), 0);
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, &reservation), 3);
    CHECK_EQ(machine_to_phys_mapping[frames[1]], 101);
    CHECK_EQ(frames[3], 103);
    CHECK_EQ(hypercall(memory_op, XENMEM_current_reservation, &domid), CHILD_PAGES + 3);
    CHECK_EQ(hypercall(memory_op, XENMEM_maximum_reservation, &domid), CHILD_PAGES + 3);
    reservation.nr_extents = 3;
    CHECK_EQ(hypercall(memory_op, XENMEM_decrease_reservation, &reservation), 3);
    CHECK_EQ(hypercall(memory_op, XENMEM_decrease_reservation, &reservation), 0);
    REQUIRE_EQ(getdomaininfo(domid, &info), 0);
    CHECK_EQ(info.tot_pages, CHILD_PAGES);
    /* A limit below what there is forbids more, and takes nothing. */
    op.u.max_mem.max_memkb = 4;
    REQUIRE_EQ(domctl(&op), 0);
    CHECK_EQ(hypercall(memory_op, XENMEM_increase_reservation, &reservation), 0);
    REQUIRE_EQ(getdomaininfo(domid, &info), 0);
    CHECK_EQ(info.tot_pages, CHILD_PAGES);
    CHECK_EQ(info.max_pages, 1);
    unmap_child(&child);
    destroy(domid);
    CHECK_EQ(hypercall(memory_op, XENMEM_current_reservation, &domid), -XEN_ESRCH);
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, &reservation), 0);
}

static long claim(domid_t domid, u64 pages)
{
    struct xen_memory_reservation reservation = {.nr_extents = pages, .domid = domid};

    return hypercall(memory_op, XENMEM_claim_pages, &reservation);
}

TEST(claims)
{
    struct child child;
    struct xen_domctl op;
    struct xen_domctl_getdomaininfo info;
    xen_pfn_t frame = 50;
    struct xen_memory_reservation reservation = {.nr_extents = 1};
    u64 free;

    new_child(&child);
    op = new_domctl(XEN_DOMCTL_max_mem, child.domid);
    op.u.max_mem.max_memkb = 1 << 30;
    REQUIRE_EQ(domctl(&op), 0);
    free = free_pages();
    CHECK_EQ(claim(child.domid, CHILD_PAGES), -XEN_EINVAL);
    CHECK_EQ(claim(child.domid, 1ul << 60), -XEN_EINVAL);
    CHECK_EQ(claim(child.domid, CHILD_PAGES + free + 1), -XEN_ENOMEM);
    CHECK_EQ(claim(4711, 10), -XEN_EINVAL);
    /* All that there is. */
    CHECK_EQ(claim(child.domid, CHILD_PAGES + free), 0);
    CHECK_EQ(claim(child.domid, CHILD_PAGES + 1), -XEN_EINVAL);
    REQUIRE_EQ(getdomaininfo(child.domid, &info), 0);
    CHECK_EQ(info.outstanding_pages, free);
    set_xen_guest_handle(reservation.extent_start, &frame);
    reservation.domid = child.domid;
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, &reservation), 1);
    REQUIRE_EQ(getdomaininfo(child.domid, &info), 0);
    CHECK_EQ(info.outstanding_pages, free - 1);
    /* There is nothing left for those who have claimed nothing. */
    op = new_createdomain(0);
    CHECK_EQ(domctl(&op), -XEN_ENOMEM);
    CHECK_EQ(claim(child.domid, 0), 0);
    REQUIRE_EQ(domctl(&op), 0);
    destroy(op.domain);
    /* A claim ends with who made it. */
    CHECK_EQ(claim(child.domid, CHILD_PAGES + 2), 0);
    unmap_child(&child);
    destroy(child.domid);
    op = new_createdomain(0);
    REQUIRE_EQ(domctl(&op), 0);
    destroy(op.domain);
}

TEST(page_types_of_others)
{
    struct child child;
    struct xen_domctl op;
    u64 frames[4];

    build_child(&child, count_code, count_code_end);
    frames[0] = child.frames[CHILD_L4];
    frames[1] = child.frames[CHILD_L1];
    frames[2] = child.frames[CHILD_DATA];
    frames[3] = virt_to_mfn(alloc_page());
    op = new_domctl(XEN_DOMCTL_getpageframeinfo3, child.domid);
    op.u.getpageframeinfo3.num = 4;
    set_xen_guest_handle(op.u.getpageframeinfo3.array, (void *)frames);
    REQUIRE_EQ(domctl(&op), 0);
    CHECK_EQ(frames[0], XEN_DOMCTL_PFINFO_L4TAB | XEN_DOMCTL_PFINFO_LPINTAB);
    CHECK_EQ(frames[1], XEN_DOMCTL_PFINFO_L1TAB);
    CHECK_EQ(frames[2], XEN_DOMCTL_PFINFO_NOTAB);
    CHECK_EQ(frames[3], XEN_DOMCTL_PFINFO_XTAB);
    op.u.getpageframeinfo3.num = 1025;
    CHECK_EQ(domctl(&op), -XEN_E2BIG);
    unmap_child(&child);
    destroy(child.domid);
}

TEST(hypercall_page_of_others)
{
    struct child child;
    struct xen_domctl op;

    build_child(&child, count_code, count_code_end);
    op = new_domctl(XEN_DOMCTL_hypercall_init, child.domid);
    op.u.hypercall_init.gmfn = child.frames[CHILD_STACK];
    REQUIRE_EQ(domctl(&op), 0);
    CHECK_EQ(memcmp((void *)child.pages[CHILD_STACK], hypercall_page, PAGE_SIZE), 0);
    op.u.hypercall_init.gmfn = child.frames[CHILD_L4];
    CHECK_EQ(domctl(&op), -XEN_EPERM);
    op.u.hypercall_init.gmfn = virt_to_mfn(hypercall_page);
    CHECK_EQ(domctl(&op), -XEN_EINVAL);
    unmap_child(&child);
    destroy(child.domid);
}

TEST(grant_table_of_others)
{
    struct child child;
    xen_pfn_t frames[2];
    struct xen_mem_acquire_resource resource = {.type = XENMEM_resource_grant_table};
    void *place = (void *)(FREE_AREA + 100 * PAGE_SIZE);

    new_child(&child);
    resource.domid = child.domid;
    REQUIRE_EQ(hypercall(memory_op, XENMEM_acquire_resource, &resource), 0);
    CHECK(resource.nr_frames > 1);
    resource.nr_frames = 1;
    set_xen_guest_handle(resource.frame_list, frames);
    REQUIRE_EQ(hypercall(memory_op, XENMEM_acquire_resource, &resource), 0);
    REQUIRE_EQ(hypercall(update_va_mapping_otherdomain, place, make_pte(frames[0], PTE_RW), UVMF_INVLPG, child.domid),
               0);
    *(volatile u64 *)place = 1;
    /* That keeps the domain as well. */
    unmap_child(&child);
    destroy(child.domid);
    CHECK(flags_of(child.domid) & XEN_DOMINF_dying);
    CHECK_EQ(hypercall(memory_op, XENMEM_acquire_resource, &resource), -XEN_EINVAL);
    REQUIRE_EQ(map(place, 0), 0);
    CHECK_EQ(hypercall(memory_op, XENMEM_acquire_resource, &resource), -XEN_ESRCH);
    resource.domid = 1;
    CHECK_EQ(hypercall(memory_op, XENMEM_acquire_resource, &resource), -XEN_EPERM);
}

/* ---- The machine ---- */

TEST(domain_list)
{
    static struct xen_domctl_getdomaininfo infos[4];
    struct child child;
    struct xen_sysctl op = new_sysctl(XEN_SYSCTL_getdomaininfolist);

    new_child(&child);
    op.u.getdomaininfolist.max_domains = 4;
    set_xen_guest_handle(op.u.getdomaininfolist.buffer, infos);
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    REQUIRE_EQ(op.u.getdomaininfolist.num_domains, 3);
    CHECK_EQ(infos[0].domain, 0);
    CHECK_EQ(infos[1].domain, 1);
    CHECK_EQ(infos[2].domain, child.domid);
    CHECK_EQ(infos[2].tot_pages, CHILD_PAGES);
    op.u.getdomaininfolist.first_domain = 1;
    op.u.getdomaininfolist.max_domains = 1;
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    REQUIRE_EQ(op.u.getdomaininfolist.num_domains, 1);
    CHECK_EQ(infos[0].domain, 1);
    set_xen_guest_handle(op.u.getdomaininfolist.buffer, (void *)UNMAPPED);
    CHECK_EQ(hypercall(sysctl, &op), -XEN_EFAULT);
    unmap_child(&child);
    destroy(child.domid);
}

TEST(physical_machine)
{
    struct xen_sysctl info = new_sysctl(XEN_SYSCTL_physinfo), op;
    struct xen_sysctl_cputopo topology[64];
    struct xen_sysctl_cpuinfo idle[64];
    struct xen_sysctl_meminfo memory;

    REQUIRE_EQ(hypercall(sysctl, &info), 0);
    CHECK(info.u.physinfo.nr_cpus >= 1);
    CHECK_EQ(info.u.physinfo.max_cpu_id + 1, info.u.physinfo.nr_cpus);
    CHECK_EQ(info.u.physinfo.nr_nodes, 1);
    CHECK(info.u.physinfo.capabilities & XEN_SYSCTL_PHYSCAP_pv);
    CHECK(info.u.physinfo.capabilities & XEN_SYSCTL_PHYSCAP_hvm);
    CHECK(info.u.physinfo.capabilities & XEN_SYSCTL_PHYSCAP_hap);
    CHECK(!(info.u.physinfo.capabilities & XEN_SYSCTL_PHYSCAP_directio));
    CHECK_EQ(info.u.physinfo.total_pages, hypercall(memory_op, XENMEM_maximum_ram_page, NULL));

    op = new_sysctl(XEN_SYSCTL_availheap);
    op.u.availheap.node = -1;
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    CHECK_EQ(op.u.availheap.avail_bytes, info.u.physinfo.free_pages * PAGE_SIZE);
    op.u.availheap.node = 1;
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    CHECK_EQ(op.u.availheap.avail_bytes, 0);

    op = new_sysctl(XEN_SYSCTL_cputopoinfo);
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    CHECK_EQ(op.u.cputopoinfo.num_cpus, info.u.physinfo.nr_cpus);
    op.u.cputopoinfo.num_cpus = 1;
    set_xen_guest_handle(op.u.cputopoinfo.cputopo, topology);
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    CHECK_EQ(op.u.cputopoinfo.num_cpus, 1);
    CHECK_EQ(topology[0].node, 0);

    op = new_sysctl(XEN_SYSCTL_numainfo);
    op.u.numainfo.num_nodes = 8;
    set_xen_guest_handle(op.u.numainfo.meminfo, &memory);
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    CHECK_EQ(op.u.numainfo.num_nodes, 1);
    CHECK_EQ(memory.memfree, info.u.physinfo.free_pages * PAGE_SIZE);

    op = new_sysctl(XEN_SYSCTL_getcpuinfo);
    op.u.getcpuinfo.max_cpus = 64;
    set_xen_guest_handle(op.u.getcpuinfo.info, idle);
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    CHECK_EQ(op.u.getcpuinfo.nr_cpus, info.u.physinfo.nr_cpus);

    op = new_sysctl(XEN_SYSCTL_sched_id);
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    CHECK_EQ(op.u.sched_id.sched_id, XEN_SCHEDULER_NULL);
    CHECK_EQ((op = new_sysctl(0xdead), hypercall(sysctl, &op)), -XEN_ENOSYS);
    op = new_sysctl(XEN_SYSCTL_physinfo);
    op.interface_version--;
    CHECK_EQ(hypercall(sysctl, &op), -XEN_EACCES);
}

/* Numbers that nobody has memory for, here or there: what could take for ever is refused, or is nothing special. */
TEST(numbers_that_are_too_large)
{
    u8 *bits;
    struct child child;
    struct xen_domctl op;
    struct xen_sysctl host = new_sysctl(XEN_SYSCTL_availheap);

    new_child(&child);
    bits = alloc_page();
    REQUIRE_EQ(map(bits + PAGE_SIZE, 0), 0);
    host.u.availheap.node = -1;
    host.u.availheap.max_bitwidth = ~0u;
    REQUIRE_EQ(hypercall(sysctl, &host), 0);
    CHECK_EQ(host.u.availheap.avail_bytes, free_pages() * PAGE_SIZE);
    host.u.availheap.min_bitwidth = ~0u;
    REQUIRE_EQ(hypercall(sysctl, &host), 0);
    CHECK_EQ(host.u.availheap.avail_bytes, 0);
    host.u.availheap.max_bitwidth = 1;
    REQUIRE_EQ(hypercall(sysctl, &host), 0);
    CHECK_EQ(host.u.availheap.avail_bytes, 0);

    op = new_domctl(XEN_DOMCTL_getnodeaffinity, child.domid);
    op.u.nodeaffinity.nodemap.nr_bits = ~0u;
    set_xen_guest_handle(op.u.nodeaffinity.nodemap.bitmap, bits);
    CHECK_EQ(domctl(&op), -XEN_EFAULT);
    op.u.nodeaffinity.nodemap.nr_bits = 8 * PAGE_SIZE;
    memset(bits, 0xff, PAGE_SIZE);
    CHECK_EQ(domctl(&op), 0);
    CHECK_EQ(bits[0], 1);
    for ( unsigned int i = 1; i < PAGE_SIZE; i++ )
        CHECK_EQ(bits[i], 0);

    op = new_domctl(XEN_DOMCTL_set_cpu_policy, child.domid);
    set_xen_guest_handle(op.u.cpu_policy.leaves, (void *)bits);
    op.u.cpu_policy.nr_leaves = 121;
    CHECK_EQ(domctl(&op), -XEN_E2BIG);
    op.u.cpu_policy.nr_leaves = ~0u;
    CHECK_EQ(domctl(&op), -XEN_E2BIG);
    op.u.cpu_policy.nr_leaves = 0;
    set_xen_guest_handle(op.u.cpu_policy.msrs, (void *)bits);
    op.u.cpu_policy.nr_msrs = ~0u;
    CHECK_EQ(domctl(&op), -XEN_E2BIG);
    unmap_child(&child);
    destroy(child.domid);
}

TEST(console_ring)
{
    static char text[256];
    struct xen_sysctl op = new_sysctl(XEN_SYSCTL_readconsole);
    const char *expected = "(XEN) (d1) hello\n";

    REQUIRE_EQ(hypercall(console_io, CONSOLEIO_write, 6, "hello\n"), 0);
    op.u.readconsole.count = sizeof(text);
    set_xen_guest_handle(op.u.readconsole.buffer, text);
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    CHECK_EQ(op.u.readconsole.count, strlen(expected));
    CHECK_EQ(strncmp(text, expected, strlen(expected)), 0);
    /* Nothing new since then. */
    op.u.readconsole.incremental = 1;
    op.u.readconsole.count = sizeof(text);
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    CHECK_EQ(op.u.readconsole.count, 0);
    op.u.readconsole.incremental = 0;
    op.u.readconsole.clear = 1;
    op.u.readconsole.count = 6;
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    CHECK_EQ(op.u.readconsole.count, 6);
    op.u.readconsole.count = sizeof(text);
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    CHECK_EQ(op.u.readconsole.count, strlen(expected) - 6);
    op.u.readconsole.count = sizeof(text);
    REQUIRE_EQ(hypercall(sysctl, &op), 0);
    CHECK_EQ(op.u.readconsole.count, 0);
}

TEST(cpu_policy)
{
    static struct xen_cpuid_leaf leaves[128], copy[128];
    struct child child;
    struct xen_domctl op;
    unsigned int count;

    new_child(&child);
    op = new_domctl(XEN_DOMCTL_get_cpu_policy, child.domid);
    REQUIRE_EQ(domctl(&op), 0);
    count = op.u.cpu_policy.nr_leaves;
    REQUIRE(count > 2 && count < 128);
    set_xen_guest_handle(op.u.cpu_policy.leaves, leaves);
    op.u.cpu_policy.nr_leaves = 1;
    CHECK_EQ(domctl(&op), -XEN_ENOBUFS);
    op.u.cpu_policy.nr_leaves = 128;
    REQUIRE_EQ(domctl(&op), 0);
    CHECK_EQ(op.u.cpu_policy.nr_leaves, count);
    CHECK_EQ(leaves[0].leaf, 0);
    CHECK_EQ(leaves[1].leaf, 1);
    /* Features can be taken away, but not added. */
    op.cmd = XEN_DOMCTL_set_cpu_policy;
    op.u.cpu_policy.nr_leaves = count;
    op.u.cpu_policy.nr_msrs = 0;
    leaves[1].d &= ~(1u << 4); /* TSC */
    leaves[1].c |= 1u << 28;   /* AVX */
    REQUIRE_EQ(domctl(&op), 0);
    op.cmd = XEN_DOMCTL_get_cpu_policy;
    op.u.cpu_policy.nr_leaves = 128;
    set_xen_guest_handle(op.u.cpu_policy.leaves, copy);
    REQUIRE_EQ(domctl(&op), 0);
    CHECK_EQ(copy[1].d, leaves[1].d);
    CHECK_EQ(copy[1].c, leaves[1].c & ~(1u << 28));
    op.cmd = XEN_DOMCTL_set_cpu_policy;
    op.u.cpu_policy.nr_leaves = 1;
    copy[0].leaf = 0x5000;
    CHECK_EQ(domctl(&op), -XEN_ERANGE);
    CHECK_EQ(op.u.cpu_policy.err_leaf, 0x5000);
    /* More than there are. */
    op.u.cpu_policy.nr_leaves = 121;
    CHECK_EQ(domctl(&op), -XEN_E2BIG);
    op.u.cpu_policy.nr_leaves = 0;
    op.u.cpu_policy.nr_msrs = 3;
    CHECK_EQ(domctl(&op), -XEN_E2BIG);
    op.domain = 1;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);
    unmap_child(&child);
    destroy(child.domid);
}

TEST(small_ones)
{
    struct child child;
    struct xen_domctl op;
    u8 nodes[8];

    new_child(&child);
    op = new_domctl(XEN_DOMCTL_get_address_size, child.domid);
    CHECK_EQ(domctl(&op), 0);
    CHECK_EQ(op.u.address_size.size, 64);
    op.cmd = XEN_DOMCTL_set_address_size;
    CHECK_EQ(domctl(&op), 0);
    op.u.address_size.size = 32;
    CHECK_EQ(domctl(&op), -XEN_EOPNOTSUPP);
    op.u.address_size.size = 16;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);

    op = new_domctl(XEN_DOMCTL_gettscinfo, child.domid);
    CHECK_EQ(domctl(&op), 0);
    CHECK(op.u.tsc_info.gtsc_khz > 0);
    op.cmd = XEN_DOMCTL_settscinfo;
    CHECK_EQ(domctl(&op), 0);
    op.u.tsc_info.tsc_mode = 3;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);

    op = new_domctl(XEN_DOMCTL_getnodeaffinity, child.domid);
    op.u.nodeaffinity.nodemap.nr_bits = 64;
    set_xen_guest_handle(op.u.nodeaffinity.nodemap.bitmap, nodes);
    CHECK_EQ(domctl(&op), 0);
    CHECK_EQ(nodes[0], 1);
    nodes[0] = 2;
    op.cmd = XEN_DOMCTL_setnodeaffinity;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);

    op = new_domctl(XEN_DOMCTL_scheduler_op, child.domid);
    op.u.scheduler_op.sched_id = XEN_SCHEDULER_CREDIT2;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);
    op.u.scheduler_op.sched_id = XEN_SCHEDULER_NULL;
    CHECK_EQ(domctl(&op), 0);

    op = new_domctl(XEN_DOMCTL_setdebugging, child.domid);
    op.u.setdebugging.enable = 1;
    CHECK_EQ(domctl(&op), 0);
    CHECK_EQ(flags_of(child.domid), XEN_DOMINF_paused | XEN_DOMINF_debugged);

    op = new_domctl(XEN_DOMCTL_set_virq_handler, child.domid);
    op.u.set_virq_handler.virq = VIRQ_TIMER;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_shadow_op, child.domid), -XEN_EOPNOTSUPP);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_assign_device, child.domid), -XEN_EOPNOTSUPP);
    CHECK_EQ(plain_domctl(XEN_DOMCTL_irq_permission, child.domid), -XEN_EPERM);
    unmap_child(&child);
    destroy(child.domid);
}

/* ---- HVM domains ---- */

#define GFN 0x100ul
#define CODE_32 0xc9b
#define DATA_32 0xc93

static domid_t new_hvm_domain(void)
{
    struct xen_domctl op = new_createdomain(0);
    xen_pfn_t gfns[CHILD_PAGES];
    struct xen_memory_reservation reservation = {.nr_extents = CHILD_PAGES};
    domid_t domid;

    op.u.createdomain.flags = XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap;
    op.u.createdomain.arch.emulation_flags = XEN_X86_EMU_LAPIC;
    REQUIRE_EQ(domctl(&op), 0);
    domid = op.domain;
    op = new_domctl(XEN_DOMCTL_max_vcpus, domid);
    op.u.max_vcpus.max = 1;
    REQUIRE_EQ(domctl(&op), 0);
    op = new_domctl(XEN_DOMCTL_max_mem, domid);
    op.u.max_mem.max_memkb = CHILD_PAGES * 4;
    REQUIRE_EQ(domctl(&op), 0);
    for ( unsigned int page = 0; page < CHILD_PAGES; page++ )
        gfns[page] = GFN + page;
    set_xen_guest_handle(reservation.extent_start, gfns);
    reservation.domid = domid;
    REQUIRE_EQ(hypercall(memory_op, XENMEM_populate_physmap, &reservation), CHILD_PAGES);
    /* It is not told which machine frames they are. */
    for ( unsigned int page = 0; page < CHILD_PAGES; page++ )
        CHECK_EQ(gfns[page], GFN + page);
    return domid;
}

static struct {
    struct hvm_save_descriptor header_descriptor;
    struct hvm_save_header header;
    struct hvm_save_descriptor cpu_descriptor;
    struct hvm_hw_cpu cpu;
    struct hvm_save_descriptor end_descriptor;
} __attribute__((packed)) state;

static long load_state(domid_t domid, size_t size)
{
    struct xen_domctl op = new_domctl(XEN_DOMCTL_sethvmcontext, domid);

    op.u.hvmcontext.size = size;
    set_xen_guest_handle(op.u.hvmcontext.buffer, (uint8_t *)&state);
    return domctl(&op);
}

static void new_state(void)
{
    memset(&state, 0, sizeof(state));
    state.header_descriptor = (struct hvm_save_descriptor){HVM_SAVE_CODE(HEADER), 0, sizeof(state.header)};
    state.header.magic = HVM_FILE_MAGIC;
    state.header.version = HVM_FILE_VERSION;
    state.cpu_descriptor = (struct hvm_save_descriptor){HVM_SAVE_CODE(CPU), 0, sizeof(state.cpu)};
    state.cpu.rip = GFN * PAGE_SIZE;
    state.cpu.cr0 = 0x11;
    state.cpu.cs_arbytes = CODE_32;
    state.cpu.ds_arbytes = state.cpu.es_arbytes = state.cpu.ss_arbytes = DATA_32;
    state.cpu.cs_limit = state.cpu.ds_limit = state.cpu.es_limit = state.cpu.ss_limit = -1u;
    state.cpu.tr_arbytes = 0x8b;
    state.cpu.tr_limit = 0x67;
    state.cpu.dr7 = 0x400;
}

/* The gfn is what its manager names its memory by; the machine frame only where it says so. */
TEST(hvm_domain)
{
    static const u8 code[] = {0xc7, 0x05, 0x00, 0x10, 0x10, 0x00, 0x78, 0x56, 0x34, 0x12, 0xfa, 0xf4};
    domid_t domid = new_hvm_domain();
    u64 *tables = make_tables(), entry = virt_to_maddr(tables);
    volatile u32 *page = (volatile u32 *)FREE_AREA;
    struct mmuext_op pin = {.cmd = MMUEXT_PIN_L4_TABLE, .arg1.mfn = GFN};
    struct xen_domctl_getdomaininfo info;
    mmu_update_t update;

    REQUIRE_EQ(foreign_mmu_update(entry, make_pte(GFN, PTE_RW), domid), 0);
    REQUIRE_EQ(foreign_mmu_update(entry + 8, make_pte(GFN + 1, PTE_RW), domid), 0);
    CHECK_EQ(foreign_mmu_update(entry + 16, make_pte(GFN + CHILD_PAGES, PTE_RW), domid), -XEN_EINVAL);
    CHECK(pte_mfn(tables[0]) != pte_mfn(tables[1]));
    update = (mmu_update_t){(entry + 16) | MMU_PT_UPDATE_NO_TRANSLATE, make_pte(pte_mfn(tables[1]), PTE_RW)};
    CHECK_EQ(hypercall(mmu_update, &update, 1, NULL, domid), 0);
    page[1024] = 7;
    CHECK_EQ(page[2048], 7);
    /* Where its frames are is not the manager's to say, nor what they are for. */
    update = (mmu_update_t){pte_mfn(tables[0]) * PAGE_SIZE | MMU_MACHPHYS_UPDATE, 5};
    CHECK_EQ(hypercall(mmu_update, &update, 1, NULL, domid), -XEN_EINVAL);
    CHECK_EQ(hypercall(mmuext_op, &pin, 1, NULL, domid), -XEN_EINVAL);

    REQUIRE_EQ(getdomaininfo(domid, &info), 0);
    CHECK_EQ(info.flags & (XEN_DOMINF_hvm_guest | XEN_DOMINF_hap), XEN_DOMINF_hvm_guest | XEN_DOMINF_hap);
    CHECK_EQ(info.shared_info_frame, -1ul);
    CHECK_EQ(info.arch_config.emulation_flags, XEN_X86_EMU_LAPIC);

    memcpy((void *)page, code, sizeof(code));
    new_state();
    REQUIRE_EQ(load_state(domid, sizeof(state)), 0);
    unpause(domid);
    CHECK_EQ(wait_for_shutdown(domid), SHUTDOWN_poweroff);
    CHECK_EQ(page[1024], 0x12345678);
    for ( unsigned int at = 0; at < 3; at++ )
        REQUIRE_EQ(mmu_update(entry + at * 8, 0), 0);
    destroy(domid);
}

TEST(states_that_are_refused)
{
    domid_t domid = new_hvm_domain();
    struct xen_domctl op = new_domctl(XEN_DOMCTL_gethvmcontext, domid);

    new_state();
    CHECK_EQ(load_state(domid, 4), -XEN_ENODATA);
    CHECK_EQ(load_state(domid, sizeof(state) - 1), -XEN_ENODATA);
    CHECK_EQ(load_state(domid, sizeof(state.header_descriptor) + sizeof(state.header)), -XEN_ENODATA);
    CHECK_EQ(load_state(DOMID_SELF, sizeof(state)), -XEN_ESRCH);
    CHECK_EQ(load_state(0, sizeof(state)), -XEN_EINVAL);
    state.header.magic++;
    CHECK_EQ(load_state(domid, sizeof(state)), -XEN_EINVAL);
    new_state();
    state.cpu_descriptor.instance = 1;
    CHECK_EQ(load_state(domid, sizeof(state)), -XEN_EINVAL);
    new_state();
    state.cpu_descriptor.typecode = 15;
    CHECK_EQ(load_state(domid, sizeof(state)), -XEN_EINVAL);
    new_state();
    state.cpu_descriptor.typecode = HVM_SAVE_CODE(PIT);
    CHECK_EQ(load_state(domid, sizeof(state)), -XEN_ENODEV);
    new_state();
    state.cpu_descriptor.length = -1u;
    CHECK_EQ(load_state(domid, sizeof(state)), -XEN_ENODATA);
    new_state();
    state.cpu.cr0 = 0x80000010;
    CHECK_EQ(load_state(domid, sizeof(state)), -XEN_EINVAL);
    new_state();
    state.cpu.cr4 = 1ul << 13;
    CHECK_EQ(load_state(domid, sizeof(state)), -XEN_EINVAL);
    new_state();
    state.cpu.msr_efer = 0x400;
    CHECK_EQ(load_state(domid, sizeof(state)), -XEN_EINVAL);
    new_state();
    state.cpu.cr3 = 1ul << 60;
    CHECK_EQ(load_state(domid, sizeof(state)), -XEN_EINVAL);
    new_state();
    state.cpu.dr6 = 1ul << 32;
    CHECK_EQ(load_state(domid, sizeof(state)), -XEN_EINVAL);
    new_state();
    state.cpu.pending_event = 1u << 31 | 1 << 8;
    CHECK_EQ(load_state(domid, sizeof(state)), -XEN_EINVAL);

    op.u.hvmcontext.size = 10;
    set_xen_guest_handle(op.u.hvmcontext.buffer, (uint8_t *)&state);
    CHECK_EQ(domctl(&op), -XEN_ENOSPC);
    op = new_domctl(XEN_DOMCTL_gethvmcontext_partial, domid);
    op.u.hvmcontext_partial.type = HVM_SAVE_CODE(CPU);
    CHECK_EQ(domctl(&op), -XEN_ENODATA);
    op.u.hvmcontext_partial.type = HVM_SAVE_CODE(MTRR);
    CHECK_EQ(domctl(&op), 0);
    CHECK_EQ(op.u.hvmcontext_partial.bufsz, sizeof(struct hvm_hw_mtrr));
    op.u.hvmcontext_partial.instance = 1;
    CHECK_EQ(domctl(&op), -XEN_ENOENT);
    op.u.hvmcontext_partial.instance = 0;
    op.u.hvmcontext_partial.type = HVM_SAVE_CODE(PIT);
    CHECK_EQ(domctl(&op), -XEN_ENOENT);
    op.u.hvmcontext_partial.type = 999;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);
    destroy(domid);
}

TEST(the_pool_of_a_p2m)
{
    domid_t domid = new_hvm_domain();
    struct xen_domctl op = new_domctl(XEN_DOMCTL_get_paging_mempool_size, domid);

    CHECK_EQ(domctl(&op), 0);
    CHECK(op.u.paging_mempool.size > 0);
    op = new_domctl(XEN_DOMCTL_set_paging_mempool_size, domid);
    op.u.paging_mempool.size = 1 << 20;
    CHECK_EQ(domctl(&op), 0);
    op.u.paging_mempool.size = (1 << 20) + 1;
    CHECK_EQ(domctl(&op), -XEN_EINVAL);
    op = new_domctl(XEN_DOMCTL_shadow_op, domid);
    op.u.shadow_op.op = XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION;
    CHECK_EQ(domctl(&op), 0);
    CHECK_EQ(op.u.shadow_op.mb, 1);
    op.u.shadow_op.op = XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY;
    CHECK_EQ(domctl(&op), -XEN_EOPNOTSUPP);
    op = new_domctl(XEN_DOMCTL_get_paging_mempool_size, DOMID_SELF);
    CHECK(domctl(&op) < 0);
    destroy(domid);
}
