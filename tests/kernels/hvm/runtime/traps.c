/* The interrupt table, and what happens at every way into the kernel; events. */
#include "kernel.h"

struct frame trapped;
ulong trapped_cr2;
trap_handler_t *trap_handlers[256];
unsigned int interrupts[256];
u8 idt[256 * (LEVELS == 4 ? 16 : 8)] __attribute__((aligned(16)));

unsigned int upcalls;
unsigned int events[4096];

extern const char entry_points[256][16];
extern const struct { ulong start, end; } expected_traps_begin[], expected_traps_end[];
extern u64 tss_descriptor[2];
extern u8 tss[];

void init_traps(void);
void handle_entry(struct frame *frame);

#define INTERRUPT_GATE 0x8e00u
#define USER_GATE 0xee00u
#define TSS 0x30
#define KERNEL_CODE (LEVELS == 4 ? 0x18u : 0x08u)

void init_traps(void)
{
    struct table_pointer pointer = {sizeof(idt) - 1, (ulong)idt};

    for ( unsigned int vector = 0; vector < 256; vector++ )
    {
        u32 *gate = (u32 *)(idt + vector * sizeof(idt) / 256);
        u32 address = (ulong)entry_points[vector];

        gate[0] = KERNEL_CODE << 16 | (address & 0xffff);
        gate[1] = (address & 0xffff0000) | (vector == LEAVE_USER ? USER_GATE : INTERRUPT_GATE);
    }
    asm volatile("lidt %0" :: "m"(pointer));
    /* 104 bytes, present, available. */
    tss_descriptor[0] = 0x67 | (u64)((ulong)tss & 0xffffff) << 16 | 0x89ull << 40;
    asm volatile("ltr %w0" :: "r"(TSS));
}

/* A trap that TRAP_OF waits for: remember it, and go on behind the code that raised it. */
static bool expect(struct frame *frame)
{
    for ( typeof(&expected_traps_begin[0]) trap = expected_traps_begin; trap < expected_traps_end; trap++ )
        if ( trap->start <= frame->ip && frame->ip <= trap->end )
        {
            trapped = *frame;
            trapped_cr2 = READ_CR(2);
            frame->ip = trap->end;
            return true;
        }
    return false;
}

void handle_entry(struct frame *frame)
{
    if ( frame->vector >= 32 )
        interrupts[frame->vector]++;
    if ( trap_handlers[frame->vector] )
        trap_handlers[frame->vector](frame);
    else if ( frame->vector == LEAVE_USER )
        leave_user(frame->ax);
    else if ( frame->vector == CALLBACK_VECTOR )
        take_events();
    else if ( frame->vector >= 32 )
        apic_write(APIC_EOI, 0);
    else if ( !expect(frame) )
    {
        print("vector, error code, ip, cr2: ");
        print_hex(frame->vector);
        print(" ");
        print_hex(frame->error_code);
        print(" ");
        print_hex(frame->ip);
        print(" ");
        print_hex(READ_CR(2));
        print("\n");
        REQUIRE(!"a trap that nobody expects");
    }
}

void wait_for_interrupt(unsigned int vector, unsigned int count)
{
    u64 end = system_time() + 5000000000ull;

    while ( READ_ONCE(interrupts[vector]) < count && system_time() < end )
        barrier();
}

/* ---- Events by the two-level ABI ---- */

#define BITS (8 * sizeof(ulong))

bool port_is_pending(unsigned int port)
{
    return READ_ONCE(shared_info->evtchn_pending[port / BITS]) >> port % BITS & 1;
}

void set_port_mask(unsigned int port, bool masked)
{
    ulong *word = (ulong *)&shared_info->evtchn_mask[port / BITS], bit = 1ul << port % BITS;

    if ( masked )
        __atomic_or_fetch(word, bit, __ATOMIC_SEQ_CST);
    else
        __atomic_and_fetch(word, ~bit, __ATOMIC_SEQ_CST);
}

void take_events(void)
{
    ulong words, ports;

    upcalls++;
    vcpu_info->evtchn_upcall_pending = 0;
    words = __atomic_exchange_n((ulong *)&vcpu_info->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
    for ( ; words; words &= words - 1 )
    {
        unsigned int word = __builtin_ctzl(words);

        while ( (ports = READ_ONCE(shared_info->evtchn_pending[word]) & ~shared_info->evtchn_mask[word]) )
        {
            unsigned int port = word * BITS + __builtin_ctzl(ports);

            __atomic_and_fetch((ulong *)&shared_info->evtchn_pending[word], ~(1ul << port % BITS), __ATOMIC_SEQ_CST);
            events[port]++;
        }
    }
}

void wait_for_port(unsigned int port)
{
    unsigned int seen = events[port];

    while ( READ_ONCE(events[port]) == seen )
        halt();
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
        result = time->system_time + ((u64)(u32)delta * time->tsc_to_system_mul >> 32)
                 + (delta >> 32) * time->tsc_to_system_mul;
        barrier();
    } while ( version & 1 || version != READ_ONCE(time->version) );
    return result;
}
