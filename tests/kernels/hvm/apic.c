/* The local APIC as a page and as MSRs. Xen: xen/arch/x86/hvm/vlapic.c; Intel SDM volume 3, chapter 11. */
#include "runtime/kernel.h"

#define VECTOR 0x61
#define LOWER 0x41
#define HIGHER 0xa1
#define MILLISECOND 1000000ull
#define BASE_ENABLED 0x800
#define BASE_X2APIC 0x400
#define X2APIC(offset) (0x800 + (offset) / 16)

static void enable(void)
{
    apic_write(APIC_SPIV, APIC_ENABLED | 0xff);
}

static void to_self(unsigned int vector)
{
    apic_write(APIC_ICR, APIC_TO_SELF | vector);
}

static void without_end(struct frame *frame)
{
}

TEST(after_the_start)
{
    CHECK_EQ(rdmsr(MSR_APIC_BASE), APIC_PAGE | BASE_ENABLED | 0x100);
    CHECK_EQ(apic_read(APIC_ID), 0);
    CHECK_EQ(apic_read(APIC_VERSION), 0x50014);
    CHECK_EQ(apic_read(APIC_SPIV), 0xff);
    CHECK_EQ(apic_read(APIC_DFR), 0xffffffff);
    CHECK_EQ(apic_read(APIC_TPR), 0);
    for ( unsigned int lvt = APIC_LVTT; lvt <= APIC_LVTERR; lvt += 16 )
        CHECK_EQ(apic_read(lvt), APIC_MASKED);
}

TEST(registers_keep_what_they_can)
{
    apic_write(APIC_ID, 0x12345678);
    CHECK_EQ(apic_read(APIC_ID), 0x12345678);
    apic_write(APIC_LDR, 0xffffffff);
    CHECK_EQ(apic_read(APIC_LDR), 0xff000000);
    apic_write(APIC_DFR, 0);
    CHECK_EQ(apic_read(APIC_DFR), 0x0fffffff);
    apic_write(APIC_TPR, 0x1ff);
    CHECK_EQ(apic_read(APIC_TPR), 0xff);
    CHECK_EQ(apic_read(APIC_PPR), 0xff);
    apic_write(APIC_TPR, 0);
    apic_write(APIC_VERSION, 0);
    CHECK_EQ(apic_read(APIC_VERSION), 0x50014);
    apic_write(APIC_TDCR, 0xffffffff);
    CHECK_EQ(apic_read(APIC_TDCR), 0xb);
    /* Disabled by software, all of the table is masked. */
    apic_write(APIC_LVTT, VECTOR);
    CHECK_EQ(apic_read(APIC_LVTT), APIC_MASKED | VECTOR);
    enable();
    apic_write(APIC_LVTT, VECTOR);
    CHECK_EQ(apic_read(APIC_LVTT), VECTOR);
    apic_write(APIC_SPIV, 0xff);
    CHECK_EQ(apic_read(APIC_LVTT), APIC_MASKED | VECTOR);
}

TEST(to_itself)
{
    enable();
    to_self(VECTOR);
    CHECK_EQ(interrupts[VECTOR], 0);
    CHECK_EQ(apic_read(APIC_IRR + VECTOR / 32 * 16), 1u << VECTOR % 32);
    sti();
    wait_for_interrupt(VECTOR, 1);
    CHECK_EQ(interrupts[VECTOR], 1);
    CHECK_EQ(apic_read(APIC_IRR + VECTOR / 32 * 16), 0);
    CHECK_EQ(apic_read(APIC_ISR + VECTOR / 32 * 16), 0);
    /* By its number. */
    apic_write(APIC_ICR2, 0);
    apic_write(APIC_ICR, VECTOR);
    wait_for_interrupt(VECTOR, 2);
    CHECK_EQ(interrupts[VECTOR], 2);
    apic_write(APIC_ICR2, 0xff000000);
    apic_write(APIC_ICR, VECTOR);
    wait_for_interrupt(VECTOR, 3);
    CHECK_EQ(interrupts[VECTOR], 3);
}

