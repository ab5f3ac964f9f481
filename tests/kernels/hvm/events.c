/*
 * Events and time of HVM guests: by the callback vector, by the local APIC, and what wakes whom.
 * Xen: xen/arch/x86/hvm/irq.c, hvm_set_callback_via, hvm_assert_evtchn_irq, hvm_hlt, and what PV guests have as well.
 */
#include "runtime/kernel.h"

#define CALLBACK ((u64)HVM_PARAM_CALLBACK_TYPE_VECTOR << 56 | CALLBACK_VECTOR)
#define MILLISECOND 1000000ull
#define UPCALL_VECTOR 0xd1

static void use_callback(void)
{
    REQUIRE_EQ(set_param(HVM_PARAM_CALLBACK_IRQ, CALLBACK), 0);
}

static void take_by_apic(struct frame *frame)
{
    take_events();
    apic_write(APIC_EOI, 0);
}

static void use_upcall_vector(void)
{
    struct xen_hvm_evtchn_upcall_vector op = {.vcpu = 0, .vector = UPCALL_VECTOR};

    apic_write(APIC_SPIV, APIC_ENABLED | 0xff);
    trap_handlers[UPCALL_VECTOR] = take_by_apic;
    REQUIRE_EQ(hypercall(hvm_op, HVMOP_set_evtchn_upcall_vector, &op), 0);
}

static unsigned int bind_virq_timer(void)
{
    struct evtchn_bind_virq bind = {.virq = VIRQ_TIMER, .vcpu = 0};

    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_bind_virq, &bind), 0);
    set_port_mask(bind.port, false);
    return bind.port;
}

TEST(by_callback)
{
    unsigned int port = make_ipi();

    use_callback();
    sti();
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(events[port], 1);
    CHECK_EQ(interrupts[CALLBACK_VECTOR], 1);
    CHECK_EQ(vcpu_info->evtchn_upcall_pending, 0);
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(events[port], 2);
}

TEST(a_callback_waits_for_the_interrupt_flag)
{
    unsigned int port = make_ipi();

    use_callback();
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(events[port], 0);
    CHECK_EQ(vcpu_info->evtchn_upcall_pending, 1);
    CHECK(port_is_pending(port));
    sti();
    CHECK_EQ(events[port], 1);
}

/* The byte that masks a PV guest's events means nothing. */
TEST(the_mask_of_pv_guests)
{
    unsigned int port = make_ipi();

    use_callback();
    vcpu_info->evtchn_upcall_mask = 1;
    sti();
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(events[port], 1);
}

static unsigned int ignored;

static void ignore(struct frame *frame)
{
    if ( ++ignored == 3 )
        take_events();
}

/* It is there for as long as an event is pending, as if from a line. */
TEST(a_callback_comes_again_until_events_are_taken)
{
    unsigned int port = make_ipi();

    use_callback();
    trap_handlers[CALLBACK_VECTOR] = ignore;
    CHECK_EQ(send_event(port), 0);
    sti();
    while ( READ_ONCE(ignored) < 3 )
        barrier();
    cli();
    CHECK_EQ(ignored, 3);
    CHECK_EQ(events[port], 1);
}

TEST(without_a_way_nothing_comes)
{
    unsigned int port = make_ipi();

    sti();
    CHECK_EQ(send_event(port), 0);
    cli();
    CHECK_EQ(vcpu_info->evtchn_upcall_pending, 1);
    CHECK_EQ(events[port], 0);
    /* What is pending comes as soon as there is one. */
    use_callback();
    sti();
    CHECK_EQ(events[port], 1);
}

TEST(ways_that_need_a_board)
{
    unsigned int port = make_ipi();

    CHECK_EQ(set_param(HVM_PARAM_CALLBACK_IRQ, 9), 0);
    sti();
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(events[port], 0);
}

TEST(by_the_local_apic)
{
    unsigned int port = make_ipi();

    use_upcall_vector();
    sti();
    /* One comes for nothing, as what was pending may have been missed. */
    CHECK_EQ(interrupts[UPCALL_VECTOR], 1);
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(events[port], 1);
    CHECK_EQ(interrupts[UPCALL_VECTOR], 2);
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(events[port], 2);
}

TEST(the_local_apic_wants_an_end)
{
    unsigned int port = make_ipi();

    use_upcall_vector();
    trap_handlers[UPCALL_VECTOR] = ignore;
    ignored = -10;
    sti();
    CHECK_EQ(interrupts[UPCALL_VECTOR], 1);
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(interrupts[UPCALL_VECTOR], 1);
    CHECK_EQ(apic_read(APIC_IRR + UPCALL_VECTOR / 32 * 16), 1u << UPCALL_VECTOR % 32);
    CHECK_EQ(apic_read(APIC_ISR + UPCALL_VECTOR / 32 * 16), 1u << UPCALL_VECTOR % 32);
    apic_write(APIC_EOI, 0);
    wait_for_interrupt(UPCALL_VECTOR, 2);
    CHECK_EQ(interrupts[UPCALL_VECTOR], 2);
    apic_write(APIC_EOI, 0);
    CHECK_EQ(apic_read(APIC_ISR + UPCALL_VECTOR / 32 * 16), 0);
}

