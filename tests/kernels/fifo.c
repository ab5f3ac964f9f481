/*
 * Event channels by the FIFO ABI: control blocks, event words, queues and their priorities.
 * Xen: xen/common/event_fifo.c. What Xen's advisories 107, 188 and 343 were about is tried here.
 */
#include "runtime/kernel.h"

#define DEFAULT EVTCHN_FIFO_PRIORITY_DEFAULT
#define PENDING (1u << EVTCHN_FIFO_PENDING)
#define MASKED (1u << EVTCHN_FIFO_MASKED)
#define LINKED (1u << EVTCHN_FIFO_LINKED)
#define BUSY (1u << EVTCHN_FIFO_BUSY)
#define WORDS_PER_PAGE (PAGE_SIZE / sizeof(event_word_t))
#define MAX_PAGES (EVTCHN_FIFO_NR_CHANNELS / WORDS_PER_PAGE)
#define LAST_OFFSET (PAGE_SIZE - sizeof(evtchn_fifo_control_block_t))

static u8 control_page[PAGE_SIZE] PAGE_ALIGNED;
static event_word_t words[16 * WORDS_PER_PAGE] PAGE_ALIGNED;
static evtchn_fifo_control_block_t *control;

static long evtchn(unsigned int command, void *op)
{
    return hypercall(event_channel_op, command, op);
}

static long init_control(u64 frame, unsigned int offset, unsigned int vcpu)
{
    struct evtchn_init_control init = {.control_gfn = frame, .offset = offset, .vcpu = vcpu};
    long result = evtchn(EVTCHNOP_init_control, &init);

    CHECK_EQ(init.link_bits, result ? 0 : EVTCHN_FIFO_LINK_BITS);
    return result;
}

static long expand_array(u64 frame)
{
    struct evtchn_expand_array expand = {frame};

    return evtchn(EVTCHNOP_expand_array, &expand);
}

static long set_priority(unsigned int port, unsigned int priority)
{
    struct evtchn_set_priority set = {port, priority};

    return evtchn(EVTCHNOP_set_priority, &set);
}

static long close_port(unsigned int port)
{
    struct evtchn_close close = {port};

    return evtchn(EVTCHNOP_close, &close);
}

static long unmask_port(unsigned int port)
{
    struct evtchn_unmask unmask = {port};

    return evtchn(EVTCHNOP_unmask, &unmask);
}

static long reset_ports(void)
{
    struct evtchn_reset reset = {DOMID_SELF};

    return evtchn(EVTCHNOP_reset, &reset);
}

static void use_control_block(void)
{
    control = (void *)control_page;
    REQUIRE_EQ(init_control(virt_to_mfn(control_page), 0, 0), 0);
}

static void use_fifo(void)
{
    use_control_block();
    REQUIRE_EQ(expand_array(virt_to_mfn(words)), 0);
}

/* Take a port off the head of a queue, as a guest does; 0 if the queue is empty. */
static unsigned int take(unsigned int priority)
{
    unsigned int port = READ_ONCE(control->head[priority]);
    event_word_t word;

    if ( !port )
        return 0;
    word = __atomic_fetch_and(&words[port], ~(LINKED | EVTCHN_FIFO_LINK_MASK), __ATOMIC_SEQ_CST);
    CHECK_EQ(word & (LINKED | BUSY), LINKED);
    control->head[priority] = word & EVTCHN_FIFO_LINK_MASK;
    if ( !control->head[priority] )
        __atomic_fetch_and(&control->ready, ~(1u << priority), __ATOMIC_SEQ_CST);
    __atomic_fetch_and(&words[port], ~PENDING, __ATOMIC_SEQ_CST);
    return port;
}

/* ---- Setting it up ---- */

TEST(control_block)
{
    unsigned int port = make_ipi();

    CHECK_EQ(expand_array(virt_to_mfn(words)), -XEN_EOPNOTSUPP);
    CHECK_EQ(set_priority(port, 3), -XEN_ENOSYS);
    CHECK_EQ(init_control(virt_to_mfn(control_page), LAST_OFFSET & ~7, 0), 0);
    /* Once for each vCPU. */
    CHECK_EQ(init_control(virt_to_mfn(words), 0, 0), -XEN_EINVAL);
    CHECK_EQ(expand_array(virt_to_mfn(words)), 0);
    CHECK_EQ(set_priority(port, 3), 0);
    control = (void *)&control_page[LAST_OFFSET & ~7];
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(control->ready, 1u << 3);
    CHECK_EQ(take(3), port);
}

