/*
 * Event channels by the two-level ABI: ports, what binds them, and the upcall.
 * Xen: xen/common/event_channel.c and event_2l.c, test_all_events in xen/arch/x86/x86_64/entry.S.
 */
#include "runtime/kernel.h"

#define NOBODYS 0x7000
#define FAR_PORT 1000000

static long evtchn(unsigned int command, void *op)
{
    return hypercall(event_channel_op, command, op);
}

static unsigned int alloc_unbound(domid_t remote)
{
    struct evtchn_alloc_unbound alloc = {.dom = DOMID_SELF, .remote_dom = remote};

    REQUIRE_EQ(evtchn(EVTCHNOP_alloc_unbound, &alloc), 0);
    set_port_mask(alloc.port, false);
    return alloc.port;
}

static long bind_interdomain(domid_t remote, unsigned int port, unsigned int *local)
{
    struct evtchn_bind_interdomain bind = {.remote_dom = remote, .remote_port = port};
    long result = evtchn(EVTCHNOP_bind_interdomain, &bind);

    *local = bind.local_port;
    return result;
}

/* Two ports of this domain, each the other's end. */
static void make_loop(unsigned int ends[2])
{
    ends[0] = alloc_unbound(DOMID_SELF);
    REQUIRE_EQ(bind_interdomain(DOMID_SELF, ends[0], &ends[1]), 0);
    clear_port(ends[1]);
    set_port_mask(ends[1], false);
}

static long bind_virq(unsigned int virq, unsigned int vcpu, unsigned int *port)
{
    struct evtchn_bind_virq bind = {.virq = virq, .vcpu = vcpu};
    long result = evtchn(EVTCHNOP_bind_virq, &bind);

    *port = bind.port;
    return result;
}

static long close_port(unsigned int port)
{
    struct evtchn_close close = {port};

    return evtchn(EVTCHNOP_close, &close);
}

static struct evtchn_status status_of(unsigned int port)
{
    struct evtchn_status status = {.dom = DOMID_SELF, .port = port};

    REQUIRE_EQ(evtchn(EVTCHNOP_status, &status), 0);
    return status;
}

static long bind_vcpu(unsigned int port, unsigned int vcpu)
{
    struct evtchn_bind_vcpu bind = {port, vcpu};

    return evtchn(EVTCHNOP_bind_vcpu, &bind);
}

static long unmask_port(unsigned int port)
{
    struct evtchn_unmask unmask = {port};

    return evtchn(EVTCHNOP_unmask, &unmask);
}

static domid_t own_domid(void)
{
    return status_of(alloc_unbound(DOMID_SELF)).u.unbound.dom;
}

/* ---- The upcall ---- */

TEST(upcall)
{
    unsigned int port = make_ipi();

    unmask_events();
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(upcalls, 1);
    CHECK_EQ(events[port], 1);
    CHECK(!port_is_pending(port));
}

TEST(upcall_waits_while_events_are_masked)
{
    unsigned int port = make_ipi();

    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(upcalls, 0);
    CHECK_EQ(vcpu_info->evtchn_upcall_pending, 1);
    CHECK_EQ(vcpu_info->evtchn_pending_sel, 1ul << port / 64);
    CHECK(port_is_pending(port));
    unmask_events();
    CHECK_EQ(events[port], 1);
}

static struct frame upcall_frame;
static u8 mask_in_upcall;

static void keep_upcall(struct frame *frame)
{
    upcall_frame = *frame;
    mask_in_upcall = vcpu_info->evtchn_upcall_mask;
    vcpu_info->evtchn_upcall_pending = 0;
    vcpu_info->evtchn_pending_sel = 0;
}

TEST(upcall_masks_events)
{
    unsigned int port = make_ipi();

    trap_handlers[ENTRY_EVENT] = keep_upcall;
    unmask_events();
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(mask_in_upcall, 1);
    CHECK_EQ(upcall_frame.saved_upcall_mask, 0);
    CHECK_EQ(upcall_frame.rflags & FLAGS_IF, FLAGS_IF);
    CHECK_EQ(upcall_frame.cs, FLAT_KERNEL_CS & ~3);
    CHECK_EQ(READ_ONCE(vcpu_info->evtchn_upcall_mask), 0);
    mask_events();
}

