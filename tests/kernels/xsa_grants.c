/*
 * What Xen once got wrong about grants, tried again by a domain that grants to itself. docs/advisories.md says of each
 * what it was.
 */
#include "grants.h"

static long set_version(unsigned int version)
{
    struct gnttab_set_version op = {.version = version};

    return gnttab(GNTTABOP_set_version, &op, 1);
}

static int swap(unsigned int a, unsigned int b)
{
    struct gnttab_swap_grant_ref op = {.ref_a = a, .ref_b = b, .status = 99};

    CHECK_EQ(gnttab(GNTTABOP_swap_grant_ref, &op, 1), 0);
    return op.status;
}

/* Both references have to be in the table, whatever it has room for by now, and however far away they are. */
TEST(xsa_18_swaps_beyond_the_table)
{
    static const unsigned int bad[] = {512, 513, 1024, 64 * 512, 1u << 28, 0x7fffffff, 0x80000000, ~0u};

    prepare();
    void *page = alloc_page();
    grant(REF, page, 0);
    for ( unsigned int i = 0; i < ARRAY_SIZE(bad); i++ )
    {
        CHECK_EQ(swap(REF, bad[i]), GNTST_bad_gntref);
        CHECK_EQ(swap(bad[i], REF), GNTST_bad_gntref);
        CHECK_EQ(swap(bad[i], bad[i]), GNTST_bad_gntref);
    }
    CHECK_EQ(table[REF].frame, virt_to_mfn(page));
    /* Entries of version 2 are larger. */
    REQUIRE_EQ(set_version(2), 0);
    CHECK_EQ(swap(REF, 256), GNTST_bad_gntref);
    CHECK_EQ(swap(511, REF), GNTST_bad_gntref);
    CHECK_EQ(swap(255, REF), GNTST_okay);
}

/* Entries change places by the version that the table has, also where the guest has not asked for it yet. */
TEST(xsa_134_swap_before_all_else)
{
    CHECK_EQ(swap(REF, REF + 1), GNTST_okay);
    CHECK_EQ(swap(GNTTAB_RESERVED_CONSOLE, REF), GNTST_eagain); /* Domain 0 uses it */
    CHECK_EQ(swap(GNTTAB_RESERVED_CONSOLE, 512), GNTST_bad_gntref);
    prepare();
    CHECK_EQ(table[GNTTAB_RESERVED_CONSOLE].frame, start_info->console.domU.mfn);
    for ( unsigned int i = 0; i < 8; i++ )
        table[REF + i].frame = 100 + i;
    CHECK_EQ(swap(REF, REF + 4), GNTST_okay);
    for ( unsigned int i = 0; i < 8; i++ )
        CHECK_EQ(table[REF + i].frame, i % 4 ? 100 + i : 104 - i);
}

/* The way from one version to the other and back gives frames for status words, and takes all of them. */
TEST(xsa_26_versions_to_and_fro)
{
    uint64_t frames[8];
    struct gnttab_get_status_frames op = {.dom = DOMID_SELF, .nr_frames = 1};
    domid_t domid = DOMID_SELF;
    long pages = hypercall(memory_op, XENMEM_current_reservation, &domid);

    set_xen_guest_handle(op.frame_list, frames);
    prepare();
    for ( unsigned int i = 0; i < 100; i++ )
    {
        REQUIRE_EQ(set_version(2), 0);
        CHECK_EQ(gnttab(GNTTABOP_get_status_frames, &op, 1), 0);
        REQUIRE_EQ(op.status, GNTST_okay);
        void *status = hole();
        REQUIRE_EQ(map(status, make_pte(frames[0], PTE_RW)), 0);
        REQUIRE_EQ(set_version(1), -XEN_EBUSY);
        REQUIRE_EQ(map(status, 0), 0);
        REQUIRE_EQ(set_version(1), 0);
        /* It was the guest's for a while, and is not any more. */
        REQUIRE(map(status, make_pte(frames[0], PTE_RO)) < 0);
    }
    CHECK_EQ(hypercall(memory_op, XENMEM_current_reservation, &domid), pages);
}