/* None of it makes the domain's ports FIFO ports: they go on by the two-level ABI (XSA-188). */
TEST(control_blocks_that_are_refused)
{
    unsigned int port = make_ipi();
    u64 *table = make_tables();

    for ( unsigned int i = 0; i < 3; i++ )
    {
        CHECK_EQ(init_control(virt_to_mfn(control_page), 0, 1), -XEN_ENOENT);
        CHECK_EQ(init_control(virt_to_mfn(control_page), 0, -1u), -XEN_ENOENT);
        CHECK_EQ(init_control(virt_to_mfn(control_page), LAST_OFFSET + 8, 0), -XEN_EINVAL);
        CHECK_EQ(init_control(virt_to_mfn(control_page), -8u, 0), -XEN_EINVAL);
        CHECK_EQ(init_control(virt_to_mfn(control_page), 4, 0), -XEN_EINVAL);
        CHECK_EQ(init_control(virt_to_mfn(table), 0, 0), -XEN_EINVAL);
        CHECK_EQ(init_control(2, 0, 0), -XEN_EINVAL);
        CHECK_EQ(init_control(~0ul, 0, 0), -XEN_EINVAL);
        CHECK_EQ(init_control(1ul << 52, 0, 0), -XEN_EINVAL);
        CHECK_EQ(evtchn(EVTCHNOP_init_control, (void *)UNMAPPED), -XEN_EFAULT);
        CHECK_EQ(expand_array(virt_to_mfn(words)), -XEN_EOPNOTSUPP);
        CHECK_EQ(send_event(port), 0);
        CHECK(port_is_pending(port));
        clear_port(port);
    }
    use_fifo();
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(take(DEFAULT), port);
}

TEST(event_array)
{
    u64 *table = make_tables();

    use_control_block();
    CHECK_EQ(expand_array(virt_to_mfn(table)), -XEN_EINVAL);
    CHECK_EQ(expand_array(2), -XEN_EINVAL);
    CHECK_EQ(expand_array(~0ul), -XEN_EINVAL);
    CHECK_EQ(evtchn(EVTCHNOP_expand_array, (void *)UNMAPPED), -XEN_EFAULT);
    /* One page will do for all of them. */
    for ( unsigned int i = 0; i < MAX_PAGES; i++ )
        CHECK_EQ(expand_array(virt_to_mfn(words)), 0);
    CHECK_EQ(expand_array(virt_to_mfn(words)), -XEN_ENOSPC);
}

/* What came while the ABI had no place for it, and what came before. */
TEST(events_before_there_is_a_word)
{
    unsigned int before = make_ipi(), between = make_ipi(), masked = make_ipi(), closed = make_ipi();

    CHECK_EQ(send_event(before), 0);
    set_port_mask(masked, true);
    CHECK_EQ(send_event(masked), 0);
    use_control_block();
    CHECK_EQ(send_event(between), 0);
    CHECK_EQ(send_event(closed), 0);
    CHECK_EQ(close_port(closed), 0);
    CHECK_EQ(unmask_port(between), 0);
    CHECK_EQ(control->ready, 0);
    words[masked] = MASKED;
    CHECK_EQ(expand_array(virt_to_mfn(words)), 0);
    CHECK_EQ(control->ready, 1u << DEFAULT);
    CHECK_EQ(take(DEFAULT), before);
    CHECK_EQ(take(DEFAULT), between);
    CHECK_EQ(words[masked], PENDING | MASKED);
}

/* Xen's pages they are, and nothing else, until ports are reset. */
GUEST(pages_stay_writable_pages)
{
    use_fifo();
    make_read_only(words);
    CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(words), 0), -XEN_EINVAL);
    make_read_only(control_page);
    CHECK_EQ(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(control_page), 0), -XEN_EINVAL);
    CHECK_EQ(reset_ports(), 0);
    /* The console is gone with its port, so that only Xen's own can tell. */
    if ( mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(words), 0) )
        hypercall(console_io, CONSOLEIO_write, 10, "still held");
    shutdown(SHUTDOWN_poweroff);
}

/* ---- Queues ---- */

