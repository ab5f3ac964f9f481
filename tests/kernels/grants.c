/*
 * Grants that a domain makes to itself: mapping, unmapping and copying, and what Xen refuses.
 * Xen: xen/common/grant_table.c, xen/arch/x86/pv/grant_table.c. The advisories that are named are Xen's (XSA).
 */
#include "grants.h"

#define MAX_PINS 128

TEST(writable)
{
    prepare();
    u64 *page = alloc_page(), *other = hole();
    grant(REF, page, 0);
    struct gnttab_map_grant_ref op = map_at(other, REF, 0);
    REQUIRE_EQ(op.status, GNTST_okay);
    CHECK_EQ(op.dev_bus_addr, virt_to_maddr(page));
    CHECK_EQ(table[REF].flags, GTF_permit_access | GTF_reading | GTF_writing);
    CHECK_EQ(*entry_of(other, 1), make_pte(virt_to_mfn(page), PTE_RW | PAGE_NX | 1ul << 52));
    page[7] = 4711;
    CHECK_EQ(other[7], 4711);
    other[8] = 4712;
    CHECK_EQ(page[8], 4712);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
    CHECK_EQ(table[REF].flags, GTF_permit_access);
    CHECK_EQ(*entry_of(other, 1), 0);
    CHECK_EQ(TRAP_OF("movb $1, (%0)", :: "r"(other) : "memory"), X86_PF);
}

TEST(read_only)
{
    prepare();
    u64 *page = alloc_page(), *other = hole();
    grant(REF, page, GTF_readonly);
    page[0] = 4711;
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_general_error);
    CHECK_EQ(table[REF].flags, GTF_permit_access | GTF_readonly);
    struct gnttab_map_grant_ref op = map_at(other, REF, GNTMAP_readonly | GNTMAP_application_map);
    REQUIRE_EQ(op.status, GNTST_okay);
    CHECK_EQ(table[REF].flags, GTF_permit_access | GTF_readonly | GTF_reading);
    CHECK_EQ(*entry_of(other, 1), make_pte(virt_to_mfn(page), PTE_RO | PAGE_DIRTY | PAGE_GLOBAL | PAGE_NX));
    CHECK_EQ(other[0], 4711);
    CHECK_EQ(TRAP_OF("movb $1, (%0)", :: "r"(other) : "memory"), X86_PF);
    /* The entry may become writable, but it does not by itself. */
    table[REF].flags &= ~GTF_readonly;
    void *second = hole();
    struct gnttab_map_grant_ref more = map_at(second, REF, 0);
    CHECK_EQ(more.status, GNTST_okay);
    CHECK_EQ(table[REF].flags, GTF_permit_access | GTF_reading | GTF_writing);
    CHECK_EQ(unmap(second, more.handle), GNTST_okay);
    CHECK_EQ(table[REF].flags, GTF_permit_access | GTF_reading);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
    CHECK_EQ(table[REF].flags, GTF_permit_access);
}

static u64 peek(u64 address)
{
    return *(volatile u64 *)address;
}

static void end_user(struct frame *frame)
{
    leave_user(0xbad);
}

TEST(programs_see_no_more_than_is_mapped)
{
    prepare();
    give_user_page_tables();
    u64 *page = alloc_page(), *other = hole();
    page[0] = 4711;
    grant(REF, page, 0);
    struct gnttab_map_grant_ref op = map_at(other, REF, GNTMAP_application_map);
    REQUIRE_EQ(op.status, GNTST_okay);
    CHECK_EQ(in_user(peek, (u64)other), 4711);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
    trap_handlers[X86_PF] = end_user;
    CHECK_EQ(in_user(peek, (u64)other), 0xbad);
}