TEST(to_nobody)
{
    enable();
    apic_write(APIC_ICR2, 0x02000000);
    apic_write(APIC_ICR, VECTOR);
    CHECK_EQ(apic_read(APIC_IRR + VECTOR / 32 * 16), 0);
    apic_write(APIC_ICR, 0xc0000 | VECTOR);
    CHECK_EQ(apic_read(APIC_IRR + VECTOR / 32 * 16), 0);
}

TEST(disabled_it_takes_nothing)
{
    to_self(VECTOR);
    CHECK_EQ(apic_read(APIC_IRR + VECTOR / 32 * 16), 0);
}

TEST(priorities)
{
    enable();
    trap_handlers[VECTOR] = without_end;
    to_self(VECTOR);
    sti();
    wait_for_interrupt(VECTOR, 1);
    CHECK_EQ(apic_read(APIC_PPR), VECTOR & 0xf0);
    to_self(LOWER);
    to_self(HIGHER);
    wait_for_interrupt(HIGHER, 1);
    CHECK_EQ(interrupts[HIGHER], 1);
    CHECK_EQ(interrupts[LOWER], 0);
    apic_write(APIC_EOI, 0);
    wait_for_interrupt(LOWER, 1);
    CHECK_EQ(interrupts[LOWER], 1);
}

TEST(the_priority_of_the_task)
{
    enable();
    apic_write(APIC_TPR, 0x70);
    sti();
    to_self(VECTOR);
    to_self(HIGHER);
    wait_for_interrupt(HIGHER, 1);
    CHECK_EQ(interrupts[HIGHER], 1);
    CHECK_EQ(interrupts[VECTOR], 0);
    apic_write(APIC_TPR, 0x50);
    wait_for_interrupt(VECTOR, 1);
    CHECK_EQ(interrupts[VECTOR], 1);
}

TEST(cr8)
{
#if IS_64
    enable();
    WRITE_CR(8, 7);
    CHECK_EQ(READ_CR(8), 7);
    CHECK_EQ(apic_read(APIC_TPR), 0x70);
    sti();
    to_self(VECTOR);
    CHECK_EQ(interrupts[VECTOR], 0);
    WRITE_CR(8, 0);
    wait_for_interrupt(VECTOR, 1);
    CHECK_EQ(interrupts[VECTOR], 1);
    WRITE_CR(8, 0x1f);
    CHECK_EQ(READ_CR(8), 15);
#endif
}

TEST(illegal_vectors)
{
    enable();
    apic_write(APIC_LVTERR, VECTOR);
    sti();
    to_self(15);
    wait_for_interrupt(VECTOR, 1);
    CHECK_EQ(interrupts[VECTOR], 1);
    CHECK_EQ(apic_read(APIC_ESR), 0x20);
    /* Told once: what has been noted stays. */
    apic_write(APIC_ESR, 0);
    CHECK_EQ(apic_read(APIC_ESR), 0x20);
    to_self(15);
    CHECK_EQ(apic_read(APIC_IRR + VECTOR / 32 * 16), 0);
    CHECK_EQ(interrupts[VECTOR], 1);
}

static unsigned int nmis, deepest, depth;

static void count_nmi(struct frame *frame)
{
    nmis++;
    if ( ++depth > deepest )
        deepest = depth;
    /* Another one waits until this one is over. */
    if ( nmis == 1 )
        apic_write(APIC_ICR, APIC_TO_SELF | 0x400);
    for ( unsigned int count = 0; count < 1000; count++ )
        barrier();
    depth--;
}

TEST(nmis)
{
    u64 end = system_time() + 5000 * MILLISECOND;

    enable();
    trap_handlers[X86_NMI] = count_nmi;
    apic_write(APIC_ICR, APIC_TO_SELF | 0x400);
    while ( READ_ONCE(nmis) < 2 && system_time() < end )
        barrier();
    CHECK_EQ(nmis, 2);
    CHECK_EQ(deepest, 1);
}

/* ---- The timer: of 10 ns a tick, divided ---- */

/* When it begins, at the earliest. */
static u64 start_timer(u32 lvt, u32 ticks)
{
    u64 began = system_time();

    apic_write(APIC_TDCR, 0xb);
    apic_write(APIC_LVTT, lvt | VECTOR);
    apic_write(APIC_TMICT, ticks);
    return began;
}

