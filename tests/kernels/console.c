/*
 * The console ring, from the guest's side: xen/include/public/io/console.h. Whoever boots a GUEST types, and reads.
 */
#include "runtime/kernel.h"

#define PASTE "0123456789abcdefghijklmnopqrstuvwxyz"

static struct xencons_interface *ring(void)
{
    return mfn_to_virt(start_info->console.domU.mfn);
}

static void notify(void)
{
    CHECK_EQ(send_event(start_info->console.domU.evtchn), 0);
}

/* More than the ring holds, in parts of every length. */
GUEST(long_output)
{
    for ( unsigned int i = 0; i < 2000; i++ )
        printf("line %u %s\n", i, &PASTE[i % 36]);
    shutdown(SHUTDOWN_poweroff);
}

/* What is typed comes back, up to a dot. */
GUEST(echo)
{
    char c;

    while ( (c = read_char()) != '.' )
        printf("%c", c);
    shutdown(SHUTDOWN_poweroff);
}

/* The back end takes what makes no sense for an empty ring, and goes on when it makes sense again. */
GUEST(absurd_indices)
{
    u32 prod = ring()->out_prod, cons = ring()->in_cons;

    print("before\n");
    prod = ring()->out_prod;
    ring()->out_prod = ring()->out_cons + sizeof(ring()->out) + 1;
    notify();
    ring()->out_prod = ring()->out_cons - 1;
    notify();
    ring()->out_prod = prod;
    ring()->in_cons = ring()->in_prod + 1;
    notify();
    ring()->in_cons = cons;
    notify();
    print("after\n");
    shutdown(SHUTDOWN_poweroff);
}

/* The ring is the guest's own memory: it may take it away from itself. */
GUEST(no_ring)
{
    u64 frame = start_info->console.domU.mfn;
    xen_memory_reservation_t op = {.nr_extents = 1, .domid = DOMID_SELF};

    print("before\n");
    op.extent_start.p = &frame;
    map(ring(), 0);
    hypercall(memory_op, XENMEM_decrease_reservation, &op);
    notify();
    shutdown(SHUTDOWN_poweroff);
}