TEST(by_page_table_entry)
{
    prepare();
    u64 *page = alloc_page(), *other = hole();
    u64 entry = virt_to_maddr(entry_of(other, 1));
    u32 avail = GNTMAP_contains_pte | 5u << _GNTMAP_guest_avail0;
    grant(REF, page, 0);
    CHECK_EQ(map_with(entry + 4, REF, GNTMAP_host_map | GNTMAP_contains_pte, self).status, GNTST_general_error);
    /* No level 1 table, nobody's frame, and no frame at all. */
    u64 upper = virt_to_maddr(entry_of(other, 2)), none = 1ul << 51;
    CHECK_EQ(map_with(upper, REF, GNTMAP_host_map | GNTMAP_contains_pte, self).status, GNTST_general_error);
    CHECK_EQ(map_with(virt_to_maddr(page), REF, GNTMAP_host_map | GNTMAP_contains_pte, self).status,
             GNTST_general_error);
    CHECK_EQ(map_with(8, REF, GNTMAP_host_map | GNTMAP_contains_pte, self).status, GNTST_general_error);
    CHECK_EQ(map_with(none, REF, GNTMAP_host_map | GNTMAP_contains_pte, self).status, GNTST_general_error);
    struct gnttab_map_grant_ref op = map_with(entry, REF, GNTMAP_host_map | avail, self);
    REQUIRE_EQ(op.status, GNTST_okay);
    CHECK_EQ(*entry_of(other, 1) >> 9 & 7, 5);
    other[0] = 4711;
    CHECK_EQ(page[0], 4711);
    /* It is unmapped as it was mapped. */
    CHECK_EQ(unmap(other, op.handle), GNTST_general_error);
    CHECK_EQ(unmap_all(entry + 1, 0, op.handle), GNTST_general_error);
    CHECK_EQ(unmap_all(entry, 0, op.handle), GNTST_okay);
    CHECK_EQ(*entry_of(other, 1), 0);
}

TEST(in_the_place_of_another_page)
{
    prepare();
    u64 *page = alloc_page(), *other = alloc_page();
    u64 mfn = virt_to_mfn(other);
    grant(REF, page, 0);
    struct gnttab_map_grant_ref op = map_at(other, REF, 0);
    REQUIRE_EQ(op.status, GNTST_okay);
    CHECK_EQ(pte_mfn(*entry_of(other, 1)), virt_to_mfn(page));
    /* What was there is not used any more: it could be a page table. */
    CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), 0);
    CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0), 0);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
}

TEST(mappings_that_are_refused)
{
    prepare();
    void *page = alloc_page(), *other = hole();
    grant(REF, page, 0);
    CHECK_EQ(map_with((u64)other, REF, 0, self).status, GNTST_bad_gntref);
    CHECK_EQ(map_with((u64)other, REF, GNTMAP_readonly, self).status, GNTST_bad_gntref);
    CHECK_EQ(map_with((u64)other, REF, GNTMAP_host_map, NOBODYS).status, GNTST_bad_domain);
    CHECK_EQ(map_with((u64)other, REF, GNTMAP_host_map, DOMID_SELF).status, GNTST_bad_domain);
    CHECK_EQ(map_with((u64)other, REF, GNTMAP_host_map, DOMID_IO).status, GNTST_bad_domain);
    CHECK_EQ(map_at(other, 512, 0).status, GNTST_bad_gntref);
    CHECK_EQ(map_at(other, ~0u, 0).status, GNTST_bad_gntref);
    CHECK_EQ(map_at(other, REF + 1, 0).status, GNTST_general_error);
    /* Domain 0 lends nothing. */
    CHECK_EQ(map_with((u64)other, REF, GNTMAP_host_map, 0).status, GNTST_general_error);
    CHECK_EQ(map_at((void *)UNMAPPED, REF, 0).status, GNTST_general_error);
    CHECK_EQ(map_at((void *)XENS_OWN, REF, 0).status, GNTST_general_error);
    CHECK_EQ(map_at((void *)NON_CANONICAL, REF, 0).status, GNTST_general_error);
    grant_to(REF, page, 0, 0);
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_general_error);
    grant(REF, page, GTF_sub_page);
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_general_error);
    grant(REF, page, 0);
    table[REF].flags = GTF_accept_transfer;
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_general_error);
    table[REF].flags = GTF_transitive;
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_general_error);
    table[REF].flags = GTF_invalid;
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_general_error);
    /* Not the domain's own, and none that there is. */
    grant(REF, page, 0);
    table[REF].frame = 1;
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_bad_page);
    table[REF].frame = 0xfffffff0;
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_bad_page);
    CHECK_EQ(table[REF].flags, GTF_permit_access);
    CHECK_EQ(*entry_of(other, 1), 0);
}

