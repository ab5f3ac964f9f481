/*
 * Operations on page tables that take long: Xen lets events in between, and what comes out is the same.
 * To be booted with much memory. Xen: get_page_type_preemptible and put_old_guest_table in xen/arch/x86/mm.c.
 */
#include "runtime/kernel.h"

#define TABLE_ENTRIES 512
#define L2_TABLES 14
#define PERIOD 50000ul

static unsigned int timer_port, preempted, end_after;
static u64 next_frame, l3_mfn;

/* A frame of the memory that is mapped nowhere. */
static u64 take_frame(void)
{
    REQUIRE(next_frame < start_info->nr_pages);
    return pfn_to_mfn(next_frame++);
}

static u64 copy_of(const u64 *page)
{
    u64 mfn = take_frame();

    REQUIRE_EQ(mmuext(MMUEXT_COPY_PAGE, mfn, virt_to_mfn(page)), 0);
    return mfn;
}

/* Three levels of tables that are no tables yet, some thousands of them; the last entry of all is given. */
static void make_big_tree(u64 last)
{
    u64 *data = alloc_page(), *l1 = alloc_page(), *l2 = alloc_page(), *l3 = alloc_page();

    next_frame = last_mapped_pfn() + 1;
    for ( unsigned int slot = 0; slot < TABLE_ENTRIES; slot++ )
        l1[slot] = make_pte(virt_to_mfn(data), slot % 2 ? PTE_RO : PTE_RW);
    for ( unsigned int table = 0; table < L2_TABLES; table++ )
    {
        for ( unsigned int slot = 0; slot < TABLE_ENTRIES; slot++ )
        {
            if ( table == L2_TABLES - 1 && slot == TABLE_ENTRIES - 1 )
                l1[TABLE_ENTRIES - 1] = last;
            l2[slot] = make_pte(copy_of(l1), PTE_RW);
        }
        l3[table] = make_pte(copy_of(l2), PTE_RW);
    }
    l3_mfn = copy_of(l3);
}

static void set_timer(void)
{
    REQUIRE_EQ(hypercall(set_timer_op, system_time() + PERIOD), 0);
}

/* An event that comes when a hypercall has still to be made, as its number is still in RAX. */
static void note_preemption(struct frame *frame)
{
    const char *stub = frame->rax == __HYPERVISOR_mmu_update ? hypercall_page[__HYPERVISOR_mmu_update]
                                                             : hypercall_page[__HYPERVISOR_mmuext_op];

    vcpu_info->evtchn_upcall_pending = 0;
    vcpu_info->evtchn_pending_sel = 0;
    clear_port(timer_port);
    if ( (frame->rax == __HYPERVISOR_mmu_update || frame->rax == __HYPERVISOR_mmuext_op) &&
         frame->rip - (u64)stub < sizeof(hypercall_page[0]) )
        preempted++;
    if ( end_after && preempted == end_after )
        shutdown(SHUTDOWN_poweroff);
    set_timer();
}

static void start_events(void)
{
    struct evtchn_bind_virq bind = {.virq = VIRQ_TIMER, .vcpu = 0};

    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_bind_virq, &bind), 0);
    timer_port = bind.port;
    set_port_mask(timer_port, false);
    /* What came while it was masked would hide what comes. */
    clear_port(timer_port);
    trap_handlers[ENTRY_EVENT] = note_preemption;
    unmask_events();
    set_timer();
}

/* Do it again until it was preempted so often that it can't have been by chance. */
#define UNTIL_PREEMPTED for ( preempted = 0; preempted < 4; )

/* Whether a frame is no page table: it can be written. */
static bool is_free(u64 mfn)
{
    return mmu_update(mfn * PAGE_SIZE, 0) == 0;
}

TEST(pin_and_unpin)
{
    make_big_tree(0);
    start_events();
    UNTIL_PREEMPTED
    {
        REQUIRE_EQ(mmuext(MMUEXT_PIN_L3_TABLE, l3_mfn, 0), 0);
        REQUIRE_EQ(mmuext(MMUEXT_PIN_L3_TABLE, l3_mfn, 0), -XEN_EINVAL);
        REQUIRE_EQ(mmuext(MMUEXT_UNPIN_TABLE, l3_mfn, 0), 0);
        REQUIRE(is_free(l3_mfn));
    }
}

/* A pin that is refused at its very end undoes all that it did. */
TEST(pin_that_is_refused)
{
    make_big_tree(make_pte(2, PTE_RW));
    start_events();
    UNTIL_PREEMPTED
    {
        REQUIRE_EQ(mmuext(MMUEXT_PIN_L3_TABLE, l3_mfn, 0), -XEN_EBUSY);
        REQUIRE(is_free(l3_mfn));
    }
}

TEST(update)
{
    const u64 *slot = entry_of((void *)FREE_AREA, 4);
    unsigned int done = 0;
    struct mmu_update requests[] = {{virt_to_maddr(slot), 0}, {virt_to_maddr(slot), 0}};

    make_big_tree(0);
    requests[0].val = make_pte(l3_mfn, PTE_RW);
    start_events();
    UNTIL_PREEMPTED
    {
        REQUIRE_EQ(hypercall(mmu_update, requests, 2, &done, DOMID_SELF), 0);
        REQUIRE_EQ(done, 2);
        REQUIRE(is_free(l3_mfn));
    }
}

