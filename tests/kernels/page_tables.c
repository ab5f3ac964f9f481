/*
 * Changing page tables by hypercall: mmu_update, update_va_mapping, mmuext_op; what a page may be used as.
 * Xen: do_mmu_update, do_update_va_mapping and do_mmuext_op in xen/arch/x86/mm.c.
 */
#include "runtime/kernel.h"

#define TABLE_ENTRIES 512

static u64 *target(u64 page)
{
    return (u64 *)(FREE_AREA + page * PAGE_SIZE);
}

static long mmu_updates(const struct mmu_update *requests, unsigned int count, unsigned int *done)
{
    return hypercall(mmu_update, requests, count, done, DOMID_SELF);
}

static u64 preserving(u64 pointer)
{
    return pointer | MMU_PT_UPDATE_PRESERVE_AD;
}

static domid_t own_domid(void)
{
    struct evtchn_alloc_unbound alloc = {.dom = DOMID_SELF, .remote_dom = DOMID_SELF};
    struct evtchn_status status = {.dom = DOMID_SELF};

    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_alloc_unbound, &alloc), 0);
    status.port = alloc.port;
    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_status, &status), 0);
    return status.u.unbound.dom;
}

/* ---- mmu_update ---- */

TEST(mmu_update_of_each_level)
{
    u64 *l3 = alloc_page(), *l2 = alloc_page(), *l1 = alloc_page(), *page = alloc_page();

    page[0] = 12345;
    make_read_only(l3);
    make_read_only(l2);
    make_read_only(l1);
    CHECK_EQ(mmu_update(virt_to_maddr(entry_of(target(0), 4)), make_pte(virt_to_mfn(l3), PTE_RW)), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(l3), make_pte(virt_to_mfn(l2), PTE_RW)), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(l2), make_pte(virt_to_mfn(l1), PTE_RW)), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(l1), make_pte(virt_to_mfn(page), PTE_RW)), 0);
    CHECK_EQ(*target(0), 12345);
    *target(0) = 54321;
    CHECK_EQ(page[0], 54321);
    /* And away again, from the top. */
    CHECK_EQ(mmu_update(virt_to_maddr(entry_of(target(0), 4)), 0), 0);
    CHECK_EQ(TRAP_OF("mov (%0), %%rax", :: "r"(target(0)) : "rax"), X86_PF);
    /* Nothing refers to the tables any more. */
    CHECK_EQ(map(l3, make_pte(virt_to_mfn(l3), PTE_RW)), 0);
    CHECK_EQ(map(l2, make_pte(virt_to_mfn(l2), PTE_RW)), 0);
    CHECK_EQ(map(l1, make_pte(virt_to_mfn(l1), PTE_RW)), 0);
}

/* Kernel pages get the user bit and a mark, user pages the global bit: all of the guest is in ring 3. */
TEST(entries_as_xen_makes_them)
{
    u64 *l1 = make_tables(), *page = alloc_page();
    u64 kernel = PAGE_PRESENT | PAGE_RW | PAGE_ACCESSED | PAGE_DIRTY;

    CHECK_EQ(mmu_update(virt_to_maddr(&l1[0]), make_pte(virt_to_mfn(page), kernel)), 0);
    CHECK_EQ(l1[0], make_pte(virt_to_mfn(page), kernel | PAGE_USER | 1ul << 52));
    CHECK_EQ(mmu_update(virt_to_maddr(&l1[1]), make_pte(virt_to_mfn(page), kernel | PAGE_USER)), 0);
    CHECK_EQ(l1[1], make_pte(virt_to_mfn(page), kernel | PAGE_USER | PAGE_GLOBAL));
    CHECK_EQ(*entry_of(page, 2) & PAGE_USER, PAGE_USER);
    /* What is not present is the guest's own business. */
    CHECK_EQ(mmu_update(virt_to_maddr(&l1[2]), ~1ul), 0);
    CHECK_EQ(l1[2], ~1ul);
}

TEST(accessed_and_dirty_bits)
{
    u64 *l1 = make_tables(), *page = alloc_page();

    REQUIRE_EQ(mmu_update(virt_to_maddr(&l1[0]), make_pte(virt_to_mfn(page), PAGE_PRESENT | PAGE_RW | PAGE_USER)), 0);
    CHECK_EQ(l1[0] & (PAGE_ACCESSED | PAGE_DIRTY), 0);
    (void)READ_ONCE(*target(0));
    CHECK_EQ(READ_ONCE(l1[0]) & (PAGE_ACCESSED | PAGE_DIRTY), PAGE_ACCESSED);
    READ_ONCE(*target(0)) = 1;
    CHECK_EQ(READ_ONCE(l1[0]) & (PAGE_ACCESSED | PAGE_DIRTY), PAGE_ACCESSED | PAGE_DIRTY);
}