TEST(queue)
{
    unsigned int ports[] = {make_ipi(), make_ipi(), make_ipi()};

    use_fifo();
    CHECK_EQ(send_event(ports[2]), 0);
    CHECK_EQ(control->ready, 1u << DEFAULT);
    CHECK_EQ(control->head[DEFAULT], ports[2]);
    CHECK_EQ(words[ports[2]], PENDING | LINKED);
    CHECK_EQ(vcpu_info->evtchn_upcall_pending, 1);
    CHECK_EQ(vcpu_info->evtchn_pending_sel, 0);
    CHECK_EQ(shared_info->evtchn_pending[0], 0);
    CHECK_EQ(send_event(ports[0]), 0);
    CHECK_EQ(send_event(ports[1]), 0);
    CHECK_EQ(send_event(ports[2]), 0);
    CHECK_EQ(words[ports[2]], PENDING | LINKED | ports[0]);
    CHECK_EQ(words[ports[0]], PENDING | LINKED | ports[1]);
    CHECK_EQ(words[ports[1]], PENDING | LINKED);
    CHECK_EQ(take(DEFAULT), ports[2]);
    /* On the same queue again while it is not empty: behind the others. */
    CHECK_EQ(send_event(ports[2]), 0);
    CHECK_EQ(take(DEFAULT), ports[0]);
    CHECK_EQ(take(DEFAULT), ports[1]);
    CHECK_EQ(take(DEFAULT), ports[2]);
    CHECK_EQ(take(DEFAULT), 0);
    CHECK_EQ(control->ready, 0);
    CHECK_EQ(send_event(ports[1]), 0);
    CHECK_EQ(take(DEFAULT), ports[1]);
}

TEST(priorities)
{
    unsigned int port = make_ipi(), other = make_ipi(), closed = make_ipi();

    use_fifo();
    CHECK_EQ(close_port(closed), 0);
    CHECK_EQ(set_priority(port, EVTCHN_FIFO_PRIORITY_MIN + 1), -XEN_EINVAL);
    CHECK_EQ(set_priority(port, -1u), -XEN_EINVAL);
    CHECK_EQ(set_priority(closed, 3), -XEN_EACCES);
    CHECK_EQ(set_priority(0, 3), -XEN_EACCES);
    CHECK_EQ(set_priority(64, 3), -XEN_EINVAL);
    CHECK_EQ(set_priority(-1u, 3), -XEN_EINVAL);
    CHECK_EQ(evtchn(EVTCHNOP_set_priority, (void *)UNMAPPED), -XEN_EFAULT);
    for ( unsigned int priority = 0; priority <= EVTCHN_FIFO_PRIORITY_MIN; priority++ )
    {
        CHECK_EQ(set_priority(port, priority), 0);
        CHECK_EQ(set_priority(other, priority), 0);
        CHECK_EQ(send_event(port), 0);
        CHECK_EQ(send_event(other), 0);
        CHECK_EQ(control->ready, 1u << priority);
        CHECK_EQ(take(priority), port);
        CHECK_EQ(take(priority), other);
    }
    /* A port that is on a queue stays there, with its event. */
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(set_priority(port, 2), 0);
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(control->ready, 1u << EVTCHN_FIFO_PRIORITY_MIN);
    CHECK_EQ(take(EVTCHN_FIFO_PRIORITY_MIN), port);
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(control->ready, 1u << 2);
    /* Bound again it has the usual one. */
    CHECK_EQ(take(2), port);
    CHECK_EQ(close_port(port), 0);
    CHECK_EQ(make_ipi(), port);
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(take(DEFAULT), port);
}

TEST(masked_port)
{
    unsigned int port = make_ipi();

    use_fifo();
    words[port] = MASKED;
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(words[port], PENDING | MASKED);
    CHECK_EQ(control->ready, 0);
    CHECK_EQ(vcpu_info->evtchn_upcall_pending, 0);
    CHECK_EQ(unmask_port(port), 0);
    CHECK_EQ(words[port], PENDING | LINKED);
    CHECK_EQ(take(DEFAULT), port);
    words[port] = MASKED;
    CHECK_EQ(unmask_port(port), 0);
    CHECK_EQ(words[port], 0);
    CHECK_EQ(unmask_port(WORDS_PER_PAGE), -XEN_EINVAL);
}

