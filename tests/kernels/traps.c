/*
 * Exceptions in a PV guest: the trap table, what Xen pushes, the way back, and who may raise which by "int".
 * Xen: xen/arch/x86/pv/traps.c, xen/arch/x86/traps.c, create_bounce_frame in x86_64/entry.S, pv/iret.c.
 */
#include "runtime/kernel.h"

/* ---- Which exception, and its error code ---- */

TEST(divide_error)
{
    CHECK_EQ(TRAP_OF("div %%cl", :: "a"(1), "c"(0)), X86_DE);
}

TEST(invalid_opcode)
{
    CHECK_EQ(TRAP_OF("ud2"), X86_UD);
    CHECK_EQ(TRAP_OF(".byte 0x06 # push %%es, gone in 64-bit mode"), X86_UD);
}

/* By either of its encodings. */
TEST(breakpoint_is_a_trap)
{
    CHECK_EQ(TRAP_OF("int3"), X86_BP);
    CHECK_EQ(((const u8 *)trapped.rip)[-1], 0xcc);
    CHECK_EQ(TRAP_OF(".byte 0xcd, 3"), X86_BP);
    CHECK_EQ(((const u8 *)trapped.rip)[-1], 3);
}

TEST(faults_point_to_the_instruction)
{
    static const u8 ud2[] = {0x0f, 0x0b};

    CHECK_EQ(TRAP_OF("ud2"), X86_UD);
    CHECK(!memcmp((void *)trapped.rip, ud2, sizeof(ud2)));
}

TEST(page_fault_of_a_read)
{
    CHECK_EQ(TRAP_OF("mov (%0), %%rax", :: "r"(UNMAPPED) : "rax"), X86_PF);
    CHECK_EQ(trapped.error_code, 0);
    CHECK_EQ(trapped_cr2, UNMAPPED);
}

TEST(page_fault_of_a_write)
{
    CHECK_EQ(TRAP_OF("movb $1, 3(%0)", :: "r"(UNMAPPED)), X86_PF);
    CHECK_EQ(trapped.error_code, PFEC_WRITE);
    CHECK_EQ(trapped_cr2, UNMAPPED + 3);
}

TEST(page_fault_of_a_write_to_what_is_read_only)
{
    u8 *page = alloc_page();

    make_read_only(page);
    CHECK_EQ(TRAP_OF("movb $1, 5(%0)", :: "r"(page)), X86_PF);
    CHECK_EQ(trapped.error_code, PFEC_PRESENT | PFEC_WRITE);
    CHECK_EQ(trapped_cr2, page + 5);
    CHECK_EQ(page[5], 0);
}

static void fetch(const void *page)
{
    asm volatile("call *%0\n" :: "r"(page) : "memory");
}

static u64 return_address;

/* Nothing is mapped where the kernel called: return. */
static void return_from_fetch(struct frame *frame)
{
    trapped = *frame;
    trapped_cr2 = vcpu_info->arch.cr2;
    return_address = *(u64 *)frame->rsp;
    frame->rip = return_address;
    frame->rsp += 8;
}

TEST(page_fault_of_a_fetch)
{
    trap_handlers[X86_PF] = return_from_fetch;
    fetch((void *)UNMAPPED);
    CHECK_EQ(trapped.error_code, PFEC_FETCH);
    CHECK_EQ(trapped.rip, UNMAPPED);
    CHECK_EQ(trapped_cr2, UNMAPPED);
}

TEST(page_fault_of_a_fetch_from_what_is_no_code)
{
    u8 *page = alloc_page();

    page[0] = 0xc3;
    fetch(page);
    REQUIRE_EQ(map(page, make_pte(virt_to_mfn(page), PTE_RW | PAGE_NX)), 0);
    trap_handlers[X86_PF] = return_from_fetch;
    fetch(page);
    CHECK_EQ(trapped.error_code, PFEC_PRESENT | PFEC_FETCH);
    CHECK_EQ(trapped.rip, page);
}

