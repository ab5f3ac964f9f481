/*
 * What Xen once got wrong about memory and about pointers of guests, tried again. docs/advisories.md says of each
 * what it was.
 */
#include "runtime/kernel.h"

/* The first and the last word of Xen's own range, and one after it. */
#define XENS_FIRST 0xffff800000000000ul
#define XENS_LAST 0xffff87fffffffff8ul

static u64 spare_pfn(u64 number)
{
    return last_mapped_pfn() + 1 + number;
}

static long current(void)
{
    domid_t self = DOMID_SELF;

    return hypercall(memory_op, XENMEM_current_reservation, &self);
}

static xen_memory_exchange_t exchange_of(u64 *in, u64 *out, u64 count)
{
    xen_memory_exchange_t op = {
        .in = {.nr_extents = count, .domid = DOMID_SELF},
        .out = {.nr_extents = count, .domid = DOMID_SELF},
    };

    op.in.extent_start.p = in;
    op.out.extent_start.p = out;
    return op;
}

/* Results are never written to Xen's range, and what is exchanged then is not lost. */
TEST(xsa_29_exchange_with_pointers_to_xens_memory)
{
    static const u64 bad[] = {XENS_FIRST, XENS_OWN, XENS_LAST, NON_CANONICAL, 0xffff7ffffffffff8ul};
    u64 in[] = {pfn_to_mfn(spare_pfn(0))}, out[] = {spare_pfn(0)}, mfn = in[0];

    for ( unsigned int i = 0; i < ARRAY_SIZE(bad); i++ )
    {
        xen_memory_exchange_t op = exchange_of(in, (u64 *)bad[i], 1);

        CHECK_EQ(hypercall(memory_op, XENMEM_exchange, &op), -XEN_EFAULT);
        CHECK_EQ(op.nr_exchanged, 0);
        CHECK_EQ(mfn_to_pfn(mfn), spare_pfn(0));
        op = exchange_of((u64 *)bad[i], out, 1);
        CHECK_EQ(hypercall(memory_op, XENMEM_exchange, &op), -XEN_EFAULT);
        CHECK_EQ(op.nr_exchanged, 0);
    }
    CHECK_EQ(current(), start_info->nr_pages);
}

/* Nor where a count of what is done already leads there from an array that is none. */
TEST(xsa_212_exchange_that_begins_in_xens_memory)
{
    u64 in[] = {pfn_to_mfn(spare_pfn(0))}, place = (u64)&machine_to_phys_mapping[in[0]];
    u64 base = (u64)in & ~7ul, done = (place - base) / 8;
    xen_memory_exchange_t op = exchange_of((u64 *)base, (u64 *)base, done + 1);
    u64 pfn = mfn_to_pfn(in[0]);

    op.nr_exchanged = done;
    CHECK_EQ(hypercall(memory_op, XENMEM_exchange, &op), -XEN_EFAULT);
    CHECK_EQ(op.nr_exchanged, done);
    CHECK_EQ(mfn_to_pfn(in[0]), pfn);
    /* From above, so that the address wraps round. */
    base = 0xffffffff00000000ul;
    done = (place - base) / 8 & ((1ul << 61) - 1);
    op = exchange_of((u64 *)base, (u64 *)base, done + 1);
    op.nr_exchanged = done;
    CHECK_EQ(hypercall(memory_op, XENMEM_exchange, &op), -XEN_EFAULT);
    CHECK_EQ(mfn_to_pfn(in[0]), pfn);
    CHECK_EQ(current(), start_info->nr_pages);
}

