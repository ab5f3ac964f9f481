/*
 * A guest's physical memory: what is put into it and taken out, by the guest itself.
 * Xen: xen/common/memory.c, xenmem_add_to_physmap_one in xen/arch/x86/mm/p2m.c, populate_physmap.
 */
#include "runtime/kernel.h"

#define NO_GFN ((ulong)-1)
#define FIRST TO_PFN(HOLE)

static long memory_op(unsigned int command, void *op)
{
    return hypercall(memory_op, command, op);
}

static long reserve(unsigned int command, xen_pfn_t *gfns, ulong count, unsigned int order, domid_t domid)
{
    struct xen_memory_reservation op = {.nr_extents = count, .extent_order = order, .domid = domid};

    set_xen_guest_handle(op.extent_start, gfns);
    return memory_op(command, &op);
}

TEST(populate_and_decrease)
{
    CHECK_EQ(populate(FIRST), 1);
    CHECK_EQ(load(HOLE), 0);
    store(HOLE, 0x11223344);
    CHECK_EQ(load(HOLE), 0x11223344);
    CHECK_EQ(decrease(FIRST), 1);
    CHECK_EQ(load(HOLE), 0xffffffff);
    CHECK_EQ(decrease(FIRST), 0);
    CHECK_EQ(populate(FIRST), 1);
    CHECK_EQ(load(HOLE), 0);
}

/* A page of memory gives way to the new one, which makes it nobody's. */
TEST(populate_where_memory_is)
{
    ulong page = (ulong)alloc_page();

    store(page, 7);
    CHECK_EQ(populate(TO_PFN(page)), 1);
    CHECK_EQ(load(page), 0);
}

TEST(populate_many)
{
    static xen_pfn_t gfns[16];

    for ( unsigned int at = 0; at < ARRAY_SIZE(gfns); at++ )
        gfns[at] = FIRST + 3 * at;
    CHECK_EQ(reserve(XENMEM_populate_physmap, gfns, ARRAY_SIZE(gfns), 0, DOMID_SELF), ARRAY_SIZE(gfns));
    for ( unsigned int at = 0; at < ARRAY_SIZE(gfns); at++ )
    {
        CHECK_EQ(load(gfns[at] * PAGE_SIZE), 0);
        store(gfns[at] * PAGE_SIZE, at);
    }
    for ( unsigned int at = 0; at < ARRAY_SIZE(gfns); at++ )
        CHECK_EQ(load(gfns[at] * PAGE_SIZE), at);
    CHECK_EQ(load((gfns[0] + 1) * PAGE_SIZE), 0xffffffff);
    CHECK_EQ(reserve(XENMEM_decrease_reservation, gfns, ARRAY_SIZE(gfns), 0, DOMID_SELF), ARRAY_SIZE(gfns));
}

/* Extents of several pages, which lie where they say. */
TEST(populate_an_extent)
{
    xen_pfn_t gfn = FIRST;

    CHECK_EQ(reserve(XENMEM_populate_physmap, &gfn, 1, 4, DOMID_SELF), 1);
    for ( unsigned int at = 0; at < 16; at++ )
        CHECK_EQ(load(HOLE_PAGE(at)), 0);
    CHECK_EQ(load(HOLE_PAGE(16)), 0xffffffff);
    CHECK_EQ(reserve(XENMEM_decrease_reservation, &gfn, 1, 4, DOMID_SELF), 1);
    CHECK_EQ(load(HOLE_PAGE(0)), 0xffffffff);
}

TEST(where_no_guest_has_memory)
{
    xen_pfn_t gfn;

    gfn = NO_GFN;
    CHECK_EQ(reserve(XENMEM_populate_physmap, &gfn, 1, 0, DOMID_SELF), 0);
    CHECK_EQ(reserve(XENMEM_decrease_reservation, &gfn, 1, 0, DOMID_SELF), 0);
#if IS_64
    gfn = 1ul << 28;
    CHECK_EQ(reserve(XENMEM_populate_physmap, &gfn, 1, 0, DOMID_SELF), 0);
    gfn = 1ul << 51;
    CHECK_EQ(reserve(XENMEM_populate_physmap, &gfn, 1, 0, DOMID_SELF), 0);
    CHECK_EQ(add_to_physmap(XENMAPSPACE_shared_info, 0, 1ul << 51), -XEN_EINVAL);
#endif
    gfn = FIRST;
    CHECK_EQ(reserve(XENMEM_populate_physmap, &gfn, 1, 0, 0x7000), 0);
    CHECK_EQ(reserve(XENMEM_populate_physmap, &gfn, 1, 0, 0), 0);
    CHECK_EQ(reserve(XENMEM_populate_physmap, &gfn, 1, 10, DOMID_SELF), 0);
    CHECK_EQ(load(HOLE), 0xffffffff);
}