static unsigned int depth, deepest, second_port;

static void send_again(unsigned int port)
{
    if ( ++depth > deepest )
        deepest = depth;
    if ( events[second_port] < 3 )
    {
        send_event(second_port);
        /* Events stay masked until the handler returns. */
        CHECK_EQ(vcpu_info->evtchn_upcall_pending, 1);
    }
    depth--;
}

TEST(events_in_a_handler_come_when_it_returns)
{
    unsigned int port = make_ipi();

    second_port = make_ipi();
    event_handlers[port] = event_handlers[second_port] = send_again;
    unmask_events();
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(deepest, 1);
    CHECK_EQ(events[second_port], 3);
}

static void unmask_inside(unsigned int port)
{
    if ( ++depth > deepest )
        deepest = depth;
    if ( depth < 4 )
    {
        unmask_events();
        send_event(port);
        mask_events();
    }
    depth--;
}

TEST(upcalls_nest_where_the_handler_unmasks)
{
    unsigned int port = make_ipi();

    event_handlers[port] = unmask_inside;
    unmask_events();
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(deepest, 4);
    CHECK_EQ(depth, 0);
}

static u64 spin_until(u64 place)
{
    while ( !*(volatile u64 *)place )
        ;
    return 1;
}

static u64 done;

static void stop_spinning(unsigned int port)
{
    done = 1;
}

/* An event that is pending on the way to a program comes first there. */
TEST(upcall_in_user_mode)
{
    unsigned int port = make_ipi();
    struct user_context context = user_context_for(spin_until, (u64)&done);

    give_user_page_tables();
    event_handlers[port] = stop_spinning;
    send_event(port);
    context.rflags |= FLAGS_IF;
    CHECK_EQ(enter_user(&context), 1);
    CHECK_EQ(events[port], 1);
}

/* ---- Pending and masked ---- */

TEST(masked_port)
{
    unsigned int port = make_ipi();

    set_port_mask(port, true);
    unmask_events();
    CHECK_EQ(send_event(port), 0);
    CHECK(port_is_pending(port));
    CHECK_EQ(upcalls, 0);
    CHECK_EQ(vcpu_info->evtchn_pending_sel, 0);
    CHECK_EQ(unmask_port(port), 0);
    CHECK(!port_is_masked(port));
    CHECK_EQ(events[port], 1);
}

TEST(unmask_of_a_port_that_has_nothing)
{
    unsigned int port = make_ipi();

    set_port_mask(port, true);
    unmask_events();
    CHECK_EQ(unmask_port(port), 0);
    CHECK(!port_is_masked(port));
    CHECK_EQ(upcalls, 0);
    CHECK_EQ(unmask_port(FAR_PORT), -XEN_EINVAL);
    /* Nobody gets port 0, but it is there. Of a port that is not bound nothing is touched (XSA-343). */
    set_port_mask(0, true);
    CHECK_EQ(unmask_port(0), 0);
    CHECK(port_is_masked(0));
    set_port_mask(port, true);
    CHECK_EQ(close_port(port), 0);
    CHECK_EQ(unmask_port(port), 0);
    CHECK(port_is_masked(port));
}

/* An event for a port that has one makes no difference. */
TEST(events_do_not_add_up)
{
    unsigned int port = make_ipi();

    for ( unsigned int i = 0; i < 5; i++ )
        CHECK_EQ(send_event(port), 0);
    unmask_events();
    CHECK_EQ(events[port], 1);
    CHECK_EQ(upcalls, 1);
}

/* ---- Ports ---- */

TEST(ports_are_given_from_the_lowest)
{
    unsigned int first = make_ipi(), second = make_ipi(), third = make_ipi();

    CHECK_EQ(second, first + 1);
    CHECK_EQ(third, first + 2);
    CHECK_EQ(close_port(second), 0);
    CHECK_EQ(make_ipi(), second);
}

