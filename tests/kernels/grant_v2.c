/*
 * Grant tables of version 2: changing to it and back, status words, grants of parts of pages and of others' grants.
 * Xen: xen/common/grant_table.c. The advisories that are named are Xen's (XSA).
 */
#include "grants.h"

static grant_status_t *status;
static xen_pfn_t status_frame;

static long set_version(unsigned int version)
{
    struct gnttab_set_version op = {.version = version};

    return gnttab(GNTTABOP_set_version, &op, 1);
}

static int get_status_frames(domid_t domid, unsigned int frames, uint64_t *list)
{
    struct gnttab_get_status_frames op = {.dom = domid, .nr_frames = frames, .status = 99};

    set_xen_guest_handle(op.frame_list, list);
    CHECK_EQ(gnttab(GNTTABOP_get_status_frames, &op, 1), 0);
    return op.status;
}

static void prepare_v2(void)
{
    prepare();
    REQUIRE_EQ(set_version(2), 0);
    REQUIRE_EQ(get_status_frames(DOMID_SELF, 1, &status_frame), GNTST_okay);
    status = alloc_page();
    REQUIRE_EQ(map(status, make_pte(status_frame, PTE_RW)), 0);
}

static void grant2(unsigned int ref, const void *page, u16 flags)
{
    table2[ref].full_page.frame = virt_to_mfn(page);
    table2[ref].hdr.domid = self;
    barrier();
    table2[ref].hdr.flags = GTF_permit_access | flags;
}

static int copy_from(unsigned int ref, u16 from, void *to, u16 length)
{
    struct gnttab_copy op = {
        .source = {.u.ref = ref, .domid = self, .offset = from},
        .dest = {.u.gmfn = virt_to_mfn(to), .domid = DOMID_SELF},
        .len = length, .flags = GNTCOPY_source_gref, .status = 99};

    CHECK_EQ(gnttab(GNTTABOP_copy, &op, 1), 0);
    return op.status;
}

TEST(status_words)
{
    prepare_v2();
    u64 *page = alloc_page(), *other = hole();
    grant2(REF, page, 0);
    struct gnttab_map_grant_ref op = map_at(other, REF, 0);
    REQUIRE_EQ(op.status, GNTST_okay);
    CHECK_EQ(table2[REF].hdr.flags, GTF_permit_access);
    CHECK_EQ(status[REF], GTF_reading | GTF_writing);
    CHECK_EQ(status[REF + 1] | status[REF - 1], 0);
    other[3] = 4711;
    CHECK_EQ(page[3], 4711);
    void *second = hole();
    struct gnttab_map_grant_ref reading = map_at(second, REF, GNTMAP_readonly);
    CHECK_EQ(reading.status, GNTST_okay);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
    CHECK_EQ(status[REF], GTF_reading);
    CHECK_EQ(unmap(second, reading.handle), GNTST_okay);
    CHECK_EQ(status[REF], 0);
}

TEST(refused)
{
    prepare_v2();
    u64 *page = alloc_page(), *other = hole();
    grant2(REF, page, GTF_readonly);
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_general_error);
    CHECK_EQ(status[REF], 0);
    grant2(REF, page, GTF_sub_page);
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_general_error);
    grant2(REF, page, 0);
    table2[REF].hdr.domid = 0;
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_general_error);
    table2[REF].hdr.domid = self;
    table2[REF].hdr.flags = GTF_transitive;
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_general_error);
    grant2(REF, page, 0);
    table2[REF].full_page.frame = 1ul << 40;
    CHECK_EQ(map_at(other, REF, 0).status, GNTST_bad_page);
    /* There are half as many entries in a frame. */
    CHECK_EQ(map_at(other, 256, 0).status, GNTST_bad_gntref);
    CHECK_EQ(status[REF], 0);
}

TEST(parts_of_pages)
{
    prepare_v2();
    u8 *page = alloc_page(), *to = alloc_page();
    for ( unsigned int i = 0; i < PAGE_SIZE; i++ )
        page[i] = i % 251;
    grant2(REF, page, GTF_sub_page | GTF_readonly);
    table2[REF].sub_page.page_off = 100;
    table2[REF].sub_page.length = 50;
    CHECK_EQ(copy_from(REF, 100, to, 50), GNTST_okay);
    CHECK(!memcmp(page + 100, to, 50));
    CHECK_EQ(copy_from(REF, 149, to, 1), GNTST_okay);
    CHECK_EQ(copy_from(REF, 99, to, 1), GNTST_general_error);
    CHECK_EQ(copy_from(REF, 150, to, 1), GNTST_general_error);
    CHECK_EQ(copy_from(REF, 100, to, 51), GNTST_general_error);
    CHECK_EQ(copy_from(REF, 0, to, PAGE_SIZE), GNTST_general_error);
    table2[REF].sub_page.length = 0xffff;
    CHECK_EQ(copy_from(REF, 4000, to, 96), GNTST_okay);
    CHECK_EQ(copy_from(REF, 4000, to, 97), GNTST_bad_copy_arg);
    CHECK_EQ(status[REF], 0);
}

