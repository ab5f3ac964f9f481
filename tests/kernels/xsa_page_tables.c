/*
 * What Xen once got wrong about page tables, tried again. docs/advisories.md says of each what it was.
 */
#include "runtime/kernel.h"

#include <xen/grant_table.h>

#define TABLE_ENTRIES 512

static u64 *read_only_page(void)
{
    u64 *page = alloc_page();

    make_read_only(page);
    return page;
}

static bool is_writable_again(void *page)
{
    return map(page, make_pte(virt_to_mfn(page), PTE_RW)) == 0;
}

/* The whole machine, frame by frame: what is not ours can't be mapped, nor be made a page table. */
TEST(xsa_248_frames_that_are_not_ours)
{
    u64 *l1 = make_tables(), place = virt_to_maddr(&l1[0]);
    u64 frames = hypercall(memory_op, XENMEM_maximum_ram_page, 0), grants = 0, mapped = 0;
    struct gnttab_setup_table setup = {.dom = DOMID_SELF, .nr_frames = 1, .frame_list.p = &grants};

    REQUIRE_EQ(hypercall(grant_table_op, GNTTABOP_setup_table, &setup, 1), 0);
    REQUIRE_EQ(setup.status, GNTST_okay);
    for ( u64 mfn = 0; mfn < frames; mfn++ )
    {
        u64 pfn = mfn_to_pfn(mfn);
        bool ours = pfn < start_info->nr_pages && pfn_to_mfn(pfn) == mfn;
        bool shared = mfn == start_info->shared_info / PAGE_SIZE || mfn == grants;

        if ( mmu_update(place, make_pte(mfn, PTE_RO)) == 0 )
        {
            mapped++;
            REQUIRE(ours || shared);
        }
        else
            REQUIRE(!ours && !shared);
        if ( !ours && !shared )
        {
            REQUIRE_EQ(mmu_update(place, make_pte(mfn, PTE_RW)), -XEN_EBUSY);
            for ( unsigned int level = 0; level < 4; level++ )
                REQUIRE_EQ(mmuext(MMUEXT_PIN_L1_TABLE + level, mfn, 0), -XEN_EINVAL);
            REQUIRE_EQ(mmuext(MMUEXT_NEW_BASEPTR, mfn, 0), -XEN_EINVAL);
            REQUIRE_EQ(mmuext(MMUEXT_CLEAR_PAGE, mfn, 0), -XEN_EINVAL);
        }
    }
    CHECK_EQ(mapped, start_info->nr_pages + 2);
}

/* A superpage shows 2 MiB of the machine: not in a fresh entry, not by a change of one, not in a fresh table. */
TEST(xsa_148_superpages)
{
    u64 *l2 = read_only_page(), old, place;
    const u64 *entry;

    make_tables();
    entry = entry_of((void *)FREE_AREA, 2);
    old = *entry;
    place = virt_to_maddr(entry);
    CHECK_EQ(mmu_update(place, old | PAGE_PSE), -XEN_EINVAL);
    CHECK_EQ(mmu_update(place | MMU_PT_UPDATE_PRESERVE_AD, (old | PAGE_PSE) & ~PAGE_RW), -XEN_EINVAL);
    CHECK_EQ(mmu_update(place + 8, make_pte(0, PTE_RW | PAGE_PSE)), -XEN_EINVAL);
    CHECK_EQ(mmu_update(virt_to_maddr(entry_of((void *)FREE_AREA, 3)) + 8, make_pte(0, PTE_RW | PAGE_PSE)), -XEN_EINVAL);
    CHECK_EQ(*entry, old);
    CHECK(is_writable_again(l2));
    l2[7] = make_pte(0, PTE_RW | PAGE_PSE);
    make_read_only(l2);
    CHECK_EQ(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(l2), 0), -XEN_EINVAL);
    CHECK(is_writable_again(l2));
}

/* The bit has no meaning at the top, or is another one: a walk by software must not take it for a superpage. */
TEST(xsa_176_page_size_bits_of_other_levels)
{
    u64 *l1 = make_tables();
    const u64 *l4 = entry_of((void *)FREE_AREA, 4);

    CHECK_EQ(mmu_update(virt_to_maddr(l4), *l4 | PAGE_PSE), -XEN_EINVAL);
    CHECK_EQ(mmu_update(virt_to_maddr(&l1[0]), make_pte(virt_to_mfn(alloc_page()), PTE_RW | PAGE_PSE)), -XEN_EINVAL);
}