TEST(update_that_preserves_accessed_and_dirty)
{
    u64 *l1 = make_tables(), *page = alloc_page();
    u64 pte = make_pte(virt_to_mfn(page), PAGE_PRESENT | PAGE_USER);

    REQUIRE_EQ(mmu_update(virt_to_maddr(&l1[0]), pte | PAGE_RW | PAGE_ACCESSED | PAGE_DIRTY), 0);
    CHECK_EQ(mmu_update(preserving(virt_to_maddr(&l1[0])), pte), 0);
    CHECK_EQ(l1[0] & (PAGE_RW | PAGE_ACCESSED | PAGE_DIRTY), PAGE_ACCESSED | PAGE_DIRTY);
    CHECK_EQ(mmu_update(virt_to_maddr(&l1[0]), pte), 0);
    CHECK_EQ(l1[0] & (PAGE_ACCESSED | PAGE_DIRTY), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(&l1[0]) | MMU_PT_UPDATE_NO_TRANSLATE, pte | PAGE_ACCESSED), 0);
    CHECK_EQ(l1[0] & (PAGE_ACCESSED | PAGE_DIRTY), PAGE_ACCESSED);
}

TEST(update_of_ordinary_memory)
{
    u64 *page = alloc_page();

    CHECK_EQ(mmu_update(virt_to_maddr(&page[7]), 0x123456789abcdef0), 0);
    CHECK_EQ(READ_ONCE(page[7]), 0x123456789abcdef0);
}

TEST(machine_to_physical_update)
{
    void *page = alloc_page();
    u64 mfn = virt_to_mfn(page);

    CHECK_EQ(mmu_update(mfn * PAGE_SIZE | MMU_MACHPHYS_UPDATE, 0x4711), 0);
    CHECK_EQ(READ_ONCE(machine_to_phys_mapping[mfn]), 0x4711);
    CHECK_EQ(mmu_update(MMU_MACHPHYS_UPDATE, 1), -XEN_EINVAL);
    CHECK_EQ(mmu_update(~0xfffull >> 13 << 12 | MMU_MACHPHYS_UPDATE, 1), -XEN_EINVAL);
}

TEST(updates_done_are_counted)
{
    u64 *page = alloc_page();
    unsigned int done = 77;
    struct mmu_update requests[] = {
        {virt_to_maddr(&page[0]), 1},
        {virt_to_maddr(&page[1]), 2},
        {4, 0},
        {virt_to_maddr(&page[2]), 3},
    };

    CHECK_EQ(mmu_updates(requests, 4, &done), -XEN_ENOSYS);
    CHECK_EQ(done, 2);
    CHECK_EQ(page[1], 2);
    CHECK_EQ(READ_ONCE(page[2]), 0);
    done = 77;
    CHECK_EQ(mmu_updates(requests, 2, &done), 0);
    CHECK_EQ(done, 2);
    CHECK_EQ(mmu_updates(requests, 0, &done), 0);
    CHECK_EQ(done, 0);
    CHECK_EQ(mmu_updates(requests, 1, NULL), 0);
}

TEST(commands_there_are_not)
{
    void *page = alloc_page();

    for ( unsigned int command = 4; command < 8; command++ )
        CHECK_EQ(mmu_update(virt_to_maddr(page) | command, 0), -XEN_ENOSYS);
}

TEST(updates_that_cannot_be_read)
{
    struct mmu_update *requests = pfn_to_virt(last_mapped_pfn() + 1);
    unsigned int done = 77;

    requests--;
    requests[0] = (struct mmu_update){virt_to_maddr(alloc_page()), 5};
    CHECK_EQ(mmu_updates((void *)UNMAPPED, 1, NULL), -XEN_EFAULT);
    CHECK_EQ(mmu_updates((void *)XENS_OWN, 1, NULL), -XEN_EFAULT);
    CHECK_EQ(mmu_updates((void *)NON_CANONICAL, 1, NULL), -XEN_EFAULT);
    CHECK_EQ(mmu_updates(requests, 2, &done), -XEN_EFAULT);
    CHECK_EQ(done, 1);
    /* That the count can't be written does not matter. */
    CHECK_EQ(mmu_updates(requests, 1, (void *)UNMAPPED), 0);
}

TEST(updates_of_frames_that_are_not_ours)
{
    CHECK_EQ(mmu_update(0, 0), -XEN_EINVAL);
    CHECK_EQ(mmu_update(PTE_FRAME, 0), -XEN_EINVAL);
    CHECK_EQ(mmu_update(hypercall(memory_op, XENMEM_maximum_ram_page, 0) * PAGE_SIZE, 0), -XEN_EINVAL);
}

/* 0 is there, but we may not; 0x7000 is not there. Oneself has to be called DOMID_SELF. */
TEST(updates_for_other_domains)
{
    struct mmu_update request = {virt_to_maddr(alloc_page()), 0};
    struct mmuext_op op = {.cmd = MMUEXT_TLB_FLUSH_LOCAL};

    CHECK_EQ(hypercall(mmu_update, &request, 1, 0, 0), -XEN_EPERM);
    CHECK_EQ(hypercall(mmu_update, &request, 1, 0, 0x7000), -XEN_ESRCH);
    CHECK_EQ(hypercall(mmu_update, &request, 1, 0, own_domid()), -XEN_ESRCH);
    CHECK_EQ(hypercall(mmu_update, &request, 1, 0, (0x7000 + 1) << 16 | DOMID_SELF), -XEN_ESRCH);
    CHECK_EQ(hypercall(mmu_update, &request, 1, 0, (0 + 1) << 16 | DOMID_SELF), -XEN_EPERM);
    CHECK_EQ(hypercall(mmu_update, &request, 1, 0, (own_domid() + 1) << 16 | DOMID_SELF), 0);
    CHECK_EQ(hypercall(mmuext_op, &op, 1, 0, 0), -XEN_EPERM);
    CHECK_EQ(hypercall(mmuext_op, &op, 1, 0, 0x7000), -XEN_ESRCH);
    CHECK_EQ(hypercall(mmuext_op, &op, 1, 0, own_domid()), -XEN_ESRCH);
}