/* XSA-226: a grant that stands for itself, or for one that does, leads nowhere and hangs nothing. */
TEST(transitive)
{
    prepare_v2();
    u8 *page = alloc_page(), *to = alloc_page();
    grant2(REF + 1, page, 0);
    table2[REF].transitive.trans_domid = self;
    table2[REF].transitive.gref = REF + 1;
    table2[REF].hdr.domid = self;
    table2[REF].hdr.flags = GTF_transitive;
    CHECK_EQ(copy_from(REF, 0, to, 8), GNTST_general_error);
    table2[REF].transitive.gref = REF;
    CHECK_EQ(copy_from(REF, 0, to, 8), GNTST_general_error);
    table2[REF].transitive.trans_domid = NOBODYS;
    CHECK_EQ(copy_from(REF, 0, to, 8), GNTST_general_error);
    table2[REF].transitive.trans_domid = 0;
    CHECK_EQ(copy_from(REF, 0, to, 8), GNTST_general_error);
    CHECK_EQ(status[REF], 0);
}

TEST(frames_of_status_words)
{
    uint64_t frames[9];

    prepare();
    CHECK_EQ(get_status_frames(DOMID_SELF, 0, frames), GNTST_okay);
    CHECK_EQ(get_status_frames(DOMID_SELF, 1, frames), GNTST_general_error);
    REQUIRE_EQ(set_version(2), 0);
    CHECK_EQ(get_status_frames(DOMID_SELF, 1, frames), GNTST_okay);
    CHECK_EQ(get_status_frames(DOMID_SELF, 2, frames), GNTST_general_error);
    CHECK_EQ(get_status_frames(DOMID_SELF, 1, (void *)UNMAPPED), GNTST_bad_virt_addr);
    CHECK_EQ(get_status_frames(0, 1, frames), GNTST_permission_denied);
    CHECK_EQ(get_status_frames(NOBODYS, 1, frames), GNTST_bad_domain);
    /* They grow with the table. */
    static xen_pfn_t list[64];
    struct gnttab_setup_table setup = {.dom = DOMID_SELF, .nr_frames = 64};
    set_xen_guest_handle(setup.frame_list, list);
    CHECK_EQ(gnttab(GNTTABOP_setup_table, &setup, 1), 0);
    CHECK_EQ(setup.status, GNTST_okay);
    CHECK_EQ(get_status_frames(DOMID_SELF, 8, frames), GNTST_okay);
    CHECK_EQ(get_status_frames(DOMID_SELF, 9, frames), GNTST_general_error);
    CHECK(frames[0] && frames[7] && frames[0] != frames[7]);
    CHECK_EQ(gnttab(GNTTABOP_get_status_frames, &setup, 2), -XEN_EINVAL);
    /* XSA-382: no more of them than there are. */
    CHECK_EQ(get_status_frames(DOMID_SELF, ~0u, frames), GNTST_general_error);
    /* And as many as a table needs that was made longer in between. */
    REQUIRE_EQ(set_version(1), 0);
    CHECK_EQ(get_status_frames(DOMID_SELF, 1, frames), GNTST_general_error);
    REQUIRE_EQ(set_version(2), 0);
    CHECK_EQ(get_status_frames(DOMID_SELF, 8, frames), GNTST_okay);
}

/* The tools' grants stay, and those in use keep a table from changing. */
TEST(versions)
{
    prepare();
    u32 console = table[GNTTAB_RESERVED_CONSOLE].frame;
    u16 in_use = GTF_reading | GTF_writing;
    void *page = alloc_page(), *other = hole();
    grant(REF, page, 0);
    CHECK_EQ(set_version(3), -XEN_EINVAL);
    CHECK_EQ(set_version(0), -XEN_EINVAL);
    struct gnttab_map_grant_ref op = map_at(other, REF, 0);
    CHECK_EQ(set_version(2), -XEN_EBUSY);
    CHECK_EQ(set_version(1), 0);
    CHECK_EQ(table[REF].frame, virt_to_mfn(page));
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
    REQUIRE_EQ(set_version(2), 0);
    CHECK_EQ(table2[REF].hdr.flags | table2[REF].full_page.frame, 0);
    CHECK_EQ(table2[GNTTAB_RESERVED_CONSOLE].full_page.frame, console);
    CHECK_EQ(table2[GNTTAB_RESERVED_CONSOLE].hdr.flags, GTF_permit_access);
    REQUIRE_EQ(get_status_frames(DOMID_SELF, 1, &status_frame), GNTST_okay);
    status = alloc_page();
    REQUIRE_EQ(map(status, make_pte(status_frame, PTE_RW)), 0);
    CHECK_EQ(status[GNTTAB_RESERVED_CONSOLE], in_use);
    grant2(REF, page, 0);
    op = map_at(other, REF, GNTMAP_readonly);
    CHECK_EQ(op.status, GNTST_okay);
    CHECK_EQ(set_version(1), -XEN_EBUSY);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
    REQUIRE_EQ(map(status, 0), 0);
    /* What version 1 has no room for. */
    grant2(7, page, 0);
    table2[7].full_page.frame = 1ul << 32;
    CHECK_EQ(set_version(1), -XEN_ERANGE);
    table2[7].hdr.flags = GTF_transitive;
    CHECK_EQ(set_version(1), -XEN_ERANGE);
    table2[7].hdr.flags = GTF_accept_transfer;
    REQUIRE_EQ(set_version(1), 0);
    CHECK_EQ(table[7].flags | table[7].frame, 0);
    CHECK_EQ(table[GNTTAB_RESERVED_CONSOLE].frame, console);
    CHECK_EQ(table[GNTTAB_RESERVED_CONSOLE].flags, GTF_permit_access | in_use);
    CHECK_EQ(get_status_frames(DOMID_SELF, 1, &status_frame), GNTST_general_error);
}