/* There is no end to what a guest asks for, but to what it gets. */
TEST(more_than_it_may_have)
{
    ulong gfn = FIRST;

    while ( populate(gfn) == 1 )
        gfn++;
    CHECK(gfn > FIRST);
    CHECK(gfn < FIRST + 4096);
    CHECK_EQ(load(HOLE_PAGE(0)), 0);
    CHECK_EQ(populate(gfn), 0);
    CHECK_EQ(decrease(FIRST), 1);
    CHECK_EQ(populate(gfn), 1);
}

/* ---- add_to_physmap ---- */

TEST(shared_info_moves)
{
    shared_info_t *moved = (shared_info_t *)HOLE;

    shared_info->arch.max_pfn = 5;
    CHECK_EQ(add_to_physmap(XENMAPSPACE_shared_info, 0, FIRST), 0);
    CHECK_EQ(moved->arch.max_pfn, 5);
    /* It is in one place only. What memory was there before is gone. */
    CHECK_EQ(load((ulong)shared_info), 0xffffffff);
    CHECK_EQ(add_to_physmap(XENMAPSPACE_shared_info, 1, FIRST), -XEN_EINVAL);
    shared_info = moved;
    vcpu_info = &moved->vcpu_info[0];
    CHECK(system_time());
}

TEST(the_grant_table)
{
    grant_entry_v1_t *table = (grant_entry_v1_t *)HOLE;

    CHECK_EQ(add_to_physmap(XENMAPSPACE_grant_table, 0, FIRST), 0);
    /* The builder has lent the rings. */
    CHECK_EQ(table[GNTTAB_RESERVED_CONSOLE].frame, get_param(HVM_PARAM_CONSOLE_PFN));
    CHECK_EQ(table[GNTTAB_RESERVED_XENSTORE].frame, get_param(HVM_PARAM_STORE_PFN));
    /* It grows when a frame is asked for that it has not. */
    CHECK_EQ(add_to_physmap(XENMAPSPACE_grant_table, 1, FIRST + 1), 0);
    CHECK_EQ(load(HOLE_PAGE(1)), 0);
    CHECK_EQ(add_to_physmap(XENMAPSPACE_grant_table, 100000, FIRST + 2), -XEN_EINVAL);
    CHECK_EQ(add_to_physmap(XENMAPSPACE_grant_table, XENMAPIDX_grant_table_status, FIRST + 2), -XEN_EINVAL);
    CHECK_EQ(load(HOLE_PAGE(2)), 0xffffffff);
}

TEST(gmfn_moves)
{
    ulong page = (ulong)alloc_page();

    store(page, 0xabcd);
    CHECK_EQ(add_to_physmap(XENMAPSPACE_gmfn, TO_PFN(page), FIRST), 0);
    CHECK_EQ(load(HOLE), 0xabcd);
    CHECK_EQ(load(page), 0xffffffff);
    CHECK_EQ(add_to_physmap(XENMAPSPACE_gmfn, FIRST + 8, FIRST), -XEN_EINVAL);
    /* To where it is. */
    CHECK_EQ(add_to_physmap(XENMAPSPACE_gmfn, FIRST, FIRST), 0);
    CHECK_EQ(load(HOLE), 0xabcd);
    CHECK_EQ(add_to_physmap(XENMAPSPACE_gmfn, FIRST, TO_PFN(page)), 0);
    CHECK_EQ(load(page), 0xabcd);
}