/* ---- What an entry must not be ---- */

TEST(level_1_entries_that_are_refused)
{
    u64 *l1 = make_tables(), *page = alloc_page();
    u64 mfn = virt_to_mfn(page), place = virt_to_maddr(&l1[0]);
    u64 beyond = hypercall(memory_op, XENMEM_maximum_ram_page, 0);

    /* Bits of caching, and what is no bit of a level 1 entry. */
    CHECK_EQ(mmu_update(place, make_pte(mfn, PTE_RW | 0x08)), -XEN_EINVAL);
    CHECK_EQ(mmu_update(place, make_pte(mfn, PTE_RW | 0x10)), -XEN_EINVAL);
    CHECK_EQ(mmu_update(place, make_pte(mfn, PTE_RW | 0x80)), -XEN_EINVAL);
    /* Frames of Xen's, of nobody's, and that are not there. */
    CHECK_EQ(mmu_update(place, make_pte(2, PTE_RO)), -XEN_EBUSY);
    CHECK_EQ(mmu_update(place, make_pte(beyond - 1, PTE_RO)), -XEN_EBUSY);
    CHECK_EQ(mmu_update(place, make_pte(beyond, PTE_RO)), -XEN_EPERM);
    CHECK_EQ(mmu_update(place, PTE_FRAME | PTE_RO), -XEN_EINVAL);
    CHECK_EQ(l1[0], 0);
}

TEST(upper_entries_that_are_refused)
{
    u64 *l3 = alloc_page(), *l2 = alloc_page(), *l1 = alloc_page(), *page = alloc_page();
    u64 l4_place = virt_to_maddr(entry_of(target(0), 4));

    make_read_only(l3);
    make_read_only(l2);
    make_read_only(l1);
    REQUIRE_EQ(mmu_update(l4_place, make_pte(virt_to_mfn(l3), PTE_RW)), 0);
    REQUIRE_EQ(mmu_update(virt_to_maddr(l3), make_pte(virt_to_mfn(l2), PTE_RW)), 0);
    /* Superpages, and global ones. */
    CHECK_EQ(mmu_update(virt_to_maddr(l2), make_pte(virt_to_mfn(l1), PTE_RW | PAGE_PSE)), -XEN_EINVAL);
    CHECK_EQ(mmu_update(virt_to_maddr(l3 + 1), make_pte(virt_to_mfn(l2), PTE_RW | PAGE_PSE)), -XEN_EINVAL);
    CHECK_EQ(mmu_update(virt_to_maddr(l2), make_pte(virt_to_mfn(l1), PTE_RW | PAGE_GLOBAL)), -XEN_EINVAL);
    /* A page that is mapped writable, one of another level, somebody else's. */
    CHECK_EQ(mmu_update(virt_to_maddr(l2), make_pte(virt_to_mfn(page), PTE_RW)), -XEN_EINVAL);
    CHECK_EQ(mmu_update(virt_to_maddr(l2), make_pte(virt_to_mfn(l3), PTE_RW)), -XEN_EINVAL);
    CHECK_EQ(mmu_update(virt_to_maddr(l3 + 1), make_pte(virt_to_mfn((void *)start_info->pt_base), PTE_RW)), -XEN_EINVAL);
    CHECK_EQ(mmu_update(virt_to_maddr(l2), make_pte(2, PTE_RW)), -XEN_EINVAL);
    CHECK_EQ(l2[0], 0);
}

/* The top-level slots 256 to 271 are Xen's own. */
TEST(xens_slots)
{
    u64 *l4 = (u64 *)start_info->pt_base, *l3 = alloc_page();

    make_read_only(l3);
    for ( unsigned int slot = 256; slot < 272; slot++ )
    {
        CHECK_EQ(mmu_update(virt_to_maddr(&l4[slot]), 0), -XEN_EINVAL);
        CHECK_EQ(mmu_update(virt_to_maddr(&l4[slot]), make_pte(virt_to_mfn(l3), PTE_RW)), -XEN_EINVAL);
    }
    CHECK_EQ(mmu_update(virt_to_maddr(&l4[255]), make_pte(virt_to_mfn(l3), PTE_RW)), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(&l4[272]), make_pte(virt_to_mfn(l3), PTE_RW)), 0);
    CHECK(machine_to_phys_mapping[virt_to_mfn(l3)] == virt_to_pfn(l3));
}

TEST(page_tables_are_not_to_be_mapped_writable)
{
    u64 *l1 = make_tables();

    CHECK_EQ(map(l1, make_pte(virt_to_mfn(l1), PTE_RW)), -XEN_EBUSY);
    CHECK_EQ(map((void *)start_info->pt_base, make_pte(virt_to_mfn((void *)start_info->pt_base), PTE_RW)), -XEN_EBUSY);
    CHECK_EQ(mmu_update(virt_to_maddr(&l1[3]), make_pte(virt_to_mfn(l1), PTE_RW)), -XEN_EBUSY);
    CHECK_EQ(mmu_update(virt_to_maddr(&l1[3]), make_pte(virt_to_mfn(l1), PTE_RO)), 0);
    CHECK_EQ(target(3)[3], l1[3]);
}

