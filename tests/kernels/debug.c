/*
 * Debug registers, breakpoints and single steps.
 * Xen: set_debugreg in xen/arch/x86/pv/misc-hypercalls.c, do_debug in xen/arch/x86/traps.c.
 */
#include "runtime/kernel.h"

#define DR6_DEFAULT 0xffff0ff0ul
#define DR6_SINGLE_STEP (1ul << 14)
#define DR7_DEFAULT 0x400ul
#define DR7_GENERAL_DETECT (1ul << 13)
#define CR4_DE (1ul << 3)

/* In DR7: breakpoint n, enabled, of a kind, and its length in bytes. */
#define EXECUTE 0ul
#define WRITE 1ul
#define IO 2ul
#define ACCESS 3ul
#define BREAKPOINT(n, kind, length) (1ul << (2 * (n)) | ((kind) | ((length) - 1) << 2) << (16 + 4 * (n)))

static long set_debugreg(unsigned int number, u64 value)
{
    return hypercall(set_debugreg, number, value);
}

static u64 get_debugreg(unsigned int number)
{
    return hypercall(get_debugreg, number);
}

static void set_cr4(u64 set)
{
    u64 cr4;

    asm volatile("mov %%cr4, %0" : "=r"(cr4));
    REQUIRE_EQ(TRAP_OF("mov %0, %%cr4", :: "r"(cr4 | set)), NO_TRAP);
}

/* ---- The registers ---- */

TEST(initial_values)
{
    for ( unsigned int number = 0; number < 4; number++ )
        CHECK_EQ(get_debugreg(number), 0);
    CHECK_EQ(get_debugreg(6), DR6_DEFAULT);
    CHECK_EQ(get_debugreg(7), DR7_DEFAULT);
}

TEST(addresses)
{
    for ( unsigned int number = 0; number < 4; number++ )
        CHECK_EQ(set_debugreg(number, 0x123456789000 + number), 0);
    for ( unsigned int number = 0; number < 4; number++ )
        CHECK_EQ(get_debugreg(number), 0x123456789000 + number);
}

TEST(addresses_that_are_refused)
{
    REQUIRE_EQ(set_debugreg(0, 0x1000), 0);
    CHECK_EQ(set_debugreg(0, NON_CANONICAL), -XEN_EPERM);
    CHECK_EQ(set_debugreg(1, XENS_OWN), -XEN_EPERM);
    CHECK_EQ(get_debugreg(0), 0x1000);
    CHECK_EQ(get_debugreg(1), 0);
}

TEST(reserved_bits)
{
    CHECK_EQ(set_debugreg(6, 0), 0);
    CHECK_EQ(get_debugreg(6), DR6_DEFAULT);
    CHECK_EQ(set_debugreg(6, 0xffffffff), 0);
    CHECK_EQ(get_debugreg(6), 0xffffefff);
    CHECK_EQ(set_debugreg(7, 0), 0);
    CHECK_EQ(get_debugreg(7), DR7_DEFAULT);
    CHECK_EQ(set_debugreg(7, 0xd800), 0);
    CHECK_EQ(get_debugreg(7), DR7_DEFAULT);
    CHECK_EQ(set_debugreg(6, 1ul << 32), -XEN_EINVAL);
    CHECK_EQ(set_debugreg(7, 1ul << 32), -XEN_EINVAL);
}

TEST(general_detect_is_refused)
{
    CHECK_EQ(set_debugreg(7, DR7_GENERAL_DETECT), -XEN_EPERM);
}

TEST(numbers_there_are_not)
{
    CHECK_EQ(set_debugreg(8, 0), -XEN_ENODEV);
    CHECK_EQ(set_debugreg(-1u, 0), -XEN_ENODEV);
    CHECK_EQ(get_debugreg(8), -XEN_ENODEV);
}

TEST(registers_4_and_5)
{
    CHECK_EQ(set_debugreg(4, 1), 0);
    CHECK_EQ(get_debugreg(6), DR6_DEFAULT | 1);
    CHECK_EQ(set_debugreg(5, 0x100), 0);
    CHECK_EQ(get_debugreg(5), DR7_DEFAULT | 0x100);
    set_cr4(CR4_DE);
    CHECK_EQ(set_debugreg(4, 1), -XEN_ENODEV);
    CHECK_EQ(set_debugreg(5, 0), -XEN_ENODEV);
    CHECK_EQ(get_debugreg(4), -XEN_ENODEV);
    CHECK_EQ(get_debugreg(5), -XEN_ENODEV);
}

TEST(breakpoints_for_ports)
{
    u64 control = BREAKPOINT(1, IO, 1);

    CHECK_EQ(set_debugreg(7, control), -XEN_EPERM);
    set_cr4(CR4_DE);
    CHECK_EQ(set_debugreg(7, control), 0);
    CHECK_EQ(get_debugreg(7), DR7_DEFAULT | control);
}

/* ---- Breakpoints ---- */

