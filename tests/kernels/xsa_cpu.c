/*
 * What Xen once got wrong about entering and leaving guests and about the instructions that it emulates, tried again.
 * docs/advisories.md says of each what it was.
 */
#include "runtime/kernel.h"

#define MSR_DEBUGCTL 0x1d9
#define MSR_MISC_ENABLE 0x1a0
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define CR4_FSGSBASE (1ul << 16)

static unsigned int write_msr(u32 msr, u64 value)
{
    return TRAP_OF("wrmsr", :: "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

/* The registers would fault in Xen when it loads them. */
TEST(xsa_193_bases_that_are_not_canonical)
{
    static const u32 msrs[] = {MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE};
    static const u64 bad[] = {NON_CANONICAL, 0xffff7ffffffffffful, 1ul << 63};

    for ( unsigned int i = 0; i < ARRAY_SIZE(msrs); i++ )
    {
        for ( unsigned int j = 0; j < ARRAY_SIZE(bad); j++ )
            CHECK_EQ(write_msr(msrs[i], bad[j]), X86_GP);
        CHECK_EQ(write_msr(msrs[i], 0xffff800000000000), NO_TRAP);
        CHECK_EQ(write_msr(msrs[i], 0x7fffffffffff), NO_TRAP);
        CHECK_EQ(write_msr(msrs[i], 0), NO_TRAP);
    }
}

/* Branch tracing writes to memory by itself. */
TEST(xsa_269_branch_tracing)
{
    for ( unsigned int bit = 0; bit < 15; bit++ )
        CHECK_EQ(write_msr(MSR_DEBUGCTL, 1ul << bit), X86_GP);
}

/* Whether it is there or not, the answer is the guest's. */
TEST(xsa_333_misc_enable)
{
    unsigned int trap = TRAP_OF("rdmsr", :: "c"(MSR_MISC_ENABLE) : "rax", "rdx");

    CHECK(trap == NO_TRAP || trap == X86_GP);
    trap = write_msr(MSR_MISC_ENABLE, ~0ul);
    CHECK(trap == NO_TRAP || trap == X86_GP);
}

/* A segment prefix before an instruction whose operand is a register is no operand in memory. */
TEST(xsa_123_segment_prefixes)
{
    u64 plain, prefixed;

    asm volatile("mov %%cr0, %0" : "=a"(plain));
#define WITH_PREFIX(prefix) \
    asm volatile(".byte " prefix ", 0x0f, 0x20, 0xc0" : "=a"(prefixed)); \
    CHECK_EQ(prefixed, plain)
    WITH_PREFIX("0x26");
    WITH_PREFIX("0x2e");
    WITH_PREFIX("0x36");
    WITH_PREFIX("0x3e");
    WITH_PREFIX("0x64");
    WITH_PREFIX("0x65");
    CHECK_EQ(TRAP_OF(".byte 0x65; rdmsr", :: "c"(MSR_FS_BASE) : "rax", "rdx"), NO_TRAP);
    CHECK_EQ(TRAP_OF(".byte 0x65; mov %%rax, %%cr3", :: "a"(0)), X86_GP);
}

/* The direction of far branches is down in privilege only; Xen emulates none of them upwards. */
TEST(xsa_110_far_branches)
{
    struct { u64 offset; u16 selector; } __attribute__((packed)) target = {(u64)&&landed, 0xe008};

    CHECK_EQ(TRAP_OF("rex.W ljmp *(%0)", :: "r"(&target) : "memory"), X86_GP);
    target.selector = 0xe010;
    CHECK_EQ(TRAP_OF("rex.W lcall *(%0)", :: "r"(&target) : "memory"), X86_GP);
    target.selector = 0;
    CHECK_EQ(TRAP_OF("rex.W ljmp *(%0)", :: "r"(&target) : "memory"), X86_GP);
landed:
    return;
}

/* Events can be masked, interrupts cannot: time goes on for others. */
TEST(xsa_202_interrupts_cannot_be_masked)
{
    struct physdev_set_iopl iopl = {1};
    u64 flags;

    for ( unsigned int round = 0; round < 2; round++ )
    {
        asm volatile("pushfq; andq $~0x200, (%%rsp); popfq; pushfq; pop %0" : "=r"(flags) :: "cc", "memory");
        CHECK_EQ(flags & FLAGS_IF, FLAGS_IF);
        /* Who has the privilege for it sees no more than who has not. */
        CHECK_EQ(TRAP_OF("cli"), round ? NO_TRAP : X86_GP);
        asm volatile("pushfq; pop %0" : "=r"(flags));
        CHECK_EQ(flags & FLAGS_IF, FLAGS_IF);
        REQUIRE_EQ(hypercall(physdev_op, PHYSDEVOP_set_iopl, &iopl), 0);
    }
    CHECK_EQ(flags & FLAGS_IOPL, 0);
}

/* What follows an iret in a multicall would be called by what the iret goes to. */
ONLY_ONCE static void iret_in_a_multicall(multicall_entry_t *calls)
{
    register u64 flags asm("rdx");

    asm volatile("mov %%rsp, %%rbx; pushfq; pop %%rdx;"
                 "push %[ss]; push %%rbx; push %%rdx; push %[cs]; push $1f; push $0; push $0; push $0; push $0;"
                 "mov %[number], %%eax; mov $3, %%esi; syscall; ud2; 1:"
                 : "=r"(flags), "+D"(calls)
                 : [number] "i"(__HYPERVISOR_multicall), [cs] "i"(FLAT_KERNEL_CS & ~3), [ss] "i"(FLAT_KERNEL_SS)
                 : "rax", "rbx", "rcx", "rsi", "r11", "memory", "cc");
}

TEST(xsa_213_iret_in_a_multicall)
{
    u64 *page = alloc_page();
    multicall_entry_t calls[] = {
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}},
        {.op = __HYPERVISOR_iret},
        {.op = __HYPERVISOR_update_va_mapping, .args = {(u64)page, 0, UVMF_INVLPG}, .result = 99},
    };

    iret_in_a_multicall(calls);
    CHECK_EQ(calls[0].result >> 16, 4);
    CHECK_EQ(calls[2].result, 99);
    CHECK_EQ(READ_ONCE(page[0]), 0);
}

