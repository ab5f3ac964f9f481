/*
 * User mode: system calls of 64-bit and 32-bit programs, the ways back, and the bases of FS and GS.
 * Xen: switch_to_kernel and restore_all_guest in xen/arch/x86/x86_64/entry.S, pv/callback.c, pv/iret.c,
 * pv/misc-hypercalls.c.
 */
#include "runtime/kernel.h"

/* ---- System calls of 64-bit programs ---- */

static struct frame called;
static u8 mask_when_called;
u64 direction_when_called;

/* As a kernel does: remember, and return 42 behind the instruction. */
static void answer(struct frame *frame)
{
    called = *frame;
    mask_when_called = vcpu_info->evtchn_upcall_mask;
    frame->rax = 42;
}

static u64 system_call(u64 number)
{
    u64 result = number;

    asm volatile("syscall" : "+a"(result) :: "rcx", "r11", "memory");
    return result;
}

static void handle_syscalls(unsigned int flags)
{
    trap_handlers[ENTRY_SYSCALL] = answer;
    REQUIRE_EQ(register_callback(CALLBACKTYPE_syscall, flags, entry_point(ENTRY_SYSCALL)), 0);
}

TEST(syscall)
{
    static const u8 instruction[] = {0x0f, 0x05};

    handle_syscalls(0);
    CHECK_EQ(in_user(system_call, 7), 42);
    CHECK_EQ(called.rax, 7);
    CHECK_EQ(called.cs, FLAT_USER_CS);
    CHECK_EQ(called.ss, FLAT_USER_SS);
    CHECK(!memcmp((void *)(called.rip - 2), instruction, 2));
    /* What the CPU put there. */
    CHECK_EQ(called.rcx, called.rip);
    CHECK_EQ(called.r11 & ~FLAGS_IF, called.rflags & ~FLAGS_IF);
    CHECK(called.rsp > (u64)user_stack && called.rsp <= (u64)(user_stack + USER_STACK_SIZE));
}

TEST(syscall_by_set_callbacks)
{
    trap_handlers[ENTRY_SYSCALL] = answer;
    CHECK_EQ(hypercall(set_callbacks, entry_point(ENTRY_EVENT), 0, entry_point(ENTRY_SYSCALL)), 0);
    CHECK_EQ(in_user(system_call, 7), 42);
}

TEST(syscall_masks_events_if_asked)
{
    unmask_events();
    handle_syscalls(0);
    in_user(system_call, 0);
    CHECK_EQ(mask_when_called, 0);
    handle_syscalls(CALLBACKF_mask_events);
    in_user(system_call, 0);
    CHECK_EQ(mask_when_called, 1);
    CHECK_EQ(called.saved_upcall_mask, 0);
    CHECK_EQ(READ_ONCE(vcpu_info->evtchn_upcall_mask), 0);
    /* Not only set, but cleared as well. */
    handle_syscalls(0);
    in_user(system_call, 0);
    CHECK_EQ(mask_when_called, 0);
}

extern const char keep_direction[];
asm("keep_direction: pushfq; popq direction_when_called; jmp entry_points + 32 * 0x101");

static u64 downwards(u64 unused)
{
    u64 result = 0;

    asm volatile("std; syscall; cld" : "+a"(result) :: "rcx", "r11", "memory", "cc");
    return result;
}

TEST(syscall_clears_the_direction_flag)
{
    handle_syscalls(0);
    REQUIRE_EQ(register_callback(CALLBACKTYPE_syscall, 0, keep_direction), 0);
    CHECK_EQ(in_user(downwards, 0), 42);
    CHECK_EQ(direction_when_called & FLAGS_DF, 0);
    CHECK_EQ(called.rflags & FLAGS_DF, FLAGS_DF);
}

static u64 system_call_trap(u64 unused)
{
    return TRAP_OF("syscall");
}

TEST(syscall_without_a_handler)
{
    static const u8 instruction[] = {0x0f, 0x05};

    CHECK_EQ(in_user(system_call_trap, 0), X86_UD);
    CHECK(!memcmp((void *)trapped.rip, instruction, 2));
    CHECK_EQ(trapped.cs, FLAT_USER_CS);
}