TEST(gmfn_range)
{
    ulong pages = (ulong)alloc_page();
    struct xen_add_to_physmap op = {.domid = DOMID_SELF, .size = 3, .space = XENMAPSPACE_gmfn_range};

    alloc_page();
    alloc_page();
    for ( unsigned int at = 0; at < 3; at++ )
        store(pages + at * PAGE_SIZE, at + 1);
    op.idx = TO_PFN(pages);
    op.gpfn = FIRST;
    CHECK_EQ(memory_op(XENMEM_add_to_physmap, &op), 0);
    for ( unsigned int at = 0; at < 3; at++ )
        CHECK_EQ(load(HOLE_PAGE(at)), at + 1);
}

TEST(batches)
{
    ulong page = (ulong)alloc_page();
    xen_ulong_t idxs[3] = {TO_PFN(page), FIRST + 100, TO_PFN(page)};
    xen_pfn_t gpfns[3] = {FIRST, FIRST + 1, FIRST + 2};
    int errs[3] = {1, 1, 1};
    struct xen_add_to_physmap_batch op = {.domid = DOMID_SELF, .space = XENMAPSPACE_gmfn, .size = 3};

    store(page, 3);
    set_xen_guest_handle(op.idxs, idxs);
    set_xen_guest_handle(op.gpfns, gpfns);
    set_xen_guest_handle(op.errs, errs);
    CHECK_EQ(memory_op(XENMEM_add_to_physmap_batch, &op), 0);
    CHECK_EQ(errs[0], 0);
    CHECK_EQ(errs[1], -XEN_EINVAL);
    CHECK_EQ(errs[2], -XEN_EINVAL);
    CHECK_EQ(load(HOLE), 3);
    /* Nothing of others. */
    op.space = XENMAPSPACE_gmfn_foreign;
    op.u.foreign_domid = 0;
    CHECK(memory_op(XENMEM_add_to_physmap_batch, &op) < 0 || (errs[0] < 0 && errs[1] < 0 && errs[2] < 0));
    op.space = XENMAPSPACE_dev_mmio;
    op.u.res0 = 0;
    CHECK_EQ(memory_op(XENMEM_add_to_physmap_batch, &op), -XEN_EACCES);
}

/* More than are done at once, so that the call is made again and again; what is done is not looked at once more. */
TEST(a_long_batch)
{
    enum { COUNT = IS_64 ? 300 : 0x8000 };
    static xen_ulong_t idxs[COUNT];
    static xen_pfn_t gpfns[COUNT];
    static int errs[COUNT];
    struct xen_add_to_physmap_batch op = {.domid = DOMID_SELF, .space = XENMAPSPACE_gmfn, .size = COUNT};
    ulong page = (ulong)alloc_page();

    for ( unsigned int at = 0; at < COUNT; at++ )
    {
        idxs[at] = FIRST + COUNT;
        gpfns[at] = FIRST + at;
        errs[at] = 1;
    }
    store(page, 3);
    idxs[COUNT - 1] = TO_PFN(page);
    set_xen_guest_handle(op.idxs, idxs);
    set_xen_guest_handle(op.gpfns, gpfns);
    set_xen_guest_handle(op.errs, errs);
    CHECK_EQ(memory_op(XENMEM_add_to_physmap_batch, &op), 0);
    for ( unsigned int at = 0; at < COUNT - 1; at++ )
        REQUIRE_EQ(errs[at], -XEN_EINVAL);
    CHECK_EQ(errs[COUNT - 1], 0);
    CHECK_EQ(load(HOLE_PAGE(COUNT - 1)), 3);
}

TEST(spaces_that_are_none)
{
    struct xen_add_to_physmap op = {.domid = 0, .space = XENMAPSPACE_shared_info, .gpfn = FIRST};

    CHECK_EQ(add_to_physmap(99, 0, FIRST), -XEN_EINVAL);
    CHECK(add_to_physmap(XENMAPSPACE_gmfn_foreign, 0, FIRST) < 0);
    CHECK(memory_op(XENMEM_add_to_physmap, &op) < 0);
    op.domid = 0x7000;
    CHECK_EQ(memory_op(XENMEM_add_to_physmap, &op), -XEN_ESRCH);
}

TEST(remove_from_physmap)
{
    ulong page = (ulong)alloc_page();

    store(page, 3);
    CHECK_EQ(remove_from_physmap(TO_PFN(page)), 0);
    CHECK_EQ(load(page), 0xffffffff);
    CHECK_EQ(remove_from_physmap(TO_PFN(page)), -XEN_ENOENT);
    CHECK_EQ(remove_from_physmap(NO_GFN), -XEN_ENOENT);
}

