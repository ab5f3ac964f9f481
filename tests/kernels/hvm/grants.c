/*
 * Grants of an HVM guest to itself: it lends frames of its p2m, and maps what is lent at frames of it. Memory of its own
 * is in one place of the p2m, so that what it maps leaves its old one.
 * Xen: xen/common/grant_table.c, xen/arch/x86/hvm/grant_table.c.
 */
#include "runtime/kernel.h"

#define FIRST TO_PFN(HOLE)
#define FIRST_REF 16

static grant_entry_v1_t *table;

static domid_t own_domid(void)
{
    u32 registers[4];

    cpuid(XEN_CPUID_LEAF(4), 0, registers);
    return registers[2];
}

static void init(void)
{
    table = alloc_page();
    REQUIRE_EQ(add_to_physmap(XENMAPSPACE_grant_table, 0, TO_PFN(table)), 0);
}

static void lend(unsigned int ref, ulong address, bool readonly)
{
    table[ref].domid = own_domid();
    table[ref].frame = TO_PFN(address);
    barrier();
    table[ref].flags = GTF_permit_access | (readonly ? GTF_readonly : 0);
}

static int map_at(unsigned int ref, ulong address, unsigned int flags, grant_handle_t *handle)
{
    struct gnttab_map_grant_ref op = {.host_addr = address, .flags = flags, .ref = ref, .dom = own_domid()};

    REQUIRE_EQ(hypercall(grant_table_op, GNTTABOP_map_grant_ref, &op, 1), 0);
    *handle = op.handle;
    return op.status;
}

static int unmap_at(ulong address, grant_handle_t handle)
{
    struct gnttab_unmap_grant_ref op = {.host_addr = address, .handle = handle};

    REQUIRE_EQ(hypercall(grant_table_op, GNTTABOP_unmap_grant_ref, &op, 1), 0);
    return op.status;
}

TEST(map_and_unmap)
{
    ulong page = (ulong)alloc_page();
    grant_handle_t handle;

    init();
    store(page, 17);
    lend(FIRST_REF, page, false);
    REQUIRE_EQ(map_at(FIRST_REF, HOLE, GNTMAP_host_map, &handle), GNTST_okay);
    CHECK_EQ(table[FIRST_REF].flags & (GTF_reading | GTF_writing), GTF_reading | GTF_writing);
    CHECK_EQ(load(HOLE), 17);
    store(HOLE, 18);
    CHECK_EQ(load(HOLE), 18);
    CHECK_EQ(load(page), 0xffffffff);
    CHECK_EQ(unmap_at(HOLE, handle), GNTST_okay);
    CHECK_EQ(load(HOLE), 0xffffffff);
    CHECK_EQ(table[FIRST_REF].flags & (GTF_reading | GTF_writing), 0);
    CHECK_EQ(unmap_at(HOLE, handle), GNTST_bad_handle);
}

/* What is written to what is lent for reading is lost, and nobody is told. */
TEST(map_for_reading)
{
    ulong page = (ulong)alloc_page();
    grant_handle_t handle;

    init();
    store(page, 17);
    lend(FIRST_REF, page, true);
    CHECK(map_at(FIRST_REF, HOLE, GNTMAP_host_map, &handle) < 0);
    REQUIRE_EQ(map_at(FIRST_REF, HOLE, GNTMAP_host_map | GNTMAP_readonly, &handle), GNTST_okay);
    CHECK_EQ(load(HOLE), 17);
    store(HOLE, 18);
    CHECK_EQ(load(HOLE), 17);
    CHECK_EQ(unmap_at(HOLE, handle), GNTST_okay);
}

/* What is mapped goes by its unmapping alone, even where the frame is its own. */
TEST(nothing_else_unmaps)
{
    ulong page = (ulong)alloc_page(), other = (ulong)alloc_page();
    grant_handle_t handle;

    init();
    store(page, 17);
    lend(FIRST_REF, page, false);
    REQUIRE_EQ(map_at(FIRST_REF, HOLE, GNTMAP_host_map, &handle), GNTST_okay);
    CHECK_EQ(decrease(FIRST), 0);
    CHECK(remove_from_physmap(FIRST) < 0);
    CHECK(add_to_physmap(XENMAPSPACE_gmfn, TO_PFN(other), FIRST) < 0);
    CHECK(add_to_physmap(XENMAPSPACE_gmfn, FIRST, FIRST + 1) < 0);
    CHECK_EQ(load(HOLE), 17);
    CHECK_EQ(unmap_at(HOLE, handle), GNTST_okay);
}

TEST(several_mappings)
{
    ulong page = (ulong)alloc_page();
    grant_handle_t handles[4];

    init();
    lend(FIRST_REF, page, false);
    for ( unsigned int at = 0; at < 4; at++ )
        REQUIRE_EQ(map_at(FIRST_REF, HOLE_PAGE(at), GNTMAP_host_map, &handles[at]), GNTST_okay);
    store(HOLE_PAGE(2), 5);
    for ( unsigned int at = 0; at < 4; at++ )
        CHECK_EQ(load(HOLE_PAGE(at)), 5);
    /* By the wrong address, or again. */
    CHECK(unmap_at(HOLE_PAGE(9), handles[0]) < 0);
    CHECK(unmap_at(HOLE_PAGE(9), handles[0]) < 0);
    for ( unsigned int at = 0; at < 4; at++ )
        CHECK_EQ(unmap_at(HOLE_PAGE(at), handles[at]), GNTST_okay);
}

