/*
 * Giving the CPU up and ending: sched_op, and the vCPUs of vcpu_op. Each GUEST says how it is to end.
 * Xen: xen/common/sched/core.c, common_vcpu_op in xen/common/domain.c, domain_shutdown.
 */
#include "runtime/kernel.h"

#define MILLISECOND 1000000ul

static long sched(unsigned int command, void *argument)
{
    return hypercall(sched_op, command, argument);
}

static long poll(evtchn_port_t *ports, unsigned int count, u64 timeout)
{
    struct sched_poll op = {.nr_ports = count, .timeout = timeout};

    op.ports.p = ports;
    return sched(SCHEDOP_poll, &op);
}

static void forget_upcall(void)
{
    vcpu_info->evtchn_upcall_pending = 0;
    vcpu_info->evtchn_pending_sel = 0;
}

/* ---- Waiting ---- */

TEST(yield)
{
    CHECK_EQ(sched(SCHEDOP_yield, NULL), 0);
    CHECK_EQ(sched(SCHEDOP_yield, (void *)UNMAPPED), 0);
}

/* It unmasks events, and does not wait for one that is there. */
TEST(block_with_an_event)
{
    unsigned int port = make_ipi();

    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(events[port], 0);
    CHECK_EQ(sched(SCHEDOP_block, NULL), 0);
    CHECK_EQ(vcpu_info->evtchn_upcall_mask, 0);
    CHECK_EQ(events[port], 1);
}

TEST(poll_of_a_pending_port)
{
    evtchn_port_t ports[2] = {make_ipi(), make_ipi()};

    CHECK_EQ(send_event(ports[1]), 0);
    CHECK_EQ(poll(ports, 2, 0), 0);
    CHECK(port_is_pending(ports[1]));
    /* Masked ports count as well. */
    clear_port(ports[1]);
    forget_upcall();
    set_port_mask(ports[0], true);
    CHECK_EQ(send_event(ports[0]), 0);
    CHECK_EQ(poll(ports, 2, 0), 0);
    CHECK_EQ(upcalls, 0);
}

TEST(poll_until_a_time)
{
    evtchn_port_t port = make_ipi();
    u64 until = system_time() + 5 * MILLISECOND;

    CHECK_EQ(poll(&port, 1, until), 0);
    CHECK(system_time() >= until);
    CHECK(!port_is_pending(port));
    until = system_time() + 5 * MILLISECOND;
    CHECK_EQ(poll(NULL, 0, until), 0);
    CHECK(system_time() >= until);
    /* Times that are over, one of them by being negative. */
    CHECK_EQ(poll(&port, 1, 1), 0);
    CHECK_EQ(poll(&port, 1, -1ul), 0);
}

/* With events masked it waits though an upcall is due; without, it does not. */
TEST(poll_and_the_event_mask)
{
    evtchn_port_t port = make_ipi(), other = make_ipi();
    u64 until = system_time() + 5 * MILLISECOND;

    CHECK_EQ(send_event(other), 0);
    CHECK_EQ(poll(&port, 1, until), 0);
    CHECK(system_time() >= until);
    CHECK_EQ(vcpu_info->evtchn_upcall_mask, 1);
    CHECK_EQ(upcalls, 0);
}

TEST(poll_for_the_timer)
{
    struct evtchn_bind_virq bind = {.virq = VIRQ_TIMER, .vcpu = 0};
    u64 deadline = system_time() + 5 * MILLISECOND;

    hypercall(vcpu_op, VCPUOP_stop_periodic_timer, 0, 0);
    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_bind_virq, &bind), 0);
    CHECK_EQ(hypercall(set_timer_op, deadline), 0);
    CHECK_EQ(poll(&bind.port, 1, 0), 0);
    CHECK(port_is_pending(bind.port));
    CHECK(system_time() >= deadline);
}

/* Who polls for one port waits for that; who polls for several, or none, goes on at any event, masked or not. */
TEST(poll_and_other_ports)
{
    struct evtchn_bind_virq bind = {.virq = VIRQ_TIMER, .vcpu = 0};
    evtchn_port_t ports[2] = {make_ipi(), make_ipi()};
    u64 until;

    REQUIRE_EQ(hypercall(vcpu_op, VCPUOP_stop_periodic_timer, 0, 0), 0);
    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_bind_virq, &bind), 0);
    REQUIRE(port_is_masked(bind.port));
    for ( unsigned int count = 0; count <= 2; count++ )
    {
        clear_port(bind.port);
        until = system_time() + (count == 1 ? 40 : 10000) * MILLISECOND;
        CHECK_EQ(hypercall(set_timer_op, system_time() + 5 * MILLISECOND), 0);
        CHECK_EQ(poll(ports, count, until), 0);
        CHECK(port_is_pending(bind.port));
        CHECK_EQ(system_time() >= until, count == 1);
    }
}

