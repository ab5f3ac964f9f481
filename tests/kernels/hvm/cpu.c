/*
 * Control registers, model-specific registers, ports and what is no memory.
 * Xen: hvm_set_cr0, hvm_set_cr3, hvm_set_cr4, hvm_set_efer and hvm_msr_*_intercept in xen/arch/x86/hvm/hvm.c,
 * xen/arch/x86/msr.c, null_handler in xen/arch/x86/hvm/emulate.c.
 */
#include "runtime/kernel.h"

TEST(cr0)
{
    ulong cr0 = READ_CR(0);

    CHECK_EQ(CR_TRAP(0, (cr0 & ~CR0_PE) | CR0_PG), X86_GP);
#if IS_64
    CHECK_EQ(CR_TRAP(0, cr0 | 1ul << 32), X86_GP);
    /* Not out of 64-bit code. */
    CHECK_EQ(CR_TRAP(0, cr0 & ~CR0_PG), X86_GP);
#endif
    CHECK_EQ(READ_CR(0), cr0);
    /* Reserved bits in the lower half are ignored, and one is always set. */
    WRITE_CR(0, cr0 | 1ul << 27);
    CHECK_EQ(READ_CR(0), cr0);
    WRITE_CR(0, cr0 & ~0x10ul);
    CHECK_EQ(READ_CR(0), cr0 | 0x10);
    WRITE_CR(0, cr0 | CR0_CD | CR0_NW);
    CHECK_EQ(READ_CR(0), cr0 | CR0_CD | CR0_NW | 0x10);
    WRITE_CR(0, cr0);
    asm volatile("smsw %0" : "=r"(cr0));
    CHECK_EQ(cr0 & 1, 1);
    /* Into protected mode there is a way by it, but none out. */
    asm volatile("lmsw %w0" :: "r"(0));
    CHECK(READ_CR(0) & CR0_PE);
}

TEST(task_switched)
{
    WRITE_CR(0, READ_CR(0) | 8);
    CHECK_EQ(TRAP_OF("fninit"), 7);
    asm volatile("clts");
    CHECK_EQ(READ_CR(0) & 8, 0);
    CHECK_EQ(TRAP_OF("fninit"), NO_TRAP);
}

TEST(cr4)
{
    ulong cr4 = READ_CR(4);

    CHECK_EQ(CR_TRAP(4, cr4 | 1ul << 13), X86_GP);
    CHECK_EQ(CR_TRAP(4, cr4 | 1ul << 31), X86_GP);
    CHECK_EQ(CR_TRAP(4, cr4 | 1ul << 18), X86_GP);
    CHECK_EQ(CR_TRAP(4, cr4 | 1ul << 20), X86_GP);
#if IS_64
    CHECK_EQ(CR_TRAP(4, cr4 | 1ul << 40), X86_GP);
    CHECK_EQ(CR_TRAP(4, cr4 & ~CR4_PAE), X86_GP);
#endif
    CHECK_EQ(READ_CR(4), cr4);
    WRITE_CR(4, cr4 ^ CR4_PGE);
    CHECK_EQ(READ_CR(4), cr4 ^ CR4_PGE);
    WRITE_CR(4, cr4);
}

TEST(cr3)
{
#if IS_64
    CHECK_EQ(CR_TRAP(3, READ_CR(3) | 1ul << 52), X86_GP);
    CHECK_EQ(CR_TRAP(3, READ_CR(3) | 1ul << 63), X86_GP);
#endif
    WRITE_CR(3, READ_CR(3) | 0x18);
    CHECK_EQ(READ_CR(3) & 0x18, 0x18);
    WRITE_CR(3, READ_CR(3) & ~0x18ul);
}