/* The part of the address space that is Xen's own looks empty. */
TEST(xens_memory_is_not_there)
{
    CHECK_EQ(TRAP_OF("mov (%0), %%rax", :: "r"(XENS_OWN) : "rax"), X86_PF);
    CHECK_EQ(trapped.error_code & ~PFEC_PRESENT, 0);
    CHECK_EQ(TRAP_OF("movb $0, (%0)", :: "r"(XENS_OWN)), X86_PF);
    CHECK_EQ(trapped.error_code & ~PFEC_PRESENT, PFEC_WRITE);
}

TEST(addresses_that_are_not_canonical)
{
    CHECK_EQ(TRAP_OF("mov (%0), %%al", :: "r"(NON_CANONICAL) : "rax"), X86_GP);
    CHECK_EQ(trapped.error_code, 0);
    CHECK_EQ(TRAP_OF("movb $0, (%0)", :: "r"(~NON_CANONICAL)), X86_GP);
}

TEST(privileged_instructions_that_nobody_may_use)
{
    CHECK_EQ(TRAP_OF("hlt"), X86_GP);
    CHECK_EQ(trapped.error_code, 0);
    CHECK_EQ(TRAP_OF("invlpg (%0)", :: "r"(&trapped)), X86_GP);
    CHECK_EQ(TRAP_OF("ltr %%ax", :: "a"(0x40)), X86_GP);
    CHECK_EQ(TRAP_OF("invd"), X86_GP);
}

TEST(selectors_beyond_the_gdt)
{
    CHECK_EQ(TRAP_OF("mov %0, %%ds", :: "r"(0x33)), X86_GP);
    CHECK_EQ(trapped.error_code, 0x30);
    CHECK_EQ(TRAP_OF("mov %0, %%es", :: "r"(0x77)), X86_GP);
    CHECK_EQ(trapped.error_code, 0x74);
}

/* The entries that Xen itself uses, at 0xe000 and up, are for its own ring. */
TEST(xens_selectors)
{
    CHECK_EQ(TRAP_OF("mov %0, %%ds", :: "r"(0xe008)), X86_GP);
    CHECK_EQ(TRAP_OF("mov %0, %%ds", :: "r"(0xe010)), X86_GP);
    CHECK_EQ(TRAP_OF("mov %0, %%ds", :: "r"(FLAT_RING3_DS32)), NO_TRAP);
    asm volatile("mov %0, %%ds" :: "r"(0));
}

/* ---- What Xen pushes ---- */

/* A way in that first of all keeps what it finds, and then goes on as usual. */
extern const char keep_ud[], keep_gp[], keep_event[];
u64 found_stack[10], found_rcx, found_r11, found_rsp, found_flags, found_cs, found_ss;

asm(".macro keep name, entry\n"
    "\\name:\n"
    "    mov %rcx, found_rcx\n"
    "    mov %r11, found_r11\n"
    "    mov %rsp, found_rsp\n"
    "    pushfq\n"
    "    pop found_flags\n"
    "    mov %cs, %ecx\n"
    "    mov %rcx, found_cs\n"
    "    mov %ss, %ecx\n"
    "    mov %rcx, found_ss\n"
    "    i = 0\n"
    "    .rept 10\n"
    "    mov i(%rsp), %rcx\n"
    "    mov %rcx, found_stack + i\n"
    "    i = i + 8\n"
    "    .endr\n"
    "    jmp entry_points + 32 * \\entry\n"
    ".endm\n"
    "keep keep_ud, 6\n"
    "keep keep_gp, 13\n"
    "keep keep_event, 0x100\n");

TEST(frame_without_an_error_code)
{
    u64 rsp;

    set_trap(X86_UD, 0, keep_ud);
    CHECK_EQ(TRAP_OF("mov %%rsp, %0; mov $0x1234, %%ecx; mov $0x5678, %%r11d; ud2", : "=m"(rsp) :: "rcx", "r11"), X86_UD);
    CHECK_EQ(found_stack[0], 0x1234);
    CHECK_EQ(found_stack[1], 0x5678);
    CHECK_EQ(found_stack[2], trapped.rip);
    CHECK_EQ(found_stack[3], (1ul << 32 | (FLAT_KERNEL_CS & ~3)));
    CHECK_EQ(found_stack[4] & (FLAGS_IF | FLAGS_IOPL | 2), 2);
    CHECK_EQ(found_stack[5], rsp);
    CHECK_EQ(found_stack[6], FLAT_KERNEL_SS);
    CHECK_EQ(found_rsp, (rsp & ~15ul) - 7 * 8);
}