static u64 nested_task(u64 unused)
{
    u64 flags;

    asm volatile("pushfq; orq $0x4000, (%%rsp); popfq; mov $99, %%eax; syscall; pushfq; pop %0"
                 : "=r"(flags) :: "rax", "rcx", "r11", "cc", "memory");
    return flags;
}

static void look_at_nested_task(struct frame *frame)
{
    u64 flags;

    asm volatile("pushfq; pop %0" : "=r"(flags));
    CHECK_EQ(flags & FLAGS_NT, 0);
}

/* With the flag for nested tasks set, an IRET means something else; so entries clear it. */
TEST(xsa_44_nested_task_flag)
{
    u64 flags;

    give_user_page_tables();
    REQUIRE_EQ(register_callback(CALLBACKTYPE_syscall, 0, entry_point(ENTRY_SYSCALL)), 0);
    trap_handlers[ENTRY_SYSCALL] = look_at_nested_task;
    in_user(nested_task, 0);
    asm volatile("pushfq; orq $0x4000, (%%rsp); popfq" ::: "cc", "memory");
    CHECK_EQ(hypercall(xen_version, XENVER_version, 0) >> 16, 4);
    CHECK_EQ(TRAP_OF("ud2"), X86_UD);
    asm volatile("pushfq; pop %0; push %0; andq $~0x4000, (%%rsp); popfq" : "=r"(flags) :: "cc", "memory");
}

/* The failsafe callback's frame: RCX, R11, four selectors, and where the guest wanted to go on. */
extern const char leave_with_address[];
asm("leave_with_address: mov 48(%rsp), %rdi; call leave_user");

/* A program at the very end of the lower half, so that a SYSCALL returns to where no address is. */
TEST(xsa_7_syscall_at_the_end_of_the_addresses)
{
    u64 *l3 = alloc_page(), *l2 = alloc_page(), *l1 = alloc_page();
    u8 *code = alloc_page();
    struct user_context context = user_context_for(NULL, 0);

    give_user_page_tables();
    code[4094] = 0x0f;
    code[4095] = 0x05;
    l3[511] = make_pte(virt_to_mfn(l2), PTE_RW);
    l2[511] = make_pte(virt_to_mfn(l1), PTE_RW);
    l1[511] = make_pte(virt_to_mfn(code), PTE_RO);
    make_read_only(l3);
    make_read_only(l2);
    make_read_only(l1);
    REQUIRE_EQ(mmu_update(virt_to_maddr(entry_of((void *)0x7ffffffff000, 4)), make_pte(virt_to_mfn(l3), PTE_RW)), 0);
    REQUIRE_EQ(register_callback(CALLBACKTYPE_syscall, 0, entry_point(ENTRY_SYSCALL)), 0);
    REQUIRE_EQ(register_callback(CALLBACKTYPE_failsafe, 0, leave_with_address), 0);
    /* The handler returns to behind the SYSCALL. */
    trap_handlers[ENTRY_SYSCALL] = look_at_nested_task;
    context.rip = 0x7ffffffffffe;
    CHECK_EQ(enter_user(&context), NON_CANONICAL);
}

static u64 steps;

static void count_steps(struct frame *frame)
{
    steps++;
    frame->rflags &= ~FLAGS_TF;
}