TEST(efer)
{
    u64 efer = rdmsr(MSR_EFER);

    CHECK_EQ(WRMSR_TRAP(MSR_EFER, efer | 1 << 1), X86_GP);
    CHECK_EQ(WRMSR_TRAP(MSR_EFER, efer | 1ull << 32), X86_GP);
    CHECK_EQ(WRMSR_TRAP(MSR_EFER, efer | 1 << 12), X86_GP);
    /* While there is paging, long mode is as it is. */
    CHECK_EQ(WRMSR_TRAP(MSR_EFER, efer ^ EFER_LME), LEVELS ? X86_GP : NO_TRAP);
    if ( !LEVELS )
        wrmsr(MSR_EFER, efer);
    CHECK_EQ(rdmsr(MSR_EFER), efer);
    wrmsr(MSR_EFER, efer ^ EFER_SCE);
    CHECK_EQ(rdmsr(MSR_EFER), efer ^ EFER_SCE);
    /* Whether it is in use is the CPU's to say. */
    CHECK_EQ(!!(efer & EFER_LMA), IS_64);
    wrmsr(MSR_EFER, efer ^ EFER_LMA);
    CHECK_EQ(rdmsr(MSR_EFER), efer);
}

#if IS_64
static ulong rdmsr_in_user(ulong msr)
{
    return TRAP_OF("rdmsr", :: "c"(msr) : "rax", "rdx");
}
#endif

TEST(msrs)
{
    CHECK_EQ(RDMSR_TRAP(0x12345678), X86_GP);
    CHECK_EQ(WRMSR_TRAP(0x12345678, 0), X86_GP);
    CHECK_EQ(RDMSR_TRAP(0xffffffff), X86_GP);
    CHECK_EQ(RDMSR_TRAP(0xc0010117), NO_TRAP);
    /* SVM, VMX, branch records by number, speculation: none of them is offered. */
    CHECK_EQ(RDMSR_TRAP(0x480), X86_GP);
    CHECK_EQ(RDMSR_TRAP(0x48), X86_GP);
    CHECK_EQ(WRMSR_TRAP(0x49, 1), X86_GP);
    CHECK_EQ(RDMSR_TRAP(0xda0), X86_GP);
    CHECK_EQ(RDMSR_TRAP(0x40000001), X86_GP);
    CHECK_EQ(rdmsr(MSR_PAT), 0x0007040600070406);
    wrmsr(MSR_PAT, 0x0007010600070406);
    CHECK_EQ(rdmsr(MSR_PAT), 0x0007010600070406);
    CHECK_EQ(WRMSR_TRAP(MSR_PAT, 2), X86_GP);
    CHECK_EQ(WRMSR_TRAP(MSR_PAT, 8ull << 56), X86_GP);
    CHECK_EQ(rdmsr(MSR_MTRR_DEFAULT_TYPE), 0x806);
    CHECK_EQ(WRMSR_TRAP(MSR_MTRR_DEFAULT_TYPE, 0x1000), X86_GP);
    CHECK_EQ(WRMSR_TRAP(0x200, 1ull << 50), X86_GP);
    CHECK_EQ(WRMSR_TRAP(0xfe, 0), X86_GP);
#if IS_64
    CHECK_EQ(WRMSR_TRAP(0xc0000101, 1ul << 63), X86_GP);
    wrmsr(0xc0000102, -4096l);
    CHECK_EQ((s64)rdmsr(0xc0000102), -4096);
    CHECK_EQ(in_user(rdmsr_in_user, MSR_EFER), X86_GP);
#endif
}

TEST(the_time_stamp_counter)
{
    u64 before = rdtsc(), offset = 1ull << 40, adjusted;

    CHECK(rdtsc() >= before);
    wrmsr(MSR_TSC, before + offset);
    CHECK(rdtsc() >= before + offset);
    CHECK(rdmsr(MSR_TSC) - (before + offset) < 10000000000ull);
    adjusted = rdmsr(0x3b);
    wrmsr(0x3b, adjusted - offset);
    CHECK(rdtsc() < before + offset);
    /* And the time that is told follows. */
    before = system_time();
    wrmsr(MSR_TSC, 5);
    CHECK(system_time() - before < 10000000000ull);
}

/* ---- Nothing ---- */

TEST(ports)
{
    u32 value;
    u16 word;
    u8 byte;

    asm volatile("inb %w1, %0" : "=a"(byte) : "d"(0x71));
    CHECK_EQ(byte, 0xff);
    asm volatile("inw %w1, %0" : "=a"(word) : "d"(0x1f0));
    CHECK_EQ(word, 0xffff);
    asm volatile("inl %w1, %0" : "=a"(value) : "d"(0xcf8));
    CHECK_EQ(value, 0xffffffff);
    asm volatile("outl %0, %w1" :: "a"(0x80000000), "d"(0xcf8));
    asm volatile("inl %w1, %0" : "=a"(value) : "d"(0xcfc));
    CHECK_EQ(value, 0xffffffff);
}