TEST(frame_with_an_error_code)
{
    u64 rsp;

    set_trap(X86_GP, 0, keep_gp);
    CHECK_EQ(TRAP_OF("mov %%rsp, %0; mov $0x33, %%ecx; mov %%ecx, %%ds", : "=m"(rsp) :: "rcx"), X86_GP);
    CHECK_EQ(found_stack[0], 0x33);
    CHECK_EQ(found_stack[2], 0x30);
    CHECK_EQ(found_stack[3], trapped.rip);
    CHECK_EQ(found_stack[4] & 0xffff, FLAT_KERNEL_CS & ~3);
    CHECK_EQ(found_stack[6], rsp);
    CHECK_EQ(found_stack[7], FLAT_KERNEL_SS);
    CHECK_EQ(found_rsp, (rsp & ~15ul) - 8 * 8);
}

/* Xen comes back by SYSRET. */
TEST(registers_at_an_entry)
{
    set_trap(X86_UD, 0, keep_ud);
    CHECK_EQ(TRAP_OF("ud2"), X86_UD);
    CHECK_EQ(found_rcx, keep_ud);
    CHECK_EQ(found_r11, found_flags);
    CHECK_EQ(found_cs, FLAT_KERNEL_CS);
    CHECK_EQ(found_ss, FLAT_KERNEL_SS);
    CHECK_EQ(found_flags & (FLAGS_IF | FLAGS_IOPL | FLAGS_TF | FLAGS_NT | FLAGS_AC), FLAGS_IF);
}

TEST(flags_that_an_entry_clears_and_keeps)
{
    set_trap(X86_UD, 0, keep_ud);
    TRAP_OF("pushfq; orq %0, (%%rsp); popfq; ud2", :: "i"(FLAGS_NT | FLAGS_AC | FLAGS_DF | 0xd5));
    asm volatile("pushfq; andq %0, (%%rsp); popfq; cld" :: "i"(~(FLAGS_NT | FLAGS_AC | 0xd5)) : "memory", "cc");
    CHECK_EQ(found_stack[4] & (FLAGS_NT | FLAGS_AC | FLAGS_DF | 0xd5), FLAGS_NT | FLAGS_AC | FLAGS_DF | 0xd5);
    CHECK_EQ(found_flags & (FLAGS_NT | FLAGS_AC | FLAGS_DF | 0xd5), FLAGS_DF | 0xd5);
}

/* IF in what is pushed, and bits 32 to 39 of CS, tell whether events were masked. */
TEST(frame_tells_of_the_event_mask)
{
    unmask_events();
    CHECK_EQ(TRAP_OF("ud2"), X86_UD);
    CHECK_EQ(trapped.rflags & FLAGS_IF, FLAGS_IF);
    CHECK_EQ(trapped.saved_upcall_mask, 0);
    mask_events();
    CHECK_EQ(TRAP_OF("ud2"), X86_UD);
    CHECK_EQ(trapped.rflags & FLAGS_IF, 0);
    CHECK_EQ(trapped.saved_upcall_mask, 1);
}

static u8 mask_in_handler;

static void look_at_mask(struct frame *frame)
{
    mask_in_handler = vcpu_info->evtchn_upcall_mask;
    frame->rip += 2;
}

/* Bit 2 of the flags: mask events at entry; the return gives back what was. */
TEST(trap_table_flag_masks_events)
{
    trap_handlers[X86_UD] = look_at_mask;
    unmask_events();
    asm volatile("ud2" ::: "memory");
    CHECK_EQ(mask_in_handler, 0);
    set_trap(X86_UD, 4, entry_point(X86_UD));
    asm volatile("ud2" ::: "memory");
    CHECK_EQ(mask_in_handler, 1);
    CHECK_EQ(READ_ONCE(vcpu_info->evtchn_upcall_mask), 0);
}

