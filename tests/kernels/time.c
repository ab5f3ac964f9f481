/*
 * Time and timers: the records in shared memory, set_timer_op, the timers and runstates of vcpu_op.
 * Xen: xen/arch/x86/time.c, xen/common/sched/core.c, common_vcpu_op in xen/common/domain.c.
 */
#include "runtime/kernel.h"

#define MILLISECOND 1000000ul

static unsigned int timer_port;

static long vcpu_op(unsigned int command, void *argument)
{
    return hypercall(vcpu_op, command, 0, argument);
}

/* VIRQ_TIMER, and nothing that raises it. */
static void bind_timer(void)
{
    struct evtchn_bind_virq bind = {.virq = VIRQ_TIMER, .vcpu = 0};

    REQUIRE_EQ(vcpu_op(VCPUOP_stop_periodic_timer, NULL), 0);
    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_bind_virq, &bind), 0);
    timer_port = bind.port;
    set_port_mask(timer_port, false);
}

static long set_timer(u64 deadline)
{
    return hypercall(set_timer_op, deadline);
}

/* Let time pass, without an event; whether the timer has fired by then. */
static bool fires_before(u64 deadline)
{
    evtchn_port_t port = timer_port;
    struct sched_poll poll = {.nr_ports = 1, .timeout = deadline};

    poll.ports.p = &port;
    while ( system_time() < deadline && !port_is_pending(timer_port) )
        CHECK_EQ(hypercall(sched_op, SCHEDOP_poll, &poll), 0);
    return port_is_pending(timer_port);
}

/* ---- Records ---- */

TEST(time_record)
{
    struct vcpu_time_info time = vcpu_info->time;

    CHECK_EQ(time.version % 2, 0);
    CHECK(time.version != 0);
    CHECK(time.tsc_to_system_mul != 0);
    CHECK(time.tsc_timestamp <= rdtsc());
}

TEST(system_time_goes_on)
{
    u64 before = system_time(), then = before + MILLISECOND;

    while ( before < then )
    {
        u64 now = system_time();

        if ( !CHECK(now >= before) )
            break;
        before = now;
    }
}

/* 2020 was before now; and system time 0 was before that. */
TEST(wall_clock)
{
    CHECK_EQ(shared_info->wc_version % 2, 0);
    CHECK(shared_info->wc_version != 0);
    CHECK(((u64)shared_info->wc_sec_hi << 32 | shared_info->wc_sec) > 1577836800);
    CHECK(shared_info->wc_nsec < 1000000000);
}

/* ---- set_timer_op ---- */

TEST(timer)
{
    u64 deadline;

    bind_timer();
    deadline = system_time() + 2 * MILLISECOND;
    CHECK_EQ(set_timer(deadline), 0);
    wait_for_port(timer_port);
    CHECK(system_time() >= deadline);
    /* Once. */
    CHECK(!fires_before(deadline + 20 * MILLISECOND));
}

TEST(timer_while_running)
{
    u64 deadline;

    bind_timer();
    deadline = system_time() + 2 * MILLISECOND;
    unmask_events();
    CHECK_EQ(set_timer(deadline), 0);
    while ( !READ_ONCE(events[timer_port]) )
        ;
    CHECK(system_time() >= deadline);
}

static u64 spin_until_event(u64 port)
{
    while ( !READ_ONCE(events[port]) )
        ;
    return 5;
}

TEST(timer_in_user_mode)
{
    bind_timer();
    unmask_events();
    CHECK_EQ(set_timer(system_time() + 2 * MILLISECOND), 0);
    CHECK_EQ(in_user(spin_until_event, timer_port), 5);
}

TEST(timer_in_the_past)
{
    bind_timer();
    CHECK_EQ(set_timer(1), 0);
    wait_for_port(timer_port);
    CHECK_EQ(events[timer_port], 1);
}

TEST(timer_stopped)
{
    u64 deadline;

    bind_timer();
    deadline = system_time() + 200 * MILLISECOND; /* before which we get that far */
    CHECK_EQ(set_timer(deadline), 0);
    CHECK_EQ(set_timer(0), 0);
    CHECK(!fires_before(deadline + 10 * MILLISECOND));
}

/* There is one: who sets it again moves it. */
TEST(timer_moved)
{
    u64 deadline;

    bind_timer();
    deadline = system_time() + 5 * MILLISECOND;
    CHECK_EQ(set_timer(deadline), 0);
    CHECK_EQ(set_timer(deadline + 20 * MILLISECOND), 0);
    CHECK(!fires_before(deadline + 10 * MILLISECOND));
    CHECK(fires_before(deadline + 1000 * MILLISECOND));
    CHECK(system_time() >= deadline + 20 * MILLISECOND);
}