/* An exchange that fails on its way has told which extents it did, and lost none. */
TEST(xsa_159_exchange_that_fails)
{
    u64 in[4], out[4];

    for ( unsigned int i = 0; i < 4; i++ )
    {
        in[i] = pfn_to_mfn(spare_pfn(i));
        out[i] = spare_pfn(i);
    }
    in[2] = 3;
    xen_memory_exchange_t op = exchange_of(in, out, 4);
    CHECK_EQ(hypercall(memory_op, XENMEM_exchange, &op), -XEN_EINVAL);
    CHECK_EQ(op.nr_exchanged, 2);
    for ( unsigned int i = 0; i < 2; i++ )
        CHECK_EQ(mfn_to_pfn(out[i]), spare_pfn(i));
    CHECK_EQ(mfn_to_pfn(pfn_to_mfn(spare_pfn(3))), spare_pfn(3));
    /* The same frame twice. */
    u64 twice[] = {pfn_to_mfn(spare_pfn(3)), pfn_to_mfn(spare_pfn(3))}, got[] = {spare_pfn(3), spare_pfn(3)};
    op = exchange_of(twice, got, 2);
    CHECK_EQ(hypercall(memory_op, XENMEM_exchange, &op), -XEN_EINVAL);
    CHECK_EQ(op.nr_exchanged, 1);
    CHECK_EQ(current(), start_info->nr_pages);
}

/* Extents of any order: those that are too large are refused, and none of them takes long. */
TEST(xsa_31_extent_orders)
{
    static const unsigned int orders[] = {10, 18, 19, 20, 31, 32, 33, 51, 52, 63, 64, 65, 128, 0x7fffffff, ~0u};
    u64 frame = pfn_to_mfn(spare_pfn(0));

    for ( unsigned int i = 0; i < ARRAY_SIZE(orders); i++ )
    {
        xen_memory_reservation_t op = {.nr_extents = 1, .extent_order = orders[i], .domid = DOMID_SELF};
        xen_memory_exchange_t exchange = exchange_of(&frame, &frame, 1);

        op.extent_start.p = &frame;
        CHECK_EQ(hypercall(memory_op, XENMEM_decrease_reservation, &op), 0);
        CHECK_EQ(hypercall(memory_op, XENMEM_increase_reservation, &op), 0);
        CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, &op), 0);
        exchange.in.extent_order = exchange.out.extent_order = orders[i];
        CHECK(hypercall(memory_op, XENMEM_exchange, &exchange) < 0);
        exchange.in.extent_order = 0;
        CHECK(hypercall(memory_op, XENMEM_exchange, &exchange) < 0);
        exchange.in.nr_extents = 1ul << 60;
        exchange.out.nr_extents = 1ul << 60 >> (orders[i] & 63);
        CHECK(hypercall(memory_op, XENMEM_exchange, &exchange) < 0);
    }
    CHECK_EQ(current(), start_info->nr_pages);
    CHECK_EQ(mfn_to_pfn(frame), spare_pfn(0));
}

/* A guest has no say in which node its memory is of, least of all one there is not. */
TEST(xsa_231_nodes_there_are_not)
{
    u64 pfn = spare_pfn(0), frame = pfn_to_mfn(pfn);
    xen_memory_reservation_t op = {.nr_extents = 1, .domid = DOMID_SELF};

    op.extent_start.p = &frame;
    REQUIRE_EQ(hypercall(memory_op, XENMEM_decrease_reservation, &op), 1);
    op.extent_start.p = &pfn;
    op.mem_flags = XENMEMF_exact_node(200);
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, &op), 0);
    op.mem_flags = XENMEMF_exact_node(0);
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, &op), 0);
    CHECK_EQ(pfn, spare_pfn(0));
    op.mem_flags = XENMEMF_node(200);
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, &op), 1);
    frame = spare_pfn(0);
    xen_memory_exchange_t exchange = exchange_of(&pfn, &frame, 1);
    exchange.out.mem_flags = XENMEMF_exact_node(200);
    CHECK_EQ(hypercall(memory_op, XENMEM_exchange, &exchange), -XEN_EINVAL);
    CHECK_EQ(current(), start_info->nr_pages);
}