TEST(one_shot)
{
    u64 began;

    enable();
    began = start_timer(0, 5000000);
    CHECK(apic_read(APIC_TMCCT) > 0 && apic_read(APIC_TMCCT) <= 5000000);
    halt();
    CHECK_EQ(interrupts[VECTOR], 1);
    CHECK(system_time() + MILLISECOND >= began + 50 * MILLISECOND);
    CHECK_EQ(apic_read(APIC_TMCCT), 0);
}

TEST(divided)
{
    u64 began;

    enable();
    apic_write(APIC_TDCR, 0x3);
    apic_write(APIC_LVTT, VECTOR);
    began = system_time();
    apic_write(APIC_TMICT, 31250);
    halt();
    CHECK_EQ(interrupts[VECTOR], 1);
    CHECK(system_time() + MILLISECOND >= began + 5 * MILLISECOND);
}

TEST(periodic)
{
    u64 began;

    enable();
    began = start_timer(APIC_PERIODIC, 200000);
    while ( interrupts[VECTOR] < 5 )
        halt();
    CHECK(system_time() + MILLISECOND >= began + 10 * MILLISECOND);
    CHECK(apic_read(APIC_TMCCT) <= 200000);
    apic_write(APIC_TMICT, 0);
    CHECK_EQ(apic_read(APIC_TMCCT), 0);
}

/* No more interrupts than ten in a millisecond. */
TEST(a_period_that_is_too_short)
{
    u64 began = system_time();

    enable();
    apic_write(APIC_TDCR, 0xb);
    apic_write(APIC_LVTT, APIC_PERIODIC | VECTOR);
    apic_write(APIC_TMICT, 1);
    sti();
    wait_for_interrupt(VECTOR, 50);
    CHECK(system_time() - began >= 49 * MILLISECOND / 10);
    cli();
}

TEST(masked)
{
    u64 end;

    enable();
    start_timer(APIC_MASKED, 100000);
    sti();
    end = system_time() + 5 * MILLISECOND;
    while ( system_time() < end )
        barrier();
    CHECK_EQ(interrupts[VECTOR], 0);
    /* To unmask it sets the timer anew, which has nothing to count. */
    apic_write(APIC_LVTT, VECTOR);
    end = system_time() + 2 * MILLISECOND;
    while ( system_time() < end )
        barrier();
    CHECK_EQ(interrupts[VECTOR], 0);
}

TEST(tsc_deadline)
{
    u64 deadline;

    enable();
    /* In another mode the register is not there. */
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000000);
    CHECK_EQ(rdmsr(MSR_TSC_DEADLINE), 0);
    apic_write(APIC_LVTT, APIC_TSC_DEADLINE | VECTOR);
    deadline = rdtsc() + 10000000;
    wrmsr(MSR_TSC_DEADLINE, deadline);
    CHECK_EQ(rdmsr(MSR_TSC_DEADLINE), deadline);
    halt();
    CHECK_EQ(interrupts[VECTOR], 1);
    CHECK(rdtsc() >= deadline);
    CHECK_EQ(rdmsr(MSR_TSC_DEADLINE), 0);
    /* One that has passed. */
    wrmsr(MSR_TSC_DEADLINE, 1);
    halt();
    CHECK_EQ(interrupts[VECTOR], 2);
    /* None. */
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 100000000000);
    wrmsr(MSR_TSC_DEADLINE, 0);
    CHECK_EQ(rdmsr(MSR_TSC_DEADLINE), 0);
}

/* ---- x2APIC ---- */

static void use_x2apic(void)
{
    enable();
    wrmsr(MSR_APIC_BASE, APIC_PAGE | BASE_ENABLED | BASE_X2APIC | 0x100);
}

