/*
 * HYPERVISOR_memory_op: how much memory there is, giving some back, and getting it again.
 * Xen: xen/common/memory.c, arch_memory_op in xen/arch/x86/mm.c.
 */
#include "runtime/kernel.h"

#define NOBODYS 0x7000
#define INVALID_PFN (~0ul)
/* The headers have it for tools only. */
#define XENMEM_claim_pages 24

static long reservation(unsigned int command, u64 *extents, u64 count, unsigned int order)
{
    xen_memory_reservation_t op = {.nr_extents = count, .extent_order = order, .domid = DOMID_SELF};

    op.extent_start.p = extents;
    return hypercall(memory_op, command, &op);
}

static long decrease(u64 *frames, u64 count)
{
    return reservation(XENMEM_decrease_reservation, frames, count, 0);
}

static long populate(u64 *pfns, u64 count)
{
    return reservation(XENMEM_populate_physmap, pfns, count, 0);
}

static long current(void)
{
    domid_t self = DOMID_SELF;

    return hypercall(memory_op, XENMEM_current_reservation, &self);
}

/* Frames of the guest's that are mapped nowhere. */
static u64 spare_pfn(u64 number)
{
    return last_mapped_pfn() + 1 + number;
}

/* ---- Questions ---- */

TEST(reservation_at_start)
{
    domid_t self = DOMID_SELF;

    CHECK_EQ(current(), start_info->nr_pages);
    CHECK(hypercall(memory_op, XENMEM_maximum_reservation, &self) >= (long)start_info->nr_pages);
}

TEST(domains_that_are_asked_about)
{
    unsigned int commands[] = {XENMEM_current_reservation, XENMEM_maximum_reservation, XENMEM_maximum_gpfn};
    domid_t dom0 = 0, nobody = NOBODYS;

    for ( unsigned int i = 0; i < ARRAY_SIZE(commands); i++ )
    {
        CHECK_EQ(hypercall(memory_op, commands[i], &dom0), -XEN_EPERM);
        CHECK_EQ(hypercall(memory_op, commands[i], &nobody), -XEN_ESRCH);
        CHECK_EQ(hypercall(memory_op, commands[i], UNMAPPED), -XEN_EFAULT);
        CHECK_EQ(hypercall(memory_op, commands[i] | 1 << 6, &dom0), -XEN_EINVAL);
    }
}

/* It is what the guest itself has said in its shared_info. */
TEST(maximum_gpfn)
{
    domid_t self = DOMID_SELF;

    CHECK_EQ(hypercall(memory_op, XENMEM_maximum_gpfn, &self), 0);
    shared_info->arch.max_pfn = 1234;
    CHECK_EQ(hypercall(memory_op, XENMEM_maximum_gpfn, &self), 1233);
}

TEST(maximum_ram_page)
{
    long frames = hypercall(memory_op, XENMEM_maximum_ram_page, 0);

    CHECK(frames > (long)start_info->nr_pages);
    for ( u64 pfn = 0; pfn < start_info->nr_pages; pfn++ )
        if ( !CHECK(pfn_to_mfn(pfn) < (u64)frames) )
            break;
    CHECK_EQ(hypercall(memory_op, XENMEM_maximum_ram_page | 1 << 6, 0), -XEN_EINVAL);
}

TEST(machine_to_physical_mapping)
{
    struct xen_machphys_mapping mapping;

    CHECK_EQ(hypercall(memory_op, XENMEM_machphys_mapping, &mapping), 0);
    CHECK_EQ(mapping.v_start, MACH2PHYS_VIRT_START);
    CHECK_EQ(mapping.v_end, MACH2PHYS_VIRT_END);
    CHECK_EQ(mapping.max_mfn, MACH2PHYS_NR_ENTRIES - 1);
    CHECK_EQ(hypercall(memory_op, XENMEM_machphys_mapping, UNMAPPED), -XEN_EFAULT);
}

/* A guest may know the frames that hold the table, but not map them. */
TEST(machine_to_physical_frames)
{
    u64 frames[4] = {0};
    struct xen_machphys_mfn_list list = {.max_extents = 4};

    list.extent_start.p = frames;
    CHECK_EQ(hypercall(memory_op, XENMEM_machphys_mfn_list, &list), 0);
    CHECK_EQ(list.nr_extents, 1);
    make_tables();
    CHECK_EQ(map((void *)FREE_AREA, make_pte(frames[0], PTE_RW)), -XEN_EBUSY);
}

struct e820entry {
    u64 addr, size;
    u32 type;
} __attribute__((packed));

