/*
 * Instructions at random, in ring 0, on memory, on what is none, and over the edge between both: whatever they do to
 * the CPU, they do to this guest alone. After each, what still can be repaired is. The command line: anything SEED COUNT,
 * where both are hexadecimal.
 */
#include "runtime/kernel.h"
#include "random.h"

#define TIMER 0x77
#define IST_1 36
#define DATA_SEGMENT 0x10
#define TSS_SEGMENT 0x30

extern u64 tss_descriptor[2];
extern u8 tss[];

static struct {
    struct table_pointer gdt, idt;
    ulong cr0, cr3, cr4;
    u8 descriptors[PAGE_SIZE];
} saved;

static u8 code[2 * PAGE_SIZE] PAGE_ALIGNED, data[4 * PAGE_SIZE] PAGE_ALIGNED;
static u32 count;

static void go_on(void) __attribute__((noreturn, used));

/* ---- Staying alive ---- */

static void save(void)
{
    asm volatile("sgdt %0" : "=m"(saved.gdt));
    asm volatile("sidt %0" : "=m"(saved.idt));
    memcpy(saved.descriptors, (void *)saved.gdt.base, saved.gdt.limit + 1);
    saved.cr0 = READ_CR(0);
    saved.cr3 = READ_CR(3);
    saved.cr4 = READ_CR(4);
#if IS_64
    static u8 stack[4 * PAGE_SIZE] PAGE_ALIGNED;

    *(u64 *)(tss + IST_1) = (ulong)stack + sizeof(stack);
    for ( unsigned int vector = 0; vector < 256; vector++ )
        idt[vector * 16 + 4] = 1;
#endif
}

static void repair(void)
{
    memcpy((void *)saved.gdt.base, saved.descriptors, saved.gdt.limit + 1);
    asm volatile("lgdt %0" :: "m"(saved.gdt));
    asm volatile("lidt %0" :: "m"(saved.idt));
    asm volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %0, %%gs; mov %0, %%ss" :: "r"(DATA_SEGMENT));
    WRITE_CR(0, saved.cr0);
    WRITE_CR(3, saved.cr3);
    WRITE_CR(4, saved.cr4);
    tss_descriptor[0] = 0x67 | (u64)((ulong)tss & 0xffffff) << 16 | 0x89ull << 40;
    asm volatile("ltr %w0" :: "r"(TSS_SEGMENT));
    asm volatile("mov %0, %%dr7" :: "r"(0x400ul));
    asm volatile("cld; push %0; popf" :: "r"(2ul));
    /* Out of whatever goes round in a circle. */
    apic_write(APIC_SPIV, APIC_ENABLED | 0xff);
    apic_write(APIC_EOI, 0);
    apic_write(APIC_TDCR, 0xb);
    apic_write(APIC_LVTT, APIC_PERIODIC | TIMER);
    apic_write(APIC_TMICT, 200000);
}

static void start_over(struct frame *frame)
{
#if IS_64
    asm volatile("mov $stack_end, %%rsp; jmp *%0" :: "r"(go_on));
#else
    asm volatile("mov $stack_end, %%esp; jmp *%0" :: "r"(go_on));
#endif
    __builtin_unreachable();
}

/* ---- Instructions ---- */