/* Cache attributes in an entry mean nothing for RAM. */
TEST(cache_attributes_are_ignored)
{
    prepare();
    void *page = alloc_page(), *other = hole();
    grant(REF, page, GTF_PWT | GTF_PCD | GTF_PAT);
    struct gnttab_map_grant_ref op = map_at(other, REF, 0);
    REQUIRE_EQ(op.status, GNTST_okay);
    CHECK_EQ(*entry_of(other, 1) & 0x98, 0);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
}

TEST(page_tables_are_lent_read_only)
{
    prepare();
    u64 *l1 = alloc_page(), *other = hole();
    make_read_only(l1);
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(l1), 0), 0);
    grant(REF, l1, 0);
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_general_error);
    CHECK_EQ(table[REF].flags, GTF_permit_access);
    struct gnttab_map_grant_ref op = map_at(other, REF, GNTMAP_readonly);
    CHECK_EQ(op.status, GNTST_okay);
    CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(l1), 0), 0);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
}

TEST(no_page_table_while_writable)
{
    prepare();
    void *page = alloc_page(), *other = hole();
    grant(REF, page, 0);
    struct gnttab_map_grant_ref op = map_at(other, REF, 0);
    REQUIRE_EQ(op.status, GNTST_okay);
    u64 mfn = virt_to_mfn(page);
    make_read_only(page);
    CHECK(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0) < 0);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
    CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), 0);
    CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0), 0);
}

TEST(unmappings_that_are_refused)
{
    prepare();
    u64 *page = alloc_page(), *other = hole(), *third = hole();
    CHECK_EQ(unmap(other, 0), GNTST_bad_handle);
    grant(REF, page, 0);
    struct gnttab_map_grant_ref op = map_at(other, REF, 0);
    REQUIRE_EQ(op.status, GNTST_okay);
    CHECK_EQ(unmap(other, op.handle + 1), GNTST_bad_handle);
    CHECK_EQ(unmap(other, ~0u), GNTST_bad_handle);
    CHECK_EQ(unmap(other, 256), GNTST_bad_handle);
    CHECK_EQ(unmap(third, op.handle), GNTST_general_error);
    CHECK_EQ(unmap((void *)UNMAPPED, op.handle), GNTST_general_error);
    CHECK_EQ(unmap((void *)XENS_OWN, op.handle), GNTST_general_error);
    /* Nothing to unmap is all right. */
    CHECK_EQ(unmap_all(0, 0, op.handle), GNTST_okay);
    CHECK_EQ(unmap_all(0, op.dev_bus_addr, op.handle), GNTST_okay);
    CHECK_EQ(*entry_of(other, 1) & PAGE_PRESENT, PAGE_PRESENT);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
    CHECK_EQ(unmap(other, op.handle), GNTST_bad_handle);
    CHECK_EQ(table[REF].flags, GTF_permit_access);
}