static long memory_map(struct e820entry *entries, unsigned int *count)
{
    struct xen_memory_map map = {.nr_entries = *count};
    long result;

    map.buffer.p = entries;
    result = hypercall(memory_op, XENMEM_memory_map, &map);
    *count = map.nr_entries;
    return result;
}

TEST(memory_map)
{
    struct e820entry entries[2] = {{0}};
    unsigned int count = 2;

    CHECK_EQ(memory_map(entries, &count), 0);
    CHECK_EQ(count, 1);
    CHECK_EQ(entries[0].addr, 0);
    CHECK_EQ(entries[0].size, start_info->nr_pages * PAGE_SIZE);
    CHECK_EQ(entries[0].type, 1);
    count = 0;
    CHECK_EQ(memory_map(entries, &count), 0);
    CHECK_EQ(count, 0);
    count = 1;
    CHECK_EQ(memory_map((void *)UNMAPPED, &count), -XEN_EFAULT);
    CHECK_EQ(hypercall(memory_op, XENMEM_memory_map, UNMAPPED), -XEN_EFAULT);
}

/* A domain may change its own. */
TEST(set_memory_map)
{
    struct e820entry entries[2] = {{0, 0x1000, 1}, {0x5000, 0x2000, 2}};
    struct xen_foreign_memory_map foreign = {.domid = DOMID_SELF, .map.nr_entries = 2};
    unsigned int count = 2;

    foreign.map.buffer.p = entries;
    CHECK_EQ(hypercall(memory_op, XENMEM_set_memory_map, &foreign), 0);
    memset(entries, 0, sizeof(entries));
    CHECK_EQ(memory_map(entries, &count), 0);
    CHECK_EQ(count, 2);
    CHECK_EQ(entries[1].addr, 0x5000);
    foreign.map.nr_entries = 0;
    CHECK_EQ(hypercall(memory_op, XENMEM_set_memory_map, &foreign), 0);
    CHECK_EQ(memory_map(entries, &count), -XEN_ENOSYS);
    foreign.domid = 0;
    CHECK_EQ(hypercall(memory_op, XENMEM_set_memory_map, &foreign), -XEN_EPERM);
    foreign.domid = NOBODYS;
    CHECK_EQ(hypercall(memory_op, XENMEM_set_memory_map, &foreign), -XEN_ESRCH);
    foreign.map.nr_entries = 100000;
    CHECK_EQ(hypercall(memory_op, XENMEM_set_memory_map, &foreign), -XEN_EINVAL);
    CHECK_EQ(hypercall(memory_op, XENMEM_set_memory_map, UNMAPPED), -XEN_EFAULT);
}

/* ---- Giving back and getting ---- */

TEST(decrease_reservation)
{
    u64 frames[3], before = current();

    for ( unsigned int i = 0; i < 3; i++ )
        frames[i] = pfn_to_mfn(spare_pfn(i));
    CHECK_EQ(decrease(frames, 3), 3);
    CHECK_EQ(current(), before - 3);
    /* They are nobody's now. */
    make_tables();
    CHECK_EQ(map((void *)FREE_AREA, make_pte(frames[1], PTE_RW)), -XEN_EBUSY);
    CHECK_EQ(mfn_to_pfn(frames[1]), INVALID_PFN);
    CHECK_EQ(decrease(frames, 3), 0);
}

/* What is mapped is kept until it is mapped no more. */
TEST(decrease_of_a_page_that_is_mapped)
{
    u64 *page = alloc_page(), frame = virt_to_mfn(page), before = current();

    page[0] = 1;
    CHECK_EQ(decrease(&frame, 1), 1);
    CHECK_EQ(current(), before);
    page[0]++;
    CHECK_EQ(page[0], 2);
    CHECK_EQ(decrease(&frame, 1), 0);
    CHECK_EQ(map(page, 0), 0);
    CHECK_EQ(current(), before - 1);
    CHECK_EQ(TRAP_OF("mov (%0), %%rax", :: "r"(page) : "rax"), X86_PF);
    CHECK_EQ(map(page, make_pte(frame, PTE_RW)), -XEN_EBUSY);
}

TEST(decreases_that_are_refused)
{
    u64 frames[4] = {pfn_to_mfn(spare_pfn(0)), 2, pfn_to_mfn(spare_pfn(1)), ~0ul};

    CHECK_EQ(decrease(frames, 4), 1);
    CHECK_EQ(decrease(&frames[1], 1), 0);
    CHECK_EQ(decrease(&frames[3], 1), 0);
    CHECK_EQ(decrease((void *)UNMAPPED, 1), 0);
    CHECK_EQ(hypercall(memory_op, XENMEM_decrease_reservation, UNMAPPED), 0);
    CHECK_EQ(decrease(&frames[2], 1), 1);
}

