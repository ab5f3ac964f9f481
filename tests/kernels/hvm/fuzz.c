/*
 * What makes no sense, and what nearly does: hypercalls, control registers, model-specific registers, the local APIC,
 * ports, page tables and memory. The command line: anything SEED COUNT, where both are hexadecimal.
 */
#include "runtime/kernel.h"
#include "random.h"

/* Where most arguments point: words that are plausible in some structure or other. */
static ulong area[2][PAGE_SIZE / sizeof(ulong)] PAGE_ALIGNED;
/* Pages that may go, and come back. */
static ulong playground;
#define PLAYGROUND_PAGES 16

static ulong word(void)
{
    static const ulong special[] = {
        0, 1, 2, 3, ~0ul, 0x7fff, 0x7ff0, 0x7ff1, 0x8000, 1ul << 31, 0xfff, 0x1000, APIC_PAGE, HOLE, 0xfffff000ul,
#if IS_64
        1ul << 32, 1ul << 40, 1ul << 47, 1ul << 51, 1ul << 63, 0xffff830000000000ul,
#endif
    };

    switch ( below(10) )
    {
    case 0 ... 1: return special[below(ARRAY_SIZE(special))];
    case 2 ... 3: return below(64);
    case 4: return TO_PFN(playground) + below(PLAYGROUND_PAGES);
    case 5: return TO_PFN(HOLE) + below(64);
    case 6: return playground + below(PLAYGROUND_PAGES * PAGE_SIZE);
    case 7: return (ulong)area + below(sizeof(area));
    case 8: return (ulong)area + below(sizeof(area) / 8) * 8;
    default: return IS_64 && below(2) ? (ulong)any() << (IS_64 ? 32 : 0) | any() : any();
    }
}

static void fill_area(void)
{
    ulong at = below(ARRAY_SIZE(area[0]));

    for ( unsigned int i = 0; i < 1 + below(48); i++ )
        area[0][at + i] = below(3) ? word() : (word() << (4 * sizeof(ulong))) | (word() & 0xffff);
}

static void hypercall_at_random(void)
{
    static const u8 useful[] = {
        __HYPERVISOR_memory_op, __HYPERVISOR_grant_table_op, __HYPERVISOR_hvm_op, __HYPERVISOR_event_channel_op,
        __HYPERVISOR_vcpu_op, __HYPERVISOR_multicall, __HYPERVISOR_physdev_op, __HYPERVISOR_xen_version,
    };
    u32 call = below(4) ? useful[below(sizeof(useful))] : below(64);
    ulong args[5];

    fill_area();
    for ( unsigned int i = 0; i < 5; i++ )
        args[i] = word();
    if ( below(2) )
        args[0] = below(40);
    if ( below(2) )
        args[1] = (ulong)area + below(sizeof(area[0]) / 8) * 8;
    /* How many, for most: more take their time, and are of the same kind. */
    if ( below(64) )
        args[2] = below(40);
    if ( call == __HYPERVISOR_multicall )
    {
        multicall_entry_t *calls = (multicall_entry_t *)area;

        args[0] = (ulong)area;
        args[1] = below(16);
        for ( unsigned int i = 0; i < args[1]; i++ )
        {
            calls[i].op = useful[below(5)];
            calls[i].args[0] = below(40);
            calls[i].args[1] = (ulong)&area[1];
            calls[i].args[2] = below(40);
        }
    }
    /* Not the end, nor sleep for ever. */
    if ( (call == __HYPERVISOR_sched_op || call == __HYPERVISOR_sched_op_compat) && (u32)args[0] != SCHEDOP_yield )
        return;
    if ( call == __HYPERVISOR_memory_op )
    {
        args[0] &= ~0ul >> below(8 * sizeof(ulong));
        if ( below(2) )
        {
            struct xen_add_to_physmap op = {DOMID_SELF, below(3), below(6), word(), word()};

            memcpy(area, &op, sizeof(op));
            args[0] = XENMEM_add_to_physmap;
            args[1] = (ulong)area;
        }
    }
    HYPERCALL_BY("vmcall", call, args[0], args[1], args[2], args[3], args[4]);
}