/* XSA-224: a mapping of both kinds holds references for both, and each half gives its own back. */
TEST(device_and_host)
{
    prepare();
    void *page = alloc_page(), *other = hole();
    u64 mfn = virt_to_mfn(page);
    grant(REF, page, 0);
    struct gnttab_map_grant_ref op = map_at(other, REF, GNTMAP_device_map);
    REQUIRE_EQ(op.status, GNTST_okay);
    CHECK_EQ(unmap_all(0, op.dev_bus_addr + PAGE_SIZE, op.handle), GNTST_bad_dev_addr);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
    CHECK_EQ(table[REF].flags, GTF_permit_access | GTF_reading | GTF_writing);
    /* A device may still write. */
    make_read_only(page);
    CHECK(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0) < 0);
    CHECK_EQ(unmap_all((u64)other, op.dev_bus_addr, op.handle), GNTST_okay);
    CHECK_EQ(unmap_all(0, op.dev_bus_addr, op.handle), GNTST_bad_handle);
    CHECK_EQ(table[REF].flags, GTF_permit_access);
    CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), 0);
    CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0), 0);
}

/* XSA-224: no counter of mappings runs over into the next. */
TEST(counters_are_bounded)
{
    static struct gnttab_map_grant_ref ops[MAX_PINS];
    static struct gnttab_unmap_grant_ref back[MAX_PINS];

    prepare();
    void *page = alloc_page();
    grant(REF, page, 0);
    for ( unsigned int flags = 0; flags < 2; flags++ )
    {
        u32 kind = GNTMAP_device_map | (flags ? GNTMAP_readonly : 0);
        for ( unsigned int i = 0; i < MAX_PINS; i++ )
            ops[i] = (struct gnttab_map_grant_ref){.flags = kind, .ref = REF, .dom = self, .status = 99};
        REQUIRE_EQ(gnttab(GNTTABOP_map_grant_ref, ops, MAX_PINS), 0);
        for ( unsigned int i = 0; i < MAX_PINS; i++ )
            CHECK_EQ(ops[i].status, GNTST_okay);
        CHECK_EQ(map_with(0, REF, kind, self).status, GNTST_general_error);
        for ( unsigned int i = 0; i < MAX_PINS; i++ )
            back[i] = (struct gnttab_unmap_grant_ref){.dev_bus_addr = ops[i].dev_bus_addr, .handle = ops[i].handle};
        REQUIRE_EQ(gnttab(GNTTABOP_unmap_grant_ref, back, MAX_PINS), 0);
        for ( unsigned int i = 0; i < MAX_PINS; i++ )
            CHECK_EQ(back[i].status, GNTST_okay);
        CHECK_EQ(table[REF].flags, GTF_permit_access);
    }
}

/* While a grant is in use it is what it was, whatever is written into the table. */
TEST(entries_are_read_once)
{
    prepare();
    u64 *page = alloc_page(), *changed = alloc_page(), *a = hole(), *b = hole();
    grant(REF, page, 0);
    struct gnttab_map_grant_ref first = map_at(a, REF, 0);
    REQUIRE_EQ(first.status, GNTST_okay);
    grant_to(REF, changed, 0, 0);
    struct gnttab_map_grant_ref second = map_at(b, REF, 0);
    CHECK_EQ(second.status, GNTST_okay);
    CHECK_EQ(second.dev_bus_addr, virt_to_maddr(page));
    CHECK_EQ(unmap(b, second.handle), GNTST_okay);
    CHECK_EQ(unmap(a, first.handle), GNTST_okay);
}

/* Taking a mapping away by other means leaves a grant in use that cannot be unmapped. */
TEST(implicit_unmapping)
{
    prepare();
    void *page = alloc_page(), *other = hole();
    u64 mfn = virt_to_mfn(page);
    grant(REF, page, 0);
    struct gnttab_map_grant_ref op = map_at(other, REF, 0);
    REQUIRE_EQ(op.status, GNTST_okay);
    CHECK_EQ(map(other, 0), 0);
    CHECK_EQ(unmap(other, op.handle), GNTST_general_error);
    CHECK_EQ(table[REF].flags, GTF_permit_access | GTF_reading | GTF_writing);
    /* Its references went with the entry. */
    make_read_only(page);
    CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), 0);
    CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0), 0);
    /* The same page, mapped read-only, is not what was granted. */
    CHECK_EQ(map(other, make_pte(mfn, PTE_RO)), 0);
    CHECK_EQ(unmap(other, op.handle), GNTST_general_error);
    /* But mapped as the grant was it is. */
    CHECK_EQ(map(other, make_pte(mfn, PTE_RW)), 0);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
}