/* A program gets its kernel, whatever number it calls. */
TEST(no_hypercalls_from_user_mode)
{
    handle_syscalls(0);
    CHECK_EQ(in_user(system_call, __HYPERVISOR_sched_op), 42);
    CHECK_EQ(called.rax, __HYPERVISOR_sched_op);
}

/* ---- Callbacks ---- */

TEST(callbacks_refuse_addresses_that_are_not_canonical)
{
    for ( unsigned int type = 0; type <= CALLBACKTYPE_syscall32; type++ )
        CHECK_EQ(register_callback(type, 0, (void *)NON_CANONICAL), -XEN_EINVAL);
    /* The old call does not say so, and does not do it either. */
    handle_syscalls(0);
    CHECK_EQ(hypercall(set_callbacks, NON_CANONICAL, NON_CANONICAL, NON_CANONICAL), 0);
    CHECK_EQ(in_user(system_call, 7), 42);
}

TEST(callbacks_of_no_type)
{
    struct callback_unregister unregister = {.type = 99};

    CHECK_EQ(register_callback(99, 0, entry_point(0)), -XEN_ENOSYS);
    CHECK_EQ(register_callback(CALLBACKTYPE_sysenter_deprecated, 0, entry_point(0)), -XEN_ENOSYS);
    CHECK_EQ(hypercall(callback_op, CALLBACKOP_unregister, &unregister), -XEN_ENOSYS);
    CHECK_EQ(hypercall(callback_op, 2, &unregister), -XEN_ENOSYS);
}

TEST(callbacks_stay)
{
    u16 types[] = {CALLBACKTYPE_event, CALLBACKTYPE_failsafe, CALLBACKTYPE_syscall, CALLBACKTYPE_syscall32,
                   CALLBACKTYPE_sysenter};

    for ( unsigned int i = 0; i < ARRAY_SIZE(types); i++ )
    {
        struct callback_unregister unregister = {.type = types[i]};

        CHECK_EQ(hypercall(callback_op, CALLBACKOP_unregister, &unregister), -XEN_EINVAL);
    }
}

TEST(callbacks_that_cannot_be_read)
{
    CHECK_EQ(hypercall(callback_op, CALLBACKOP_register, UNMAPPED), -XEN_EFAULT);
    CHECK_EQ(hypercall(callback_op, CALLBACKOP_unregister, XENS_OWN), -XEN_EFAULT);
}

/* ---- Ways back ---- */

u64 user_rcx, user_r11;

/* Leaves with what it found in RCX and R11. */
extern const char keep_rcx_r11[];
asm("keep_rcx_r11: mov %rcx, user_rcx; mov %r11, user_r11; mov $1, %eax; int $0xff");

TEST(iret_as_sysret)
{
    struct user_context context = user_context_for(NULL, 0);

    give_user_page_tables();
    context.rip = (u64)keep_rcx_r11;
    context.vgcf_flags = VGCF_in_syscall;
    context.rflags |= 0xd5;
    CHECK_EQ(enter_user(&context), 1);
    CHECK_EQ(user_rcx, keep_rcx_r11);
    CHECK_EQ(user_r11, 0xd5 | FLAGS_IF);
}

TEST(iret_keeps_all_registers)
{
    struct user_context context = user_context_for(NULL, 0);

    give_user_page_tables();
    context.rip = (u64)keep_rcx_r11;
    CHECK_EQ(enter_user(&context), 1);
    /* As enter_user left them. */
    CHECK_EQ(user_rcx, 0);
    CHECK_EQ(user_r11, 0);
}

TEST(iret_forces_user_privilege)
{
    struct user_context context = user_context_for(NULL, 0);
    unsigned int flags[] = {0, VGCF_in_syscall};

    give_user_page_tables();
    context.rip = (u64)keep_rcx_r11;
    context.rflags |= FLAGS_IOPL;
    context.ss &= ~3;
    for ( unsigned int i = 0; i < ARRAY_SIZE(flags); i++ )
    {
        context.vgcf_flags = flags[i];
        CHECK_EQ(enter_user(&context), 1);
        CHECK_EQ(TRAP_OF("hlt"), X86_GP);
    }
}

/* ---- 32-bit programs ---- */