/* XSA-255: status frames that are mapped are not taken back. */
TEST(mapped_status_frames_stay)
{
    prepare_v2();
    CHECK_EQ(set_version(1), -XEN_EBUSY);
    CHECK_EQ(set_version(1), -XEN_EBUSY);
    status[100] = 1;
    uint64_t again;
    CHECK_EQ(get_status_frames(DOMID_SELF, 1, &again), GNTST_okay);
    CHECK_EQ(again, status_frame);
    u64 *other = alloc_page();
    CHECK_EQ(map(other, make_pte(status_frame, PTE_RO)), 0);
    CHECK_EQ(map(status, 0), 0);
    CHECK_EQ(set_version(1), -XEN_EBUSY);
    CHECK_EQ(map(other, 0), 0);
    CHECK_EQ(set_version(1), 0);
    CHECK(map(other, make_pte(status_frame, PTE_RO)) < 0);
}

/* What XSA-379 was for guests with a p2m: a status frame that was given away is not there any more, and not twice. */
TEST(status_frames_given_away)
{
    prepare_v2();
    xen_pfn_t frame = status_frame;
    struct xen_memory_reservation gone = {.nr_extents = 1, .domid = DOMID_SELF};
    set_xen_guest_handle(gone.extent_start, &frame);

    CHECK_EQ(hypercall(memory_op, XENMEM_decrease_reservation, &gone), 1);
    status[100] = 1;
    CHECK_EQ(set_version(1), -XEN_EBUSY);
    CHECK_EQ(map(status, 0), 0);
    CHECK_EQ(set_version(1), 0);
    CHECK_EQ(set_version(2), 0);
    CHECK_EQ(set_version(1), 0);
}

TEST(swap)
{
    prepare_v2();
    void *page = alloc_page(), *other = hole();
    grant2(REF, page, 0);
    status[REF + 1] = 0x40;
    struct gnttab_swap_grant_ref op = {.ref_a = REF, .ref_b = REF + 1, .status = 99};
    CHECK_EQ(gnttab(GNTTABOP_swap_grant_ref, &op, 1), 0);
    CHECK_EQ(op.status, GNTST_okay);
    CHECK_EQ(table2[REF].hdr.flags, 0);
    CHECK_EQ(table2[REF + 1].full_page.frame, virt_to_mfn(page));
    CHECK_EQ(status[REF], 0x40);
    CHECK_EQ(status[REF + 1], 0);
    struct gnttab_map_grant_ref mapped = map_at(other, REF + 1, 0);
    CHECK_EQ(mapped.status, GNTST_okay);
    CHECK_EQ(unmap(other, mapped.handle), GNTST_okay);
    op.ref_b = 256;
    CHECK_EQ(gnttab(GNTTABOP_swap_grant_ref, &op, 1), 0);
    CHECK_EQ(op.status, GNTST_bad_gntref);
}

TEST(transfer)
{
    prepare_v2();
    void *page = alloc_page();
    u64 mfn = virt_to_mfn(page);
    REQUIRE_EQ(map(page, 0), 0);
    table2[REF].full_page.frame = last_mapped_pfn() + 1;
    table2[REF].hdr.domid = self;
    table2[REF].hdr.flags = GTF_accept_transfer;
    struct gnttab_transfer op = {.mfn = mfn, .domid = self, .ref = REF, .status = 99};
    CHECK_EQ(gnttab(GNTTABOP_transfer, &op, 1), 0);
    CHECK_EQ(op.status, GNTST_okay);
    CHECK_EQ(table2[REF].full_page.frame, mfn);
    CHECK_EQ(table2[REF].hdr.flags, GTF_accept_transfer | GTF_transfer_committed | GTF_transfer_completed);
}