/* XSA-218: the same mapping is undone once, also within one batch. */
TEST(unmapped_twice_in_a_batch)
{
    static struct gnttab_unmap_grant_ref ops[3];

    prepare();
    void *page = alloc_page(), *other = hole();
    grant(REF, page, 0);
    struct gnttab_map_grant_ref op = map_at(other, REF, GNTMAP_device_map);
    REQUIRE_EQ(op.status, GNTST_okay);
    ops[0] = (struct gnttab_unmap_grant_ref){.host_addr = (u64)other, .handle = op.handle};
    ops[1] = (struct gnttab_unmap_grant_ref){.dev_bus_addr = op.dev_bus_addr, .handle = op.handle};
    ops[2] = (struct gnttab_unmap_grant_ref){
        .host_addr = (u64)other, .dev_bus_addr = op.dev_bus_addr, .handle = op.handle};
    REQUIRE_EQ(gnttab(GNTTABOP_unmap_grant_ref, ops, 3), 0);
    CHECK_EQ(ops[0].status, GNTST_okay);
    CHECK_EQ(ops[1].status, GNTST_okay);
    CHECK_EQ(ops[2].status, GNTST_bad_handle);
    CHECK_EQ(table[REF].flags, GTF_permit_access);
}

TEST(replaced)
{
    prepare();
    u64 *page = alloc_page(), *other = hole(), *mine = alloc_page();
    u64 mine_mfn = virt_to_mfn(mine);
    grant(REF, page, 0);
    struct gnttab_map_grant_ref op = map_at(other, REF, 0);
    REQUIRE_EQ(op.status, GNTST_okay);
    mine[0] = 4711;
    struct gnttab_unmap_and_replace replace = {
        .host_addr = (u64)other, .new_addr = (u64)mine, .handle = op.handle, .status = 99};
    CHECK_EQ(gnttab(GNTTABOP_unmap_and_replace, &replace, 1), 0);
    CHECK_EQ(replace.status, GNTST_okay);
    CHECK_EQ(other[0], 4711);
    CHECK_EQ(pte_mfn(*entry_of(other, 1)), mine_mfn);
    CHECK_EQ(*entry_of(mine, 1), 0);
    CHECK_EQ(table[REF].flags, GTF_permit_access);
    /* Without a new address it is an unmapping; with one that is nowhere nothing happens. */
    op = map_at(other, REF, 0);
    REQUIRE_EQ(op.status, GNTST_okay);
    replace = (struct gnttab_unmap_and_replace){.host_addr = (u64)other, .new_addr = UNMAPPED, .handle = op.handle};
    CHECK_EQ(gnttab(GNTTABOP_unmap_and_replace, &replace, 1), 0);
    CHECK_EQ(replace.status, GNTST_general_error);
    CHECK_EQ(pte_mfn(*entry_of(other, 1)), virt_to_mfn(page));
    replace.new_addr = 0;
    CHECK_EQ(gnttab(GNTTABOP_unmap_and_replace, &replace, 1), 0);
    CHECK_EQ(replace.status, GNTST_okay);
    CHECK_EQ(*entry_of(other, 1), 0);
}