/* Push EAX, leave with the result of what is done, in EAX. */
extern const char syscall_32[], int80_32[], sysenter_32[], into_32[];
asm(".code32\n"
    "syscall_32: mov $7, %eax; mov $8, %ebp; syscall; int $0xff\n"
    "int80_32: mov $7, %eax; int $0x80; int $0xff\n"
    "sysenter_32: mov $7, %eax; sysenter; int $0xff\n"
    "into_32: mov $0x7fffffff, %eax; inc %eax; into; int $0xff\n"
    ".code64\n");

static struct user_context program_32(const char *code)
{
    struct user_context context = user_context_for(NULL, 0);

    give_user_page_tables();
    context.rip = (u64)code;
    context.cs = FLAT_USER_CS32;
    context.ss = FLAT_USER_SS32;
    return context;
}

TEST(syscall_32_bit)
{
    struct user_context context = program_32(syscall_32);

    trap_handlers[ENTRY_SYSCALL32] = answer;
    REQUIRE_EQ(register_callback(CALLBACKTYPE_syscall32, 0, entry_point(ENTRY_SYSCALL32)), 0);
    CHECK_EQ(enter_user(&context), 42);
    CHECK_EQ(called.rax, 7);
    CHECK_EQ(called.rbp, 8);
    CHECK_EQ(called.cs, FLAT_USER_CS32);
    CHECK_EQ(called.ss, FLAT_USER_SS32);
    CHECK_EQ(called.rip, syscall_32 + 12);
}

TEST(syscall_32_bit_masks_events_if_asked)
{
    struct user_context context = program_32(syscall_32);

    context.rflags |= FLAGS_IF;
    trap_handlers[ENTRY_SYSCALL32] = answer;
    REQUIRE_EQ(register_callback(CALLBACKTYPE_syscall32, CALLBACKF_mask_events, entry_point(ENTRY_SYSCALL32)), 0);
    CHECK_EQ(enter_user(&context), 42);
    CHECK_EQ(mask_when_called, 1);
}

static void keep_and_leave(struct frame *frame)
{
    called = *frame;
    leave_user(frame->vector);
}

TEST(syscall_32_bit_without_a_handler)
{
    struct user_context context = program_32(syscall_32);

    trap_handlers[X86_UD] = keep_and_leave;
    CHECK_EQ(enter_user(&context), X86_UD);
    CHECK_EQ(called.rip, syscall_32 + 10);
    CHECK_EQ(called.cs, FLAT_USER_CS32);
}

/* From 32-bit code the 64-bit entry is not used, and the other way round. */
TEST(syscalls_of_the_other_size)
{
    struct user_context context = program_32(syscall_32);

    handle_syscalls(0);
    trap_handlers[X86_UD] = keep_and_leave;
    CHECK_EQ(enter_user(&context), X86_UD);
}

TEST(int80_32_bit)
{
    struct user_context context = program_32(int80_32);

    trap_handlers[0x80] = answer;
    set_trap(0x80, 3, entry_point(0x80));
    CHECK_EQ(enter_user(&context), 42);
    CHECK_EQ(called.rax, 7);
    CHECK_EQ(called.cs, FLAT_USER_CS32);
    CHECK_EQ(called.rip, int80_32 + 7);
}

TEST(into_32_bit)
{
    struct user_context context = program_32(into_32);

    trap_handlers[X86_OF] = answer;
    CHECK_EQ(enter_user(&context), 42);
    CHECK_EQ(called.rip, into_32 + 7);
}

/* An AMD CPU has no SYSENTER in long mode. */
TEST(no_sysenter)
{
    struct user_context context = program_32(sysenter_32);

    REQUIRE_EQ(register_callback(CALLBACKTYPE_sysenter, 0, entry_point(ENTRY_SYSENTER)), 0);
    trap_handlers[X86_UD] = keep_and_leave;
    CHECK_EQ(enter_user(&context), X86_UD);
    CHECK_EQ(called.rip, sysenter_32 + 5);
    trap_handlers[X86_UD] = NULL;
    CHECK_EQ(TRAP_OF("sysenter"), X86_UD);
}

/* ---- Ways back that fail ---- */

extern const char failsafe_entry[];
u64 failsafe_frame[11];
asm("failsafe_entry:\n"
    "    i = 0\n"
    "    .rept 11\n"
    "    mov i(%rsp), %rcx\n"
    "    mov %rcx, failsafe_frame + i\n"
    "    i = i + 8\n"
    "    .endr\n"
    "    mov $77, %edi\n"
    "    call leave_user\n");