/* As many as xl gives a domain that does not ask for more: xl.cfg(5), event_channels. */
TEST(ports_are_limited)
{
    struct evtchn_bind_ipi bind = {.vcpu = 0};
    unsigned int last = 0;
    long result;

    while ( !(result = evtchn(EVTCHNOP_bind_ipi, &bind)) )
        last = bind.port;
    CHECK_EQ(result, -XEN_ENOSPC);
    CHECK_EQ(last, 1023);
    set_port_mask(last, false);
    CHECK_EQ(send_event(last), 0);
    CHECK_EQ(vcpu_info->evtchn_pending_sel, 1ul << 15);
    CHECK_EQ(close_port(7), 0);
    CHECK_EQ(evtchn(EVTCHNOP_bind_ipi, &bind), 0);
    CHECK_EQ(bind.port, 7);
}

TEST(ports_there_are_not)
{
    unsigned int ports[] = {0, 100, 4095, 4096, FAR_PORT, -1u};

    for ( unsigned int i = 0; i < ARRAY_SIZE(ports); i++ )
    {
        CHECK_EQ(send_event(ports[i]), -XEN_EINVAL);
        CHECK_EQ(close_port(ports[i]), -XEN_EINVAL);
        CHECK_EQ(bind_vcpu(ports[i], 0), -XEN_EINVAL);
    }
}

TEST(close)
{
    unsigned int port = make_ipi();

    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(close_port(port), 0);
    CHECK_EQ(status_of(port).status, EVTCHNSTAT_closed);
    CHECK(!port_is_pending(port));
    CHECK_EQ(send_event(port), -XEN_EINVAL);
    CHECK_EQ(close_port(port), -XEN_EINVAL);
}

TEST(status)
{
    unsigned int ipi = make_ipi(), unbound = alloc_unbound(0), loop[2], virq;
    struct evtchn_status status;

    make_loop(loop);
    REQUIRE_EQ(bind_virq(VIRQ_TIMER, 0, &virq), 0);
    CHECK_EQ(status_of(ipi).status, EVTCHNSTAT_ipi);
    CHECK_EQ(status_of(ipi).vcpu, 0);
    status = status_of(unbound);
    CHECK_EQ(status.status, EVTCHNSTAT_unbound);
    CHECK_EQ(status.u.unbound.dom, 0);
    status = status_of(loop[0]);
    CHECK_EQ(status.status, EVTCHNSTAT_interdomain);
    CHECK_EQ(status.u.interdomain.dom, own_domid());
    CHECK_EQ(status.u.interdomain.port, loop[1]);
    status = status_of(virq);
    CHECK_EQ(status.status, EVTCHNSTAT_virq);
    CHECK_EQ(status.u.virq, VIRQ_TIMER);
    status = status_of(start_info->console.domU.evtchn);
    CHECK_EQ(status.status, EVTCHNSTAT_interdomain);
    CHECK_EQ(status.u.interdomain.dom, 0);
    CHECK_EQ(status_of(0).status, EVTCHNSTAT_closed);
    CHECK_EQ(status_of(63).status, EVTCHNSTAT_closed);
}

TEST(status_that_is_refused)
{
    struct evtchn_status status = {.dom = DOMID_SELF, .port = FAR_PORT};

    CHECK_EQ(evtchn(EVTCHNOP_status, &status), -XEN_EINVAL);
    /* Xen has 64 ports to begin with, and 64 more when they are all in use. */
    status.port = 64;
    CHECK_EQ(evtchn(EVTCHNOP_status, &status), -XEN_EINVAL);
    while ( make_ipi() < 64 )
        ;
    CHECK_EQ(evtchn(EVTCHNOP_status, &status), 0);
    CHECK_EQ(status.status, EVTCHNSTAT_ipi);
    status.port = 128;
    CHECK_EQ(evtchn(EVTCHNOP_status, &status), -XEN_EINVAL);
    status = (struct evtchn_status){.dom = 0, .port = 1};
    CHECK_EQ(evtchn(EVTCHNOP_status, &status), -XEN_EPERM);
    status.port = FAR_PORT;
    CHECK_EQ(evtchn(EVTCHNOP_status, &status), -XEN_EINVAL);
    status.dom = NOBODYS;
    CHECK_EQ(evtchn(EVTCHNOP_status, &status), -XEN_ESRCH);
    status = (struct evtchn_status){.dom = own_domid(), .port = 1};
    CHECK_EQ(evtchn(EVTCHNOP_status, &status), 0);
}

