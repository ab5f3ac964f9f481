/*
 * Copying by grants, of a domain's own frames and grants. Xen: gnttab_copy in xen/common/grant_table.c.
 */
#include "grants.h"

#define SOURCE (REF + 1)
#define DEST (REF + 2)

static u8 *source, *dest;

static void prepare_copy(void)
{
    prepare();
    source = alloc_page();
    dest = alloc_page();
    for ( unsigned int i = 0; i < PAGE_SIZE; i++ )
        source[i] = i % 251;
    grant(SOURCE, source, GTF_readonly);
    grant(DEST, dest, 0);
}

static struct gnttab_copy frames(u16 from, u16 to, u16 length)
{
    return (struct gnttab_copy){
        .source = {.u.gmfn = virt_to_mfn(source), .domid = DOMID_SELF, .offset = from},
        .dest = {.u.gmfn = virt_to_mfn(dest), .domid = DOMID_SELF, .offset = to},
        .len = length, .status = 99};
}

static struct gnttab_copy grants(u16 from, u16 to, u16 length)
{
    return (struct gnttab_copy){
        .source = {.u.ref = SOURCE, .domid = self, .offset = from},
        .dest = {.u.ref = DEST, .domid = self, .offset = to},
        .len = length, .flags = GNTCOPY_source_gref | GNTCOPY_dest_gref, .status = 99};
}

static int copy(struct gnttab_copy op)
{
    CHECK_EQ(gnttab(GNTTABOP_copy, &op, 1), 0);
    return op.status;
}

static bool copied(u16 from, u16 to, u16 length)
{
    bool same = !memcmp(source + from, dest + to, length) && !dest[to + length];

    memset(dest, 0, PAGE_SIZE);
    return same && (!to || !dest[to - 1]);
}

TEST(between_frames)
{
    prepare_copy();
    CHECK_EQ(copy(frames(100, 200, 300)), GNTST_okay);
    CHECK(copied(100, 200, 300));
    CHECK_EQ(copy(frames(0, 0, 4095)), GNTST_okay);
    CHECK(copied(0, 0, 4095));
    CHECK_EQ(copy(frames(0, 0, PAGE_SIZE)), GNTST_okay);
    CHECK(!memcmp(source, dest, PAGE_SIZE));
}

TEST(between_grants)
{
    prepare_copy();
    CHECK_EQ(copy(grants(100, 200, 300)), GNTST_okay);
    CHECK(copied(100, 200, 300));
    CHECK_EQ(table[SOURCE].flags, GTF_permit_access | GTF_readonly);
    CHECK_EQ(table[DEST].flags, GTF_permit_access);
    struct gnttab_copy op = grants(0, 8, 8);
    op.dest.domid = op.source.domid = DOMID_SELF;
    CHECK_EQ(copy(op), GNTST_okay);
    CHECK(copied(0, 8, 8));
}

TEST(mixed)
{
    prepare_copy();
    struct gnttab_copy op = frames(1, 2, 3);
    op.source.u.ref = SOURCE;
    op.source.domid = self;
    op.flags = GNTCOPY_source_gref;
    CHECK_EQ(copy(op), GNTST_okay);
    CHECK(copied(1, 2, 3));
    op = frames(4, 5, 6);
    op.dest.u.ref = DEST;
    op.flags = GNTCOPY_dest_gref;
    CHECK_EQ(copy(op), GNTST_okay);
    CHECK(copied(4, 5, 6));
}

TEST(within_a_frame)
{
    prepare_copy();
    struct gnttab_copy op = frames(0, 1, 4095);
    op.dest.u.gmfn = op.source.u.gmfn;
    CHECK_EQ(copy(op), GNTST_okay);
    CHECK_EQ(source[1], 0);
    CHECK_EQ(source[4095], 4094 % 251);
}