/* Of a port that is not bound nothing is touched (XSA-343). */
TEST(unmask_of_a_closed_port)
{
    unsigned int port = make_ipi();

    use_fifo();
    CHECK_EQ(close_port(port), 0);
    words[port] = words[0] = MASKED | PENDING;
    CHECK_EQ(unmask_port(port), 0);
    CHECK_EQ(unmask_port(0), 0);
    CHECK_EQ(words[port], MASKED | PENDING);
    CHECK_EQ(words[0], MASKED | PENDING);
}

TEST(poll)
{
    evtchn_port_t port = make_ipi(), without_word = make_ipi(), closed = make_ipi();
    struct sched_poll poll = {.nr_ports = 1};

    use_control_block();
    CHECK_EQ(close_port(closed), 0);
    set_xen_guest_handle(poll.ports, &without_word);
    poll.timeout = system_time() + 1000000;
    CHECK_EQ(hypercall(sched_op, SCHEDOP_poll, &poll), 0);
    set_xen_guest_handle(poll.ports, &closed);
    CHECK_EQ(hypercall(sched_op, SCHEDOP_poll, &poll), -XEN_EINVAL);
    CHECK_EQ(expand_array(virt_to_mfn(words)), 0);
    words[port] = MASKED;
    CHECK_EQ(send_event(port), 0);
    set_xen_guest_handle(poll.ports, &port);
    poll.timeout = 0;
    CHECK_EQ(hypercall(sched_op, SCHEDOP_poll, &poll), 0);
    words[port] = MASKED;
    poll.timeout = system_time() + 1000000;
    CHECK_EQ(hypercall(sched_op, SCHEDOP_poll, &poll), 0);
    CHECK(system_time() >= poll.timeout);
}

/* A port that was closed while it was on a queue is not given again before the guest has taken it off. */
TEST(closed_port_on_a_queue)
{
    unsigned int port = make_ipi();

    use_fifo();
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(close_port(port), 0);
    CHECK_EQ(words[port], LINKED);
    CHECK_EQ(make_ipi(), port + 1);
    CHECK_EQ(make_ipi(), port + 2);
    CHECK_EQ(take(DEFAULT), port);
    CHECK_EQ(make_ipi(), port);
    CHECK_EQ(make_ipi(), port + 3);
}

static u64 timer_events;

static void count_timer(struct frame *frame)
{
    vcpu_info->evtchn_upcall_pending = 0;
    while ( control->ready )
        for ( unsigned int priority = 0; priority <= EVTCHN_FIFO_PRIORITY_MIN; priority++ )
            while ( take(priority) )
                timer_events++;
}

TEST(upcall)
{
    struct evtchn_bind_virq bind = {.virq = VIRQ_TIMER, .vcpu = 0};
    unsigned int port = make_ipi();

    use_fifo();
    trap_handlers[ENTRY_EVENT] = count_timer;
    REQUIRE_EQ(evtchn(EVTCHNOP_bind_virq, &bind), 0);
    hypercall(vcpu_op, VCPUOP_stop_periodic_timer, 0, 0);
    CHECK_EQ(set_priority(bind.port, EVTCHN_FIFO_PRIORITY_MAX), 0);
    CHECK_EQ(hypercall(set_timer_op, system_time() + 1000000), 0);
    while ( !READ_ONCE(timer_events) )
        wait_for_event();
    unmask_events();
    CHECK_EQ(send_event(port), 0);
    CHECK_EQ(timer_events, 2);
    mask_events();
}

/* ---- More ports than the two-level ABI has ---- */