/* ---- Channels between domains, here between one and itself ---- */

TEST(loop)
{
    unsigned int ends[2];

    make_loop(ends);
    unmask_events();
    CHECK_EQ(send_event(ends[0]), 0);
    CHECK_EQ(events[ends[0]], 0);
    CHECK_EQ(events[ends[1]], 1);
    CHECK_EQ(send_event(ends[1]), 0);
    CHECK_EQ(events[ends[0]], 1);
}

/* Who binds is told of an event, as one may have been lost. */
TEST(bind_interdomain_raises_an_event)
{
    unsigned int unbound = alloc_unbound(DOMID_SELF), local;

    CHECK_EQ(send_event(unbound), 0);
    CHECK(!port_is_pending(unbound));
    CHECK_EQ(bind_interdomain(own_domid(), unbound, &local), 0);
    CHECK(port_is_pending(local));
    CHECK(!port_is_pending(unbound));
}

/* The other end may be bound again, and only by the domain that it was for. */
TEST(close_of_one_end)
{
    unsigned int ends[2], again;
    struct evtchn_status status;

    make_loop(ends);
    CHECK_EQ(close_port(ends[1]), 0);
    status = status_of(ends[0]);
    CHECK_EQ(status.status, EVTCHNSTAT_unbound);
    CHECK_EQ(status.u.unbound.dom, own_domid());
    CHECK_EQ(send_event(ends[0]), 0);
    CHECK_EQ(bind_interdomain(DOMID_SELF, ends[0], &again), 0);
    CHECK_EQ(send_event(again), 0);
    CHECK(port_is_pending(ends[0]));
}

TEST(binds_between_domains_that_are_refused)
{
    unsigned int local, ends[2], for_dom0 = alloc_unbound(0);
    struct evtchn_alloc_unbound alloc = {.dom = 0, .remote_dom = DOMID_SELF};

    make_loop(ends);
    CHECK_EQ(bind_interdomain(DOMID_SELF, ends[0], &local), -XEN_EINVAL);
    CHECK_EQ(bind_interdomain(DOMID_SELF, for_dom0, &local), -XEN_EINVAL);
    CHECK_EQ(bind_interdomain(DOMID_SELF, make_ipi(), &local), -XEN_EINVAL);
    CHECK_EQ(bind_interdomain(DOMID_SELF, FAR_PORT, &local), -XEN_EINVAL);
    CHECK_EQ(bind_interdomain(NOBODYS, 1, &local), -XEN_ESRCH);
    CHECK_EQ(bind_interdomain(0, FAR_PORT, &local), -XEN_EINVAL);
    CHECK_EQ(evtchn(EVTCHNOP_alloc_unbound, &alloc), -XEN_EPERM);
    alloc.dom = NOBODYS;
    CHECK_EQ(evtchn(EVTCHNOP_alloc_unbound, &alloc), -XEN_ESRCH);
}

/* ---- Virtual interrupts ---- */

TEST(virq)
{
    unsigned int port, other;

    CHECK_EQ(bind_virq(VIRQ_TIMER, 0, &port), 0);
    CHECK_EQ(bind_virq(VIRQ_TIMER, 0, &other), -XEN_EEXIST);
    CHECK_EQ(send_event(port), -XEN_EINVAL);
    CHECK_EQ(close_port(port), 0);
    CHECK_EQ(bind_virq(VIRQ_TIMER, 0, &port), 0);
}