/* A table with a bad entry is refused as a whole, and nothing is kept of what was good. */
TEST(table_with_a_bad_entry)
{
    u64 *l3 = alloc_page(), *l2 = alloc_page(), *l1 = alloc_page(), *page = alloc_page();
    u64 l4_place = virt_to_maddr(entry_of(target(0), 4));

    for ( unsigned int i = 0; i < 100; i++ )
        l1[i] = make_pte(virt_to_mfn(page), PTE_RW);
    l1[100] = make_pte(2, PTE_RO);
    l2[0] = make_pte(virt_to_mfn(l1), PTE_RW);
    l3[511] = make_pte(virt_to_mfn(l2), PTE_RW);
    make_read_only(l3);
    make_read_only(l2);
    make_read_only(l1);
    CHECK(mmu_update(l4_place, make_pte(virt_to_mfn(l3), PTE_RW)) < 0);
    CHECK_EQ(*entry_of(target(0), 4) & PAGE_PRESENT, 0);
    CHECK_EQ(map(l3, make_pte(virt_to_mfn(l3), PTE_RW)), 0);
    CHECK_EQ(map(l2, make_pte(virt_to_mfn(l2), PTE_RW)), 0);
    CHECK_EQ(map(l1, make_pte(virt_to_mfn(l1), PTE_RW)), 0);
    /* The page that was shown a hundred times is free to become a table. */
    make_read_only(page);
    CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(page), 0), 0);
}

/* ---- Tables that show tables ---- */

/* A level 4 entry that leads back to its own table shows all tables as pages, read-only. */
TEST(recursive_mapping)
{
    u64 *l4 = (u64 *)start_info->pt_base;
    u64 mfn = virt_to_mfn(l4);
    const u64 *seen = (const u64 *)(300ul << 39 | 300ul << 30 | 300ul << 21 | 300ul << 12 | 0xfffful << 48);

    CHECK_EQ(mmu_update(virt_to_maddr(&l4[300]), make_pte(mfn, PTE_RW)), -XEN_EINVAL);
    CHECK_EQ(mmu_update(virt_to_maddr(&l4[300]), make_pte(mfn, PTE_RO)), 0);
    CHECK_EQ(seen[300], l4[300]);
    CHECK_EQ(seen[0], l4[0]);
    CHECK_EQ(TRAP_OF("mov %0, (%1)", :: "r"(0ul), "r"(seen)), X86_PF);
    CHECK_EQ(mmu_update(virt_to_maddr(&l4[300]), 0), 0);
}

TEST(table_that_shows_another_of_its_level)
{
    u64 *l4 = (u64 *)start_info->pt_base, *other = alloc_page(), *third = alloc_page();

    make_read_only(other);
    make_read_only(third);
    /* One that is no level 4 table yet is taken for one of level 3. */
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L4_TABLE, virt_to_mfn(other), 0), 0);
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L4_TABLE, virt_to_mfn(third), 0), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(&l4[300]), make_pte(virt_to_mfn(other), PTE_RO)), 0);
    /* A chain must have one link only. */
    CHECK_EQ(mmu_update(virt_to_maddr(&other[300]), make_pte(virt_to_mfn(third), PTE_RO)), -XEN_EINVAL);
    CHECK_EQ(mmu_update(virt_to_maddr(&third[300]), make_pte(virt_to_mfn(l4), PTE_RO)), -XEN_EINVAL);
    CHECK_EQ(mmu_update(virt_to_maddr(&l4[300]), 0), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(&other[300]), make_pte(virt_to_mfn(third), PTE_RO)), 0);
}

/* ---- update_va_mapping ---- */

TEST(update_va_mapping)
{
    u64 *page = alloc_page(), *other = alloc_page();

    page[0] = 1;
    other[0] = 2;
    CHECK_EQ(hypercall(update_va_mapping, page, make_pte(virt_to_mfn(other), PTE_RW), UVMF_INVLPG), 0);
    CHECK_EQ(READ_ONCE(page[0]), 2);
    CHECK_EQ(hypercall(update_va_mapping, page, 0, UVMF_INVLPG), 0);
    CHECK_EQ(TRAP_OF("mov (%0), %%rax", :: "r"(page) : "rax"), X86_PF);
}

TEST(update_va_mapping_and_flushes)
{
    u64 *page = alloc_page(), *other = alloc_page();
    static u64 none = 0, all = ~0ul;
    u64 flags[] = {
        UVMF_TLB_FLUSH, UVMF_TLB_FLUSH | UVMF_ALL, UVMF_TLB_FLUSH | (u64)&all, UVMF_TLB_FLUSH | (u64)&none,
        UVMF_INVLPG, UVMF_INVLPG | UVMF_ALL, UVMF_INVLPG | (u64)&all, UVMF_INVLPG | (u64)&none,
    };

    for ( unsigned int i = 0; i < ARRAY_SIZE(flags); i++ )
    {
        page[0] = i;
        other[0] = ~i;
        CHECK_EQ(hypercall(update_va_mapping, other, make_pte(virt_to_mfn(page), PTE_RO), flags[i]), 0);
        if ( !(flags[i] == (UVMF_TLB_FLUSH | (u64)&none) || flags[i] == (UVMF_INVLPG | (u64)&none)) )
            CHECK_EQ(READ_ONCE(other[0]), i);
        CHECK_EQ(hypercall(update_va_mapping, other, make_pte(virt_to_mfn(other), PTE_RW), UVMF_TLB_FLUSH), 0);
    }
}

