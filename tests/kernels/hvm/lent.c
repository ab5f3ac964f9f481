/*
 * What another domain lends an HVM guest, by grants 8 (for writing) and 9 (for reading); its domid is the argument.
 * The word at the start of both is 0x600d.
 */
#include "runtime/kernel.h"

#define FIRST TO_PFN(HOLE)
#define WRITABLE 8
#define READABLE 9

static int map_at(unsigned int ref, ulong address, unsigned int flags, grant_handle_t *handle)
{
    struct gnttab_map_grant_ref op = {.host_addr = address, .flags = flags, .ref = ref, .dom = argument[0] - '0'};

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
    grant_handle_t writable, readable;

    REQUIRE_EQ(map_at(WRITABLE, HOLE, GNTMAP_host_map, &writable), GNTST_okay);
    CHECK(map_at(READABLE, HOLE_PAGE(1), GNTMAP_host_map, &readable) < 0);
    REQUIRE_EQ(map_at(READABLE, HOLE_PAGE(1), GNTMAP_host_map | GNTMAP_readonly, &readable), GNTST_okay);
    CHECK_EQ(load(HOLE), 0x600d);
    CHECK_EQ(load(HOLE_PAGE(1)), 0x600d);
    store(HOLE, 0xbeef);
    store(HOLE_PAGE(1), 0xbeef);
    CHECK_EQ(load(HOLE), 0xbeef);
    CHECK_EQ(load(HOLE_PAGE(1)), 0x600d);
    CHECK_EQ(unmap_at(HOLE_PAGE(1), readable), GNTST_okay);
    CHECK_EQ(load(HOLE_PAGE(1)), 0xffffffff);
    CHECK_EQ(unmap_at(HOLE, writable), GNTST_okay);
    CHECK_EQ(load(HOLE), 0xffffffff);
}

/* What is another's is not given away, moved, or lent on. */
TEST(not_its_own)
{
    grant_handle_t handle;

    REQUIRE_EQ(map_at(WRITABLE, HOLE, GNTMAP_host_map, &handle), GNTST_okay);
    CHECK_EQ(decrease(FIRST), 0);
    CHECK(remove_from_physmap(FIRST) < 0);
    CHECK(add_to_physmap(XENMAPSPACE_gmfn, FIRST, FIRST + 1) < 0);
    CHECK_EQ(load(HOLE), 0x600d);
    CHECK_EQ(WRMSR_TRAP(0x40000000, HOLE), X86_GP);
    CHECK_EQ(unmap_at(HOLE, handle), GNTST_okay);
}

TEST(twice)
{
    grant_handle_t handles[2];

    for ( unsigned int at = 0; at < 2; at++ )
        REQUIRE_EQ(map_at(WRITABLE, HOLE_PAGE(at), GNTMAP_host_map, &handles[at]), GNTST_okay);
    store(HOLE, 1);
    CHECK_EQ(load(HOLE_PAGE(1)), 1);
    CHECK_EQ(unmap_at(HOLE, handles[0]), GNTST_okay);
    CHECK_EQ(load(HOLE_PAGE(1)), 1);
    CHECK(unmap_at(HOLE, handles[1]) < 0);
    CHECK_EQ(unmap_at(HOLE_PAGE(1), handles[1]), GNTST_okay);
    CHECK_EQ(unmap_at(HOLE_PAGE(1), handles[1]), GNTST_bad_handle);
}

/* A mapping is undone where it is: not by the address of one that allows less, which would leave the other behind. */
TEST(each_by_its_own_address)
{
    grant_handle_t writable, readable;

    REQUIRE_EQ(map_at(WRITABLE, HOLE, GNTMAP_host_map, &writable), GNTST_okay);
    REQUIRE_EQ(map_at(WRITABLE, HOLE_PAGE(1), GNTMAP_host_map | GNTMAP_readonly, &readable), GNTST_okay);
    CHECK(unmap_at(HOLE_PAGE(1), writable) < 0);
    CHECK(unmap_at(HOLE, readable) < 0);
    CHECK_EQ(unmap_at(HOLE, writable), GNTST_okay);
    store(HOLE, 0xbad);
    store(HOLE_PAGE(1), 0xbad);
    CHECK_EQ(load(HOLE_PAGE(1)), 0x600d);
    CHECK_EQ(unmap_at(HOLE_PAGE(1), readable), GNTST_okay);
}

/* What an instruction writes there that nothing emulates. */
TEST(rare_stores_to_what_is_for_reading)
{
    grant_handle_t readable;

    REQUIRE_EQ(map_at(READABLE, HOLE, GNTMAP_host_map | GNTMAP_readonly, &readable), GNTST_okay);
    TRAP_OF("fxsave (%0)", :: "r"(HOLE) : "memory");
    TRAP_OF("lock incl (%0)", :: "r"(HOLE) : "memory");
    TRAP_OF("lock cmpxchg8b (%0)", :: "r"(HOLE), "a"(0x600d), "b"(0xbad), "c"(0), "d"(0) : "memory");
    TRAP_OF("sidt (%0)", :: "r"(HOLE) : "memory");
    CHECK_EQ(load(HOLE), 0x600d);
    CHECK_EQ(unmap_at(HOLE, readable), GNTST_okay);
}

TEST(copies)
{
    ulong page = (ulong)alloc_page();
    struct gnttab_copy op = {.len = 16, .flags = GNTCOPY_source_gref};

    op.source.u.ref = READABLE;
    op.source.domid = argument[0] - '0';
    op.dest.u.gmfn = TO_PFN(page);
    op.dest.domid = DOMID_SELF;
    REQUIRE_EQ(hypercall(grant_table_op, GNTTABOP_copy, &op, 1), 0);
    CHECK_EQ(op.status, GNTST_okay);
    CHECK_EQ(load(page), 0x600d);
    op.source = op.dest;
    op.dest.u.ref = READABLE;
    op.dest.domid = argument[0] - '0';
    op.flags = GNTCOPY_dest_gref;
    REQUIRE_EQ(hypercall(grant_table_op, GNTTABOP_copy, &op, 1), 0);
    CHECK(op.status < 0);
    op.dest.u.ref = WRITABLE;
    store(page, 0xcafe);
    REQUIRE_EQ(hypercall(grant_table_op, GNTTABOP_copy, &op, 1), 0);
    CHECK_EQ(op.status, GNTST_okay);
}

/* Whoever dies with it mapped gives it back. */
TEST(kept_to_the_end)
{
    grant_handle_t handle;

    REQUIRE_EQ(map_at(WRITABLE, HOLE, GNTMAP_host_map, &handle), GNTST_okay);
    REQUIRE_EQ(map_at(READABLE, HOLE_PAGE(1), GNTMAP_host_map | GNTMAP_readonly, &handle), GNTST_okay);
    store(HOLE, 0xfeed);
}