TEST(virqs_that_are_refused)
{
    unsigned int port;

    CHECK_EQ(bind_virq(NR_VIRQS, 0, &port), -XEN_EINVAL);
    CHECK_EQ(bind_virq(-1u, 0, &port), -XEN_EINVAL);
    CHECK_EQ(bind_virq(VIRQ_TIMER, 1, &port), -XEN_ENOENT);
    CHECK_EQ(bind_virq(VIRQ_TIMER, -1u, &port), -XEN_ENOENT);
    /* A global one is the first vCPU's. */
    CHECK_EQ(bind_virq(VIRQ_CONSOLE, 1, &port), -XEN_EINVAL);
}

TEST(ipi_of_a_vcpu_there_is_not)
{
    struct evtchn_bind_ipi bind = {.vcpu = 1};

    CHECK_EQ(evtchn(EVTCHNOP_bind_ipi, &bind), -XEN_ENOENT);
    bind.vcpu = -1u;
    CHECK_EQ(evtchn(EVTCHNOP_bind_ipi, &bind), -XEN_ENOENT);
}

/* A domain without devices may bind none of their interrupts. */
TEST(no_physical_interrupts)
{
    struct evtchn_bind_pirq bind = {.pirq = 1};

    CHECK_EQ(evtchn(EVTCHNOP_bind_pirq, &bind), -XEN_EPERM);
    bind.pirq = -1u;
    CHECK_EQ(evtchn(EVTCHNOP_bind_pirq, &bind), -XEN_EINVAL);
}

TEST(bind_vcpu)
{
    unsigned int timer, console, loop[2];

    make_loop(loop);
    REQUIRE_EQ(bind_virq(VIRQ_TIMER, 0, &timer), 0);
    REQUIRE_EQ(bind_virq(VIRQ_CONSOLE, 0, &console), 0);
    CHECK_EQ(bind_vcpu(loop[0], 0), 0);
    CHECK_EQ(bind_vcpu(alloc_unbound(0), 0), 0);
    CHECK_EQ(bind_vcpu(console, 0), 0);
    CHECK_EQ(bind_vcpu(timer, 0), -XEN_EINVAL);
    CHECK_EQ(bind_vcpu(make_ipi(), 0), -XEN_EINVAL);
    CHECK_EQ(bind_vcpu(loop[0], 1), -XEN_ENOENT);
    CHECK_EQ(bind_vcpu(FAR_PORT, 1), -XEN_ENOENT);
}

/* ---- The rest ---- */

/* Every port, the builder's as well; who was at the other end may be bound again. */
TEST(reset)
{
    evtchn_port_t *console = (evtchn_port_t *)&start_info->console.domU.evtchn;
    unsigned int remote = status_of(*console).u.interdomain.port, ipi = make_ipi(), port, before;
    struct evtchn_reset reset = {DOMID_SELF};

    CHECK_EQ(bind_virq(VIRQ_TIMER, 0, &before), 0);
    CHECK_EQ(send_event(ipi), 0);
    CHECK_EQ(evtchn(EVTCHNOP_reset, &reset), 0);
    CHECK_EQ(bind_interdomain(0, remote, console), 0);
    CHECK_EQ(*console, 1);
    for ( port = 2; port < 64; port++ )
        CHECK_EQ(status_of(port).status, EVTCHNSTAT_closed);
    CHECK(!port_is_pending(ipi));
    CHECK_EQ(bind_virq(VIRQ_TIMER, 0, &port), 0);
    reset.dom = 0;
    CHECK_EQ(evtchn(EVTCHNOP_reset, &reset), -XEN_EPERM);
    reset.dom = NOBODYS;
    CHECK_EQ(evtchn(EVTCHNOP_reset, &reset), -XEN_ESRCH);
}