TEST(flags_that_are_for_pv_guests)
{
    ulong page = (ulong)alloc_page();
    grant_handle_t handle;

    init();
    lend(FIRST_REF, page, false);
    CHECK(map_at(FIRST_REF, HOLE, GNTMAP_host_map | GNTMAP_contains_pte, &handle) < 0);
    CHECK(map_at(FIRST_REF, HOLE, GNTMAP_host_map | GNTMAP_application_map, &handle) < 0);
    CHECK(map_at(FIRST_REF, HOLE, GNTMAP_device_map, &handle) < 0);
    CHECK(map_at(FIRST_REF, HOLE, 0, &handle) < 0);
    CHECK_EQ(table[FIRST_REF].flags & (GTF_reading | GTF_writing), 0);
}

TEST(what_is_not_lent)
{
    ulong page = (ulong)alloc_page();
    grant_handle_t handle;

    init();
    CHECK(map_at(FIRST_REF, HOLE, GNTMAP_host_map, &handle) < 0);
    CHECK(map_at(1000000, HOLE, GNTMAP_host_map, &handle) < 0);
    /* A hole. */
    lend(FIRST_REF, HOLE_PAGE(5), false);
    CHECK_EQ(map_at(FIRST_REF, HOLE, GNTMAP_host_map, &handle), GNTST_bad_page);
    /* To a place that there is not. */
    lend(FIRST_REF, page, false);
#if IS_64
    CHECK(map_at(FIRST_REF, 1ul << 51, GNTMAP_host_map, &handle) < 0);
    CHECK(map_at(FIRST_REF, 1ul << 63, GNTMAP_host_map, &handle) < 0);
#endif
    CHECK_EQ(table[FIRST_REF].flags & (GTF_reading | GTF_writing), 0);
}

/* Where memory is it gives way, and is nobody's from then on. */
TEST(map_over_memory)
{
    ulong page = (ulong)alloc_page(), other = (ulong)alloc_page();
    grant_handle_t handle;

    init();
    store(page, 1);
    store(other, 2);
    lend(FIRST_REF, page, false);
    REQUIRE_EQ(map_at(FIRST_REF, other, GNTMAP_host_map, &handle), GNTST_okay);
    CHECK_EQ(load(other), 1);
    CHECK_EQ(unmap_at(other, handle), GNTST_okay);
    CHECK_EQ(load(other), 0xffffffff);
}

/* What is lent cannot be lent on, given away, or moved. */
TEST(what_is_mapped_is_not_its_own)
{
    ulong page = (ulong)alloc_page();
    grant_handle_t handle, second;

    init();
    store(page, 1);
    lend(FIRST_REF, page, false);
    REQUIRE_EQ(map_at(FIRST_REF, HOLE, GNTMAP_host_map, &handle), GNTST_okay);
    lend(FIRST_REF + 1, page, false);
    CHECK_EQ(map_at(FIRST_REF + 1, HOLE_PAGE(1), GNTMAP_host_map, &second), GNTST_bad_page);
    CHECK_EQ(unmap_at(HOLE, handle), GNTST_okay);
}

TEST(copies)
{
    ulong from = (ulong)alloc_page(), to = (ulong)alloc_page();
    struct gnttab_copy op = {.len = 8, .flags = GNTCOPY_source_gref};

    init();
    store(from + 8, 0xaaaa);
    lend(FIRST_REF, from, true);
    op.source.u.ref = FIRST_REF;
    op.source.domid = own_domid();
    op.source.offset = 8;
    op.dest.u.gmfn = TO_PFN(to);
    op.dest.domid = DOMID_SELF;
    op.dest.offset = 16;
    CHECK_EQ(hypercall(grant_table_op, GNTTABOP_copy, &op, 1), 0);
    CHECK_EQ(op.status, GNTST_okay);
    CHECK_EQ(load(to + 16), 0xaaaa);
    op.dest.u.gmfn = FIRST;
    CHECK_EQ(hypercall(grant_table_op, GNTTABOP_copy, &op, 1), 0);
    CHECK(op.status < 0);
    /* What is only lent for reading is not written. */
    op.source.u.gmfn = TO_PFN(to);
    op.source.domid = DOMID_SELF;
    op.dest.u.ref = FIRST_REF;
    op.dest.domid = own_domid();
    op.flags = GNTCOPY_dest_gref;
    CHECK_EQ(hypercall(grant_table_op, GNTTABOP_copy, &op, 1), 0);
    CHECK(op.status < 0);
}

TEST(setup_table)
{
    xen_pfn_t frames[2] = {0};
    struct gnttab_setup_table op = {.dom = DOMID_SELF, .nr_frames = 1};
    struct gnttab_query_size size = {.dom = DOMID_SELF};

    init();
    set_xen_guest_handle(op.frame_list, frames);
    CHECK_EQ(hypercall(grant_table_op, GNTTABOP_setup_table, &op, 1), 0);
    CHECK_EQ(op.status, GNTST_okay);
    CHECK_EQ(frames[0], TO_PFN(table));
    CHECK_EQ(hypercall(grant_table_op, GNTTABOP_query_size, &size, 1), 0);
    CHECK_EQ(size.status, GNTST_okay);
    CHECK(size.nr_frames >= 1 && size.max_nr_frames > size.nr_frames);
}

TEST(version_2)
{
    struct gnttab_set_version op = {.version = 2};

    init();
    CHECK_EQ(hypercall(grant_table_op, GNTTABOP_set_version, &op, 1), 0);
    CHECK_EQ(op.version, 2);
    CHECK_EQ(add_to_physmap(XENMAPSPACE_grant_table, XENMAPIDX_grant_table_status, FIRST), 0);
    /* Both rings are mapped. */
    CHECK_EQ(load(HOLE), (GTF_reading | GTF_writing) * 0x10001);
    op.version = 1;
    CHECK_EQ(hypercall(grant_table_op, GNTTABOP_set_version, &op, 1), 0);
    /* Its pages are gone. */
    CHECK_EQ(load(HOLE), 0xffffffff);
}
