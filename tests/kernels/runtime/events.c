/* Event channels by the two-level ABI, and time. */
#include "runtime.h"

unsigned int upcalls;
unsigned int events[4096];
void (*event_handlers[4096])(unsigned int port);

static u64 *word_of(xen_ulong_t *words, unsigned int port)
{
    return &words[port / 64];
}

bool port_is_pending(unsigned int port)
{
    return READ_ONCE(*word_of(shared_info->evtchn_pending, port)) >> port % 64 & 1;
}

bool port_is_masked(unsigned int port)
{
    return READ_ONCE(*word_of(shared_info->evtchn_mask, port)) >> port % 64 & 1;
}

void set_port_mask(unsigned int port, bool masked)
{
    u64 *word = word_of(shared_info->evtchn_mask, port), bit = 1ul << port % 64;

    if ( masked )
        __atomic_or_fetch(word, bit, __ATOMIC_SEQ_CST);
    else
        __atomic_and_fetch(word, ~bit, __ATOMIC_SEQ_CST);
}

void clear_port(unsigned int port)
{
    __atomic_and_fetch(word_of(shared_info->evtchn_pending, port), ~(1ul << port % 64), __ATOMIC_SEQ_CST);
}

/* Take what is pending, as every guest does. */
static void take_events(void)
{
    u64 words, ports;

    vcpu_info->evtchn_upcall_pending = 0;
    words = __atomic_exchange_n(&vcpu_info->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
    for ( ; words; words &= words - 1 )
    {
        unsigned int word = __builtin_ctzl(words);

        while ( (ports = READ_ONCE(shared_info->evtchn_pending[word]) & ~shared_info->evtchn_mask[word]) )
        {
            unsigned int port = word * 64 + __builtin_ctzl(ports);

            clear_port(port);
            events[port]++;
            if ( event_handlers[port] )
                event_handlers[port](port);
        }
    }
}

void handle_upcall(struct frame *frame)
{
    upcalls++;
    take_events();
}

/* Events stay masked until a test wants them; the ports of Xen's builder are to be heard. */
void init_events(void)
{
    memset(shared_info->evtchn_mask, 0xff, sizeof(shared_info->evtchn_mask));
    set_port_mask(start_info->console.domU.evtchn, false);
    set_port_mask(start_info->store_evtchn, false);
}

void unmask_events(void)
{
    vcpu_info->evtchn_upcall_mask = 0;
    barrier();
    /* What came while they were masked: Xen looks again when it is called. */
    if ( READ_ONCE(vcpu_info->evtchn_upcall_pending) )
        hypercall(xen_version, XENVER_version, 0);
}

void wait_for_event(void)
{
    hypercall(sched_op, SCHEDOP_block, 0);
    mask_events();
}

void wait_for_port(unsigned int port)
{
    unsigned int seen = events[port];

    while ( READ_ONCE(events[port]) == seen )
        wait_for_event();
}

unsigned int make_ipi(void)
{
    struct evtchn_bind_ipi bind = {.vcpu = 0};

    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_bind_ipi, &bind), 0);
    set_port_mask(bind.port, false);
    return bind.port;
}

long send_event(unsigned int port)
{
    struct evtchn_send send = {port};

    return hypercall(event_channel_op, EVTCHNOP_send, &send);
}

u64 system_time(void)
{
    const struct vcpu_time_info *time = (const struct vcpu_time_info *)&vcpu_info->time;
    u64 delta, result;
    u32 version;

    do
    {
        version = READ_ONCE(time->version);
        barrier();
        delta = rdtsc() - time->tsc_timestamp;
        delta = time->tsc_shift < 0 ? delta >> -time->tsc_shift : delta << time->tsc_shift;
        result = time->system_time + (u64)((unsigned __int128)delta * time->tsc_to_system_mul >> 32);
        barrier();
    } while ( version & 1 || version != READ_ONCE(time->version) );
    return result;
}