/* Bytes that are an instruction now and then: prefixes, an opcode, and what follows it. Where it ends. */
static unsigned int put_instruction(unsigned int at)
{
    static const u8 prefixes[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x64, 0x65, 0x48, 0x41, 0x4f};
    static const u8 of_one_byte[] = {
        0x62, 0x63, 0x6c, 0x6d, 0x6e, 0x6f, 0x8e, 0x9a, 0x9c, 0x9d, 0xc4, 0xc5, 0xc8, 0xca, 0xcb, 0xcc,
        0xcd, 0xce, 0xcf, 0xd5, 0xe4, 0xea, 0xec, 0xed, 0xee, 0xf4, 0xfa, 0xfb, 0xff,
    };
    static const u8 of_two_bytes[] = {
        0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0b, 0x0d, 0x18, 0x1f, 0x20, 0x21, 0x22,
        0x23, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0xa2, 0xa3, 0xaa, 0xae, 0xba, 0xc7,
    };
    unsigned int kind = below(4);

    while ( below(3) == 0 )
        code[at++] = prefixes[below(sizeof(prefixes))];
    if ( kind < 2 )
        code[at++] = 0x0f;
    switch ( kind )
    {
    case 0: code[at++] = of_two_bytes[below(sizeof(of_two_bytes))]; break;
    case 2: code[at++] = of_one_byte[below(sizeof(of_one_byte))]; break;
    default: code[at++] = any(); break;
    }
    for ( unsigned int end = at + below(7); at < end; at++ )
        code[at] = below(3) ? any() : 0;
    return at;
}

static ulong word(void)
{
    switch ( below(10) )
    {
    case 0: return below(256);
    case 1: return any();
    case 2: return HOLE + below(65536);
    case 3: return APIC_PAGE + below(4096);
    case 4 ... 7: return HOLE_PAGE(below(8)) - below(32);
    default: return (ulong)data + below(sizeof(data) - 512);
    }
}

static void run(void)
{
    unsigned int first = below(2) ? 0 : PAGE_SIZE - below(32), at = first;
    ulong registers[7];

    repair();
    for ( unsigned int left = 1 + below(3); left; left-- )
        at = put_instruction(at);
    memset(code + at, 0xcc, 16);
    for ( unsigned int i = 0; i < ARRAY_SIZE(registers); i++ )
        registers[i] = word();
#if IS_64
    asm volatile("mov %0, %%r15; mov %1, %%r14; mov (%%r15), %%rax; mov 8(%%r15), %%rcx; mov 16(%%r15), %%rdx;"
                 "mov 24(%%r15), %%rbx; mov 32(%%r15), %%rbp; mov 40(%%r15), %%rsi; mov 48(%%r15), %%rdi;"
                 "sti; jmp *%%r14"
                 :: "r"(registers), "r"(code + first));
#else
    asm volatile("push %1; push (%0); push 4(%0); push 8(%0); push 12(%0); push 16(%0); push 20(%0); push 24(%0);"
                 "pop %%eax; pop %%ecx; pop %%edx; pop %%ebx; pop %%ebp; pop %%esi; pop %%edi; sti; ret"
                 :: "r"(registers), "r"(code + first));
#endif
    __builtin_unreachable();
}

static void go_on(void)
{
    if ( count-- )
        run();
    finish();
}

/* What is lent for reading, between other pages. */
static void map_for_reading(ulong address)
{
    grant_entry_v1_t *table = alloc_page();
    struct gnttab_map_grant_ref op = {.host_addr = address, .flags = GNTMAP_host_map | GNTMAP_readonly, .ref = 16};
    u32 registers[4];

    cpuid(XEN_CPUID_LEAF(4), 0, registers);
    op.dom = registers[2];
    REQUIRE_EQ(add_to_physmap(XENMAPSPACE_grant_table, 0, TO_PFN(table)), 0);
    table[op.ref] = (grant_entry_v1_t){GTF_permit_access, op.dom, TO_PFN(alloc_page())};
    REQUIRE_EQ(hypercall(grant_table_op, GNTTABOP_map_grant_ref, &op, 1), 0);
    REQUIRE_EQ(op.status, GNTST_okay);
}

GUEST(anything)
{
    const char *text = argument;
    u32 seed = number(&text);

    count = number(&text);
    state = seed * 0x9e3779b9u + 1;
    populate(TO_PFN(HOLE_PAGE(1)));
    populate(TO_PFN(HOLE_PAGE(3)));
    populate(TO_PFN(HOLE_PAGE(4)));
    map_for_reading(HOLE_PAGE(5));
    for ( unsigned int vector = 0; vector < 256; vector++ )
        trap_handlers[vector] = start_over;
    save();
    go_on();
}