TEST(update_va_mapping_with_a_bad_mask)
{
    void *page = alloc_page();

    CHECK_EQ(hypercall(update_va_mapping, page, 0, UVMF_TLB_FLUSH | UNMAPPED), -XEN_EFAULT);
    /* The update was made all the same. */
    CHECK_EQ(*entry_of(page, 1), 0);
    CHECK_EQ(hypercall(update_va_mapping, page, 0, UVMF_INVLPG | XENS_OWN), -XEN_EFAULT);
    /* Without a flush nobody looks at it. */
    CHECK_EQ(hypercall(update_va_mapping, page, 0, UVMF_NONE | UNMAPPED), 0);
}

TEST(update_va_mapping_where_there_is_no_table)
{
    u64 pte = make_pte(virt_to_mfn(alloc_page()), PTE_RW);

    CHECK_EQ(hypercall(update_va_mapping, FREE_AREA, pte, 0), -XEN_EINVAL);
    CHECK_EQ(hypercall(update_va_mapping, UNMAPPED, pte, 0), -XEN_EINVAL);
    CHECK_EQ(hypercall(update_va_mapping, XENS_OWN, pte, 0), -XEN_EINVAL);
    CHECK_EQ(hypercall(update_va_mapping, NON_CANONICAL, pte, 0), -XEN_EINVAL);
    /* The machine-to-physical table has tables, but they are Xen's. */
    CHECK_EQ(hypercall(update_va_mapping, machine_to_phys_mapping, pte, 0), -XEN_EINVAL);
}

TEST(update_va_mapping_for_other_domains)
{
    void *page = alloc_page();
    u64 pte = make_pte(virt_to_mfn(page), PTE_RO);

    CHECK_EQ(hypercall(update_va_mapping_otherdomain, page, pte, UVMF_INVLPG, DOMID_SELF), 0);
    CHECK_EQ(*entry_of(page, 1) & PAGE_RW, 0);
    CHECK_EQ(hypercall(update_va_mapping_otherdomain, page, pte, 0, own_domid()), -XEN_ESRCH);
    CHECK_EQ(hypercall(update_va_mapping_otherdomain, page, pte, 0, 0x7000), -XEN_ESRCH);
    CHECK_EQ(hypercall(update_va_mapping_otherdomain, page, pte, 0, 0), -XEN_EPERM);
}

/* ---- mmuext_op: pins ---- */

TEST(pin_and_unpin)
{
    u64 *page = alloc_page();
    u64 mfn = virt_to_mfn(page);

    CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), -XEN_EINVAL);
    make_read_only(page);
    for ( unsigned int command = MMUEXT_PIN_L1_TABLE; command <= MMUEXT_PIN_L4_TABLE; command++ )
    {
        CHECK_EQ(mmuext(command, mfn, 0), 0);
        CHECK_EQ(map(page, make_pte(mfn, PTE_RW)), -XEN_EBUSY);
        CHECK_EQ(mmuext(command, mfn, 0), -XEN_EINVAL);
        CHECK_EQ(mmuext(command == MMUEXT_PIN_L1_TABLE ? MMUEXT_PIN_L2_TABLE : MMUEXT_PIN_L1_TABLE, mfn, 0), -XEN_EINVAL);
        CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0), 0);
        CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0), -XEN_EINVAL);
    }
    CHECK_EQ(map(page, make_pte(mfn, PTE_RW)), 0);
}

TEST(pins_of_frames_that_are_not_ours)
{
    CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, 2, 0), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, ~0ul, 0), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, 2, 0), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, ~0ul, 0), -XEN_EINVAL);
}

/* A level 4 table gets Xen's entries, whatever was there. */
TEST(pinned_top_level_table_has_xens_slots)
{
    u64 *l4 = alloc_page();

    l4[270] = ~0ul;
    make_read_only(l4);
    CHECK_EQ(mmuext(MMUEXT_PIN_L4_TABLE, virt_to_mfn(l4), 0), 0);
    CHECK(l4[270] != ~0ul);
}

/* ---- mmuext_op: address spaces ---- */

/* A copy of the kernel's top-level table. */
static u64 *copy_of_root(void)
{
    const u64 *l4 = (const u64 *)start_info->pt_base;
    u64 *copy = alloc_page();

    for ( unsigned int slot = 0; slot < TABLE_ENTRIES; slot++ )
        copy[slot] = slot >= 256 && slot < 272 ? 0 : l4[slot];
    make_read_only(copy);
    return copy;
}