GUEST(many_ports)
{
    struct evtchn_bind_ipi bind = {.vcpu = 0};
    unsigned int last = 0;
    struct evtchn_status status = {.dom = DOMID_SELF};
    long result;

    while ( !(result = evtchn(EVTCHNOP_bind_ipi, &bind)) )
        last = bind.port;
    CHECK_EQ(result, -XEN_ENOSPC);
    CHECK_EQ(last, 4095);
    use_control_block();
    while ( !(result = evtchn(EVTCHNOP_bind_ipi, &bind)) )
        last = bind.port;
    CHECK_EQ(result, -XEN_ENOSPC);
    CHECK_EQ(last, 10000);
    for ( unsigned int i = 0; i < ARRAY_SIZE(words) / WORDS_PER_PAGE; i++ )
        CHECK_EQ(expand_array(virt_to_mfn(&words[i * WORDS_PER_PAGE])), 0);
    CHECK_EQ(send_event(last), 0);
    CHECK_EQ(take(DEFAULT), last);
    CHECK_EQ(close_port(5000), 0);
    CHECK_EQ(evtchn(EVTCHNOP_bind_ipi, &bind), 0);
    CHECK_EQ(bind.port, 5000);
    /* Back to the two-level ABI. The ports stay, and those above its own can't be used (XSA-338). */
    REQUIRE_EQ(reset_ports(), 0);
    status.port = last;
    REQUIRE_EQ(evtchn(EVTCHNOP_status, &status), 0);
    REQUIRE_EQ(status.status, EVTCHNSTAT_closed);
    REQUIRE_EQ(send_event(last), -XEN_EINVAL);
    REQUIRE_EQ(close_port(last), -XEN_EINVAL);
    REQUIRE_EQ(unmask_port(last), 0);
    while ( !(result = evtchn(EVTCHNOP_bind_ipi, &bind)) )
        last = bind.port;
    REQUIRE_EQ(result, -XEN_ENOSPC);
    REQUIRE_EQ(last, 4095);
    REQUIRE_EQ(send_event(last), 0);
    REQUIRE(port_is_pending(last));
    hypercall(console_io, CONSOLEIO_write, 4, "done");
    shutdown(SHUTDOWN_poweroff);
}

/* A reset that goes on by itself, and the command by which it does. */
TEST(reset_that_was_not_begun)
{
    struct evtchn_reset reset = {DOMID_SELF};

    CHECK_EQ(evtchn(14, &reset), -XEN_EBUSY);
    CHECK_EQ(evtchn(14, (void *)UNMAPPED), -XEN_EFAULT);
    reset.dom = 0;
    CHECK_EQ(evtchn(14, &reset), -XEN_EPERM);
}

/* ---- Hostile words ---- */

static u64 state = 88172645463325252ul;

static u64 random_word(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void send_all(const unsigned int *ports, unsigned int count)
{
    for ( unsigned int i = 0; i < count; i++ )
    {
        CHECK_EQ(send_event(ports[i]), 0);
        CHECK_EQ(unmask_port(ports[i]), 0);
    }
}

/* The guest makes nonsense of everything that it can write; Xen goes on, and then so do events. */
TEST(nonsense_in_words)
{
    unsigned int ports[32];

    use_fifo();
    for ( unsigned int i = 0; i < ARRAY_SIZE(ports); i++ )
        ports[i] = make_ipi();
    for ( unsigned int round = 0; round < 300; round++ )
    {
        for ( unsigned int port = 0; port < 64; port++ )
            words[port] = round % 3 ? random_word() : round % 2 ? ~0u : LINKED | ports[port % 32];
        for ( unsigned int queue = 0; queue < EVTCHN_FIFO_MAX_QUEUES; queue++ )
            control->head[queue] = random_word();
        control->ready = random_word();
        CHECK_EQ(set_priority(ports[round % 32], random_word() % 16), 0);
        send_all(ports, ARRAY_SIZE(ports));
        close_port(ports[round % 32]);
        words[ports[round % 32]] = 0;
        CHECK_EQ(make_ipi(), ports[round % 32]);
    }
    /* Everything taken off, every queue is usable again. */
    memset(words, 0, PAGE_SIZE);
    memset(control, 0, sizeof(*control));
    for ( unsigned int i = 0; i < ARRAY_SIZE(ports); i++ )
        CHECK_EQ(set_priority(ports[i], i % 16), 0);
    send_all(ports, ARRAY_SIZE(ports));
    CHECK_EQ(control->ready, 0xffff);
    for ( unsigned int i = 0; i < 16; i++ )
    {
        CHECK_EQ(take(i), ports[i]);
        CHECK_EQ(take(i), ports[i + 16]);
        CHECK_EQ(take(i), 0);
    }
}

/* The control block among the event words, and every word in one page. */
TEST(overlapping_pages)
{
    unsigned int ports[8];

    control = (void *)words;
    for ( unsigned int i = 0; i < ARRAY_SIZE(ports); i++ )
        ports[i] = make_ipi();
    REQUIRE_EQ(init_control(virt_to_mfn(words), 0, 0), 0);
    REQUIRE_EQ(expand_array(virt_to_mfn(words)), 0);
    for ( unsigned int round = 0; round < 100; round++ )
        send_all(ports, ARRAY_SIZE(ports));
}