/* A table that shows itself gets writable by no change of flags. */
TEST(xsa_182_recursive_entries_stay_read_only)
{
    u64 *l4 = (u64 *)start_info->pt_base, place = virt_to_maddr(&l4[300]), entry = make_pte(virt_to_mfn(l4), PTE_RO);
    u64 *seen = (u64 *)(300ul << 39 | 300ul << 30 | 300ul << 21 | 300ul << 12 | 0xfffful << 48);
    static const u64 harmless[] = {PAGE_ACCESSED, PAGE_DIRTY, PAGE_USER, PAGE_NX, 0xe00, 0x7ful << 52};

    REQUIRE_EQ(mmu_update(place, entry), 0);
    CHECK_EQ(mmu_update(place, entry | PAGE_RW), -XEN_EINVAL);
    CHECK_EQ(mmu_update(place | MMU_PT_UPDATE_PRESERVE_AD, entry | PAGE_RW), -XEN_EINVAL);
    for ( unsigned int i = 0; i < ARRAY_SIZE(harmless); i++ )
    {
        CHECK_EQ(mmu_update(place, entry ^ harmless[i]), 0);
        CHECK_EQ(mmu_update(place, entry ^ harmless[i] ^ PAGE_RW), -XEN_EINVAL);
    }
    REQUIRE_EQ(mmu_update(place, entry), 0);
    CHECK_EQ(l4[300] & PAGE_RW, 0);
    CHECK_EQ(TRAP_OF("mov %0, (%1)", :: "r"(0ul), "r"(&seen[300])), X86_PF);
    CHECK_EQ(TRAP_OF("lock; btsq $1, (%0)", :: "r"(&seen[300]) : "cc"), X86_PF);
}

/* Of a table of a lower level, the same. */
TEST(xsa_182_linear_entries_stay_read_only)
{
    u64 *outer = read_only_page(), *inner = read_only_page(), place = virt_to_maddr(&outer[5]);

    for ( unsigned int level = 2; level <= 4; level++ )
    {
        unsigned int pin = MMUEXT_PIN_L1_TABLE + level - 1;

        REQUIRE_EQ(mmuext(pin, virt_to_mfn(outer), 0), 0);
        REQUIRE_EQ(mmuext(pin, virt_to_mfn(inner), 0), 0);
        CHECK_EQ(mmu_update(place, make_pte(virt_to_mfn(inner), PTE_RW)), -XEN_EINVAL);
        CHECK_EQ(mmu_update(place, make_pte(virt_to_mfn(inner), PTE_RO)), 0);
        CHECK_EQ(mmu_update(place, make_pte(virt_to_mfn(inner), PTE_RW)), -XEN_EINVAL);
        CHECK_EQ(mmu_update(place, make_pte(virt_to_mfn(outer), PTE_RW)), -XEN_EINVAL);
        CHECK_EQ(mmu_update(place, 0), 0);
        REQUIRE_EQ(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(outer), 0), 0);
        REQUIRE_EQ(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(inner), 0), 0);
    }
}

/* No chain of tables that show each other gets long: giving one up would go as deep. */
TEST(xsa_240_chains_of_linear_entries)
{
    u64 *tables[8], last = ARRAY_SIZE(tables) - 1;

    for ( unsigned int i = 0; i <= last; i++ )
        tables[i] = alloc_page();
    for ( unsigned int i = 0; i < last; i++ )
        tables[i][0] = make_pte(virt_to_mfn(tables[i + 1]), PTE_RO);
    for ( unsigned int i = 0; i <= last; i++ )
        make_read_only(tables[i]);
    CHECK_EQ(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(tables[last]), 0), 0);
    CHECK_EQ(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(tables[last - 1]), 0), 0);
    CHECK_EQ(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(tables[last - 2]), 0), -XEN_EINVAL);
    /* From the other side: one that is shown can't show any. */
    CHECK_EQ(mmu_update(virt_to_maddr(&tables[last][0]), make_pte(virt_to_mfn(tables[last - 1]), PTE_RO)), -XEN_EINVAL);
}

/* And none is a circle: pages in one would never be freed. The guest leaves as many behind as it can. */
TEST(xsa_240_circles_of_linear_entries)
{
    u64 *a = read_only_page(), *b = read_only_page();

    REQUIRE_EQ(mmuext(MMUEXT_PIN_L3_TABLE, virt_to_mfn(a), 0), 0);
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L3_TABLE, virt_to_mfn(b), 0), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(&a[1]), make_pte(virt_to_mfn(a), PTE_RO)), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(&a[0]), make_pte(virt_to_mfn(b), PTE_RO)), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(&b[0]), make_pte(virt_to_mfn(a), PTE_RO)), -XEN_EINVAL);
    CHECK_EQ(mmu_update(virt_to_maddr(&b[1]), make_pte(virt_to_mfn(b), PTE_RO)), 0);
    CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(b), 0), 0);
}