/* Nothing goes beyond what the domain may have. */
TEST(increase_reservation)
{
    u64 frames[2], before = current(), frame = pfn_to_mfn(spare_pfn(0));
    domid_t self = DOMID_SELF;
    u64 room = hypercall(memory_op, XENMEM_maximum_reservation, &self) - before;

    REQUIRE_EQ(decrease(&frame, 1), 1);
    CHECK_EQ(reservation(XENMEM_increase_reservation, frames, 1, 0), 1);
    CHECK_EQ(current(), before);
    make_tables();
    CHECK_EQ(map((void *)FREE_AREA, make_pte(frames[0], PTE_RW)), 0);
    /* Without a list nobody is told which frames they are. */
    CHECK_EQ(reservation(XENMEM_increase_reservation, NULL, room, 0), room);
    CHECK_EQ(reservation(XENMEM_increase_reservation, frames, 2, 0), 0);
    CHECK_EQ(current(), before + room);
}

TEST(populate_physmap)
{
    u64 pfn = spare_pfn(5), frame = pfn_to_mfn(pfn), got = pfn, before = current();
    u64 *mapped = (u64 *)FREE_AREA;

    make_tables();
    REQUIRE_EQ(map(mapped, make_pte(frame, PTE_RW)), 0);
    mapped[100] = 0x5ec2e7;
    REQUIRE_EQ(map(mapped, 0), 0);
    REQUIRE_EQ(decrease(&frame, 1), 1);
    CHECK_EQ(populate(&got, 1), 1);
    CHECK_EQ(current(), before);
    CHECK_EQ(mfn_to_pfn(got), pfn);
    /* It is clean, even if it is the same frame. */
    REQUIRE_EQ(map(mapped, make_pte(got, PTE_RW)), 0);
    for ( unsigned int i = 0; i < PAGE_SIZE / 8; i++ )
        CHECK_EQ(mapped[i], 0);
}

TEST(populates_that_are_refused)
{
    u64 pfn = spare_pfn(0), frame = pfn_to_mfn(pfn);

    REQUIRE_EQ(decrease(&frame, 1), 1);
    CHECK_EQ(populate((void *)UNMAPPED, 1), 0);
    CHECK_EQ(reservation(XENMEM_populate_physmap, &pfn, 1, 10), 0);
    CHECK_EQ(reservation(XENMEM_populate_physmap, &pfn, 1, 1), 0);
    CHECK_EQ(populate(&pfn, 0), 0);
    CHECK_EQ(populate(&pfn, 1), 1);
}

/* Frames in a row, aligned to their number, for pfns in a row. */
TEST(populate_in_extents)
{
    static u64 frames[512];
    u64 first = (spare_pfn(0) + 511) & ~511ul, extent = first;

    for ( u64 i = 0; i < 512; i++ )
        frames[i] = pfn_to_mfn(first + i);
    REQUIRE_EQ(decrease(frames, 512), 512);
    CHECK_EQ(reservation(XENMEM_populate_physmap, &extent, 1, 9), 1);
    CHECK_EQ(extent % 512, 0);
    for ( u64 i = 0; i < 512; i++ )
        if ( !CHECK_EQ(mfn_to_pfn(extent + i), first + i) )
            break;
    CHECK_EQ(current(), start_info->nr_pages);
    CHECK_EQ(reservation(XENMEM_decrease_reservation, &extent, 1, 9), 1);
    CHECK_EQ(current(), start_info->nr_pages - 512);
}

/* Down to little and up again, a few hundred frames at a time. */
TEST(balloon)
{
    static u64 frames[2048];
    u64 before = current();

    for ( unsigned int round = 0; round < 3; round++ )
    {
        for ( u64 i = 0; i < ARRAY_SIZE(frames); i++ )
            frames[i] = p2m()[spare_pfn(i)];
        CHECK_EQ(decrease(frames, ARRAY_SIZE(frames)), ARRAY_SIZE(frames));
        CHECK_EQ(current(), before - ARRAY_SIZE(frames));
        for ( u64 i = 0; i < ARRAY_SIZE(frames); i++ )
            frames[i] = spare_pfn(i);
        CHECK_EQ(populate(frames, ARRAY_SIZE(frames)), ARRAY_SIZE(frames));
        for ( u64 i = 0; i < ARRAY_SIZE(frames); i++ )
        {
            p2m()[spare_pfn(i)] = frames[i];
            if ( mfn_to_pfn(frames[i]) != spare_pfn(i) )
                CHECK_EQ(mfn_to_pfn(frames[i]), spare_pfn(i));
        }
    }
    CHECK_EQ(current(), before);
}