/* Times that make no sense are taken for one that is soon: 100 ms. */
TEST(timer_that_makes_no_sense)
{
    u64 before;

    bind_timer();
    before = system_time();
    CHECK_EQ(set_timer(-1ul), 0);
    CHECK(fires_before(before + 10000 * MILLISECOND));
    CHECK(system_time() >= before + 100 * MILLISECOND);
    clear_port(timer_port);
    before = system_time();
    CHECK_EQ(set_timer(1ul << 60), 0);
    CHECK(fires_before(before + 10000 * MILLISECOND));
    CHECK(system_time() >= before + 100 * MILLISECOND);
}

/* ---- The single shot of vcpu_op ---- */

static long set_singleshot(u64 deadline, u32 flags)
{
    struct vcpu_set_singleshot_timer set = {deadline, flags};

    return vcpu_op(VCPUOP_set_singleshot_timer, &set);
}

TEST(singleshot)
{
    u64 deadline;

    bind_timer();
    deadline = system_time() + 2 * MILLISECOND;
    CHECK_EQ(set_singleshot(deadline, 0), 0);
    wait_for_port(timer_port);
    CHECK(system_time() >= deadline);
    CHECK_EQ(set_singleshot(deadline, 0), 0);
    wait_for_port(timer_port);
    CHECK_EQ(set_singleshot(deadline, VCPU_SSHOTTMR_future), -XEN_ETIME);
    CHECK_EQ(set_singleshot(system_time() + 2 * MILLISECOND, VCPU_SSHOTTMR_future), 0);
    wait_for_port(timer_port);
    CHECK_EQ(events[timer_port], 3);
}

/* It is the same timer as that of set_timer_op. */
TEST(singleshot_stopped)
{
    u64 deadline;

    bind_timer();
    deadline = system_time() + 5 * MILLISECOND;
    CHECK_EQ(set_timer(deadline), 0);
    CHECK_EQ(vcpu_op(VCPUOP_stop_singleshot_timer, NULL), 0);
    CHECK(!fires_before(deadline + 10 * MILLISECOND));
}

/* Beyond what a signed number holds: in the past. */
TEST(singleshot_that_makes_no_sense)
{
    bind_timer();
    CHECK_EQ(set_singleshot(-1ul, 0), 0);
    wait_for_port(timer_port);
}

TEST(singleshots_that_are_refused)
{
    struct vcpu_set_singleshot_timer set = {0};

    CHECK_EQ(vcpu_op(VCPUOP_set_singleshot_timer, (void *)UNMAPPED), -XEN_EFAULT);
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_set_singleshot_timer, 1, &set), -XEN_ENOENT);
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_stop_singleshot_timer, 1, 0), -XEN_ENOENT);
}

/* ---- The periodic timer ---- */

static long set_periodic(u64 period)
{
    struct vcpu_set_periodic_timer set = {period};

    return vcpu_op(VCPUOP_set_periodic_timer, &set);
}

static void spin_for_events(unsigned int count)
{
    while ( READ_ONCE(events[timer_port]) < count )
        ;
}

TEST(periodic_timer)
{
    u64 before;

    bind_timer();
    unmask_events();
    before = system_time();
    CHECK_EQ(set_periodic(2 * MILLISECOND), 0);
    spin_for_events(5);
    CHECK(system_time() >= before + 8 * MILLISECOND);
    CHECK_EQ(vcpu_op(VCPUOP_stop_periodic_timer, NULL), 0);
    mask_events();
    clear_port(timer_port);
    CHECK(!fires_before(system_time() + 10 * MILLISECOND));
}

/* A PV guest's vCPU has one of 100 Hz until it says otherwise. */
TEST(periodic_timer_at_start)
{
    struct evtchn_bind_virq bind = {.virq = VIRQ_TIMER, .vcpu = 0};
    u64 before = system_time();

    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_bind_virq, &bind), 0);
    timer_port = bind.port;
    /* It may have ticked already, so Xen has to look. */
    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_unmask, &(struct evtchn_unmask){.port = bind.port}), 0);
    unmask_events();
    spin_for_events(4);
    CHECK(system_time() >= before + 30 * MILLISECOND);
}

/* It ticks only while the vCPU runs. */
TEST(periodic_timer_wakes_nobody)
{
    u64 until;
    struct sched_poll poll = {0};

    bind_timer();
    CHECK_EQ(set_periodic(2 * MILLISECOND), 0);
    clear_port(timer_port);
    vcpu_info->evtchn_upcall_pending = 0;
    vcpu_info->evtchn_pending_sel = 0;
    until = poll.timeout = system_time() + 20 * MILLISECOND;
    CHECK_EQ(hypercall(sched_op, SCHEDOP_poll, &poll), 0);
    CHECK(system_time() >= until);
}

TEST(periods_that_are_refused)
{
    CHECK_EQ(set_periodic(0), -XEN_EINVAL);
    CHECK_EQ(set_periodic(MILLISECOND - 1), -XEN_EINVAL);
    CHECK_EQ(set_periodic(1ul << 62), -XEN_EINVAL);
    CHECK_EQ(set_periodic(-1ul), -XEN_EINVAL);
    CHECK_EQ(set_periodic((1ul << 62) - 1), 0);
    CHECK_EQ(vcpu_op(VCPUOP_set_periodic_timer, (void *)UNMAPPED), -XEN_EFAULT);
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_stop_periodic_timer, 1, 0), -XEN_ENOENT);
}