/* They are counted right, however many there are. */
TEST(xsa_309_counts_of_linear_entries)
{
    u64 *a = read_only_page(), *b = read_only_page(), *c = read_only_page(), shows_b = make_pte(virt_to_mfn(b), PTE_RO);

    REQUIRE_EQ(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(a), 0), 0);
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(b), 0), 0);
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(c), 0), 0);
    for ( unsigned int slot = 0; slot < TABLE_ENTRIES; slot++ )
        REQUIRE_EQ(mmu_update(virt_to_maddr(&a[slot]), shows_b), 0);
    /* Replaced by itself, by another, and by nothing. */
    for ( unsigned int slot = 0; slot < TABLE_ENTRIES; slot++ )
    {
        REQUIRE_EQ(mmu_update(virt_to_maddr(&a[slot]), shows_b), 0);
        REQUIRE_EQ(mmu_update(virt_to_maddr(&a[slot]), make_pte(virt_to_mfn(c), PTE_RO)), 0);
    }
    CHECK_EQ(mmu_update(virt_to_maddr(&b[0]), make_pte(virt_to_mfn(c), PTE_RO)), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(&c[0]), shows_b), -XEN_EINVAL);
    REQUIRE_EQ(mmu_update(virt_to_maddr(&b[0]), 0), 0);
    for ( unsigned int slot = 0; slot < TABLE_ENTRIES; slot++ )
        REQUIRE_EQ(mmu_update(virt_to_maddr(&a[slot]), 0), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(&c[0]), shows_b), 0);
    REQUIRE_EQ(mmu_update(virt_to_maddr(&c[0]), 0), 0);
    for ( unsigned int i = 0; i < 3; i++ )
        CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(i ? i > 1 ? c : b : a), 0), 0);
    CHECK(is_writable_again(a) && is_writable_again(b) && is_writable_again(c));
}

/* A table that is refused drops what it took for its linear entries too. */
TEST(xsa_242_refused_table_with_linear_entries)
{
    u64 *inner = read_only_page(), *outer = alloc_page(), *other = read_only_page();

    for ( unsigned int slot = 0; slot < 100; slot++ )
        outer[slot] = make_pte(virt_to_mfn(inner), PTE_RO);
    outer[100] = make_pte(2, PTE_RO);
    make_read_only(outer);
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(inner), 0), 0);
    CHECK_EQ(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(outer), 0), -XEN_EINVAL);
    CHECK(is_writable_again(outer));
    /* What was shown is not any more: it can show others. */
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(other), 0), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(&inner[0]), make_pte(virt_to_mfn(other), PTE_RO)), 0);
    CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(inner), 0), 0);
    CHECK(is_writable_again(inner));
}

/* After a change of an upper level, Xen finds the entry of an address in the tables that there are now. */
TEST(xsa_286_updates_after_a_change_of_an_upper_level)
{
    u64 *old = make_tables(), *new = read_only_page(), *page = alloc_page();
    u64 pte = make_pte(virt_to_mfn(page), PTE_RW);
    struct mmu_update request = {virt_to_maddr(entry_of((void *)FREE_AREA, 2)), make_pte(virt_to_mfn(new), PTE_RW)};
    multicall_entry_t calls[] = {
        {.op = __HYPERVISOR_update_va_mapping, .args = {FREE_AREA, pte, UVMF_NONE}},
        {.op = __HYPERVISOR_mmu_update, .args = {(u64)&request, 1, 0, DOMID_SELF}},
        {.op = __HYPERVISOR_update_va_mapping, .args = {FREE_AREA + PAGE_SIZE, pte, UVMF_NONE}},
    };

    REQUIRE_EQ(hypercall(multicall, calls, 3), 0);
    CHECK_EQ(old[0] & PTE_FRAME, pte & PTE_FRAME);
    CHECK_EQ(old[1], 0);
    CHECK_EQ(new[0], 0);
    CHECK_EQ(new[1] & PTE_FRAME, pte & PTE_FRAME);
    /* And so does the CPU. */
    CHECK_EQ(TRAP_OF("mov (%0), %%rax", :: "r"(FREE_AREA) : "rax"), X86_PF);
    *(volatile u64 *)(FREE_AREA + PAGE_SIZE) = 5;
    CHECK_EQ(page[0], 5);
}