static void registers_at_random(void)
{
    static const u32 msrs[] = {
        0x10, 0x1b, 0x3b, 0x174, 0x175, 0x176, 0x179, 0x17a, 0x1d9, 0x200, 0x250, 0x277, 0x2ff, 0x400, 0x6e0, 0x40000000,
        0x800, 0x802, 0x803, 0x808, 0x80b, 0x80d, 0x80f, 0x828, 0x830, 0x832, 0x838, 0x839, 0x83e, 0x83f, 0xc0000080,
        0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000101, 0xc0000102, 0xc0000103, 0xc0010015, 0xc0010117,
    };
    u32 msr = below(8) ? msrs[below(ARRAY_SIZE(msrs))] : any();
    u64 value = below(2) ? word() : 1ull << below(64);

    switch ( below(4) )
    {
    case 0:
        (void)rdmsr(msr);
        break;
    case 1:
        /* Long mode and its tables stay, and what the interrupts need. */
        if ( msr == MSR_EFER )
            value = rdmsr(MSR_EFER) ^ (1ull << below(64) & ~(u64)(EFER_LME | EFER_LMA | EFER_NXE));
        if ( msr == 0x40000000 )
            value = (ulong)hypercall_page;
        if ( msr != 0x1b || below(8) == 0 )
            wrmsr(msr, value);
        break;
    case 2:
        WRITE_CR(0, READ_CR(0) ^ (1ul << below(8 * sizeof(ulong)) & ~(CR0_PE | CR0_PG | 12)));
        WRITE_CR(4, READ_CR(4) ^ (1ul << below(8 * sizeof(ulong)) & ~(CR4_PAE | CR4_PSE)));
        break;
    default:
        asm volatile("mov %0, %%cr2" :: "r"(word()));
        break;
    }
}

static void memory_at_random(void)
{
    ulong address = below(2) ? word() : APIC_PAGE + below(0x400);

#if !IS_64
    if ( address < 0x300000 || address >= 0xff800000ul )
        return;
#else
    if ( address < 0x300000 || (address >= 0xff800000ul && address < 1ul << 32) )
        return;
#endif
    /* Not the special pages, by which one speaks. */
    if ( address >= 0xfeff0000ul && address < 0xff000000ul )
        return;
    switch ( below(6) )
    {
    case 0: asm volatile("movb (%0), %%al" :: "r"(address) : "eax"); break;
    case 1: asm volatile("movl (%0), %%eax" :: "r"(address) : "eax"); break;
    case 2: asm volatile("movl %%eax, (%0)" :: "r"(address), "a"(any()) : "memory"); break;
    case 3: asm volatile("lock addw %%ax, (%0)" :: "r"(address), "a"(any()) : "memory"); break;
    case 4: asm volatile("xchgl %%eax, (%0)" :: "r"(address), "a"(any()) : "memory"); break;
    default: asm volatile("call *%0" :: "r"(HOLE + below(0x10000)) : "memory"); break;
    }
}

static void ports_at_random(void)
{
    if ( below(2) )
        asm volatile("inl %w0, %%eax" :: "d"(below(2) ? word() : 0xe9) : "eax");
    else
        asm volatile("outb %%al, %w0" :: "d"(below(2) ? word() : 0xe9), "a"(any()));
}

static u32 count;

static void go_on(void) __attribute__((noreturn, used));

/* What nobody expects is forgotten: the next thing is done on an empty stack. */
static void start_over(struct frame *frame)
{
    if ( frame->vector == X86_NMI )
        return;
#if IS_64
    asm volatile("mov $stack_end, %%rsp; jmp *%0" :: "r"(go_on));
#else
    asm volatile("mov $stack_end, %%esp; jmp *%0" :: "r"(go_on));
#endif
    __builtin_unreachable();
}

static void go_on(void)
{
    while ( count )
    {
        count--;
        switch ( below(8) )
        {
        case 0 ... 3: hypercall_at_random(); break;
        case 4: registers_at_random(); break;
        case 5: memory_at_random(); break;
        case 6: ports_at_random(); break;
        default: below(2) ? sti() : cli(); break;
        }
    }
    finish();
}

GUEST(anything)
{
    const char *text = argument;
    u32 seed = number(&text);

    count = number(&text);
    state = seed * 0x9e3779b9u + 1;
    playground = (ulong)alloc_page();
    for ( unsigned int page = 1; page < PLAYGROUND_PAGES; page++ )
        alloc_page();
    apic_write(APIC_SPIV, APIC_ENABLED | 0xff);
    for ( unsigned int vector = 0; vector < 32; vector++ )
        trap_handlers[vector] = start_over;
    go_on();
}