/* No more frames are told than there are, by either version, and nothing behind them is. */
TEST(xsa_382_status_frames_there_are_not)
{
    static const u32 counts[] = {2, 3, 8, 9, 64, 0x10000, 0x20000000, 0x20000001, 0x80000000, ~0u};
    uint64_t frames[2] = {0, 4711};
    struct gnttab_get_status_frames op = {.dom = DOMID_SELF};

    prepare();
    set_xen_guest_handle(op.frame_list, frames);
    for ( unsigned int version = 1; version <= 2; version++ )
    {
        REQUIRE_EQ(set_version(version), 0);
        for ( unsigned int i = 0; i < ARRAY_SIZE(counts); i++ )
        {
            op.nr_frames = counts[i];
            op.status = 99;
            CHECK_EQ(gnttab(GNTTABOP_get_status_frames, &op, 1), 0);
            CHECK_EQ(op.status, GNTST_general_error);
        }
        op.nr_frames = 1;
        CHECK_EQ(gnttab(GNTTABOP_get_status_frames, &op, 1), 0);
        CHECK_EQ(op.status, version == 1 ? GNTST_general_error : GNTST_okay);
    }
    CHECK(frames[0]);
    CHECK_EQ(frames[1], 4711);
}

/* Caches of Xen's own pages are not the guest's to flush: their owners have no grant tables to look into. */
TEST(xsa_232_cache_flush_of_xens_pages)
{
    xen_pfn_t frame = 0;
    struct xen_machphys_mfn_list list = {.max_extents = 1};
    struct gnttab_cache_flush op = {.length = 64, .op = GNTTAB_CACHE_CLEAN};

    set_xen_guest_handle(list.extent_start, &frame);
    REQUIRE_EQ(hypercall(memory_op, XENMEM_machphys_mfn_list, &list), 0);
    REQUIRE_EQ(list.nr_extents, 1);
    op.a.dev_bus_addr = frame * PAGE_SIZE;
    CHECK_EQ(gnttab(GNTTABOP_cache_flush, &op, 1), -XEN_EPERM);
    for ( u64 mfn = 0; mfn < 64; mfn++ )
    {
        op.a.dev_bus_addr = mfn * PAGE_SIZE;
        long result = gnttab(GNTTABOP_cache_flush, &op, 1);
        CHECK(result == -XEN_EPERM || result == -XEN_EINVAL);
    }
    op.a.dev_bus_addr = start_info->shared_info;
    CHECK_EQ(gnttab(GNTTABOP_cache_flush, &op, 1), 0);
}

/* Whatever goes wrong with a mapping is told by a negative number, on each step of the way. */
TEST(xsa_316_refusals_are_errors)
{
    static struct gnttab_map_grant_ref ops[9];

    prepare();
    void *page = alloc_page(), *other = hole(), *as_table = alloc_page();
    grant(REF, page, 0);
    grant(REF + 1, as_table, 0);
    make_read_only(as_table);
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(as_table), 0), 0);
    grant_to(REF + 2, page, 0, 0);
    table[REF + 3] = (grant_entry_v1_t){.flags = GTF_permit_access, .domid = self, .frame = 1};
    for ( unsigned int i = 0; i < ARRAY_SIZE(ops); i++ )
        ops[i] = (struct gnttab_map_grant_ref){
            .host_addr = (u64)other, .flags = GNTMAP_host_map, .ref = REF, .dom = self, .status = 99};
    ops[0].flags = 0;
    ops[1].dom = NOBODYS;
    ops[2].ref = 512;
    ops[3].ref = REF + 1;                        /* no page to be written to */
    ops[4].ref = REF + 2;                        /* not for us */
    ops[5].ref = REF + 3;                        /* no page of ours */
    ops[6].host_addr = XENS_OWN;                 /* nowhere to be mapped */
    ops[7].host_addr = FREE_AREA;
    ops[8].flags |= GNTMAP_contains_pte;
    CHECK_EQ(gnttab(GNTTABOP_map_grant_ref, ops, ARRAY_SIZE(ops)), 0);
    for ( unsigned int i = 0; i < ARRAY_SIZE(ops); i++ )
        CHECK(ops[i].status < 0);
    CHECK_EQ(table[REF].flags, GTF_permit_access);
    CHECK_EQ(table[REF + 1].flags, GTF_permit_access);
    CHECK_EQ(*entry_of(other, 1), 0);
    CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(as_table), 0), 0);
}