/* The same for stores to page tables, which Xen makes for the guest. */
TEST(xsa_286_stores_after_a_change_of_an_upper_level)
{
    u64 *tables = make_tables(), *new = read_only_page(), *shown = read_only_page(), *hidden = read_only_page();
    volatile u64 *place = (u64 *)FREE_AREA;

    REQUIRE_EQ(hypercall(vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables), 0);
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(shown), 0), 0);
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(hidden), 0), 0);
    REQUIRE_EQ(mmu_update(virt_to_maddr(&tables[0]), make_pte(virt_to_mfn(hidden), PTE_RO)), 0);
    REQUIRE_EQ(mmu_update(virt_to_maddr(&new[0]), 0), 0);
    place[1] = 0x1000;
    CHECK_EQ(hidden[1], 0x1000);
    REQUIRE(is_writable_again(new));
    new[0] = make_pte(virt_to_mfn(shown), PTE_RO);
    make_read_only(new);
    REQUIRE_EQ(mmu_update(virt_to_maddr(entry_of((void *)FREE_AREA, 2)), make_pte(virt_to_mfn(new), PTE_RW)), 0);
    place[1] = 0x2000;
    CHECK_EQ(shown[1], 0x2000);
    CHECK_EQ(hidden[1], 0x1000);
}

/* A frame gets a new type only when no translation to it is left, by whichever way it was mapped. */
TEST(xsa_241_stale_translations_by_a_removed_table)
{
    u64 *l1 = make_tables(), *page = alloc_page();
    const u64 *l2 = entry_of((void *)FREE_AREA, 2);
    volatile u64 *place = (u64 *)FREE_AREA;
    struct mmu_update requests[3] = {{virt_to_maddr(l2), 0}};
    struct mmuext_op pin = {.cmd = MMUEXT_PIN_L1_TABLE, .arg1.mfn = virt_to_mfn(page)};
    multicall_entry_t calls[] = {
        {.op = __HYPERVISOR_mmu_update, .args = {(u64)requests, 1, 0, DOMID_SELF}},
        {.op = __HYPERVISOR_mmuext_op, .args = {(u64)&pin, 1, 0, DOMID_SELF}},
    };

    REQUIRE_EQ(mmu_update(virt_to_maddr(&l1[0]), make_pte(virt_to_mfn(page), PTE_RW)), 0);
    make_read_only(page);
    place[0] = 0;
    REQUIRE_EQ(hypercall(multicall, calls, 2), 0);
    CHECK_EQ(calls[1].result, 0);
    CHECK_EQ(TRAP_OF("movq $77, (%0)", :: "r"(place) : "memory"), X86_PF);
    CHECK_EQ(page[0], 0);
}

/* A page table that becomes memory again is forgotten as a table. */
TEST(xsa_401_stale_translations_by_what_was_a_table)
{
    u64 *l1 = make_tables(), *page = alloc_page();
    const u64 *l2 = entry_of((void *)FREE_AREA, 2);
    volatile u64 *place = (u64 *)FREE_AREA;

    REQUIRE_EQ(mmu_update(virt_to_maddr(&l1[0]), make_pte(virt_to_mfn(page), PTE_RW)), 0);
    place[0] = 1;
    REQUIRE_EQ(mmu_update(virt_to_maddr(l2), 0), 0);
    REQUIRE(is_writable_again(l1));
    /* Entries as no table could have them. */
    l1[0] = make_pte(2, PTE_RW);
    CHECK_EQ(TRAP_OF("movq $77, (%0)", :: "r"(place) : "memory"), X86_PF);
    make_read_only(l1);
    CHECK_EQ(mmu_update(virt_to_maddr(l2), make_pte(virt_to_mfn(l1), PTE_RW)), -XEN_EBUSY);
    CHECK_EQ(page[0], 1);
}

/* One frame has one way of being cached: by no entry, of no page, and not of those that Xen shares. */
TEST(xsa_154_cache_attributes)
{
    u64 *l1 = make_tables(), mfns[2] = {virt_to_mfn(alloc_page()), start_info->shared_info / PAGE_SIZE};

    for ( unsigned int i = 0; i < 2; i++ )
        for ( u64 attributes = 0x08; attributes <= 0x98; attributes = ((attributes | ~0x98) + 1) & 0x98 )
        {
            CHECK_EQ(mmu_update(virt_to_maddr(&l1[0]), make_pte(mfns[i], PTE_RW | attributes)), -XEN_EINVAL);
            CHECK_EQ(map((void *)FREE_AREA, make_pte(mfns[i], PTE_RO | attributes)), -XEN_EINVAL);
            if ( attributes == 0x98 )
                break;
        }
    REQUIRE_EQ(mmu_update(virt_to_maddr(&l1[0]), make_pte(mfns[0], PTE_RW)), 0);
    CHECK_EQ(mmu_update(virt_to_maddr(&l1[0]) | MMU_PT_UPDATE_PRESERVE_AD, make_pte(mfns[0], PTE_RW | 0x18)), -XEN_EINVAL);
}