/* A failed replacement takes what it would have moved, and gives its references back. */
TEST(replacement_that_fails)
{
    prepare();
    u64 *page = alloc_page(), *other = hole(), *mine = alloc_page();
    u64 mine_mfn = virt_to_mfn(mine);
    grant(REF, page, 0);
    struct gnttab_map_grant_ref op = map_at(other, REF, 0);
    REQUIRE_EQ(op.status, GNTST_okay);
    struct gnttab_unmap_and_replace replace = {
        .host_addr = (u64)page, .new_addr = (u64)mine, .handle = op.handle, .status = 99};
    u64 saved = *entry_of(page, 1);
    CHECK_EQ(map(page, 0), 0);
    CHECK_EQ(gnttab(GNTTABOP_unmap_and_replace, &replace, 1), 0);
    CHECK_EQ(replace.status, GNTST_general_error);
    CHECK_EQ(*entry_of(mine, 1), 0);
    CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, mine_mfn, 0), 0);
    CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, mine_mfn, 0), 0);
    CHECK_EQ(map(page, saved), 0);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
    /* By page-table entry there is no replacing. */
    op = map_with(virt_to_maddr(entry_of(other, 1)), REF, GNTMAP_host_map | GNTMAP_contains_pte, self);
    REQUIRE_EQ(op.status, GNTST_okay);
    replace = (struct gnttab_unmap_and_replace){
        .host_addr = virt_to_maddr(entry_of(other, 1)), .new_addr = (u64)page, .handle = op.handle};
    CHECK_EQ(gnttab(GNTTABOP_unmap_and_replace, &replace, 1), 0);
    CHECK_EQ(replace.status, GNTST_general_error);
    CHECK_EQ(unmap_all(virt_to_maddr(entry_of(other, 1)), 0, op.handle), GNTST_okay);
}

TEST(batches)
{
    static struct gnttab_map_grant_ref ops[60];
    static struct gnttab_unmap_grant_ref back[60];
    static u8 *places[60];

    prepare();
    u8 *page = alloc_page();
    for ( unsigned int i = 0; i < 60; i++ )
    {
        places[i] = hole();
        grant(REF + i, page, 0);
        ops[i] = (struct gnttab_map_grant_ref){
            .host_addr = (u64)places[i], .flags = GNTMAP_host_map, .ref = i == 30 ? 511 : REF + i, .dom = self};
    }
    REQUIRE_EQ(gnttab(GNTTABOP_map_grant_ref, ops, 60), 0);
    for ( unsigned int i = 0; i < 60; i++ )
    {
        CHECK_EQ(ops[i].status, i == 30 ? GNTST_general_error : GNTST_okay);
        back[i] = (struct gnttab_unmap_grant_ref){.host_addr = (u64)places[i], .handle = i == 30 ? 999 : ops[i].handle};
    }
    page[0] = 42;
    CHECK_EQ(places[59][0], 42);
    REQUIRE_EQ(gnttab(GNTTABOP_unmap_grant_ref, back, 60), 0);
    for ( unsigned int i = 0; i < 60; i++ )
    {
        CHECK_EQ(back[i].status, i == 30 ? GNTST_bad_handle : GNTST_okay);
        CHECK_EQ(table[REF + i].flags, GTF_permit_access);
    }
}