/* ---- Areas of the guest's own ---- */

static long register_area(unsigned int command, u64 address)
{
    u64 area = address;

    return vcpu_op(command, &area);
}

TEST(second_time_record)
{
    static struct vcpu_time_info mine;

    CHECK_EQ(register_area(VCPUOP_register_vcpu_time_memory_area, (u64)&mine), 0);
    CHECK_EQ(mine.version % 2, 0);
    CHECK_EQ(mine.tsc_to_system_mul, vcpu_info->time.tsc_to_system_mul);
    CHECK_EQ(mine.tsc_shift, vcpu_info->time.tsc_shift);
    CHECK_EQ(mine.system_time, vcpu_info->time.system_time);
}

static u64 sum(const struct vcpu_runstate_info *info)
{
    return info->time[0] + info->time[1] + info->time[2] + info->time[3];
}

TEST(runstate)
{
    struct vcpu_runstate_info before, after;

    CHECK_EQ(vcpu_op(VCPUOP_get_runstate_info, &before), 0);
    CHECK_EQ(before.state, RUNSTATE_running);
    CHECK(before.state_entry_time <= system_time());
    bind_timer();
    CHECK_EQ(set_timer(system_time() + 5 * MILLISECOND), 0);
    wait_for_port(timer_port);
    CHECK_EQ(vcpu_op(VCPUOP_get_runstate_info, &after), 0);
    CHECK_EQ(after.state, RUNSTATE_running);
    CHECK(after.state_entry_time > before.state_entry_time);
    CHECK(after.time[RUNSTATE_blocked] > before.time[RUNSTATE_blocked]);
    CHECK(after.time[RUNSTATE_running] >= before.time[RUNSTATE_running]);
    CHECK(sum(&after) >= sum(&before) + 5 * MILLISECOND);
    CHECK(sum(&after) <= system_time());
    CHECK_EQ(vcpu_op(VCPUOP_get_runstate_info, (void *)UNMAPPED), -XEN_EFAULT);
}

TEST(runstate_area)
{
    static struct vcpu_runstate_info mine;

    CHECK_EQ(register_area(VCPUOP_register_runstate_memory_area, (u64)&mine), 0);
    CHECK_EQ(mine.state, RUNSTATE_running);
    bind_timer();
    CHECK_EQ(set_timer(system_time() + 5 * MILLISECOND), 0);
    wait_for_port(timer_port);
    CHECK_EQ(READ_ONCE(mine.state), RUNSTATE_running);
    CHECK(READ_ONCE(mine.time[RUNSTATE_blocked]) > 0);
    CHECK_EQ(mine.state_entry_time >> 63, 0);
    /* With the flag that says when it is being written. */
    REQUIRE_EQ(hypercall(vm_assist, VMASST_CMD_enable, VMASST_TYPE_runstate_update_flag), 0);
    CHECK_EQ(set_timer(system_time() + 5 * MILLISECOND), 0);
    wait_for_port(timer_port);
    CHECK_EQ(READ_ONCE(mine.state_entry_time) >> 63, 0);
    CHECK(READ_ONCE(mine.state_entry_time) <= system_time());
}

/* The area says how long the states lasted until the current one was entered. */
TEST(runstate_area_leaves_the_current_state_out)
{
    static struct vcpu_runstate_info mine;
    struct vcpu_runstate_info now;
    u64 until = system_time() + 5 * MILLISECOND;

    CHECK_EQ(vcpu_op(VCPUOP_get_runstate_info, &now), 0);
    while ( system_time() < until )
        ;
    CHECK_EQ(register_area(VCPUOP_register_runstate_memory_area, (u64)&mine), 0);
    CHECK_EQ(mine.state_entry_time, now.state_entry_time);
    CHECK(mine.time[RUNSTATE_running] <= now.time[RUNSTATE_running]);
}

/* Where nothing is mapped Xen writes nothing; its own memory is refused. */
TEST(areas_there_are_not)
{
    unsigned int commands[] = {VCPUOP_register_runstate_memory_area, VCPUOP_register_vcpu_time_memory_area};

    for ( unsigned int i = 0; i < ARRAY_SIZE(commands); i++ )
    {
        CHECK_EQ(register_area(commands[i], XENS_OWN), -XEN_EFAULT);
        CHECK_EQ(register_area(commands[i], NON_CANONICAL), -XEN_EFAULT);
        CHECK_EQ(vcpu_op(commands[i], (void *)UNMAPPED), -XEN_EFAULT);
        CHECK_EQ(hypercall(vcpu_op, commands[i], 1, UNMAPPED), -XEN_ENOENT);
        CHECK_EQ(register_area(commands[i], UNMAPPED), 0);
    }
    bind_timer();
    CHECK_EQ(set_timer(system_time() + MILLISECOND), 0);
    wait_for_port(timer_port);
}