TEST(arguments_that_cannot_be_read)
{
    unsigned int commands[] = {
        EVTCHNOP_bind_interdomain, EVTCHNOP_bind_virq, EVTCHNOP_bind_ipi, EVTCHNOP_close, EVTCHNOP_send,
        EVTCHNOP_status, EVTCHNOP_alloc_unbound, EVTCHNOP_bind_vcpu, EVTCHNOP_unmask, EVTCHNOP_reset,
    };

    for ( unsigned int i = 0; i < ARRAY_SIZE(commands); i++ )
    {
        CHECK_EQ(evtchn(commands[i], (void *)UNMAPPED), -XEN_EFAULT);
        CHECK_EQ(evtchn(commands[i], (void *)XENS_OWN), -XEN_EFAULT);
    }
}

TEST(commands_there_are_not)
{
    CHECK_EQ(evtchn(15, NULL), -XEN_ENOSYS);
    CHECK_EQ(evtchn(-1u, NULL), -XEN_ENOSYS);
}

/* The two-level ABI has no priorities. */
TEST(no_priorities)
{
    struct evtchn_set_priority priority = {make_ipi(), 3};

    CHECK_EQ(evtchn(EVTCHNOP_set_priority, &priority), -XEN_ENOSYS);
}

/* The command before the structure, as Xen 3.0 had it. */
TEST(old_call)
{
    struct evtchn_op op = {.cmd = EVTCHNOP_bind_ipi}, send = {.cmd = EVTCHNOP_send};

    CHECK_EQ(hypercall_by_page(16, (u64)&op, 0, 0, 0, 0), 0);
    CHECK_EQ(status_of(op.u.bind_ipi.port).status, EVTCHNSTAT_ipi);
    send.u.send.port = op.u.bind_ipi.port;
    CHECK_EQ(hypercall_by_page(16, (u64)&send, 0, 0, 0, 0), 0);
    CHECK(port_is_pending(op.u.bind_ipi.port));
    CHECK_EQ(hypercall_by_page(16, UNMAPPED, 0, 0, 0, 0), -XEN_EFAULT);
    /* Xen 3.0 could not reset. */
    op.cmd = EVTCHNOP_reset;
    CHECK_EQ(hypercall_by_page(16, (u64)&op, 0, 0, 0, 0), -XEN_ENOSYS);
}

/* ---- vcpu_info elsewhere ---- */

static long register_info(const void *page, unsigned int offset)
{
    struct vcpu_register_vcpu_info info = {.mfn = virt_to_mfn(page), .offset = offset};

    return hypercall(vcpu_op, VCPUOP_register_vcpu_info, 0, &info);
}

TEST(registered_vcpu_info)
{
    vcpu_info_t *mine = alloc_page();
    unsigned int port = make_ipi(), before;
    u64 word;

    word = system_time();
    CHECK_EQ(register_info(mine, 128), 0);
    mine = (void *)((u8 *)mine + 128);
    /* All there was is there as well, and the guest had better look at every port. */
    CHECK_EQ(mine->evtchn_upcall_mask, 1);
    CHECK_EQ(mine->evtchn_upcall_pending, 1);
    CHECK_EQ(mine->evtchn_pending_sel, ~0ul);
    vcpu_info = mine;
    CHECK(system_time() >= word);
    unmask_events();
    CHECK_EQ(upcalls, 1);
    before = shared_info->vcpu_info[0].evtchn_upcall_pending;
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(events[port], 1);
    CHECK_EQ(shared_info->vcpu_info[0].evtchn_upcall_pending, before);
    /* CR2 as well. */
    CHECK_EQ(TRAP_OF("mov (%0), %%rax", :: "r"(UNMAPPED) : "rax"), X86_PF);
    CHECK_EQ(trapped_cr2, UNMAPPED);
}