/* What was done before a fault is done. */
TEST(structures_that_cannot_be_read)
{
    prepare();
    u8 *pages = alloc_page(), *page = alloc_page(), *other = hole();
    CHECK_EQ(map(pages + PAGE_SIZE, 0), 0);
    struct gnttab_map_grant_ref *last = (void *)(pages + PAGE_SIZE - sizeof(*last));
    grant(REF, page, 0);
    *last = (struct gnttab_map_grant_ref){.host_addr = (u64)other, .flags = GNTMAP_host_map, .ref = REF, .dom = self};
    CHECK_EQ(gnttab(GNTTABOP_map_grant_ref, last, 2), -XEN_EFAULT);
    CHECK_EQ(last->status, GNTST_okay);
    struct gnttab_unmap_grant_ref *end = (void *)(pages + PAGE_SIZE - sizeof(*end));
    grant_handle_t handle = last->handle;
    *end = (struct gnttab_unmap_grant_ref){.host_addr = (u64)other, .handle = handle};
    CHECK_EQ(gnttab(GNTTABOP_unmap_grant_ref, end, 2), -XEN_EFAULT);
    CHECK_EQ(end->status, GNTST_okay);
    CHECK_EQ(table[REF].flags, GTF_permit_access);
    for ( unsigned int command = 0; command < 13; command++ )
    {
        if ( command == GNTTABOP_setup_table || command == GNTTABOP_dump_table )
            continue;
        CHECK_EQ(gnttab(command, (void *)UNMAPPED, 1), -XEN_EFAULT);
        CHECK_EQ(gnttab(command, (void *)XENS_OWN, 1), -XEN_EFAULT);
        CHECK_EQ(gnttab(command, page, 0x80000000), -XEN_EINVAL);
    }
    CHECK_EQ(gnttab(GNTTABOP_dump_table, page, 1), -XEN_ENOSYS);
    CHECK_EQ(gnttab(GNTTABOP_map_grant_ref, page, 0), 0);
    CHECK_EQ(gnttab(GNTTABOP_map_grant_ref, (void *)XENS_OWN, 0), -XEN_EFAULT);
    CHECK_EQ(gnttab(GNTTABOP_copy | 1u << 12, page, 1), -XEN_EINVAL);
}

/* A batch that is preempted goes on where it was, in a multicall as well. */
TEST(preempted)
{
    static struct gnttab_map_grant_ref ops[4000];
    static struct gnttab_unmap_grant_ref back[4000];
    static multicall_entry_t call;

    prepare();
    void *page = alloc_page();
    for ( unsigned int i = 0; i < 40; i++ )
        grant(REF + i, page, 0);
    struct vcpu_set_periodic_timer timer = {.period_ns = 1000000};
    REQUIRE_EQ(hypercall(vcpu_op, VCPUOP_set_periodic_timer, 0, &timer), 0);
    for ( unsigned int round = 0; round < 8; round++ )
    {
        for ( unsigned int i = 0; i < ARRAY_SIZE(ops); i++ )
            ops[i] = (struct gnttab_map_grant_ref){
                .flags = GNTMAP_device_map | GNTMAP_readonly, .ref = REF + i % 40, .dom = self, .status = 99};
        call = (multicall_entry_t){
            .op = __HYPERVISOR_grant_table_op, .args = {GNTTABOP_map_grant_ref, (u64)ops, ARRAY_SIZE(ops)}};
        REQUIRE_EQ(hypercall(multicall, &call, 1), 0);
        CHECK_EQ(call.result, 0);
        for ( unsigned int i = 0; i < ARRAY_SIZE(ops); i++ )
        {
            CHECK_EQ(ops[i].status, GNTST_okay);
            back[i] = (struct gnttab_unmap_grant_ref){
                .dev_bus_addr = ops[i].dev_bus_addr, .handle = ops[i].handle, .status = 99};
        }
        REQUIRE_EQ(gnttab(GNTTABOP_unmap_grant_ref, back, ARRAY_SIZE(back)), 0);
        for ( unsigned int i = 0; i < ARRAY_SIZE(back); i++ )
            CHECK_EQ(back[i].status, GNTST_okay);
    }
    for ( unsigned int i = 0; i < 40; i++ )
        CHECK_EQ(table[REF + i].flags, GTF_permit_access);
}

/* The flags of a granted entry may change, but not what it may do. */
TEST(entry_of_a_grant)
{
    prepare();
    void *page = alloc_page(), *other = hole();
    grant(REF, page, GTF_readonly);
    struct gnttab_map_grant_ref op = map_at(other, REF, GNTMAP_readonly);
    REQUIRE_EQ(op.status, GNTST_okay);
    CHECK_EQ(map(other, *entry_of(other, 1) & ~(PAGE_NX | PAGE_DIRTY)), 0);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
}