TEST(refused)
{
    prepare_copy();
    CHECK_EQ(copy(frames(4000, 0, 97)), GNTST_bad_copy_arg);
    CHECK_EQ(copy(frames(0, 4000, 97)), GNTST_bad_copy_arg);
    CHECK_EQ(copy(frames(0xffff, 0xffff, 0xffff)), GNTST_bad_copy_arg);
    CHECK_EQ(copy(grants(4096, 0, 1)), GNTST_bad_copy_arg);
    /* Nothing is to be copied, so nothing is looked at. */
    CHECK_EQ(copy(grants(0xffff, 0xffff, 0)), GNTST_okay);

    /* A frame of another domain's: only by its grant. */
    struct gnttab_copy op = frames(0, 0, 1);
    op.source.domid = self;
    CHECK_EQ(copy(op), GNTST_permission_denied);
    op = frames(0, 0, 1);
    op.dest.domid = 0;
    CHECK_EQ(copy(op), GNTST_permission_denied);
    op = frames(0, 0, 1);
    op.source.u.gmfn = 1;
    CHECK_EQ(copy(op), GNTST_bad_page);
    op.source.u.gmfn = ~0ul;
    CHECK_EQ(copy(op), GNTST_bad_page);
    op = frames(0, 0, 1);
    op.dest.u.gmfn = virt_to_mfn(entry_of(dest, 1));
    CHECK_EQ(copy(op), GNTST_general_error);

    op = grants(0, 0, 1);
    op.source.domid = NOBODYS;
    CHECK_EQ(copy(op), GNTST_bad_domain);
    op = grants(0, 0, 1);
    op.dest.domid = NOBODYS;
    CHECK_EQ(copy(op), GNTST_bad_domain);
    op = grants(0, 0, 1);
    op.source.u.ref = 512;
    CHECK_EQ(copy(op), GNTST_bad_gntref);
    op.source.u.ref = REF;
    CHECK_EQ(copy(op), GNTST_general_error);
    op = grants(0, 0, 1);
    op.dest.u.ref = SOURCE;
    CHECK_EQ(copy(op), GNTST_general_error);
    table[DEST].frame = 1;
    CHECK_EQ(copy(grants(0, 0, 1)), GNTST_bad_page);
    grant_to(DEST, dest, 0, 0);
    CHECK_EQ(copy(grants(0, 0, 1)), GNTST_general_error);
    CHECK_EQ(dest[0], 0);
    CHECK_EQ(table[SOURCE].flags, GTF_permit_access | GTF_readonly);
    CHECK_EQ(table[DEST].flags, GTF_permit_access);
}

/* A frame that was found by a grant is not found again without it. */
TEST(grants_of_the_operation_before)
{
    static struct gnttab_copy ops[3];

    prepare_copy();
    ops[0] = grants(0, 0, 4);
    ops[1] = ops[0];
    ops[1].flags = GNTCOPY_dest_gref;
    ops[1].source.u.gmfn = SOURCE;
    ops[2] = grants(8, 8, 4);
    ops[2].flags = GNTCOPY_source_gref;
    CHECK_EQ(gnttab(GNTTABOP_copy, ops, 3), 0);
    CHECK_EQ(ops[0].status, GNTST_okay);
    CHECK_EQ(ops[1].status, GNTST_permission_denied);
    CHECK_EQ(ops[2].status, GNTST_permission_denied);
    ops[0].source.domid = ops[1].source.domid = DOMID_SELF;
    CHECK_EQ(gnttab(GNTTABOP_copy, ops, 2), 0);
    CHECK_EQ(ops[1].status, GNTST_bad_page);
}

TEST(batch)
{
    static struct gnttab_copy ops[600];

    prepare_copy();
    for ( unsigned int i = 0; i < ARRAY_SIZE(ops); i++ )
    {
        ops[i] = i % 3 ? grants(i, i, 1) : frames(i, i, 1);
        if ( i == 77 )
            ops[i].dest.offset = PAGE_SIZE;
    }
    CHECK_EQ(gnttab(GNTTABOP_copy, ops, ARRAY_SIZE(ops)), 0);
    for ( unsigned int i = 0; i < ARRAY_SIZE(ops); i++ )
    {
        CHECK_EQ(ops[i].status, i == 77 ? GNTST_bad_copy_arg : GNTST_okay);
        CHECK_EQ(dest[i], i == 77 ? 0 : source[i]);
    }
    CHECK_EQ(table[DEST].flags, GTF_permit_access);
    /* As far as it could be read. */
    u8 *pages = alloc_page();
    CHECK_EQ(map(pages + PAGE_SIZE, 0), 0);
    struct gnttab_copy *last = (void *)(pages + PAGE_SIZE - sizeof(*last));
    *last = grants(1000, 1000, 8);
    CHECK_EQ(gnttab(GNTTABOP_copy, last, 2), -XEN_EFAULT);
    CHECK_EQ(last->status, GNTST_okay);
    CHECK_EQ(dest[1000], source[1000]);
    CHECK_EQ(table[DEST].flags, GTF_permit_access);
}