static u64 fail(u64 cs, u64 ss)
{
    struct user_context context = user_context_for(hypercall_page, 0);

    give_user_page_tables();
    REQUIRE_EQ(register_callback(CALLBACKTYPE_failsafe, CALLBACKF_mask_events, failsafe_entry), 0);
    context.cs = cs;
    context.ss = ss;
    context.rflags |= FLAGS_IF;
    return enter_user(&context);
}

TEST(failsafe_callback)
{
    CHECK_EQ(fail(0x33, FLAT_USER_SS), 77);
    CHECK_EQ(fail(FLAT_USER_CS, 0x33), 77);
    CHECK_EQ(fail(3, FLAT_USER_SS), 77);
    /* Xen's own data segment is no code, and its code no stack. */
    CHECK_EQ(fail(FLAT_USER_SS, FLAT_USER_SS), 77);
    CHECK_EQ(fail(FLAT_USER_CS, FLAT_USER_CS), 77);
}

/* RCX, R11, DS, ES, FS, GS, and then where the guest was to go on. */
TEST(failsafe_frame_says_what_was_wanted)
{
    CHECK_EQ(fail(0x33, FLAT_USER_SS), 77);
    CHECK_EQ(failsafe_frame[2], 0);
    CHECK_EQ(failsafe_frame[3], 0);
    CHECK_EQ(failsafe_frame[7] & 0xffff, 0x33);
    CHECK_EQ(failsafe_frame[8] & FLAGS_IF, FLAGS_IF);
    CHECK(failsafe_frame[9] > (u64)user_stack && failsafe_frame[9] <= (u64)(user_stack + USER_STACK_SIZE));
    CHECK_EQ(failsafe_frame[10] & 0xffff, FLAT_USER_SS);
    CHECK_EQ(READ_ONCE(vcpu_info->evtchn_upcall_mask), 1);
}

TEST(failsafe_for_an_address_that_is_not_canonical)
{
    struct user_context context = user_context_for(NULL, 0);

    give_user_page_tables();
    REQUIRE_EQ(register_callback(CALLBACKTYPE_failsafe, 0, failsafe_entry), 0);
    context.rip = NON_CANONICAL;
    CHECK_EQ(enter_user(&context), 77);
    CHECK_EQ(failsafe_frame[6], NON_CANONICAL);
}

/* ---- FS and GS ---- */

static u64 words[4] = {11, 22, 33, 44};

#define FS_WORD() ({ u64 word_; asm volatile("mov %%fs:0, %0" : "=r"(word_)); word_; })
#define GS_WORD() ({ u64 word_; asm volatile("mov %%gs:0, %0" : "=r"(word_)); word_; })

static u64 user_fs_and_gs(u64 unused)
{
    return FS_WORD() << 8 | GS_WORD();
}

TEST(segment_bases)
{
    CHECK_EQ(hypercall(set_segment_base, SEGBASE_FS, &words[0]), 0);
    CHECK_EQ(hypercall(set_segment_base, SEGBASE_GS_KERNEL, &words[1]), 0);
    CHECK_EQ(hypercall(set_segment_base, SEGBASE_GS_USER, &words[2]), 0);
    CHECK_EQ(FS_WORD(), 11);
    CHECK_EQ(GS_WORD(), 22);
    CHECK_EQ(in_user(user_fs_and_gs, 0), 11 << 8 | 33);
    CHECK_EQ(FS_WORD(), 11);
    CHECK_EQ(GS_WORD(), 22);
}

TEST(segment_bases_that_are_refused)
{
    REQUIRE_EQ(hypercall(set_segment_base, SEGBASE_FS, &words[0]), 0);
    CHECK_EQ(hypercall(set_segment_base, SEGBASE_FS, NON_CANONICAL), -XEN_EINVAL);
    CHECK_EQ(hypercall(set_segment_base, SEGBASE_GS_USER, NON_CANONICAL), -XEN_EINVAL);
    CHECK_EQ(hypercall(set_segment_base, SEGBASE_GS_KERNEL, ~NON_CANONICAL), -XEN_EINVAL);
    CHECK_EQ(hypercall(set_segment_base, 4, &words[0]), -XEN_EINVAL);
    CHECK_EQ(FS_WORD(), 11);
    /* Canonical is enough: Xen's own memory is not to be had by them. */
    CHECK_EQ(hypercall(set_segment_base, SEGBASE_FS, XENS_OWN), 0);
    CHECK_EQ(TRAP_OF("mov %%fs:0, %%rax", ::: "rax"), X86_PF);
}