/* References are dropped whether or not the update is made: the frames come back when the guest ends. */
TEST(xsa_113_references_of_machphys_updates)
{
    u64 *page = alloc_page(), mfn = virt_to_mfn(page);

    for ( unsigned int i = 0; i < 10000; i++ )
        REQUIRE_EQ(mmu_update(mfn * PAGE_SIZE | MMU_MACHPHYS_UPDATE, virt_to_pfn(page)), 0);
    CHECK_EQ(mmu_update(~0ul << 12 | MMU_MACHPHYS_UPDATE, 0), -XEN_EINVAL);
    CHECK_EQ(mmu_update(3 * PAGE_SIZE | MMU_MACHPHYS_UPDATE, 0), -XEN_EINVAL);
    make_read_only(page);
    CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), 0);
}

/* A pinned table that is given back stays the guest's, and one that is in use as well. */
TEST(xsa_287_tables_that_are_given_back)
{
    u64 *page = read_only_page(), mfns[] = {virt_to_mfn(page), virt_to_mfn((void *)start_info->pt_base)};

    REQUIRE_EQ(mmuext(MMUEXT_PIN_L2_TABLE, mfns[0], 0), 0);
    for ( unsigned int i = 0; i < 2; i++ )
    {
        u64 out = 0;
        xen_memory_exchange_t exchange = {
            .in = {.nr_extents = 1, .domid = DOMID_SELF},
            .out = {.nr_extents = 1, .domid = DOMID_SELF},
        };

        exchange.in.extent_start.p = &mfns[i];
        exchange.out.extent_start.p = &out;
        CHECK_EQ(hypercall(memory_op, XENMEM_exchange, &exchange), -XEN_EINVAL);
    }
    CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, mfns[0], 0), 0);
}

/* BTS and its like reach bits far away from their operand. What they reach is what is checked and changed. */
TEST(xsa_195_bits_far_from_their_operand)
{
    u64 *table = make_tables(), *other = alloc_page();
    u64 mfn = virt_to_mfn(other), clear = PTE_RO | PAGE_GLOBAL;

    REQUIRE_EQ(hypercall(vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables), 0);
    REQUIRE_EQ(mmu_update(virt_to_maddr(&table[3]), make_pte(mfn, PTE_RO)), 0);
    /* Bit 6 of entry 3 from entry 0, from the last, and from far below and above. */
    CHECK_EQ(TRAP_OF("btsq %1, (%0)", :: "r"(table), "r"(3ul * 64 + 6) : "memory"), NO_TRAP);
    CHECK_EQ(table[3], make_pte(mfn, clear | PAGE_DIRTY));
    CHECK_EQ(TRAP_OF("btrq %1, (%0)", :: "r"(&table[511]), "r"(-508l * 64 + 6) : "memory"), NO_TRAP);
    CHECK_EQ(table[3], make_pte(mfn, clear));
    CHECK_EQ(TRAP_OF("btcq %1, (%0)", :: "r"((u64)table - (1ul << 32)), "r"((8ul << 32) + 3 * 64 + 6) : "memory"),
             NO_TRAP);
    CHECK_EQ(table[3], make_pte(mfn, clear | PAGE_DIRTY));
    CHECK_EQ(TRAP_OF("lock btrq %1, (%0)", :: "r"((u64)table + (1ul << 33)), "r"(-(16l << 32) + 3 * 64 + 6) : "memory"),
             NO_TRAP);
    CHECK_EQ(table[3], make_pte(mfn, clear));
    /* The bits of a frame number are no bits to be set, and those beyond the table are somebody else's. */
    CHECK_EQ(TRAP_OF("btsq %1, (%0)", :: "r"(table), "r"(3ul * 64 + 45) : "memory"), X86_PF);
    CHECK_EQ(table[3], make_pte(mfn, clear));
    CHECK_EQ(TRAP_OF("btsq %1, (%0)", :: "r"(table), "r"((XENS_OWN - (u64)table) * 8) : "memory"), X86_PF);
    CHECK_EQ(TRAP_OF("btsq %1, (%0)", :: "r"(NON_CANONICAL), "r"(64ul) : "memory"), X86_GP);
}
