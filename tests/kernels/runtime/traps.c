/* The trap table, and what happens at every way into the kernel. */
#include "runtime.h"

struct frame trapped;
u64 trapped_cr2;
trap_handler_t *trap_handlers[ENTRIES];

extern const char entry_points[ENTRIES][32];
extern const struct { u64 start, end; } expected_traps_begin[], expected_traps_end[];

const void *entry_point(unsigned int entry)
{
    return entry_points[entry];
}

void set_trap(unsigned int vector, unsigned int flags, const void *address)
{
    struct trap_info table[2] = {{vector, flags, FLAT_KERNEL_CS, (u64)address}};

    REQUIRE_EQ(hypercall(set_trap_table, table), 0);
}

long register_callback(unsigned int type, unsigned int flags, const void *address)
{
    struct callback_register callback = {type, flags, (u64)address};

    return hypercall(callback_op, CALLBACKOP_register, &callback);
}

/* Only what user code may raise by "int" has a DPL of 3. */
void init_traps(void)
{
    static struct trap_info table[257];

    for ( unsigned int vector = 0; vector < 256; vector++ )
    {
        bool for_user = vector == X86_BP || vector == X86_OF || vector == LEAVE_USER;

        table[vector] = (struct trap_info){vector, for_user ? 3 : 0, FLAT_KERNEL_CS, (u64)entry_point(vector)};
    }
    hypercall(set_trap_table, table);
    trap_handlers[ENTRY_EVENT] = handle_upcall;
    register_callback(CALLBACKTYPE_event, 0, entry_point(ENTRY_EVENT));
}

/* A trap that TRAP_OF waits for: remember it, and go on behind the code that raised it. */
static bool expect(struct frame *frame)
{
    for ( typeof(&expected_traps_begin[0]) trap = expected_traps_begin; trap < expected_traps_end; trap++ )
        if ( trap->start <= frame->rip && frame->rip <= trap->end )
        {
            trapped = *frame;
            trapped_cr2 = vcpu_info->arch.cr2;
            frame->rip = trap->end;
            return true;
        }
    return false;
}

void handle_entry(struct frame *frame)
{
    if ( trap_handlers[frame->vector] )
        trap_handlers[frame->vector](frame);
    else if ( frame->vector == LEAVE_USER )
        leave_user(frame->rax);
    else if ( !expect(frame) )
    {
        printf("entry %lu, error code 0x%lx, rip 0x%lx, rsp 0x%lx, cr2 0x%lx\n", frame->vector, frame->error_code,
               frame->rip, frame->rsp, vcpu_info->arch.cr2);
        REQUIRE(!"a trap that nobody expects");
    }
}