TEST(new_baseptr)
{
    u64 *copy = copy_of_root(), cr3;

    CHECK_EQ(mmuext(MMUEXT_NEW_BASEPTR, virt_to_mfn(copy), 0), 0);
    asm volatile("mov %%cr3, %0" : "=r"(cr3));
    CHECK_EQ(xen_cr3_to_pfn(cr3), virt_to_mfn(copy));
    CHECK_EQ(mfn_to_pfn(virt_to_mfn(copy)), virt_to_pfn(copy));
    CHECK_EQ(map(copy, make_pte(virt_to_mfn(copy), PTE_RW)), -XEN_EBUSY);
    CHECK_EQ(mmuext(MMUEXT_NEW_BASEPTR, virt_to_mfn((void *)start_info->pt_base), 0), 0);
    CHECK_EQ(map(copy, make_pte(virt_to_mfn(copy), PTE_RW)), 0);
}

TEST(new_baseptrs_that_are_refused)
{
    u64 *l1 = make_tables(), *page = alloc_page();

    CHECK_EQ(mmuext(MMUEXT_NEW_BASEPTR, 0, 0), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_NEW_BASEPTR, ~0ul, 0), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_NEW_BASEPTR, virt_to_mfn(l1), 0), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_NEW_BASEPTR, virt_to_mfn(page), 0), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_NEW_USER_BASEPTR, virt_to_mfn(page), 0), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_NEW_USER_BASEPTR, ~0ul, 0), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0), 0);
}

static u64 read_word(u64 address)
{
    return *(volatile u64 *)address;
}

/* A program sees its own page tables and not the kernel's. */
TEST(user_page_tables)
{
    u64 *user = copy_of_root(), *mine = alloc_page(), *theirs = alloc_page();
    u64 *l1 = make_tables(), *l3 = alloc_page(), *l2 = alloc_page(), *user_l1 = alloc_page();

    mine[0] = 111;
    theirs[0] = 222;
    REQUIRE_EQ(mmu_update(virt_to_maddr(&l1[0]), make_pte(virt_to_mfn(mine), PTE_RW)), 0);
    l3[0] = make_pte(virt_to_mfn(l2), PTE_RW);
    l2[0] = make_pte(virt_to_mfn(user_l1), PTE_RW);
    user_l1[0] = make_pte(virt_to_mfn(theirs), PTE_RW);
    make_read_only(l3);
    make_read_only(l2);
    make_read_only(user_l1);
    REQUIRE_EQ(mmu_update(virt_to_maddr(&user[FREE_AREA >> 39]), make_pte(virt_to_mfn(l3), PTE_RW)), 0);
    REQUIRE_EQ(mmuext(MMUEXT_NEW_USER_BASEPTR, virt_to_mfn(user), 0), 0);
    struct user_context context = user_context_for(read_word, FREE_AREA);
    CHECK_EQ(*target(0), 111);
    CHECK_EQ(enter_user(&context), 222);
    CHECK_EQ(*target(0), 111);
    /* An update of what the program sees, without a flush of its own: mmu_update flushes for upper levels only. */
    REQUIRE_EQ(mmu_update(virt_to_maddr(&l2[0]), 0), 0);
    REQUIRE_EQ(mmu_update(virt_to_maddr(&l2[0]), make_pte(virt_to_mfn(l1), PTE_RW)), 0);
    CHECK_EQ(enter_user(&context), 111);
}

/* Xen's own CPUID, by the prefix that has it emulated, and IN, which is: 16 bytes, the second half for data. */
extern const char emulated[], emulated_end[];
asm("emulated: ud2; .ascii \"xen\"; cpuid; mov $0x70, %edx; in %dx, %al; lea 8(%rdi), %rdi; insb; mov %rax, %rbx;"
    "mov $1, %eax; int $0xff; emulated_end:");

static void keep_rbx(struct frame *frame)
{
    leave_user(frame->rbx);
}

/* What Xen reads and writes for a program it finds in the program's own address space. */
TEST(emulation_in_user_page_tables)
{
    u64 *user = copy_of_root(), *l3 = alloc_page(), *l2 = alloc_page(), *l1 = alloc_page();
    u8 *code = alloc_page(), *data = alloc_page();
    struct physdev_set_iopl iopl = {3};
    struct user_context context = user_context_for(NULL, 0);

    memcpy(code, emulated, emulated_end - emulated);
    l3[0] = make_pte(virt_to_mfn(l2), PTE_RW);
    l2[0] = make_pte(virt_to_mfn(l1), PTE_RW);
    l1[0] = make_pte(virt_to_mfn(code), PTE_RO);
    l1[1] = make_pte(virt_to_mfn(data), PTE_RW);
    make_read_only(l3);
    make_read_only(l2);
    make_read_only(l1);
    REQUIRE_EQ(mmu_update(virt_to_maddr(&user[FREE_AREA >> 39]), make_pte(virt_to_mfn(l3), PTE_RW)), 0);
    REQUIRE_EQ(mmuext(MMUEXT_NEW_USER_BASEPTR, virt_to_mfn(user), 0), 0);
    REQUIRE_EQ(hypercall(physdev_op, PHYSDEVOP_set_iopl, &iopl), 0);
    trap_handlers[LEAVE_USER] = keep_rbx;
    context.rip = FREE_AREA;
    context.rdi = FREE_AREA + PAGE_SIZE;
    enter_user(&context);
    CHECK_EQ(data[8], 0);
    CHECK_EQ(data[9], 0);
}

static u64 read_trap(u64 address)
{
    return TRAP_OF("mov (%0), %%rax", :: "r"(address) : "rax");
}