/* Ports are looked at one after another, and the first that is pending ends it. */
TEST(poll_looks_no_further)
{
    evtchn_port_t ports[2] = {make_ipi(), 1000000};

    CHECK_EQ(poll(ports, 2, 1), -XEN_EINVAL);
    CHECK_EQ(send_event(ports[0]), 0);
    CHECK_EQ(poll(ports, 2, 1), 0);
    ports[0] = 1000000;
    vcpu_info->evtchn_upcall_mask = 0;
    CHECK_EQ(poll(ports, 2, 1), 0);
}

TEST(polls_that_are_refused)
{
    evtchn_port_t far = 1000000, port = 1;

    CHECK_EQ(poll(&port, 129, 1), -XEN_EINVAL);
    CHECK_EQ(poll(&far, 1, 1), -XEN_EINVAL);
    CHECK_EQ(poll((void *)UNMAPPED, 1, 1), -XEN_EFAULT);
    CHECK_EQ(poll((void *)XENS_OWN, 1, 1), -XEN_EFAULT);
    CHECK_EQ(poll((void *)XENS_OWN, 0, 1), -XEN_EFAULT);
    CHECK_EQ(sched(SCHEDOP_poll, (void *)UNMAPPED), -XEN_EFAULT);
}

/* ---- Watchdogs ---- */

static long watchdog(u32 id, u32 timeout)
{
    struct sched_watchdog op = {id, timeout};

    return sched(SCHEDOP_watchdog, &op);
}

TEST(watchdogs)
{
    CHECK_EQ(watchdog(0, 1000), 1);
    CHECK_EQ(watchdog(0, 1000), 2);
    CHECK_EQ(watchdog(0, 1000), -XEN_ENOSPC);
    CHECK_EQ(watchdog(1, 2000), 0);
    CHECK_EQ(watchdog(2, 0), 0);
    CHECK_EQ(watchdog(2, 1000), -XEN_EINVAL);
    CHECK_EQ(watchdog(0, 1000), 2);
    CHECK_EQ(watchdog(3, 1000), -XEN_EINVAL);
    CHECK_EQ(watchdog(-1u, 1000), -XEN_EINVAL);
    CHECK_EQ(sched(SCHEDOP_watchdog, (void *)UNMAPPED), -XEN_EFAULT);
}

/* Poked once, and then no more. */
GUEST(watchdog_fires)
{
    CHECK_EQ(watchdog(0, 1), 1);
    CHECK_EQ(watchdog(1, 1), 0);
    print("waiting\n");
    for ( ; ; )
        ;
}

GUEST(watchdog_fires_while_blocked)
{
    CHECK_EQ(watchdog(0, 1), 1);
    print("waiting\n");
    for ( ; ; )
        wait_for_event();
}

TEST(watchdog_that_was_stopped)
{
    CHECK_EQ(watchdog(0, 1), 1);
    CHECK_EQ(watchdog(1, 0), 0);
    CHECK_EQ(poll(NULL, 0, system_time() + 1200 * MILLISECOND), 0);
}

/* ---- What is for others ---- */

TEST(operations_on_other_domains)
{
    sched_remote_shutdown_t remote = {.domain_id = 0};
    struct sched_pin_override pin = {.pcpu = 0};

    CHECK_EQ(sched(SCHEDOP_remote_shutdown, &remote), -XEN_EPERM);
    remote.domain_id = 0x7000;
    CHECK_EQ(sched(SCHEDOP_remote_shutdown, &remote), -XEN_ESRCH);
    remote.domain_id = DOMID_SELF;
    CHECK_EQ(sched(SCHEDOP_remote_shutdown, &remote), -XEN_ESRCH);
    CHECK_EQ(sched(SCHEDOP_remote_shutdown, (void *)UNMAPPED), -XEN_EFAULT);
    CHECK_EQ(sched(SCHEDOP_pin_override, &pin), -XEN_EPERM);
    CHECK_EQ(sched(SCHEDOP_pin_override, (void *)UNMAPPED), -XEN_EPERM);
}