extern const char break_here[];

static ONLY_ONCE u64 execute_target(u64 unused)
{
    return TRAP_OF("nop; .globl break_here; break_here: nop");
}

TEST(breakpoint_of_an_instruction)
{
    set_debugreg(1, (u64)break_here);
    REQUIRE_EQ(set_debugreg(7, BREAKPOINT(1, EXECUTE, 1)), 0);
    CHECK_EQ(execute_target(0), X86_DB);
    CHECK_EQ(trapped.rip, break_here);
    CHECK_EQ(get_debugreg(6), DR6_DEFAULT | 1 << 1);
    REQUIRE_EQ(set_debugreg(7, 0), 0);
    CHECK_EQ(execute_target(0), NO_TRAP);
}

static unsigned int hits;

static void resume(struct frame *frame)
{
    hits++;
    frame->rflags |= FLAGS_RF;
}

/* A handler returns with RF, and the instruction is executed. */
TEST(going_on_behind_a_breakpoint)
{
    trap_handlers[X86_DB] = resume;
    set_debugreg(1, (u64)break_here);
    REQUIRE_EQ(set_debugreg(7, BREAKPOINT(1, EXECUTE, 1)), 0);
    CHECK_EQ(execute_target(0), NO_TRAP);
    CHECK_EQ(execute_target(0), NO_TRAP);
    CHECK_EQ(hits, 2);
}

TEST(breakpoints_in_user_mode)
{
    set_debugreg(1, (u64)break_here);
    REQUIRE_EQ(set_debugreg(7, BREAKPOINT(1, EXECUTE, 1)), 0);
    CHECK_EQ(in_user(execute_target, 0), X86_DB);
    CHECK_EQ(trapped.rip, break_here);
}


/* ---- Single steps ---- */

static u64 steps[32];
static unsigned int step_count;

static void step(struct frame *frame)
{
    if ( step_count < ARRAY_SIZE(steps) )
        steps[step_count++] = frame->rip;
}

extern const char stepped[];

/* Three instructions with TF set: after each of them a trap, and the one that clears TF is the last. */
static ONLY_ONCE u64 run_stepped(u64 unused)
{
    asm volatile("pushfq; orl $0x100, (%%rsp); popfq\n"
                 "stepped: nop; nop\n"
                 "pushfq; andl $~0x100, (%%rsp); popfq; nop"
                 ::: "memory", "cc");
    return 0;
}

static void check_steps(void)
{
    static const u8 lengths[] = {0, 1, 2, 3, 10, 11};

    CHECK_EQ(step_count, 5);
    for ( unsigned int i = 0; i < 5; i++ )
        CHECK_EQ(steps[i], stepped + lengths[i + 1]);
    CHECK_EQ(get_debugreg(6) & DR6_SINGLE_STEP, DR6_SINGLE_STEP);
}

TEST(single_steps_in_the_kernel)
{
    trap_handlers[X86_DB] = step;
    run_stepped(0);
    check_steps();
}

TEST(single_steps_in_user_mode)
{
    trap_handlers[X86_DB] = step;
    in_user(run_stepped, 0);
    check_steps();
}

/* Handlers themselves are not stepped, and TF comes back with the return. */
TEST(single_step_set_by_iret)
{
    struct user_context context = user_context_for(run_stepped, 0);

    trap_handlers[X86_DB] = step;
    give_user_page_tables();
    context.rflags |= FLAGS_TF;
    enter_user(&context);
    /* One for each instruction of the way there as well. */
    CHECK(step_count > 5);
    CHECK_EQ(steps[0], context.rip + 3);
}

/* Xen executes the instruction, and steps as the CPU would. */
TEST(single_step_over_an_emulated_instruction)
{
    trap_handlers[X86_DB] = step;
    asm volatile("pushfq; orl $0x100, (%%rsp); popfq\n"
                 "mov %%cr0, %%rax\n"
                 "pushfq; andl $~0x100, (%%rsp); popfq"
                 ::: "memory", "cc", "rax");
    CHECK_EQ(step_count, 4);
    CHECK_EQ(((const u8 *)steps[0])[-3], 0x0f);
}

static void count_upcall_in_step(struct frame *frame)
{
    step(frame);
    frame->rflags &= ~FLAGS_TF;
}

/* A hypercall returns with TF as it was. */
TEST(single_step_over_a_hypercall)
{
    trap_handlers[X86_DB] = count_upcall_in_step;
    asm volatile("mov %0, %%eax; xor %%edi, %%edi; pushfq; orl $0x100, (%%rsp); popfq; syscall; nop; nop"
                 :: "i"(__HYPERVISOR_xen_version)
                 : "memory", "cc", "rax", "rcx", "rdi", "r11");
    CHECK_EQ(step_count, 1);
    /* The CPU's own trap would come before the instruction behind it. */
    CHECK(((const u8 *)steps[0])[-1] == 0x05 || ((const u8 *)steps[0])[-1] == 0x90);
}