/* Copies that were preempted have all been made when the hypercall says so, and each says what came of it. */
TEST(xsa_318_copies_that_are_preempted)
{
    static struct gnttab_copy ops[4000];
    struct vcpu_set_periodic_timer timer = {.period_ns = 1000000};

    prepare();
    u8 *source = alloc_page(), *dest = alloc_page();
    for ( unsigned int i = 0; i < PAGE_SIZE; i++ )
        source[i] = i % 251;
    grant(REF, source, GTF_readonly);
    grant(REF + 1, dest, 0);
    REQUIRE_EQ(hypercall(vcpu_op, VCPUOP_set_periodic_timer, 0, &timer), 0);
    for ( unsigned int round = 0; round < 20; round++ )
    {
        memset(dest, 0, PAGE_SIZE);
        for ( unsigned int i = 0; i < ARRAY_SIZE(ops); i++ )
            ops[i] = (struct gnttab_copy){
                .source = {.u.ref = REF, .domid = self, .offset = i},
                .dest = {.u.ref = i % 7 ? REF + 1 : 511, .domid = self, .offset = i},
                .len = 1, .flags = GNTCOPY_source_gref | GNTCOPY_dest_gref, .status = 99};
        REQUIRE_EQ(gnttab(GNTTABOP_copy, ops, ARRAY_SIZE(ops)), 0);
        for ( unsigned int i = 0; i < ARRAY_SIZE(ops); i++ )
        {
            REQUIRE_EQ(ops[i].status, i % 7 ? GNTST_okay : GNTST_general_error);
            REQUIRE_EQ(dest[i], i % 7 ? source[i] : 0);
        }
    }
    CHECK_EQ(table[REF].flags, GTF_permit_access | GTF_readonly);
    CHECK_EQ(table[REF + 1].flags, GTF_permit_access);
}

/* What is granted stays the frame that it is while the grant is in use, also for a copy that wants to write. */
TEST(xsa_500_copies_to_what_an_entry_has_become)
{
    prepare();
    u64 *as_table = alloc_page(), *decoy = alloc_page(), *source = alloc_page();
    grant(REF, as_table, 0);
    struct gnttab_map_grant_ref op = map_with(0, REF, GNTMAP_device_map | GNTMAP_readonly, self);
    REQUIRE_EQ(op.status, GNTST_okay);
    make_read_only(as_table);
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(as_table), 0), 0);
    table[REF].frame = virt_to_mfn(decoy);
    source[0] = make_pte(1, PTE_RW);
    struct gnttab_copy copy = {
        .source = {.u.gmfn = virt_to_mfn(source), .domid = DOMID_SELF},
        .dest = {.u.ref = REF, .domid = self},
        .len = 8, .flags = GNTCOPY_dest_gref, .status = 99};
    CHECK_EQ(gnttab(GNTTABOP_copy, &copy, 1), 0);
    CHECK_EQ(copy.status, GNTST_general_error);
    CHECK_EQ(as_table[0], 0);
    CHECK_EQ(decoy[0], 0);
    CHECK_EQ(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(as_table), 0), 0);
    /* When it may be written to, it is what is written to. */
    REQUIRE_EQ(map(as_table, make_pte(virt_to_mfn(as_table), PTE_RW)), 0);
    CHECK_EQ(gnttab(GNTTABOP_copy, &copy, 1), 0);
    CHECK_EQ(copy.status, GNTST_okay);
    CHECK_EQ(as_table[0], source[0]);
    CHECK_EQ(decoy[0], 0);
    as_table[0] = 0;
    CHECK_EQ(unmap_all(0, op.dev_bus_addr, op.handle), GNTST_okay);
    CHECK_EQ(table[REF].flags, GTF_permit_access);
}