TEST(cache_flush)
{
    prepare();
    u8 *page = alloc_page();
    struct gnttab_cache_flush op = {.a.dev_bus_addr = virt_to_maddr(page), .length = 64, .op = GNTTAB_CACHE_CLEAN};

    CHECK_EQ(gnttab(GNTTABOP_cache_flush, &op, 1), 0);
    op.op = GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL;
    CHECK_EQ(gnttab(GNTTABOP_cache_flush, &op, 1), 0);
    op.op = GNTTAB_CACHE_INVAL;
    CHECK_EQ(gnttab(GNTTABOP_cache_flush, &op, 1), -XEN_EOPNOTSUPP);
    op.op = 0;
    CHECK_EQ(gnttab(GNTTABOP_cache_flush, &op, 1), 0);
    op.op = GNTTAB_CACHE_SOURCE_GREF | GNTTAB_CACHE_CLEAN;
    CHECK_EQ(gnttab(GNTTABOP_cache_flush, &op, 1), -XEN_EINVAL);
    op.op = 4;
    CHECK_EQ(gnttab(GNTTABOP_cache_flush, &op, 1), -XEN_EINVAL);
    op.op = GNTTAB_CACHE_CLEAN;
    op.offset = PAGE_SIZE - 63;
    CHECK_EQ(gnttab(GNTTABOP_cache_flush, &op, 1), -XEN_EINVAL);
    op.offset = PAGE_SIZE;
    op.length = 0;
    CHECK_EQ(gnttab(GNTTABOP_cache_flush, &op, 1), -XEN_EINVAL);
    op.offset = 0;
    CHECK_EQ(gnttab(GNTTABOP_cache_flush, &op, 1), 0);
    op.length = 64;
    op.a.dev_bus_addr = PAGE_SIZE;
    CHECK_EQ(gnttab(GNTTABOP_cache_flush, &op, 1), -XEN_EPERM);
    op.a.dev_bus_addr = 1ul << 50;
    CHECK_EQ(gnttab(GNTTABOP_cache_flush, &op, 1), -XEN_EINVAL);
}

TEST(swap)
{
    prepare();
    void *page = alloc_page(), *other = hole();
    grant(REF, page, 0);
    struct gnttab_swap_grant_ref op = {.ref_a = REF, .ref_b = REF + 1, .status = 99};
    CHECK_EQ(gnttab(GNTTABOP_swap_grant_ref, &op, 1), 0);
    CHECK_EQ(op.status, GNTST_okay);
    CHECK_EQ(table[REF].flags, 0);
    CHECK_EQ(table[REF + 1].frame, virt_to_mfn(page));
    struct gnttab_map_grant_ref mapped = map_at(other, REF + 1, 0);
    CHECK_EQ(gnttab(GNTTABOP_swap_grant_ref, &op, 1), 0);
    CHECK_EQ(op.status, GNTST_eagain);
    op = (struct gnttab_swap_grant_ref){.ref_a = REF + 1, .ref_b = REF + 1, .status = 99};
    CHECK_EQ(gnttab(GNTTABOP_swap_grant_ref, &op, 1), 0);
    CHECK_EQ(op.status, GNTST_okay);
    CHECK_EQ(unmap(other, mapped.handle), GNTST_okay);
    op = (struct gnttab_swap_grant_ref){.ref_a = REF, .ref_b = 512, .status = 99};
    CHECK_EQ(gnttab(GNTTABOP_swap_grant_ref, &op, 1), 0);
    CHECK_EQ(op.status, GNTST_bad_gntref);
    op = (struct gnttab_swap_grant_ref){.ref_a = ~0u, .ref_b = REF, .status = 99};
    CHECK_EQ(gnttab(GNTTABOP_swap_grant_ref, &op, 1), 0);
    CHECK_EQ(op.status, GNTST_bad_gntref);
}