/* Code is what is in memory now. */
TEST(code)
{
    prepare_copy();
    u32 (*code)(void) = (void *)dest;
    static const u8 one[] = {0xb8, 1, 0, 0, 0, 0xc3}, two[] = {0xb8, 2, 0, 0, 0, 0xc3};

    memcpy(dest, one, sizeof(one));
    CHECK_EQ(code(), 1);
    memcpy(source, two, sizeof(two));
    CHECK_EQ(copy(frames(0, 0, sizeof(two))), GNTST_okay);
    CHECK_EQ(code(), 2);
    memcpy(source, one, sizeof(one));
    CHECK_EQ(copy(grants(0, 0, sizeof(two))), GNTST_okay);
    CHECK_EQ(code(), 1);
    /* And through another mapping. */
    u8 *other = hole();
    struct gnttab_map_grant_ref op = map_at(other, DEST, 0);
    REQUIRE_EQ(op.status, GNTST_okay);
    CHECK_EQ(code(), 1);
    memcpy(other, two, sizeof(two));
    CHECK_EQ(code(), 2);
    CHECK_EQ(unmap(other, op.handle), GNTST_okay);
}

static int transfer(u64 mfn, unsigned int ref, domid_t domid)
{
    struct gnttab_transfer op = {.mfn = mfn, .domid = domid, .ref = ref, .status = 99};

    CHECK_EQ(gnttab(GNTTABOP_transfer, &op, 1), 0);
    return op.status;
}

/* A frame that is mapped nowhere. */
static u64 loose_frame(void)
{
    void *page = alloc_page();
    u64 mfn = virt_to_mfn(page);

    REQUIRE_EQ(map(page, 0), 0);
    return mfn;
}

TEST(transfer)
{
    prepare();
    u64 pages = hypercall(memory_op, XENMEM_current_reservation, &(domid_t){DOMID_SELF});
    u64 mfn = loose_frame();
    u64 pfn = last_mapped_pfn() + 3;
    table[REF] = (grant_entry_v1_t){.flags = GTF_accept_transfer, .domid = self, .frame = pfn};
    CHECK_EQ(transfer(mfn, REF, self), GNTST_okay);
    CHECK_EQ(table[REF].flags, GTF_accept_transfer | GTF_transfer_committed | GTF_transfer_completed);
    CHECK_EQ(table[REF].frame, mfn);
    CHECK_EQ(mfn_to_pfn(mfn), pfn);
    CHECK_EQ(hypercall(memory_op, XENMEM_current_reservation, &(domid_t){DOMID_SELF}), pages);
    /* An entry serves once. */
    u64 second = loose_frame();
    CHECK_EQ(transfer(second, REF, self), GNTST_general_error);
    CHECK_EQ(hypercall(memory_op, XENMEM_current_reservation, &(domid_t){DOMID_SELF}), pages - 1);
    CHECK_EQ(transfer(second, REF, self), GNTST_bad_page);
}

TEST(transfers_that_are_refused)
{
    prepare();
    u64 pages = hypercall(memory_op, XENMEM_current_reservation, &(domid_t){DOMID_SELF});
    void *page = alloc_page();

    table[REF] = (grant_entry_v1_t){.flags = GTF_accept_transfer, .domid = self};
    /* In use, no page of ours, one of Xen's, none. */
    CHECK_EQ(transfer(virt_to_mfn(page), REF, self), GNTST_bad_page);
    CHECK_EQ(transfer(virt_to_mfn(entry_of(page, 1)), REF, self), GNTST_bad_page);
    CHECK_EQ(transfer(pte_mfn(*entry_of(table, 1)), REF, self), GNTST_bad_page);
    CHECK_EQ(transfer(start_info->shared_info / PAGE_SIZE, REF, self), GNTST_bad_page);
    CHECK_EQ(transfer(1, REF, self), GNTST_bad_page);
    CHECK_EQ(transfer(~0ul, REF, self), GNTST_bad_page);
    CHECK_EQ(hypercall(memory_op, XENMEM_current_reservation, &(domid_t){DOMID_SELF}), pages);
    CHECK_EQ(table[REF].flags, GTF_accept_transfer);
    /* From here on the page is lost. */
    CHECK_EQ(transfer(loose_frame(), REF, NOBODYS), GNTST_bad_domain);
    CHECK_EQ(transfer(loose_frame(), REF, DOMID_SELF), GNTST_bad_domain);
    CHECK_EQ(transfer(loose_frame(), REF, 0), GNTST_general_error);
    CHECK_EQ(transfer(loose_frame(), 512, self), GNTST_general_error);
    CHECK_EQ(transfer(loose_frame(), REF + 1, self), GNTST_general_error);
    table[REF].domid = 0;
    CHECK_EQ(transfer(loose_frame(), REF, self), GNTST_general_error);
    table[REF].domid = self;
    table[REF].flags = GTF_accept_transfer | GTF_transfer_committed;
    CHECK_EQ(transfer(loose_frame(), REF, self), GNTST_general_error);
    CHECK_EQ(hypercall(memory_op, XENMEM_current_reservation, &(domid_t){DOMID_SELF}), pages - 7);
}
