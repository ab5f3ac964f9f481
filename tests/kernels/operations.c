/*
 * Which operations of the hypercalls there are: every command of each, with an argument that is all zero.
 */
#include "runtime/domains.h"

#define COMMANDS 64

static u64 nothing[PAGE_SIZE / 8] PAGE_ALIGNED;

static void tell(const char *hypercall, unsigned int command, long result)
{
    printf("%s %u %ld\n", hypercall, command, result);
    memset(nothing, 0, sizeof(nothing));
}

TEST(every_command)
{
    for ( unsigned int command = 0; command < COMMANDS; command++ )
    {
        tell("mmuext_op", command, mmuext(command, 0, 0));
        tell("memory_op", command, hypercall(memory_op, command, nothing));
        tell("event_channel_op", command, hypercall(event_channel_op, command, nothing));
        tell("callback_op", command, hypercall(callback_op, command, nothing));
        tell("physdev_op", command, hypercall(physdev_op, command, nothing));
        tell("grant_table_op", command, hypercall(grant_table_op, command, nothing, 1));
        tell("xen_version", command, hypercall(xen_version, command, nothing));
        /* These would end the guest, stop it, or interrupt it. */
        if ( command != SCHEDOP_shutdown && command != SCHEDOP_block && command != SCHEDOP_poll &&
             command != SCHEDOP_watchdog )
            tell("sched_op", command, hypercall(sched_op, command, nothing));
        if ( command != VCPUOP_down && command != VCPUOP_send_nmi )
            tell("vcpu_op", command, hypercall(vcpu_op, command, 0, nothing));
    }
}

static void tell_management_command(unsigned int command)
{
    struct xen_domctl op = new_createdomain(0);
    struct xen_sysctl machine;
    domid_t domid;

    domctl(&op);
    domid = op.domain;
    tell("domctl", command, plain_domctl(command, domid));
    memset(&machine, 0, sizeof(machine));
    machine.cmd = command;
    machine.interface_version = XEN_SYSCTL_INTERFACE_VERSION;
    tell("sysctl", command, hypercall(sysctl, &machine));
    plain_domctl(XEN_DOMCTL_destroydomain, domid);
}

/* For a privileged domain: each command with a domain of its own. */
TEST(every_management_command)
{
    for ( unsigned int command = 0; command < 2 * COMMANDS; command++ )
        tell_management_command(command);
    for ( unsigned int command = XEN_DOMCTL_gdbsx_guestmemio; command <= XEN_DOMCTL_gdbsx_domstatus; command++ )
        tell_management_command(command);
}
