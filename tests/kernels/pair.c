/*
 * Two guests at a time, each on a CPU of its own, and event channels between them. The command line says who is
 * who: the other's domid, this guest's first port for it (0 if this guest is to bind), the other's first port, and
 * how many channels in a row there are.
 */
#include "runtime/kernel.h"

#define ROUNDS 3000
#define MAX_CHANNELS 64

static domid_t other;
static unsigned int mine, theirs, channels;
static unsigned int ports[MAX_CHANNELS];

static long evtchn(unsigned int command, void *op)
{
    return hypercall(event_channel_op, command, op);
}

static unsigned int number(void)
{
    unsigned int value = 0;

    while ( *argument == ' ' )
        argument++;
    while ( *argument >= '0' && *argument <= '9' )
        value = value * 10 + *argument++ - '0';
    return value;
}

static long bind(unsigned int remote, unsigned int *local)
{
    struct evtchn_bind_interdomain bind = {.remote_dom = other, .remote_port = remote};
    long result = evtchn(EVTCHNOP_bind_interdomain, &bind);

    *local = bind.local_port;
    return result;
}

static long close_port(unsigned int port)
{
    struct evtchn_close close = {port};

    return evtchn(EVTCHNOP_close, &close);
}

static u32 status_of(unsigned int port)
{
    struct evtchn_status status = {.dom = DOMID_SELF, .port = port};

    REQUIRE_EQ(evtchn(EVTCHNOP_status, &status), 0);
    return status.status;
}

/* The guest whose ports were made for it waits until the other has bound them all. */
static void meet(void)
{
    other = number();
    mine = number();
    theirs = number();
    channels = number();
    REQUIRE(channels <= MAX_CHANNELS);
    for ( unsigned int i = 0; i < channels; i++ )
    {
        if ( mine )
            ports[i] = mine + i;
        else
        {
            REQUIRE_EQ(bind(theirs + i, &ports[i]), 0);
            clear_port(ports[i]);
        }
        /* The other may have sent already: Xen has to look. */
        struct evtchn_unmask unmask = {ports[i]};
        REQUIRE_EQ(evtchn(EVTCHNOP_unmask, &unmask), 0);
    }
    if ( mine )
    {
        while ( !events[ports[0]] )
            wait_for_event();
    }
    else
        REQUIRE_EQ(send_event(ports[0]), 0);
}

/* Each waits for the other, again and again: one wake-up that is lost is the end of it. */
GUEST(ping_pong)
{
    meet();
    for ( unsigned int round = 0; round < ROUNDS; round++ )
    {
        unsigned int seen = events[ports[0]];

        if ( mine )
        {
            REQUIRE_EQ(send_event(ports[0]), 0);
            while ( events[ports[0]] == seen )
                wait_for_event();
        }
        else
        {
            while ( events[ports[0]] <= round )
                wait_for_event();
            REQUIRE_EQ(send_event(ports[0]), 0);
        }
    }
}

/* The same by SCHEDOP_poll, of a port that is masked. */
GUEST(ping_pong_by_polling)
{
    struct sched_poll poll = {.nr_ports = 1};

    meet();
    set_xen_guest_handle(poll.ports, &ports[0]);
    set_port_mask(ports[0], true);
    mask_events();
    for ( unsigned int round = 0; round < ROUNDS; round++ )
    {
        if ( mine )
            REQUIRE_EQ(send_event(ports[0]), 0);
        do
            REQUIRE_EQ(hypercall(sched_op, SCHEDOP_poll, &poll), 0);
        while ( !port_is_pending(ports[0]) );
        clear_port(ports[0]);
        if ( !mine )
            REQUIRE_EQ(send_event(ports[0]), 0);
    }
}

/* Both send as fast as they can, by all channels; of the last event by each the other is told. */
GUEST(storm)
{
    meet();
    unmask_events();
    for ( unsigned int round = 0; round < ROUNDS; round++ )
        for ( unsigned int i = 1; i < channels; i++ )
            REQUIRE_EQ(send_event(ports[i]), 0);
    mask_events();
    if ( mine )
        REQUIRE_EQ(send_event(ports[0]), 0);
    while ( events[ports[0]] < (mine ? 2 : 1) )
        wait_for_event();
    unmask_events();
    for ( unsigned int i = 1; i < channels; i++ )
    {
        CHECK(!port_is_pending(ports[i]));
        CHECK(events[ports[i]] > 0);
    }
    mask_events();
    if ( !mine )
        REQUIRE_EQ(send_event(ports[0]), 0);
}

/* One binds and closes its ends all the time while the other sends. */
GUEST(churn)
{
    unsigned int sent = 0;

    meet();
    if ( mine )
    {
        while ( events[ports[0]] < 2 )
        {
            unmask_events();
            for ( unsigned int i = 1; i < channels; i++ )
                REQUIRE_EQ(send_event(ports[i]), 0);
            mask_events();
            sent++;
        }
        for ( unsigned int i = 1; i < channels; i++ )
            CHECK_EQ(status_of(ports[i]), EVTCHNSTAT_unbound);
        return;
    }
    for ( unsigned int round = 0; round < ROUNDS / 10; round++ )
        for ( unsigned int i = 1; i < channels; i++ )
        {
            REQUIRE_EQ(close_port(ports[i]), 0);
            REQUIRE_EQ(bind(theirs + i, &ports[i]), 0);
            REQUIRE(port_is_pending(ports[i]));
        }
    for ( unsigned int i = 1; i < channels; i++ )
        REQUIRE_EQ(close_port(ports[i]), 0);
    REQUIRE_EQ(send_event(ports[0]), 0);
}

/* Both close the same channels at the same time. */
GUEST(close_both)
{
    meet();
    for ( unsigned int i = channels - 1; i > 0; i-- )
    {
        /* The other may have closed its end, but this one is there until it is closed here. */
        REQUIRE_EQ(send_event(ports[i]), 0);
        REQUIRE_EQ(close_port(ports[i]), 0);
        REQUIRE_EQ(close_port(ports[i]), -XEN_EINVAL);
    }
}

/* One goes, and is destroyed; the other sends until it sees that. */
GUEST(one_goes)
{
    meet();
    if ( !mine )
        return;
    for ( bool gone = false; !gone; )
    {
        for ( unsigned int i = 0; i < channels; i++ )
            REQUIRE_EQ(send_event(ports[i]), 0);
        gone = true;
        for ( unsigned int i = 0; i < channels; i++ )
            gone &= status_of(ports[i]) == EVTCHNSTAT_unbound;
    }
}