/* How many are done already is said in the command; what is wrong is told by doing no more. */
TEST(reservations_that_go_on)
{
    u64 frames[4] = {2, 2, pfn_to_mfn(spare_pfn(0)), pfn_to_mfn(spare_pfn(1))};
    xen_memory_reservation_t op = {.nr_extents = 4, .domid = DOMID_SELF};

    op.extent_start.p = frames;
    CHECK_EQ(hypercall(memory_op, XENMEM_decrease_reservation | 2 << 6, &op), 4);
    CHECK_EQ(current(), start_info->nr_pages - 2);
    CHECK_EQ(hypercall(memory_op, XENMEM_decrease_reservation | 7 << 6, &op), 7);
    CHECK_EQ(hypercall(memory_op, XENMEM_decrease_reservation | 7 << 6, UNMAPPED), 7);
    op.domid = 0;
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap | 1 << 6, &op), 1);
    op.domid = DOMID_SELF;
    op.nr_extents = 1ul << 40;
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap | 3 << 6, &op), 3);
}

/* ---- XENMEM_exchange ---- */

static long exchange(xen_memory_exchange_t *op, u64 *in, u64 *out)
{
    op->in.extent_start.p = in;
    op->out.extent_start.p = out;
    return hypercall(memory_op, XENMEM_exchange, op);
}

TEST(exchange)
{
    u64 in[2] = {pfn_to_mfn(spare_pfn(0)), pfn_to_mfn(spare_pfn(1))};
    u64 out[2] = {spare_pfn(0), spare_pfn(1)};
    xen_memory_exchange_t op = {
        .in = {.nr_extents = 2, .domid = DOMID_SELF},
        .out = {.nr_extents = 2, .domid = DOMID_SELF},
    };

    CHECK_EQ(exchange(&op, in, out), 0);
    CHECK_EQ(op.nr_exchanged, 2);
    CHECK_EQ(current(), start_info->nr_pages);
    CHECK_EQ(mfn_to_pfn(out[0]), spare_pfn(0));
    CHECK_EQ(mfn_to_pfn(out[1]), spare_pfn(1));
}

/* As drivers ask for memory that a device can use: single frames for a row of them. */
TEST(exchange_for_an_extent)
{
    u64 in[8], out = spare_pfn(0);
    xen_memory_exchange_t op = {
        .in = {.nr_extents = 8, .domid = DOMID_SELF},
        .out = {.nr_extents = 1, .extent_order = 3, .domid = DOMID_SELF},
    };

    for ( unsigned int i = 0; i < 8; i++ )
        in[i] = pfn_to_mfn(spare_pfn(i));
    CHECK_EQ(exchange(&op, in, &out), 0);
    CHECK_EQ(op.nr_exchanged, 8);
    CHECK_EQ(out % 8, 0);
    for ( unsigned int i = 0; i < 8; i++ )
        CHECK_EQ(mfn_to_pfn(out + i), spare_pfn(i));
    /* And back. */
    op = (xen_memory_exchange_t){
        .in = {.nr_extents = 1, .extent_order = 3, .domid = DOMID_SELF},
        .out = {.nr_extents = 8, .domid = DOMID_SELF},
    };
    for ( unsigned int i = 0; i < 8; i++ )
        in[i] = spare_pfn(i);
    CHECK_EQ(exchange(&op, &out, in), 0);
    CHECK_EQ(op.nr_exchanged, 1);
    for ( unsigned int i = 0; i < 8; i++ )
        CHECK_EQ(mfn_to_pfn(in[i]), spare_pfn(i));
    CHECK_EQ(current(), start_info->nr_pages);
}

