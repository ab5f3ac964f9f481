/*
 * The floating-point unit, lazily: HYPERVISOR_fpu_taskswitch and CR0.TS.
 * Xen: do_fpu_taskswitch, and do_device_not_available in xen/arch/x86/traps.c.
 */
#include "runtime/kernel.h"

#define CR0_TS 8

static u64 fpu_trap(u64 unused)
{
    return TRAP_OF("fnop");
}

static u64 sse_trap(u64 unused)
{
    return TRAP_OF("pxor %%xmm0, %%xmm0", :);
}

static u64 cr0(void)
{
    u64 value;

    asm volatile("mov %%cr0, %0" : "=r"(value));
    return value;
}

TEST(usable_at_start)
{
    CHECK_EQ(fpu_trap(0), NO_TRAP);
    CHECK_EQ(sse_trap(0), NO_TRAP);
    CHECK_EQ(cr0() & CR0_TS, 0);
}

TEST(initial_state)
{
    u16 control;
    u32 mxcsr;

    asm volatile("fnstcw %0; stmxcsr %1" : "=m"(control), "=m"(mxcsr));
    CHECK_EQ(control, 0x37f);
    CHECK_EQ(mxcsr, 0x1f80);
}

TEST(task_switched)
{
    CHECK_EQ(hypercall(fpu_taskswitch, 1), 0);
    CHECK_EQ(cr0() & CR0_TS, CR0_TS);
    CHECK_EQ(fpu_trap(0), X86_NM);
    /* Xen clears the flag itself. */
    CHECK_EQ(cr0() & CR0_TS, 0);
    CHECK_EQ(fpu_trap(0), NO_TRAP);
    CHECK_EQ(hypercall(fpu_taskswitch, 5), 0);
    CHECK_EQ(sse_trap(0), X86_NM);
    CHECK_EQ(sse_trap(0), NO_TRAP);
}

TEST(task_switch_undone)
{
    CHECK_EQ(hypercall(fpu_taskswitch, 1), 0);
    CHECK_EQ(hypercall(fpu_taskswitch, 0), 0);
    CHECK_EQ(fpu_trap(0), NO_TRAP);
}

TEST(task_switch_flag_is_an_int)
{
    CHECK_EQ(hypercall(fpu_taskswitch, 1ul << 32), 0);
    CHECK_EQ(fpu_trap(0), NO_TRAP);
}

TEST(task_switched_in_user_mode)
{
    CHECK_EQ(hypercall(fpu_taskswitch, 1), 0);
    CHECK_EQ(in_user(fpu_trap, 0), X86_NM);
    CHECK_EQ(trapped.cs, FLAT_USER_CS);
    CHECK_EQ(in_user(fpu_trap, 0), NO_TRAP);
}

/* As by the hypercall. */
TEST(task_switched_by_cr0)
{
    CHECK_EQ(TRAP_OF("mov %0, %%cr0", :: "r"(cr0() | CR0_TS)), NO_TRAP);
    CHECK_EQ(fpu_trap(0), X86_NM);
    CHECK_EQ(TRAP_OF("mov %0, %%cr0", :: "r"(cr0() | CR0_TS)), NO_TRAP);
    CHECK_EQ(TRAP_OF("clts"), NO_TRAP);
    CHECK_EQ(fpu_trap(0), NO_TRAP);
}

static u64 two;

/* Registers survive hypercalls, traps, and user mode. */
TEST(registers_are_kept)
{
    u64 value = 0x0123456789abcdef;

    asm volatile("movq %0, %%xmm15; fninit; fld1; fld1; faddp" :: "r"(value));
    hypercall(xen_version, XENVER_version, 0);
    CHECK_EQ(TRAP_OF("ud2"), X86_UD);
    asm volatile("movq %%xmm15, %0; fistpll %1" : "=r"(value), "=m"(two));
    CHECK_EQ(value, 0x0123456789abcdef);
    CHECK_EQ(two, 2);
}
