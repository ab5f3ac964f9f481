/*
 * What Xen once got wrong about event channels, tried again by one domain. docs/advisories.md says of each what it was.
 */
#include "runtime/kernel.h"

static long evtchn(unsigned int command, void *op)
{
    return hypercall(event_channel_op, command, op);
}

static long close_port(unsigned int port)
{
    struct evtchn_close close = {port};

    return evtchn(EVTCHNOP_close, &close);
}

static long bind_virq(unsigned int virq, unsigned int *port)
{
    struct evtchn_bind_virq bind = {.virq = virq};
    long result = evtchn(EVTCHNOP_bind_virq, &bind);

    *port = bind.port;
    return result;
}

/* With no port left, none of the operations that need one gives one that is not there. */
TEST(xsa_317_no_port_left)
{
    struct evtchn_bind_ipi ipi = {.vcpu = 0};
    struct evtchn_alloc_unbound unbound = {.dom = DOMID_SELF, .remote_dom = DOMID_SELF};
    struct evtchn_bind_interdomain interdomain = {.remote_dom = DOMID_SELF};
    unsigned int port;

    REQUIRE_EQ(evtchn(EVTCHNOP_alloc_unbound, &unbound), 0);
    interdomain.remote_port = unbound.port;
    while ( !evtchn(EVTCHNOP_bind_ipi, &ipi) )
        ;
    for ( unsigned int i = 0; i < 3; i++ )
    {
        CHECK_EQ(evtchn(EVTCHNOP_bind_ipi, &ipi), -XEN_ENOSPC);
        CHECK_EQ(evtchn(EVTCHNOP_alloc_unbound, &unbound), -XEN_ENOSPC);
        CHECK_EQ(evtchn(EVTCHNOP_bind_interdomain, &interdomain), -XEN_ENOSPC);
        CHECK_EQ(bind_virq(VIRQ_TBUF, &port), -XEN_ENOSPC);
        /* One that is free is given, by each of them, and then there is none again. */
        CHECK_EQ(close_port(10 + i), 0);
        if ( i == 0 )
            CHECK_EQ(evtchn(EVTCHNOP_bind_interdomain, &interdomain), 0);
        else
            CHECK_EQ(bind_virq(i == 1 ? VIRQ_CONSOLE : VIRQ_DOM_EXC, &port), 0);
    }
    CHECK_EQ(interdomain.local_port, 10);
    CHECK_EQ(port, 12);
    CHECK_EQ(send_event(1023), 0);
    CHECK(port_is_pending(1023));
}
