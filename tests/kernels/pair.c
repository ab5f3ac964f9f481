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

static void send_until_told(void)
{
    while ( events[ports[0]] < 2 )
    {
        unmask_events();
        for ( unsigned int i = 1; i < channels; i++ )
            REQUIRE_EQ(send_event(ports[i]), 0);
        mask_events();
    }
}

static bool all_zero(const void *page)
{
    const u64 *words = page;

    for ( unsigned int i = 0; i < PAGE_SIZE / sizeof(*words); i++ )
        if ( words[i] )
            return false;
    return true;
}

/*
 * One goes over to the FIFO ABI and back by a reset, again and again, while the other sends. Nothing is written any
 * more into pages that were for the one when the other is in use.
 */
GUEST(fifo_comes_and_goes)
{
    static u8 control_page[PAGE_SIZE] PAGE_ALIGNED, words[PAGE_SIZE] PAGE_ALIGNED;
    evtchn_port_t *console = (evtchn_port_t *)&start_info->console.domU.evtchn;
    struct evtchn_status status = {.dom = DOMID_SELF, .port = *console};
    struct evtchn_reset reset = {DOMID_SELF};

    meet();
    if ( mine )
    {
        send_until_told();
        return;
    }
    REQUIRE_EQ(evtchn(EVTCHNOP_status, &status), 0);
    for ( unsigned int round = 0; round < ROUNDS / 10; round++ )
    {
        struct evtchn_init_control init = {.control_gfn = virt_to_mfn(control_page)};
        struct evtchn_expand_array expand = {virt_to_mfn(words)};
        struct evtchn_bind_interdomain bind_console = {.remote_dom = 0, .remote_port = status.u.interdomain.port};

        REQUIRE_EQ(evtchn(EVTCHNOP_expand_array, &expand), -XEN_EOPNOTSUPP);
        REQUIRE_EQ(evtchn(EVTCHNOP_init_control, &init), 0);
        REQUIRE_EQ(evtchn(EVTCHNOP_expand_array, &expand), 0);
        while ( !READ_ONCE(((evtchn_fifo_control_block_t *)control_page)->ready) )
            ;
        REQUIRE_EQ(evtchn(EVTCHNOP_reset, &reset), 0);
        memset(control_page, 0, PAGE_SIZE);
        memset(words, 0, PAGE_SIZE);
        REQUIRE_EQ(evtchn(EVTCHNOP_bind_interdomain, &bind_console), 0);
        *console = bind_console.local_port;
        for ( unsigned int i = 0; i < channels; i++ )
        {
            REQUIRE_EQ(bind(theirs + i, &ports[i]), 0);
            REQUIRE(port_is_pending(ports[i]));
            clear_port(ports[i]);
            set_port_mask(ports[i], false);
        }
        while ( !port_is_pending(ports[channels - 1]) )
            ;
        REQUIRE(all_zero(control_page));
        REQUIRE(all_zero(words));
    }
    REQUIRE_EQ(send_event(ports[0]), 0);
}

/* One binds all the ports that it may have, for which Xen needs more and more memory, while the other sends. */
GUEST(growth)
{
    struct evtchn_bind_ipi ipi = {.vcpu = 0};
    unsigned int last = 0;
    long result;

    meet();
    if ( mine )
    {
        send_until_told();
        return;
    }
    while ( !(result = evtchn(EVTCHNOP_bind_ipi, &ipi)) )
    {
        last = ipi.port;
        for ( unsigned int i = 1; i < channels; i++ )
            REQUIRE_EQ(status_of(ports[i]), EVTCHNSTAT_interdomain);
        REQUIRE_EQ(status_of(last), EVTCHNSTAT_ipi);
    }
    REQUIRE_EQ(result, -XEN_ENOSPC);
    REQUIRE_EQ(last, 1023);
    REQUIRE_EQ(send_event(last), 0);
    REQUIRE(port_is_pending(last));
    REQUIRE_EQ(send_event(ports[0]), 0);
}