TEST(upcall_vectors_that_are_none)
{
    struct xen_hvm_evtchn_upcall_vector op = {.vcpu = 0, .vector = 15};

    CHECK_EQ(hypercall(hvm_op, HVMOP_set_evtchn_upcall_vector, &op), -XEN_EINVAL);
    op = (struct xen_hvm_evtchn_upcall_vector){.vcpu = 1, .vector = 0x40};
    CHECK_EQ(hypercall(hvm_op, HVMOP_set_evtchn_upcall_vector, &op), -XEN_ENOENT);
}

/* ---- Waiting ---- */

TEST(hlt_wakes_for_an_event)
{
    unsigned int port = bind_virq_timer();
    u64 deadline = system_time() + 5 * MILLISECOND;

    use_callback();
    CHECK_EQ(hypercall(set_timer_op, IS_64 ? deadline : (u32)deadline, (u32)(deadline >> 32)), 0);
    halt();
    CHECK_EQ(events[port], 1);
    CHECK(system_time() >= deadline);
}

TEST(block_wakes_for_an_event)
{
    unsigned int port = bind_virq_timer();
    struct vcpu_set_singleshot_timer timer = {.timeout_abs_ns = system_time() + 5 * MILLISECOND};

    use_callback();
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_set_singleshot_timer, 0, &timer), 0);
    sti();
    CHECK_EQ(hypercall(sched_op, SCHEDOP_block, 0), 0);
    cli();
    CHECK_EQ(events[port], 1);
    CHECK(system_time() >= timer.timeout_abs_ns);
}

TEST(poll_needs_no_interrupts)
{
    unsigned int port = bind_virq_timer();
    struct sched_poll poll = {.nr_ports = 1, .timeout = 0};
    u64 deadline = system_time() + 5 * MILLISECOND;

    set_xen_guest_handle(poll.ports, &port);
    CHECK_EQ(hypercall(set_timer_op, IS_64 ? deadline : (u32)deadline, (u32)(deadline >> 32)), 0);
    CHECK_EQ(hypercall(sched_op, SCHEDOP_poll, &poll), 0);
    CHECK(port_is_pending(port));
    CHECK(system_time() >= deadline);
    poll.timeout = system_time() + 5 * MILLISECOND;
    vcpu_info->evtchn_upcall_pending = 0;
    shared_info->evtchn_pending[port / (8 * sizeof(ulong))] = 0;
    CHECK_EQ(hypercall(sched_op, SCHEDOP_poll, &poll), 0);
    CHECK(system_time() >= poll.timeout);
}

/* ---- The other pages ---- */

TEST(a_vcpu_info_of_its_own)
{
    static struct vcpu_info info __attribute__((aligned(64)));
    struct vcpu_register_vcpu_info op = {.mfn = TO_PFN(&info), .offset = (ulong)&info % PAGE_SIZE};
    unsigned int port = make_ipi();

    CHECK_EQ(hypercall(vcpu_op, VCPUOP_register_vcpu_info, 1, &op), -XEN_ENOENT);
    REQUIRE_EQ(hypercall(vcpu_op, VCPUOP_register_vcpu_info, 0, &op), 0);
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_register_vcpu_info, 0, &op), -XEN_EINVAL);
    vcpu_info = &info;
    CHECK_EQ(info.evtchn_upcall_pending, 1);
    CHECK(info.time.tsc_to_system_mul);
    use_callback();
    sti();
    upcalls = 0;
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(events[port], 1);
    CHECK(upcalls >= 1);
}

TEST(a_runstate)
{
    static struct vcpu_runstate_info info;
    struct vcpu_register_runstate_memory_area area;
    struct vcpu_runstate_info now;

    area.addr.p = 0;
    set_xen_guest_handle(area.addr.h, &info);
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_register_runstate_memory_area, 0, &area), 0);
    CHECK_EQ(info.state, RUNSTATE_running);
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_get_runstate_info, 0, &now), 0);
    CHECK_EQ(now.state, RUNSTATE_running);
    CHECK(now.state_entry_time <= system_time());
}

TEST(time_goes_on)
{
    u64 first = system_time(), second;

    for ( unsigned int count = 0; count < 1000; count++ )
    {
        second = system_time();
        REQUIRE(second >= first);
        first = second;
    }
    CHECK(READ_ONCE(shared_info->wc_sec) > 1700000000);
}