static ulong in_port(ulong port)
{
    return TRAP_OF("inb %w0, %%al", :: "d"(port) : "eax");
}

TEST(ports_in_user_mode)
{
    CHECK_EQ(in_user(in_port, 0x71), X86_GP);
}

static u8 strings[4096];

TEST(memory_that_is_none)
{
    u32 lock = 5;

    CHECK_EQ(load(HOLE), 0xffffffff);
    store(HOLE, 0);
    CHECK_EQ(load(HOLE), 0xffffffff);
    CHECK_EQ(*(volatile u8 *)(HOLE + 3), 0xff);
    CHECK_EQ(*(volatile u16 *)(HOLE + 0xffe), 0xffff);
    CHECK_EQ(*(volatile u64 *)HOLE, -1);
    /* Half of it is memory. */
    REQUIRE_EQ(populate(TO_PFN(HOLE) + 1), 1);
    CHECK_EQ(load(HOLE_PAGE(1) - 2), 0xffff);
    store(HOLE_PAGE(1) - 2, 0x12345678);
    CHECK_EQ(load(HOLE_PAGE(1) - 2), 0x1234ffff);
    CHECK_EQ(*(volatile u16 *)HOLE_PAGE(1), 0x1234);
    asm volatile("xchg %0, %1" : "+r"(lock), "+m"(*(volatile u32 *)HOLE));
    CHECK_EQ(lock, 0xffffffff);
    asm volatile("lock incl %0" : "+m"(*(volatile u32 *)HOLE));
    CHECK_EQ(load(HOLE), 0xffffffff);
    memset(strings, 1, sizeof(strings));
    asm volatile("rep movsb" :: "c"(sizeof(strings)), "S"(HOLE), "D"(strings) : "memory");
    CHECK_EQ(strings[0], 0xff);
    CHECK_EQ(strings[4095], 0xff);
}

/* Code can't be there. */
ONLY_ONCE static ulong jump(ulong address)
{
    return TRAP_OF("call *%0", :: "r"(address) : "memory");
}

static ulong trap_at_hole;

static void come_back(struct frame *frame)
{
    trap_at_hole = frame->vector;
    frame->ip = *(ulong *)frame->sp;
    frame->sp += sizeof(ulong);
}

TEST(code_that_is_none)
{
#if IS_64
    trap_handlers[X86_GP] = come_back;
    jump(HOLE);
    CHECK_EQ(trap_at_hole, X86_GP);
#else
    /* The stack is where the frame ends. */
    (void)come_back;
    (void)jump;
#endif
}

static ulong jump_in_user(ulong address)
{
    ((void (*)(void))address)();
    return 0;
}

static void out_of_user_mode(struct frame *frame)
{
    CHECK_EQ(frame->ip, HOLE + 5);
    CHECK_EQ(frame->error_code, 0);
    CHECK_EQ(frame->cs & 3, 3);
    leave_user(99);
}

TEST(code_that_is_none_in_user_mode)
{
    trap_handlers[X86_GP] = out_of_user_mode;
    CHECK_EQ(in_user(jump_in_user, HOLE + 5), 99);
}

TEST(page_tables_that_are_none)
{
#if LEVELS
    pte_t *entry = directory_entry(0xe0000000), old = *entry;

    *entry = (pte_t)HOLE | 7;
    flush_tlb();
    CHECK_EQ(TRAP_OF("mov %1, %0", : "=r"((int){0}) : "m"(*(volatile u32 *)0xe0000000)), X86_PF);
    CHECK_EQ(trapped_cr2, 0xe0000000);
    CHECK_EQ(trapped.error_code & PFEC_PRESENT, 0);
    *entry = old;
    flush_tlb();
#endif
}

TEST(waiting_for_nothing_with_a_timer)
{
    u64 began = system_time();

    apic_write(APIC_SPIV, APIC_ENABLED | 0xff);
    apic_write(APIC_TDCR, 0xb);
    apic_write(APIC_LVTT, 0x77);
    apic_write(APIC_TMICT, 500000);
    halt();
    CHECK_EQ(interrupts[0x77], 1);
    CHECK(system_time() - began >= 4000000);
}
