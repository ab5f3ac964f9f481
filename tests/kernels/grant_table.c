/*
 * The guest's own grant table: setting it up, its version, and what Domain 0's tools put there.
 * Xen: xen/common/grant_table.c; xc_dom_gnttab_seed in tools/libs/guest/xg_dom_boot.c.
 */
#include "runtime/kernel.h"

#include <xen/grant_table.h>

#define NOBODYS 0x7000
#define MAX_FRAMES 64

static long gnttab(unsigned int command, void *op)
{
    return hypercall(grant_table_op, command, op, 1);
}

static int setup(domid_t domid, unsigned int frames, xen_pfn_t *list)
{
    struct gnttab_setup_table op = {.dom = domid, .nr_frames = frames, .status = 99};

    set_xen_guest_handle(op.frame_list, list);
    CHECK_EQ(gnttab(GNTTABOP_setup_table, &op), 0);
    return op.status;
}

static struct gnttab_query_size query(domid_t domid)
{
    struct gnttab_query_size op = {.dom = domid, .status = 99};

    CHECK_EQ(gnttab(GNTTABOP_query_size, &op), 0);
    return op;
}

TEST(size)
{
    struct gnttab_query_size size = query(DOMID_SELF);

    CHECK_EQ(size.status, GNTST_okay);
    CHECK_EQ(size.nr_frames, 1);
    CHECK_EQ(size.max_nr_frames, MAX_FRAMES);
    CHECK_EQ(query(0).status, GNTST_permission_denied);
    CHECK_EQ(query(NOBODYS).status, GNTST_bad_domain);
}

TEST(table_can_be_mapped_and_written)
{
    xen_pfn_t frames[2];
    grant_entry_v1_t *entries = alloc_page(), *more = alloc_page();

    REQUIRE_EQ(setup(DOMID_SELF, 2, frames), GNTST_okay);
    CHECK_EQ(query(DOMID_SELF).nr_frames, 2);
    REQUIRE_EQ(map(entries, make_pte(frames[0], PTE_RW)), 0);
    REQUIRE_EQ(map(more, make_pte(frames[1], PTE_RW)), 0);
    entries[100].frame = 4711;
    CHECK_EQ(more[100].frame, 0);

    /* It stays where it is, and what is in it. */
    xen_pfn_t again[3];
    REQUIRE_EQ(setup(DOMID_SELF, 3, again), GNTST_okay);
    CHECK_EQ(again[0], frames[0]);
    CHECK_EQ(again[1], frames[1]);
    CHECK_EQ(entries[100].frame, 4711);
    CHECK_EQ(setup(DOMID_SELF, 1, again), GNTST_okay);
    CHECK_EQ(query(DOMID_SELF).nr_frames, 3);
}

TEST(table_is_no_page_table)
{
    xen_pfn_t frame;

    REQUIRE_EQ(setup(DOMID_SELF, 1, &frame), GNTST_okay);
    CHECK(mmuext(MMUEXT_PIN_L1_TABLE, frame, 0) < 0);
}

TEST(reserved_grants_lend_the_rings)
{
    xen_pfn_t frame;
    grant_entry_v1_t *entries = alloc_page();

    REQUIRE_EQ(setup(DOMID_SELF, 1, &frame), GNTST_okay);
    REQUIRE_EQ(map(entries, make_pte(frame, PTE_RO)), 0);
    CHECK_EQ(entries[GNTTAB_RESERVED_CONSOLE].flags, GTF_permit_access | GTF_reading | GTF_writing);
    CHECK_EQ(entries[GNTTAB_RESERVED_CONSOLE].domid, 0);
    CHECK_EQ(entries[GNTTAB_RESERVED_CONSOLE].frame, start_info->console.domU.mfn);
    CHECK_EQ(entries[GNTTAB_RESERVED_XENSTORE].flags, GTF_permit_access | GTF_reading | GTF_writing);
    CHECK_EQ(entries[GNTTAB_RESERVED_XENSTORE].domid, 0);
    CHECK_EQ(entries[GNTTAB_RESERVED_XENSTORE].frame, start_info->store_mfn);
    for ( unsigned int i = 2; i < PAGE_SIZE / sizeof(*entries); i++ )
        CHECK_EQ(entries[i].flags | entries[i].domid | entries[i].frame, 0);
}

TEST(longest_table)
{
    static xen_pfn_t frames[MAX_FRAMES + 1];

    CHECK_EQ(setup(DOMID_SELF, MAX_FRAMES, frames), GNTST_okay);
    for ( unsigned int i = 1; i < MAX_FRAMES; i++ )
        CHECK(frames[i] && frames[i] != frames[i - 1]);
    CHECK_EQ(setup(DOMID_SELF, MAX_FRAMES + 1, frames), GNTST_general_error);
    CHECK_EQ(setup(DOMID_SELF, ~0u, frames), GNTST_general_error);
    CHECK_EQ(query(DOMID_SELF).nr_frames, MAX_FRAMES);
}

TEST(tables_that_are_refused)
{
    xen_pfn_t frame;
    struct gnttab_setup_table op = {.dom = DOMID_SELF, .nr_frames = 1};

    CHECK_EQ(setup(0, 1, &frame), GNTST_permission_denied);
    CHECK_EQ(setup(NOBODYS, 1, &frame), GNTST_bad_domain);
    CHECK_EQ(setup(DOMID_SELF, 1, (void *)UNMAPPED), GNTST_bad_virt_addr);
    set_xen_guest_handle(op.frame_list, &frame);
    CHECK_EQ(hypercall(grant_table_op, GNTTABOP_setup_table, &op, 0), -XEN_EINVAL);
    CHECK_EQ(hypercall(grant_table_op, GNTTABOP_setup_table, &op, 2), -XEN_EINVAL);
    CHECK_EQ(hypercall(grant_table_op, GNTTABOP_setup_table, &op, 0x80000001), -XEN_EINVAL);
    CHECK_EQ(hypercall(grant_table_op, GNTTABOP_setup_table, UNMAPPED, 1), -XEN_EFAULT);
    CHECK_EQ(hypercall(grant_table_op, GNTTABOP_setup_table | 1u << 12, &op, 1), -XEN_EINVAL);
    CHECK_EQ(hypercall(grant_table_op, 13, &op, 1), -XEN_ENOSYS);
}

TEST(version)
{
    struct gnttab_get_version get = {.dom = DOMID_SELF};
    struct gnttab_set_version set = {.version = 1};

    CHECK_EQ(gnttab(GNTTABOP_set_version, &set), 0);
    CHECK_EQ(set.version, 1);
    set.version = 3;
    CHECK_EQ(gnttab(GNTTABOP_set_version, &set), -XEN_EINVAL);
    CHECK_EQ(set.version, 1);
    CHECK_EQ(gnttab(GNTTABOP_get_version, &get), 0);
    CHECK_EQ(get.version, 1);
    set.version = 2;
    CHECK_EQ(gnttab(GNTTABOP_set_version, &set), 0);
    CHECK_EQ(set.version, 2);
    CHECK_EQ(gnttab(GNTTABOP_get_version, &get), 0);
    CHECK_EQ(get.version, 2);
    get.dom = 0;
    CHECK_EQ(gnttab(GNTTABOP_get_version, &get), -XEN_EPERM);
    get.dom = NOBODYS;
    CHECK_EQ(gnttab(GNTTABOP_get_version, &get), -XEN_ESRCH);
}