/* A guest does not get memory to come by for itself, and a PV guest has none. */
TEST(xsa_14_populate_on_demand)
{
    u64 pfn = spare_pfn(0), frame = pfn_to_mfn(pfn);
    xen_memory_reservation_t op = {.nr_extents = 1, .domid = DOMID_SELF};

    op.extent_start.p = &frame;
    REQUIRE_EQ(hypercall(memory_op, XENMEM_decrease_reservation, &op), 1);
    op.extent_start.p = &pfn;
    op.mem_flags = XENMEMF_populate_on_demand;
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, &op), 0);
    op.nr_extents = 0x100000;
    op.extent_order = 9;
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, &op), 0);
    CHECK_EQ(pfn, spare_pfn(0));
    CHECK_EQ(current(), start_info->nr_pages - 1);
    op.nr_extents = 1;
    op.extent_order = op.mem_flags = 0;
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, &op), 1);
}

/* Frames that the machine does not have, or that are Xen's, wherever one is named. */
TEST(xsa_32_frames_there_are_not)
{
    u64 end = hypercall(memory_op, XENMEM_maximum_ram_page, NULL);
    u64 bad[] = {end, end + 1, 1ul << 28, 1ul << 40, (1ul << 40) - 1, 1ul << 51, 1ul << 52, (1ul << 52) - 1, ~0ul, 1};
    static const unsigned int commands[] = {
        MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE,
        MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR, MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE,
    };
    u64 mine = virt_to_mfn(alloc_page());

    for ( unsigned int i = 0; i < ARRAY_SIZE(bad); i++ )
    {
        u64 frame = bad[i], pfn = spare_pfn(0);
        struct vcpu_register_vcpu_info info = {.mfn = frame};
        struct evtchn_init_control control = {.control_gfn = frame};
        xen_memory_reservation_t gone = {.nr_extents = 1, .domid = DOMID_SELF};
        xen_memory_exchange_t exchange = exchange_of(&frame, &pfn, 1);

        for ( unsigned int j = 0; j < ARRAY_SIZE(commands); j++ )
            if ( frame != ~0ul || commands[j] != MMUEXT_NEW_USER_BASEPTR )
                CHECK(mmuext(commands[j], frame, frame) < 0);
        CHECK(mmuext(MMUEXT_COPY_PAGE, mine, frame) < 0);
        CHECK(mmuext(MMUEXT_COPY_PAGE, frame, mine) < 0);
        CHECK(mmu_update(frame * PAGE_SIZE, 0) < 0);
        CHECK(mmu_update(frame * PAGE_SIZE | MMU_MACHPHYS_UPDATE, 5) < 0);
        CHECK(hypercall(update_descriptor, frame * PAGE_SIZE, 0) < 0);
        CHECK(hypercall(set_gdt, &frame, 512) < 0);
        CHECK(hypercall(vcpu_op, VCPUOP_register_vcpu_info, 0, &info) < 0);
        CHECK(hypercall(event_channel_op, EVTCHNOP_init_control, &control) < 0);
        gone.extent_start.p = &frame;
        CHECK_EQ(hypercall(memory_op, XENMEM_decrease_reservation, &gone), 0);
        CHECK(hypercall(memory_op, XENMEM_exchange, &exchange) < 0);
    }
    CHECK_EQ(current(), start_info->nr_pages);
}

/* No way leads beyond what the guest may have. */
TEST(xsa_385_memory_limit)
{
    domid_t self = DOMID_SELF;
    long limit = hypercall(memory_op, XENMEM_maximum_reservation, &self), room = limit - current();
    u64 frames[] = {pfn_to_mfn(spare_pfn(0)), pfn_to_mfn(spare_pfn(1))}, pfns[] = {spare_pfn(0), spare_pfn(1)};
    xen_memory_reservation_t op = {.nr_extents = room + 2, .domid = DOMID_SELF};

    CHECK_EQ(hypercall(memory_op, XENMEM_increase_reservation, &op), room);
    CHECK_EQ(current(), limit);
    op.nr_extents = 2;
    CHECK_EQ(hypercall(memory_op, XENMEM_increase_reservation, &op), 0);
    op.extent_start.p = pfns;
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, &op), 0);
    xen_memory_exchange_t exchange = exchange_of(frames, pfns, 2);
    CHECK_EQ(hypercall(memory_op, XENMEM_exchange, &exchange), 0);
    CHECK_EQ(current(), limit);
}