/* Xen's own pages are taken out of sight, but nobody's to give away. */
TEST(shared_info_is_xens)
{
    ulong gfn = TO_PFN(shared_info);

    CHECK_EQ(decrease(gfn), 1);
    CHECK_EQ(load(gfn * PAGE_SIZE), 0xffffffff);
    CHECK_EQ(add_to_physmap(XENMAPSPACE_shared_info, 0, gfn), 0);
    CHECK(system_time());
}

/* ---- What is told ---- */

TEST(numbers)
{
    domid_t domid = DOMID_SELF;
    long pages = memory_op(XENMEM_current_reservation, &domid);

    CHECK(pages > 0);
    CHECK(memory_op(XENMEM_maximum_reservation, &domid) >= pages);
    CHECK(memory_op(XENMEM_maximum_gpfn, &domid) >= 0xfeff8);
    REQUIRE_EQ(populate(0xff800), 1);
    CHECK_EQ(memory_op(XENMEM_maximum_gpfn, &domid), 0xff800);
    CHECK_EQ(memory_op(XENMEM_current_reservation, &domid), pages + 1);
    domid = 0;
    CHECK_EQ(memory_op(XENMEM_current_reservation, &domid), -XEN_EPERM);
}

TEST(what_pv_guests_have)
{
    static xen_pfn_t in[1], out[1];
    struct xen_machphys_mapping mapping;
    struct xen_memory_exchange exchange = {
        .in = {.nr_extents = 1, .domid = DOMID_SELF},
        .out = {.nr_extents = 1, .domid = DOMID_SELF},
    };

    in[0] = TO_PFN(alloc_page());
    out[0] = in[0];
    set_xen_guest_handle(exchange.in.extent_start, in);
    set_xen_guest_handle(exchange.out.extent_start, out);
    CHECK_EQ(memory_op(XENMEM_machphys_mapping, &mapping), -XEN_ENOSYS);
    CHECK(memory_op(XENMEM_exchange, &exchange) < 0);
    CHECK_EQ(exchange.nr_exchanged, 0);
    CHECK_EQ(load(in[0] * PAGE_SIZE), 0);
}

/* ---- What is remembered of the past ---- */

/* Code that was run from a frame is not run when another frame is there. */
TEST(code_in_moving_frames)
{
    typedef ulong function_t(void);
    static const u8 returns_one[] = {0xb8, 1, 0, 0, 0, 0xc3}, returns_two[] = {0xb8, 2, 0, 0, 0, 0xc3};
    u8 *one = alloc_page(), *two = alloc_page();
    function_t *function = (function_t *)HOLE;

    memcpy(one, returns_one, sizeof(returns_one));
    memcpy(two, returns_two, sizeof(returns_two));
    CHECK_EQ(add_to_physmap(XENMAPSPACE_gmfn, TO_PFN(one), FIRST), 0);
    CHECK_EQ(function(), 1);
    CHECK_EQ(add_to_physmap(XENMAPSPACE_gmfn, FIRST, FIRST + 1), 0);
    CHECK_EQ(add_to_physmap(XENMAPSPACE_gmfn, TO_PFN(two), FIRST), 0);
    CHECK_EQ(function(), 2);
    CHECK_EQ(((function_t *)HOLE_PAGE(1))(), 1);
    CHECK_EQ(decrease(FIRST), 1);
    CHECK_EQ(populate(FIRST), 1);
    memcpy((void *)HOLE, returns_one, sizeof(returns_one));
    CHECK_EQ(function(), 1);
}

/* A large page of the guest's over frames that come and go. */
TEST(large_pages_over_holes)
{
    for ( unsigned int round = 0; round < 50; round++ )
        for ( unsigned int at = 0; at < 8; at++ )
        {
            ulong address = HOLE_PAGE(at);

            if ( (round + at) % 3 == 0 )
            {
                populate(FIRST + at);
                store(address, round * 8 + at);
            }
            else if ( (round + at) % 3 == 1 )
            {
                CHECK_EQ(load(address), round ? (round - 1) * 8 + at : 0xffffffff);
            }
            else
            {
                decrease(FIRST + at);
                CHECK_EQ(load(address), 0xffffffff);
            }
        }
}