TEST(vcpu_info_that_is_refused)
{
    u64 *page = alloc_page(), *table = make_tables();
    struct vcpu_register_vcpu_info info = {.mfn = 2};

    CHECK_EQ(register_info(page, PAGE_SIZE - 56), -XEN_EINVAL);
    CHECK_EQ(register_info(page, -8u), -XEN_EINVAL);
    CHECK_EQ(register_info(page, 4), -XEN_EINVAL);
    CHECK_EQ(register_info(table, 0), -XEN_EINVAL);
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_register_vcpu_info, 0, &info), -XEN_EINVAL);
    info.mfn = ~0ul;
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_register_vcpu_info, 0, &info), -XEN_EINVAL);
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_register_vcpu_info, 0, UNMAPPED), -XEN_EFAULT);
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_register_vcpu_info, 1, &info), -XEN_ENOENT);
    CHECK_EQ(register_info(page, PAGE_SIZE - 64), 0);
    vcpu_info = (void *)((u8 *)page + PAGE_SIZE - 64);
    /* Once, and the page stays what it is. */
    CHECK_EQ(register_info(page, 0), -XEN_EINVAL);
    make_read_only(page);
    CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(page), 0), -XEN_EINVAL);
}

/* ---- Non-maskable interrupts ---- */

static struct frame nmi_frame;
static unsigned int nmis;

static void keep_nmi(struct frame *frame)
{
    nmi_frame = *frame;
    nmis++;
}

static long send_nmi(const void *argument)
{
    return hypercall(vcpu_op, VCPUOP_send_nmi, 0, argument);
}

TEST(nmi)
{
    struct xennmi_callback callback = {.handler_address = (u64)entry_point(ENTRY_NMI)};

    trap_handlers[ENTRY_NMI] = keep_nmi;
    CHECK_EQ(hypercall(nmi_op, XENNMI_register_callback, &callback), 0);
    /* Events are masked, and it comes all the same. */
    CHECK_EQ(send_nmi(NULL), 0);
    CHECK_EQ(nmis, 1);
    CHECK_EQ(nmi_frame.saved_upcall_mask, 1);
    unmask_events();
    CHECK_EQ(send_nmi(NULL), 0);
    CHECK_EQ(nmis, 2);
    CHECK_EQ(nmi_frame.saved_upcall_mask, 0);
    CHECK_EQ(READ_ONCE(vcpu_info->evtchn_upcall_mask), 0);
}

TEST(nmi_by_callback_op)
{
    struct callback_unregister unregister = {.type = CALLBACKTYPE_nmi};

    trap_handlers[ENTRY_NMI] = keep_nmi;
    CHECK_EQ(register_callback(CALLBACKTYPE_nmi, 0, entry_point(ENTRY_NMI)), 0);
    CHECK_EQ(send_nmi(NULL), 0);
    CHECK_EQ(nmis, 1);
    CHECK_EQ(hypercall(callback_op, CALLBACKOP_unregister, &unregister), 0);
    /* Without a handler it is lost. */
    CHECK_EQ(send_nmi(NULL), 0);
    CHECK_EQ(register_callback(CALLBACKTYPE_nmi, 0, entry_point(ENTRY_NMI)), 0);
    CHECK_EQ(nmis, 1);
}

static void send_in_nmi(struct frame *frame)
{
    nmis++;
    if ( ++depth > deepest )
        deepest = depth;
    if ( nmis < 3 )
        CHECK_EQ(send_nmi(NULL), 0);
    depth--;
}

/* One comes after another, when the handler has returned. */
TEST(nmis_do_not_nest)
{
    trap_handlers[ENTRY_NMI] = send_in_nmi;
    CHECK_EQ(register_callback(CALLBACKTYPE_nmi, 0, entry_point(ENTRY_NMI)), 0);
    CHECK_EQ(send_nmi(NULL), 0);
    CHECK_EQ(nmis, 3);
    CHECK_EQ(deepest, 1);
}

TEST(nmis_that_are_refused)
{
    struct xennmi_callback callback = {.handler_address = NON_CANONICAL};

    CHECK_EQ(hypercall(nmi_op, XENNMI_register_callback, &callback), -XEN_EINVAL);
    CHECK_EQ(hypercall(nmi_op, XENNMI_register_callback, UNMAPPED), -XEN_EFAULT);
    CHECK_EQ(hypercall(nmi_op, 2, &callback), -XEN_ENOSYS);
    CHECK_EQ(send_nmi(&callback), -XEN_EINVAL);
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_send_nmi, 1, 0), -XEN_ENOENT);
}