/* What is not part of an answer stays as it was, or is zero. */
TEST(xsa_122_version_strings)
{
    static union {
        char bytes[2048];
        struct xen_compile_info compile;
    } answer;
    static const struct { unsigned int command; unsigned int fields[5]; } asked[] = {
        {XENVER_extraversion, {16}}, {XENVER_capabilities, {1024}}, {XENVER_changeset, {64}},
        {XENVER_compile_info, {sizeof(answer.compile.compiler), sizeof(answer.compile.compile_by),
                               sizeof(answer.compile.compile_domain), sizeof(answer.compile.compile_date)}},
    };

    for ( unsigned int i = 0; i < ARRAY_SIZE(asked); i++ )
    {
        const char *field = answer.bytes;

        memset(answer.bytes, 'x', sizeof(answer));
        REQUIRE_EQ(hypercall(xen_version, asked[i].command, &answer), 0);
        for ( const unsigned int *size = asked[i].fields; *size; field += *size++ )
            for ( size_t at = strlen(field); at < *size; at++ )
                REQUIRE_EQ(field[at], 0);
        CHECK_EQ(*field, 'x');
    }
}

/* Every hypercall that takes a pointer: to Xen's range, to its ends, across them, and to no address at all. */
TEST(xsa_pointers_to_xens_memory)
{
    static const u64 bad[] = {XENS_FIRST, XENS_OWN, XENS_LAST, XENS_LAST + 4, NON_CANONICAL, NON_CANONICAL - 4,
                              ~0ul << 47, ~0ul - 3};

    for ( unsigned int i = 0; i < ARRAY_SIZE(bad); i++ )
    {
        u64 at = bad[i];

        CHECK_EQ(hypercall(mmu_update, at, 1, 0, DOMID_SELF), -XEN_EFAULT);
        CHECK_EQ(hypercall(mmuext_op, at, 1, 0, DOMID_SELF), -XEN_EFAULT);
        CHECK_EQ(hypercall(multicall, at, 1), -XEN_EFAULT);
        CHECK_EQ(hypercall(set_gdt, at, 512), -XEN_EFAULT);
        CHECK_EQ(hypercall(set_trap_table, at), -XEN_EFAULT);
        CHECK_EQ(hypercall(callback_op, CALLBACKOP_register, at), -XEN_EFAULT);
        CHECK_EQ(hypercall(memory_op, XENMEM_exchange, at), -XEN_EFAULT);
        CHECK_EQ(hypercall(memory_op, XENMEM_memory_map, at), -XEN_EFAULT);
        CHECK_EQ(hypercall(memory_op, XENMEM_current_reservation, at), -XEN_EFAULT);
        CHECK_EQ(hypercall(event_channel_op, EVTCHNOP_send, at), -XEN_EFAULT);
        CHECK_EQ(hypercall(event_channel_op, EVTCHNOP_alloc_unbound, at), -XEN_EFAULT);
        CHECK_EQ(hypercall(sched_op, SCHEDOP_poll, at), -XEN_EFAULT);
        CHECK_EQ(hypercall(vcpu_op, VCPUOP_register_vcpu_info, 0, at), -XEN_EFAULT);
        CHECK_EQ(hypercall(vcpu_op, VCPUOP_get_runstate_info, 0, at), -XEN_EFAULT);
        CHECK_EQ(hypercall(xen_version, XENVER_extraversion, at), -XEN_EFAULT);
        CHECK_EQ(hypercall(xen_version, XENVER_get_features, at), -XEN_EFAULT);
        CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_set_iopl, at), -XEN_EFAULT);
    }
}