TEST(exchanges_that_are_refused)
{
    void *page = alloc_page();
    u64 in[2] = {pfn_to_mfn(spare_pfn(0)), virt_to_mfn(page)}, out[2] = {spare_pfn(0), virt_to_pfn(page)};
    const xen_memory_exchange_t good = {
        .in = {.nr_extents = 1, .domid = DOMID_SELF},
        .out = {.nr_extents = 1, .domid = DOMID_SELF},
    };
    xen_memory_exchange_t op = good;

    op.in.extent_order = 10;
    CHECK_EQ(exchange(&op, in, out), -XEN_EPERM);
    op = good;
    op.out.nr_extents = 2;
    CHECK_EQ(exchange(&op, in, out), -XEN_EINVAL);
    op = good;
    op.in.domid = op.out.domid = NOBODYS;
    CHECK_EQ(exchange(&op, in, out), -XEN_ESRCH);
    op = good;
    op.in.domid = op.out.domid = 0;
    CHECK_EQ(exchange(&op, in, out), -XEN_EPERM);
    op = good;
    op.out.domid = 0;
    CHECK_EQ(exchange(&op, in, out), -XEN_EINVAL);
    op = good;
    CHECK_EQ(exchange(&op, (void *)UNMAPPED, out), -XEN_EFAULT);
    op = good;
    op.nr_exchanged = 1;
    CHECK_EQ(exchange(&op, in, out), 0);
    /* A page that is mapped can't be taken: the first is exchanged, the second not. */
    op = good;
    op.in.nr_extents = op.out.nr_extents = 2;
    CHECK_EQ(exchange(&op, in, out), -XEN_EINVAL);
    CHECK_EQ(op.nr_exchanged, 1);
    CHECK_EQ(mfn_to_pfn(out[0]), spare_pfn(0));
    CHECK_EQ(out[1], virt_to_pfn(page));
    CHECK_EQ(mfn_to_pfn(virt_to_mfn(page)), virt_to_pfn(page));
    CHECK_EQ(current(), start_info->nr_pages);
}

/* ---- What is not for PV guests, or not for this one ---- */

TEST(no_physmap)
{
    struct xen_add_to_physmap add = {.domid = DOMID_SELF, .space = XENMAPSPACE_grant_table, .gpfn = spare_pfn(0)};
    struct xen_remove_from_physmap remove = {.domid = DOMID_SELF, .gpfn = spare_pfn(0)};

    CHECK_EQ(hypercall(memory_op, XENMEM_add_to_physmap, &add), -XEN_EACCES);
    CHECK_EQ(hypercall(memory_op, XENMEM_remove_from_physmap, &remove), -XEN_EACCES);
    add.space = XENMAPSPACE_gmfn_foreign;
    CHECK_EQ(hypercall(memory_op, XENMEM_add_to_physmap, &add), -XEN_ENOSYS);
    add = (struct xen_add_to_physmap){.domid = NOBODYS};
    CHECK_EQ(hypercall(memory_op, XENMEM_add_to_physmap, &add), -XEN_ESRCH);
    CHECK_EQ(hypercall(memory_op, XENMEM_add_to_physmap, UNMAPPED), -XEN_EFAULT);
}

TEST(not_for_unprivileged_domains)
{
    struct xen_memory_map map = {.nr_entries = 0};
    xen_memory_reservation_t claim = {.nr_extents = 1, .domid = DOMID_SELF};

    CHECK_EQ(hypercall(memory_op, XENMEM_machine_memory_map, &map), -XEN_EPERM);
    /* Its own name is none here. */
    CHECK_EQ(hypercall(memory_op, XENMEM_claim_pages, &claim), -XEN_EINVAL);
    claim.domid = 0;
    CHECK_EQ(hypercall(memory_op, XENMEM_claim_pages, &claim), -XEN_EPERM);
    claim.extent_order = 1;
    CHECK_EQ(hypercall(memory_op, XENMEM_claim_pages, &claim), -XEN_EINVAL);
}

TEST(commands_there_are_not)
{
    CHECK_EQ(hypercall(memory_op, 8, 0), -XEN_ENOSYS);
    CHECK_EQ(hypercall(memory_op, 63, 0), -XEN_ENOSYS);
}

/* ---- What Domain 0 has mapped ---- */

/* A ring stays the guest's, and memory to write to, until Domain 0 lets it go. */
TEST(pages_that_domain_0_maps)
{
    u64 frames[] = {start_info->store_mfn, start_info->console.domU.mfn}, before = current();

    for ( unsigned int i = 0; i < ARRAY_SIZE(frames); i++ )
    {
        void *page = mfn_to_virt(frames[i]);

        CHECK_EQ(map(page, make_pte(frames[i], PTE_RO)), 0);
        CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, frames[i], 0), -XEN_EINVAL);
        CHECK_EQ(map(page, 0), 0);
        CHECK_EQ(decrease(&frames[i], 1), 1);
        CHECK_EQ(current(), before);
        CHECK_EQ(decrease(&frames[i], 1), 0);
        CHECK_EQ(map(page, make_pte(frames[i], PTE_RW)), 0);
    }
}