TEST(commands_there_are_not)
{
    CHECK_EQ(sched(8, NULL), -XEN_ENOSYS);
    CHECK_EQ(sched(-1u, NULL), -XEN_ENOSYS);
    CHECK_EQ(sched(SCHEDOP_shutdown, (void *)UNMAPPED), -XEN_EFAULT);
    CHECK_EQ(sched(SCHEDOP_shutdown_code, (void *)UNMAPPED), -XEN_EFAULT);
}

/* Xen 2's call: yield, block, and shutdown with the reason for an argument. */
TEST(old_call)
{
    unsigned int port = make_ipi();

    CHECK_EQ(hypercall_by_page(6, SCHEDOP_yield, 0, 0, 0, 0), 0);
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(hypercall_by_page(6, SCHEDOP_block, 0, 0, 0, 0), 0);
    CHECK_EQ(events[port], 1);
    CHECK_EQ(hypercall_by_page(6, SCHEDOP_poll, 0, 0, 0, 0), -XEN_ENOSYS);
}

/* ---- Ends ---- */

/* With the reason that the command line names. */
GUEST(shut_down)
{
    shutdown(argument[0] - '0');
}

GUEST(shut_down_by_the_old_call)
{
    hypercall_by_page(6, SCHEDOP_shutdown, argument[0] - '0', 0, 0, 0);
}

/* What it said first counts. */
GUEST(shut_down_with_another_code)
{
    struct sched_shutdown op = {SHUTDOWN_crash}, other = {SHUTDOWN_reboot};

    REQUIRE_EQ(sched(SCHEDOP_shutdown_code, &op), 0);
    REQUIRE_EQ(sched(SCHEDOP_shutdown_code, &other), 0);
    shutdown(SHUTDOWN_poweroff);
}

/* ---- vCPUs ---- */

static long vcpu(unsigned int command, unsigned int id, void *argument)
{
    return hypercall(vcpu_op, command, id, argument);
}

TEST(vcpu_is_up)
{
    CHECK_EQ(vcpu(VCPUOP_is_up, 0, NULL), 1);
    CHECK_EQ(vcpu(VCPUOP_up, 0, NULL), 0);
}

/* For a vCPU that is up it changes nothing. */
TEST(vcpu_up_again)
{
    struct vcpu_runstate_info before, after;

    CHECK_EQ(vcpu(VCPUOP_get_runstate_info, 0, &before), 0);
    CHECK_EQ(vcpu(VCPUOP_up, 0, NULL), 0);
    CHECK_EQ(vcpu(VCPUOP_get_runstate_info, 0, &after), 0);
    CHECK_EQ(after.state_entry_time, before.state_entry_time);
    CHECK(after.time[RUNSTATE_running] > before.time[RUNSTATE_running]);
}

TEST(vcpus_there_are_not)
{
    unsigned int commands[] = {VCPUOP_is_up, VCPUOP_up, VCPUOP_down, VCPUOP_initialise, VCPUOP_get_runstate_info,
                               VCPUOP_get_physid};

    for ( unsigned int i = 0; i < ARRAY_SIZE(commands); i++ )
    {
        CHECK_EQ(vcpu(commands[i], 1, NULL), -XEN_ENOENT);
        CHECK_EQ(vcpu(commands[i], -1u, NULL), -XEN_ENOENT);
    }
    CHECK_EQ(vcpu(99, 0, NULL), -XEN_ENOSYS);
    CHECK_EQ(vcpu(99, 1, NULL), -XEN_ENOENT);
}

TEST(vcpu_that_runs_is_not_initialised_again)
{
    static vcpu_guest_context_t context;

    CHECK_EQ(vcpu(VCPUOP_initialise, 0, &context), -XEN_EEXIST);
    CHECK_EQ(vcpu(VCPUOP_initialise, 0, (void *)UNMAPPED), -XEN_EFAULT);
}

TEST(physical_cpu_is_not_told)
{
    struct vcpu_get_physid id;

    CHECK_EQ(vcpu(VCPUOP_get_physid, 0, &id), -XEN_EINVAL);
}

/* The last vCPU that goes down takes the domain with it. */
GUEST(last_vcpu_down)
{
    vcpu(VCPUOP_down, 0, NULL);
    print("still here\n");
    for ( ; ; )
        wait_for_event();
}