TEST(update_that_is_refused)
{
    const u64 *slot = entry_of((void *)FREE_AREA, 4);
    unsigned int done = 7;
    struct mmu_update requests[] = {{virt_to_maddr(slot), 0}, {virt_to_maddr(slot), 0}};

    make_big_tree(make_pte(2, PTE_RW));
    requests[1].val = make_pte(l3_mfn, PTE_RW);
    start_events();
    UNTIL_PREEMPTED
    {
        REQUIRE_EQ(hypercall(mmu_update, requests, 2, &done, DOMID_SELF), -XEN_EBUSY);
        REQUIRE_EQ(done, 1);
        REQUIRE_EQ(*slot, 0);
        REQUIRE(is_free(l3_mfn));
    }
}

/* As calls of a multicall. */
TEST(multicall)
{
    struct mmuext_op pin = {.cmd = MMUEXT_PIN_L3_TABLE}, unpin = {.cmd = MMUEXT_UNPIN_TABLE};
    multicall_entry_t calls[] = {
        {.op = __HYPERVISOR_mmuext_op, .args = {(u64)&pin, 1, 0, DOMID_SELF}},
        {.op = __HYPERVISOR_mmuext_op, .args = {(u64)&unpin, 1, 0, DOMID_SELF}},
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version, 0}},
    };

    make_big_tree(0);
    pin.arg1.mfn = unpin.arg1.mfn = l3_mfn;
    start_events();
    /* The entries of calls that were preempted are changed. */
    for ( unsigned int round = 0; round < 5; round++ )
    {
        multicall_entry_t copy[3];

        memcpy(copy, calls, sizeof(calls));
        REQUIRE_EQ(hypercall(multicall, copy, 3), 0);
        REQUIRE_EQ(copy[0].result, 0);
        REQUIRE_EQ(copy[1].result, 0);
        REQUIRE_EQ(copy[2].result >> 16, 4);
        REQUIRE(is_free(l3_mfn));
    }
}

/* A copy of the kernel's top-level table, with the tree in it. */
static u64 *other_root(void)
{
    const u64 *l4 = (const u64 *)start_info->pt_base;
    u64 *copy = alloc_page();

    for ( unsigned int slot = 0; slot < TABLE_ENTRIES; slot++ )
        copy[slot] = slot >= 256 && slot < 272 ? 0 : l4[slot];
    copy[FREE_AREA >> 39] = make_pte(l3_mfn, PTE_RW);
    make_read_only(copy);
    return copy;
}

TEST(new_baseptr)
{
    u64 *copy, root = virt_to_mfn((void *)start_info->pt_base), cr3;

    make_big_tree(0);
    copy = other_root();
    start_events();
    UNTIL_PREEMPTED
    {
        REQUIRE_EQ(mmuext(MMUEXT_NEW_BASEPTR, virt_to_mfn(copy), 0), 0);
        REQUIRE_EQ(mmuext(MMUEXT_NEW_BASEPTR, root, 0), 0);
        asm volatile("mov %%cr3, %0" : "=r"(cr3));
        REQUIRE_EQ(xen_cr3_to_pfn(cr3), root);
        REQUIRE(is_free(l3_mfn));
    }
    CHECK_EQ(map(copy, make_pte(virt_to_mfn(copy), PTE_RW)), 0);
}

TEST(mov_to_cr3)
{
    u64 *copy, root = virt_to_mfn((void *)start_info->pt_base), cr3;

    make_big_tree(0);
    copy = other_root();
    start_events();
    asm volatile("mov %0, %%cr3" :: "r"(xen_pfn_to_cr3(virt_to_mfn(copy))) : "memory");
    asm volatile("mov %%cr3, %0" : "=r"(cr3));
    CHECK_EQ(xen_cr3_to_pfn(cr3), virt_to_mfn(copy));
    asm volatile("mov %0, %%cr3" :: "r"(xen_pfn_to_cr3(root)) : "memory");
    /* What the old one leaves to undo, the next operation undoes. */
    CHECK(is_free(l3_mfn));
}

TEST(new_user_baseptr)
{
    u64 *copy;

    make_big_tree(0);
    copy = other_root();
    start_events();
    UNTIL_PREEMPTED
    {
        REQUIRE_EQ(mmuext(MMUEXT_NEW_USER_BASEPTR, virt_to_mfn(copy), 0), 0);
        REQUIRE_EQ(mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0), 0);
        REQUIRE(is_free(l3_mfn));
    }
}

/* ---- Those that end half-way ---- */

static void end_in(bool pin)
{
    make_big_tree(0);
    end_after = 3;
    start_events();
    mask_events();
    for ( ; ; )
    {
        if ( pin )
            unmask_events();
        REQUIRE_EQ(mmuext(MMUEXT_PIN_L3_TABLE, l3_mfn, 0), 0);
        mask_events();
        if ( !pin )
            unmask_events();
        REQUIRE_EQ(mmuext(MMUEXT_UNPIN_TABLE, l3_mfn, 0), 0);
        mask_events();
    }
}

GUEST(ends_in_a_pin)
{
    end_in(true);
}

GUEST(ends_in_an_unpin)
{
    end_in(false);
}

GUEST(ends_in_an_update)
{
    const u64 *slot = entry_of((void *)FREE_AREA, 4);

    make_big_tree(0);
    end_after = 3;
    start_events();
    for ( ; ; )
    {
        REQUIRE_EQ(mmu_update(virt_to_maddr(slot), make_pte(l3_mfn, PTE_RW)), 0);
        REQUIRE_EQ(mmu_update(virt_to_maddr(slot), 0), 0);
    }
}