/* The machine-to-physical table is the kernel's. */
TEST(programs_do_not_see_the_machine_to_physical_table)
{
    u64 *user = copy_of_root();
    struct user_context context = user_context_for(read_trap, (u64)machine_to_phys_mapping);

    REQUIRE_EQ(mmuext(MMUEXT_NEW_USER_BASEPTR, virt_to_mfn(user), 0), 0);
    CHECK_EQ(enter_user(&context), X86_PF);
    CHECK_EQ(mfn_to_pfn(virt_to_mfn(user)), virt_to_pfn(user));
}

TEST(m2p_strict)
{
    u64 *user = (u64 *)start_info->pt_base;
    struct user_context context = user_context_for(read_trap, (u64)machine_to_phys_mapping);

    /* A table that was the kernel's has it, */
    REQUIRE_EQ(mmuext(MMUEXT_NEW_USER_BASEPTR, virt_to_mfn(user), 0), 0);
    CHECK_EQ(enter_user(&context), NO_TRAP);
    /* until the guest wants strictness. */
    REQUIRE_EQ(mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0), 0);
    REQUIRE_EQ(hypercall(vm_assist, VMASST_CMD_enable, VMASST_TYPE_m2p_strict), 0);
    u64 *copy = copy_of_root();
    REQUIRE_EQ(mmuext(MMUEXT_NEW_USER_BASEPTR, virt_to_mfn(copy), 0), 0);
    CHECK_EQ(enter_user(&context), X86_PF);
    u64 *kernel = copy_of_root();
    REQUIRE_EQ(mmuext(MMUEXT_NEW_BASEPTR, virt_to_mfn(kernel), 0), 0);
    CHECK_EQ(mfn_to_pfn(virt_to_mfn(user)), virt_to_pfn(user));
}

/* ---- mmuext_op: the TLB ---- */

TEST(tlb_flushes)
{
    u64 *l1 = make_tables(), *pages[2] = {alloc_page(), alloc_page()};
    static u64 all = ~0ul;
    struct { unsigned int command; u64 arg1, arg2; } flushes[] = {
        {MMUEXT_TLB_FLUSH_LOCAL, 0, 0}, {MMUEXT_TLB_FLUSH_ALL, 0, 0}, {MMUEXT_TLB_FLUSH_MULTI, 0, (u64)&all},
        {MMUEXT_INVLPG_LOCAL, FREE_AREA, 0}, {MMUEXT_INVLPG_ALL, FREE_AREA, 0},
        {MMUEXT_INVLPG_MULTI, FREE_AREA, (u64)&all},
    };

    pages[0][0] = 0;
    pages[1][0] = 1;
    for ( unsigned int i = 0; i < ARRAY_SIZE(flushes); i++ )
    {
        REQUIRE_EQ(mmu_update(virt_to_maddr(&l1[0]), make_pte(virt_to_mfn(pages[i % 2]), PTE_RO)), 0);
        CHECK_EQ(mmuext(flushes[i].command, flushes[i].arg1, flushes[i].arg2), 0);
        CHECK_EQ(READ_ONCE(*target(0)), i % 2);
    }
}

TEST(tlb_flushes_that_are_refused)
{
    CHECK_EQ(mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, UNMAPPED), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_INVLPG_MULTI, FREE_AREA, UNMAPPED), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_INVLPG_MULTI, FREE_AREA, XENS_OWN), -XEN_EINVAL);
    /* Of an address that can't be there is nothing in the TLB. */
    CHECK_EQ(mmuext(MMUEXT_INVLPG_LOCAL, NON_CANONICAL, 0), 0);
    CHECK_EQ(mmuext(MMUEXT_INVLPG_ALL, XENS_OWN, 0), 0);
}

TEST(caches_are_not_to_be_flushed)
{
    CHECK_EQ(mmuext(MMUEXT_FLUSH_CACHE, 0, 0), -XEN_EACCES);
    CHECK_EQ(mmuext(MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0), -XEN_EINVAL);
}

/* ---- mmuext_op: pages ---- */

TEST(clear_and_copy_page)
{
    u64 *from = alloc_page(), *to = alloc_page();

    from[511] = 99;
    CHECK_EQ(mmuext(MMUEXT_COPY_PAGE, virt_to_mfn(to), virt_to_mfn(from)), 0);
    CHECK_EQ(READ_ONCE(to[511]), 99);
    CHECK_EQ(mmuext(MMUEXT_CLEAR_PAGE, virt_to_mfn(to), 0), 0);
    CHECK_EQ(READ_ONCE(to[511]), 0);
}

TEST(pages_that_are_not_to_be_cleared)
{
    u64 *l1 = make_tables(), *page = alloc_page();

    CHECK_EQ(mmuext(MMUEXT_CLEAR_PAGE, virt_to_mfn(l1), 0), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_CLEAR_PAGE, 2, 0), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_CLEAR_PAGE, ~0ul, 0), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_COPY_PAGE, virt_to_mfn(l1), virt_to_mfn(page)), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_COPY_PAGE, virt_to_mfn(page), 2), -XEN_EINVAL);
    CHECK_EQ(mmuext(MMUEXT_COPY_PAGE, virt_to_mfn(page), virt_to_mfn(l1)), 0);
}