static void ask_for_masked_return(struct frame *frame)
{
    frame->rflags &= ~FLAGS_IF;
    frame->rip += 2;
}

TEST(iret_sets_the_event_mask_from_if)
{
    trap_handlers[X86_UD] = ask_for_masked_return;
    unmask_events();
    asm volatile("ud2" ::: "memory");
    CHECK_EQ(READ_ONCE(vcpu_info->evtchn_upcall_mask), 1);
}

static void change_everything(struct frame *frame)
{
    frame->rip += 2;
    frame->rax = 1;
    frame->rbx = 2;
    frame->rcx = 3;
    frame->rdx = 4;
    frame->rsi = 5;
    frame->rdi = 6;
    frame->r8 = 7;
    frame->r9 = 8;
    frame->r10 = 9;
    frame->r11 = 10;
    frame->rflags |= 0xd5 | FLAGS_DF;
}

TEST(iret_loads_registers_and_flags)
{
    u64 found[10], flags;

    trap_handlers[X86_UD] = change_everything;
    asm volatile("ud2; pushfq; cld; popq %1\n"
                 "mov %%rax, %0; mov %%rbx, 8+%0; mov %%rcx, 16+%0; mov %%rdx, 24+%0; mov %%rsi, 32+%0\n"
                 "mov %%rdi, 40+%0; mov %%r8, 48+%0; mov %%r9, 56+%0; mov %%r10, 64+%0; mov %%r11, 72+%0\n"
                 : "=m"(found), "=m"(flags)
                 :
                 : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
    for ( unsigned int i = 0; i < ARRAY_SIZE(found); i++ )
        CHECK_EQ(found[i], i + 1);
    CHECK_EQ(flags & (0xd5 | FLAGS_DF), 0xd5 | FLAGS_DF);
}

static void ask_for_privilege(struct frame *frame)
{
    frame->rflags |= FLAGS_IOPL;
    frame->rip += 2;
}

/* IOPL of the real flags stays 0, and they always let interrupts in. */
TEST(iret_gives_no_privilege)
{
    u64 flags;

    trap_handlers[X86_UD] = ask_for_privilege;
    asm volatile("ud2; pushfq; popq %0" : "=r"(flags) :: "memory", "cc");
    CHECK_EQ(flags & (FLAGS_IOPL | FLAGS_IF), FLAGS_IF);
    mask_events();
    asm volatile("pushfq; popq %0" : "=r"(flags));
    CHECK_EQ(flags & FLAGS_IF, FLAGS_IF);
}

static unsigned int depth;

static void trap_again(struct frame *frame)
{
    frame->rip += 2;
    if ( ++depth < 5 )
        asm volatile("ud2" ::: "memory");
    depth--;
    frame->rdx++;
}

TEST(traps_in_trap_handlers)
{
    u64 rdx = 0;

    trap_handlers[X86_UD] = trap_again;
    asm volatile("ud2" : "+d"(rdx) :: "memory");
    CHECK_EQ(depth, 0);
    CHECK_EQ(rdx, 1);
}

/* ---- The trap table ---- */

TEST(trap_table_keeps_what_is_not_named)
{
    set_trap(X86_BP, 0, entry_point(X86_UD));
    CHECK_EQ(TRAP_OF("int3"), X86_UD);
    CHECK_EQ(TRAP_OF("mov (%0), %%rax", :: "r"(UNMAPPED) : "rax"), X86_PF);
}

TEST(trap_table_refuses_addresses_that_are_not_canonical)
{
    struct trap_info table[3] = {
        {X86_BP, 0, FLAT_KERNEL_CS, (u64)entry_point(X86_UD)},
        {X86_UD, 0, FLAT_KERNEL_CS, NON_CANONICAL},
    };

    CHECK_EQ(hypercall(set_trap_table, table), -XEN_EINVAL);
    /* What came before holds, and what was refused does not. */
    CHECK_EQ(TRAP_OF("int3"), X86_UD);
    CHECK_EQ(TRAP_OF("ud2"), X86_UD);
}

TEST(trap_table_that_cannot_be_read)
{
    CHECK_EQ(hypercall(set_trap_table, UNMAPPED), -XEN_EFAULT);
    CHECK_EQ(hypercall(set_trap_table, XENS_OWN), -XEN_EFAULT);
    CHECK_EQ(hypercall(set_trap_table, NON_CANONICAL), -XEN_EFAULT);
}

/* The table ends at an address of 0, and an unreadable page behind it does not matter. */
TEST(trap_table_ends_at_the_end_of_memory)
{
    struct trap_info *table = pfn_to_virt(last_mapped_pfn() + 1);

    table -= 2;
    table[0] = (struct trap_info){X86_BP, 0, FLAT_KERNEL_CS, (u64)entry_point(X86_UD)};
    CHECK_EQ(hypercall(set_trap_table, table), 0);
    table[1] = table[0];
    CHECK_EQ(hypercall(set_trap_table, table), -XEN_EFAULT);
}

/* ---- "int n" ---- */

/* The kernel counts as ring 1: without architectural_iopl it may not raise what is for ring 0. */
TEST(int_n_in_the_kernel)
{
    set_trap(0x40, 0, entry_point(0x40));
    CHECK_EQ(TRAP_OF("int $0x40"), X86_GP);
    CHECK_EQ(trapped.error_code, XEC_IDT(0x40));
    CHECK_EQ(((const u8 *)trapped.rip)[0], 0xcd);
    set_trap(0x40, 1, entry_point(0x40));
    CHECK_EQ(TRAP_OF("int $0x40"), 0x40);
    CHECK_EQ(((const u8 *)trapped.rip)[-1], 0x40);
}

TEST(int_n_in_the_kernel_with_architectural_iopl)
{
    REQUIRE_EQ(hypercall(vm_assist, VMASST_CMD_enable, VMASST_TYPE_architectural_iopl), 0);
    set_trap(0x40, 0, entry_point(0x40));
    CHECK_EQ(TRAP_OF("int $0x40"), 0x40);
}

static u64 int_40(u64 unused)
{
    return TRAP_OF("int $0x40");
}

TEST(int_n_in_user_mode)
{
    for ( unsigned int dpl = 0; dpl < 3; dpl++ )
    {
        set_trap(0x40, dpl, entry_point(0x40));
        CHECK_EQ(in_user(int_40, 0), X86_GP);
        CHECK_EQ(trapped.error_code, XEC_IDT(0x40));
    }
    set_trap(0x40, 3, entry_point(0x40));
    CHECK_EQ(in_user(int_40, 0), 0x40);
    CHECK_EQ(trapped.cs, FLAT_USER_CS);
}

/* An exception's vector raised so has no error code. */
static u64 int_13(u64 unused)
{
    return TRAP_OF("int $13");
}

extern const char no_error_code_13[];
asm("no_error_code_13: pop %rcx; pop %r11; push $0x77; push $13; jmp enter_kernel");

TEST(int_n_pushes_no_error_code)
{
    set_trap(13, 3, no_error_code_13);
    CHECK_EQ(in_user(int_13, 0), 13);
    CHECK_EQ(trapped.error_code, 0x77);
    CHECK_EQ(trapped.cs, FLAT_USER_CS);
}

static u64 int_3_and_4(u64 unused)
{
    return TRAP_OF("int3") << 16 | TRAP_OF(".byte 0xcd, 3") << 8 | TRAP_OF("int $4");
}

/* Their DPL is not looked at. */
TEST(breakpoint_and_overflow_are_open_to_all)
{
    set_trap(X86_BP, 0, entry_point(X86_BP));
    set_trap(X86_OF, 0, entry_point(X86_OF));
    CHECK_EQ(in_user(int_3_and_4, 0), X86_BP << 16 | X86_BP << 8 | X86_OF);
    CHECK_EQ(int_3_and_4(0), X86_BP << 16 | X86_BP << 8 | X86_OF);
}

static u64 int_80(u64 unused)
{
    return TRAP_OF("int $0x80");
}

/* Vector 0x80 has a gate of its own in Xen, for which an address is enough. */
TEST(int_80_needs_no_dpl)
{
    set_trap(0x80, 0, entry_point(0x80));
    CHECK_EQ(in_user(int_80, 0), 0x80);
    CHECK_EQ(int_80(0), 0x80);
}

TEST(int_80_without_a_handler)
{
    struct trap_info table[] = {
        {X86_GP, 0, FLAT_KERNEL_CS, (u64)entry_point(X86_GP)},
        {LEAVE_USER, 3, FLAT_KERNEL_CS, (u64)entry_point(LEAVE_USER)},
        {0},
    };

    hypercall(set_trap_table, 0);
    hypercall(set_trap_table, table);
    CHECK_EQ(in_user(int_80, 0), X86_GP);
    CHECK_EQ(trapped.error_code, XEC_IDT(0x80));
    CHECK_EQ(((const u8 *)trapped.rip)[0], 0xcd);
}

static u64 int_1(u64 unused)
{
    return TRAP_OF(".byte 0xf1");
}

/* INT1 is no software interrupt, and no DPL keeps it away. */
TEST(int1)
{
    CHECK_EQ(int_1(0), X86_DB);
    CHECK_EQ(((const u8 *)trapped.rip)[-1], 0xf1);
    CHECK_EQ(in_user(int_1, 0), X86_DB);
}

/* ---- Exceptions in user mode ---- */

static u64 read_unmapped(u64 unused)
{
    return TRAP_OF("mov (%0), %%rax", :: "r"(UNMAPPED) : "rax");
}

TEST(page_fault_in_user_mode)
{
    CHECK_EQ(in_user(read_unmapped, 0), X86_PF);
    CHECK_EQ(trapped.error_code, PFEC_USER);
    CHECK_EQ(trapped_cr2, UNMAPPED);
    CHECK_EQ(trapped.cs, FLAT_USER_CS);
    CHECK_EQ(trapped.ss, FLAT_USER_SS);
    CHECK(trapped.rsp > (u64)user_stack && trapped.rsp <= (u64)(user_stack + USER_STACK_SIZE));
}

static u64 hlt(u64 unused)
{
    return TRAP_OF("hlt");
}

static u64 wrmsr(u64 unused)
{
    return TRAP_OF("wrmsr", :: "a"(0), "c"(0xc0000100), "d"(0));
}

TEST(privileged_instructions_in_user_mode)
{
    CHECK_EQ(in_user(hlt, 0), X86_GP);
    CHECK_EQ(in_user(wrmsr, 0), X86_GP);
}

/* The kernel's stack for a trap from user mode is where stack_switch says, and aligned. */
static u64 handler_rsp;

static void keep_rsp(struct frame *frame)
{
    handler_rsp = (u64)(frame + 1);
    leave_user(0);
}

static u64 ud2(u64 unused)
{
    asm volatile("ud2" ::: "memory");
    return 0;
}

static u8 other_stack[PAGE_SIZE] __attribute__((aligned(16)));

static u64 switch_stack_and_trap(u64 pointer)
{
    struct user_context context = user_context_for(ud2, 0);

    give_user_page_tables();
    context.kernel_rsp = pointer;
    return enter_user(&context);
}

TEST(kernel_stack)
{
    trap_handlers[X86_UD] = keep_rsp;
    switch_stack_and_trap((u64)other_stack + 2048);
    CHECK_EQ(handler_rsp, other_stack + 2048);
    switch_stack_and_trap((u64)other_stack + 2048 + 13);
    CHECK_EQ(handler_rsp, other_stack + 2048);
}

TEST(floating_point_exception)
{
    u16 control = 0x37b;

    CHECK_EQ(TRAP_OF("fninit; fldcw %0; fldz; fld1; fdivp; fwait", :: "m"(control)), X86_MF);
    asm volatile("fninit");
}