TEST(x2apic)
{
    use_x2apic();
    CHECK_EQ(rdmsr(X2APIC(APIC_ID)), 0);
    CHECK_EQ(rdmsr(X2APIC(APIC_VERSION)), 0x50014);
    CHECK_EQ(rdmsr(X2APIC(APIC_LDR)), 1);
    CHECK_EQ(rdmsr(X2APIC(APIC_SPIV)), APIC_ENABLED | 0xff);
    sti();
    wrmsr(X2APIC(0x3f0), VECTOR);
    wait_for_interrupt(VECTOR, 0);
    trap_handlers[VECTOR] = without_end;
    CHECK_EQ(interrupts[VECTOR], 1);
    wrmsr(X2APIC(APIC_EOI), 0);
    wrmsr(X2APIC(APIC_ICR), APIC_TO_SELF | HIGHER);
    /* The page is none of its any more. */
    CHECK_EQ(apic_read(APIC_VERSION), 0xffffffff);
}

TEST(registers_that_x2apic_has_not)
{
    use_x2apic();
    CHECK_EQ(RDMSR_TRAP(X2APIC(APIC_DFR)), X86_GP);
    CHECK_EQ(RDMSR_TRAP(X2APIC(APIC_ICR2)), X86_GP);
    CHECK_EQ(RDMSR_TRAP(X2APIC(APIC_EOI)), X86_GP);
    CHECK_EQ(RDMSR_TRAP(0x8ff), X86_GP);
    CHECK_EQ(WRMSR_TRAP(X2APIC(APIC_ID), 0), X86_GP);
    CHECK_EQ(WRMSR_TRAP(X2APIC(APIC_VERSION), 0), X86_GP);
    CHECK_EQ(WRMSR_TRAP(X2APIC(APIC_LDR), 0), X86_GP);
    CHECK_EQ(WRMSR_TRAP(X2APIC(APIC_EOI), 1), X86_GP);
    CHECK_EQ(WRMSR_TRAP(X2APIC(APIC_ESR), 1), X86_GP);
    CHECK_EQ(WRMSR_TRAP(X2APIC(APIC_TPR), 0x100), X86_GP);
    CHECK_EQ(WRMSR_TRAP(X2APIC(APIC_SPIV), 1ull << 32), X86_GP);
    CHECK_EQ(WRMSR_TRAP(X2APIC(APIC_TMCCT), 0), X86_GP);
}

TEST(xapic_has_no_msrs)
{
    CHECK_EQ(RDMSR_TRAP(X2APIC(APIC_ID)), X86_GP);
    CHECK_EQ(WRMSR_TRAP(X2APIC(APIC_EOI), 0), X86_GP);
}

TEST(the_msr_of_its_base)
{
    u64 base = rdmsr(MSR_APIC_BASE);

    CHECK_EQ(WRMSR_TRAP(MSR_APIC_BASE, base | 1), X86_GP);
    CHECK_EQ(WRMSR_TRAP(MSR_APIC_BASE, base | 1ull << 60), X86_GP);
    CHECK_EQ(WRMSR_TRAP(MSR_APIC_BASE, (base & ~BASE_ENABLED) | BASE_X2APIC), X86_GP);
    wrmsr(MSR_APIC_BASE, base & ~BASE_ENABLED);
    CHECK_EQ(rdmsr(MSR_APIC_BASE), base & ~BASE_ENABLED);
    CHECK_EQ(apic_read(APIC_VERSION), 0xffffffff);
    CHECK_EQ(WRMSR_TRAP(MSR_APIC_BASE, base | BASE_X2APIC), X86_GP);
    wrmsr(MSR_APIC_BASE, base);
    CHECK_EQ(apic_read(APIC_VERSION), 0x50014);
    wrmsr(MSR_APIC_BASE, base | BASE_X2APIC);
    CHECK_EQ(WRMSR_TRAP(MSR_APIC_BASE, base), X86_GP);
}

TEST(accesses_of_other_sizes)
{
    CHECK_EQ(*(volatile u8 *)(APIC_PAGE + APIC_VERSION), 0x14);
    CHECK_EQ(*(volatile u8 *)(APIC_PAGE + APIC_VERSION + 2), 0x05);
    CHECK_EQ(*(volatile u16 *)(APIC_PAGE + APIC_VERSION), 0x14);
    *(volatile u8 *)(APIC_PAGE + APIC_TPR) = 0x30;
    CHECK_EQ(apic_read(APIC_TPR), 0x30);
}