TEST(operations_there_are_not)
{
    CHECK_EQ(mmuext(MMUEXT_MARK_SUPER, virt_to_mfn(alloc_page()), 0), -XEN_EOPNOTSUPP);
    CHECK_EQ(mmuext(MMUEXT_UNMARK_SUPER, virt_to_mfn(alloc_page()), 0), -XEN_EOPNOTSUPP);
    CHECK_EQ(mmuext(14, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(mmuext(21, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(mmuext(~0u, 0, 0), -XEN_ENOSYS);
}

TEST(operations_done_are_counted)
{
    struct mmuext_op ops[] = {{.cmd = MMUEXT_TLB_FLUSH_LOCAL}, {.cmd = MMUEXT_TLB_FLUSH_ALL}, {.cmd = 99}};
    unsigned int done = 77;

    CHECK_EQ(hypercall(mmuext_op, ops, 3, &done, DOMID_SELF), -XEN_ENOSYS);
    CHECK_EQ(done, 2);
    CHECK_EQ(hypercall(mmuext_op, ops, 2, &done, DOMID_SELF), 0);
    CHECK_EQ(done, 2);
    CHECK_EQ(hypercall(mmuext_op, UNMAPPED, 1, &done, DOMID_SELF), -XEN_EFAULT);
    CHECK_EQ(done, 0);
}

/* ---- Writable page tables ---- */

/* Without the assist a page table is what it is. */
TEST(stores_to_page_tables_fault)
{
    u64 *l1 = make_tables();

    CHECK_EQ(TRAP_OF("mov %0, (%1)", :: "r"(0ul), "r"(l1)), X86_PF);
    CHECK_EQ(trapped.error_code, PFEC_PRESENT | PFEC_WRITE);
}

static u64 *writable_tables(void)
{
    REQUIRE_EQ(hypercall(vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables), 0);
    return make_tables();
}

TEST(stores_to_page_tables_are_emulated)
{
    volatile u64 *l1 = writable_tables();
    u64 *page = alloc_page();

    page[0] = 31415;
    l1[5] = make_pte(virt_to_mfn(page), PTE_RW);
    CHECK_EQ(*target(5), 31415);
    CHECK_EQ(l1[5], make_pte(virt_to_mfn(page), PTE_RW | PAGE_GLOBAL));
    /* By other instructions. */
    asm volatile("btrq $1, %0" : "+m"(l1[5]) :: "memory", "cc");
    CHECK_EQ(l1[5] & PAGE_RW, 0);
    asm volatile("xchg %0, %1" : "+m"(l1[5]), "=r"(page) : "1"(0ul) : "memory");
    CHECK_EQ(page, make_pte(pte_mfn((u64)page), (PTE_RW & ~PAGE_RW) | PAGE_GLOBAL));
    CHECK_EQ(l1[5], 0);
}

TEST(parts_of_entries)
{
    volatile u64 *l1 = writable_tables();

    ((volatile u32 *)l1)[1] = 0x12345678;
    CHECK_EQ(l1[0], 0x1234567800000000);
    ((volatile u8 *)l1)[2] = 0xab;
    CHECK_EQ(l1[0], 0x1234567800ab0000);
    ((volatile u16 *)l1)[3] = 0;
    CHECK_EQ(l1[0], 0x0000567800ab0000);
}

TEST(stores_of_bad_entries_fault)
{
    u64 *l1 = writable_tables();

    CHECK_EQ(TRAP_OF("mov %0, (%1)", :: "r"(make_pte(2, PTE_RO)), "r"(l1)), X86_PF);
    CHECK_EQ(trapped.error_code, PFEC_PRESENT | PFEC_WRITE);
    CHECK_EQ(TRAP_OF("mov %0, (%1)", :: "r"(make_pte(virt_to_mfn(l1), PTE_RW)), "r"(l1)), X86_PF);
    CHECK_EQ(TRAP_OF("mov %0, (%1)", :: "r"(0ul), "r"((u8 *)l1 + 4)), X86_PF);
    CHECK_EQ(l1[0], 0);
}

/* Only level 1 tables, and only the kernel's stores. */
TEST(stores_that_are_not_emulated)
{
    u64 *l1 = writable_tables();

    (void)l1;
    for ( int level = 2; level <= 4; level++ )
        CHECK_EQ(TRAP_OF("mov %0, (%1)", :: "r"(0ul), "r"(entry_of((void *)FREE_AREA, level))), X86_PF);
}

static u64 store_trap(u64 address)
{
    return TRAP_OF("mov %0, (%1)", :: "r"(0ul), "r"(address));
}

TEST(stores_of_programs_are_not_emulated)
{
    u64 *l1 = writable_tables();

    CHECK_EQ(in_user(store_trap, (u64)l1), X86_PF);
    CHECK_EQ(trapped.error_code, PFEC_PRESENT | PFEC_WRITE | PFEC_USER);
}

TEST(compare_and_exchange)
{
    volatile u64 *l1 = writable_tables();
    u64 *page = alloc_page(), pte = make_pte(virt_to_mfn(page), PTE_RO);

    CHECK(__sync_bool_compare_and_swap(&l1[0], 0, pte));
    CHECK_EQ(l1[0], pte | PAGE_GLOBAL);
    CHECK(!__sync_bool_compare_and_swap(&l1[0], 0, 0));
    CHECK(__sync_bool_compare_and_swap(&l1[0], pte | PAGE_GLOBAL, 0));
    CHECK_EQ(l1[0], 0);
}