/* `which` is an unsigned int. */
TEST(segment_base_number_has_32_bits)
{
    CHECK_EQ(hypercall(set_segment_base, 1ul << 32 | SEGBASE_FS, &words[3]), 0);
    CHECK_EQ(FS_WORD(), 44);
}

static u16 gs_selector(void)
{
    u16 selector;

    asm volatile("mov %%gs, %0" : "=r"(selector));
    return selector;
}

static u64 user_gs(u64 unused)
{
    return GS_WORD();
}

/* A data segment of 4 GiB from a base that has 32 bits. */
static u64 data_segment(const void *base)
{
    u64 at = (u64)base;

    return 0x00cff2000000fffful | (at & 0xffffff) << 16 | (at >> 24 & 0xff) << 56;
}

TEST(user_gs_by_selector)
{
    u64 *gdt = alloc_page();
    u64 frame = virt_to_mfn(gdt);

    gdt[1] = data_segment(&words[3]);
    make_read_only(gdt);
    REQUIRE_EQ(hypercall(set_gdt, &frame, 512), 0);
    REQUIRE_EQ(hypercall(set_segment_base, SEGBASE_GS_KERNEL, &words[1]), 0);
    CHECK_EQ(hypercall(set_segment_base, SEGBASE_GS_USER_SEL, 8), 0);
    CHECK_EQ(gs_selector(), 8 | 3);
    CHECK_EQ(GS_WORD(), 22);
    CHECK_EQ(in_user(user_gs, 0), 44);
}

/* The call does not fail, and leaves the selector empty. */
TEST(user_gs_by_a_bad_selector)
{
    REQUIRE_EQ(hypercall(set_segment_base, SEGBASE_GS_USER, &words[2]), 0);
    CHECK_EQ(hypercall(set_segment_base, SEGBASE_GS_USER_SEL, 0x33), 0);
    CHECK_EQ(gs_selector(), 0);
    CHECK_EQ(hypercall(set_segment_base, SEGBASE_GS_USER_SEL, 0), 0);
    CHECK_EQ(gs_selector(), 0);
}

#define CR4_FSGSBASE (1ul << 16)

static u64 bases_by_instruction(u64 unused)
{
    u64 fs, gs;

    asm volatile("rdfsbase %0; rdgsbase %1" : "=r"(fs), "=r"(gs));
    asm volatile("wrfsbase %0; wrgsbase %1" :: "r"(&words[0]), "r"(&words[3]));
    return fs == (u64)&words[2] && gs == (u64)&words[1] ? FS_WORD() << 8 | GS_WORD() : 0;
}

/* CR4.FSGSBASE is the guest's to choose, and it is not set behind its back. */
TEST(instructions_for_segment_bases)
{
    u64 cr4;

    CHECK_EQ(TRAP_OF("rdfsbase %%rax", ::: "rax"), X86_UD);
    CHECK_EQ(TRAP_OF("wrgsbase %%rax", :: "a"(0)), X86_UD);
    asm volatile("mov %%cr4, %0" : "=r"(cr4));
    CHECK_EQ(cr4 & CR4_FSGSBASE, 0);
    CHECK_EQ(TRAP_OF("mov %0, %%cr4", :: "r"(cr4 | CR4_FSGSBASE)), NO_TRAP);
    asm volatile("mov %%cr4, %0" : "=r"(cr4));
    CHECK_EQ(cr4 & CR4_FSGSBASE, CR4_FSGSBASE);
    CHECK_EQ(TRAP_OF("wrfsbase %0", :: "r"(&words[2])), NO_TRAP);
    CHECK_EQ(TRAP_OF("wrgsbase %0", :: "r"(&words[0])), NO_TRAP);
    REQUIRE_EQ(hypercall(set_segment_base, SEGBASE_GS_USER, &words[1]), 0);
    CHECK_EQ(in_user(bases_by_instruction, 0), 11 << 8 | 44);
    CHECK_EQ(FS_WORD(), 11);
    CHECK_EQ(GS_WORD(), 11);
}

TEST(no_swapgs)
{
    CHECK_EQ(TRAP_OF("swapgs"), X86_GP);
}