static void count_breakpoints(struct frame *frame)
{
    steps++;
}

/* A trap that MOV SS held back comes when the guest is where it may come, and not in Xen. */
ONLY_ONCE static long hypercall_after_mov_ss(void)
{
    long result;

    asm volatile("mov %%ss, %%ecx; mov %[number], %%eax; xor %%edi, %%edi;"
                 "pushfq; orq $0x100, (%%rsp); popfq; mov %%ecx, %%ss; syscall; nop; nop"
                 : "=a"(result)
                 : [number] "i"(__HYPERVISOR_xen_version)
                 : "rcx", "rdi", "r11", "memory", "cc");
    return result;
}

TEST(xsa_260_debug_exceptions_after_mov_ss)
{
    trap_handlers[X86_DB] = count_steps;
    CHECK_EQ(hypercall_after_mov_ss() >> 16, 4);
    CHECK(steps >= 1);
    steps = 0;
    trap_handlers[X86_BP] = count_breakpoints;
    asm volatile("mov %%ss, %%ecx; pushfq; orq $0x100, (%%rsp); popfq; mov %%ecx, %%ss; int3; nop"
                 ::: "rcx", "memory", "cc");
    CHECK(steps >= 1);
}

/* A breakpoint for data that Xen reads and writes for the guest is none in Xen. */
TEST(xsa_265_breakpoints_for_what_xen_accesses)
{
    static volatile struct evtchn_status status = {.dom = DOMID_SELF, .port = 1};

    trap_handlers[X86_DB] = count_breakpoints;
    REQUIRE_EQ(hypercall(set_debugreg, 0, &status), 0);
    REQUIRE_EQ(hypercall(set_debugreg, 7, 0x000f0003), 0);
    CHECK_EQ(hypercall(event_channel_op, EVTCHNOP_status, &status), 0);
    CHECK_EQ(hypercall(set_debugreg, 7, 0), 0);
    CHECK_EQ(status.dom, DOMID_SELF);
}

/* Whether the guest may set bases by instructions is a matter of CR4, which only changes by what Xen offers. */
TEST(xsa_293_cr4_of_the_kernel)
{
    u64 cr4, after;

    asm volatile("mov %%cr4, %0" : "=r"(cr4));
    for ( unsigned int bit = 0; bit < 32; bit++ )
    {
        asm volatile("mov %0, %%cr4" :: "r"(cr4 ^ 1ul << bit) : "memory");
        CHECK_EQ(hypercall(xen_version, XENVER_version, 0) >> 16, 4);
        asm volatile("mov %0, %%cr4" :: "r"(cr4) : "memory");
    }
    asm volatile("mov %%cr4, %0" : "=r"(after));
    CHECK_EQ(after, cr4);
}

/* A selector behind the end of its table is none, also for the instructions that Xen emulates. */
TEST(xsa_298_selectors_behind_the_end)
{
    u64 *ldt = alloc_page();
    struct physdev_set_iopl iopl = {1};
    u8 bytes[16];

    for ( unsigned int entry = 0; entry < 512; entry++ )
        ldt[entry] = 0x00cff3000000ffff;
    make_read_only(ldt);
    REQUIRE_EQ(hypercall(physdev_op, PHYSDEVOP_set_iopl, &iopl), 0);
    REQUIRE_EQ(mmuext(MMUEXT_SET_LDT, (u64)ldt, 8), 0);
    CHECK_EQ(TRAP_OF("mov %0, %%fs", :: "r"(7 << 3 | 7)), NO_TRAP);
    CHECK_EQ(TRAP_OF("mov %0, %%fs", :: "r"(8 << 3 | 7)), X86_GP);
    CHECK_EQ(TRAP_OF("mov %0, %%fs", :: "r"(511 << 3 | 7)), X86_GP);
    CHECK_EQ(TRAP_OF("mov %0, %%fs", :: "r"(0xffff)), X86_GP);
    CHECK_EQ(TRAP_OF("insb", :: "D"(bytes), "d"(0x70) : "memory"), NO_TRAP);
    REQUIRE_EQ(mmuext(MMUEXT_SET_LDT, 0, 0), 0);
    CHECK_EQ(TRAP_OF("mov %0, %%fs", :: "r"(7)), X86_GP);
    CHECK_EQ(TRAP_OF("mov %0, %%fs", :: "r"(0)), NO_TRAP);
}

/* XSETBV with anything at all: there is no XSAVE. */
TEST(xsa_54_xsetbv)
{
    for ( u64 value = 0; value < 16; value++ )
    {
        unsigned int trap = TRAP_OF("xsetbv", :: "c"(0), "a"((u32)value), "d"(0));

        CHECK(trap == X86_UD || trap == X86_GP);
    }
}
