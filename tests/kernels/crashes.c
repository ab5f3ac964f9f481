/*
 * What Xen crashes a domain for. Whoever boots a GUEST says how it is to end.
 * Xen: create_bounce_frame in xen/arch/x86/x86_64/entry.S, pv_inject_event in pv/traps.c, do_iret in pv/iret.c.
 */
#include "runtime/kernel.h"

/* ---- No handler ---- */

static void no_traps(void)
{
    REQUIRE_EQ(hypercall(set_trap_table, 0), 0);
}

GUEST(no_handler_for_ud)
{
    no_traps();
    asm volatile("mov $0x1234567890abcdef, %%rbx; mov $0x77, %%r8d; ud2" ::: "rbx", "r8");
}

GUEST(no_handler_for_pf)
{
    no_traps();
    *(volatile u64 *)UNMAPPED = 1;
}

GUEST(no_handler_for_gp)
{
    no_traps();
    asm volatile("hlt");
}

GUEST(no_handler_for_de)
{
    no_traps();
    asm volatile("div %%cl" :: "a"(1), "c"(0));
}

static u64 ud2(u64 unused)
{
    asm volatile("ud2");
    return 0;
}

GUEST(no_handler_for_a_program)
{
    give_user_page_tables();
    no_traps();
    in_user(ud2, 0);
}

/* The upcall has nowhere to go. */
GUEST(no_event_callback)
{
    unsigned int port = make_ipi();

    REQUIRE_EQ(register_callback(CALLBACKTYPE_event, 0, NULL), 0);
    unmask_events();
    send_event(port);
}

GUEST(no_failsafe_callback)
{
    struct user_context context = user_context_for(NULL, 0);

    give_user_page_tables();
    context.cs = 0x33;
    enter_user(&context);
}

/* ---- No stack ---- */

GUEST(no_stack_in_the_kernel)
{
    asm volatile("mov %0, %%rsp; ud2" :: "r"(UNMAPPED));
}

GUEST(read_only_stack)
{
    u8 *page = alloc_page();

    make_read_only(page);
    asm volatile("mov %0, %%rsp; ud2" :: "r"(page + PAGE_SIZE));
}

GUEST(stack_in_xens_memory)
{
    asm volatile("mov %0, %%rsp; ud2" :: "r"(XENS_OWN));
}

/* The stack itself is the guest's, at the first address behind Xen's range; what is pushed is not. */
GUEST(stack_that_grows_into_xens_memory)
{
    u64 *l3 = alloc_page(), *l2 = alloc_page(), *l1 = alloc_page(), *page = alloc_page(), base = 0xffff880000000000;

    l3[0] = make_pte(virt_to_mfn(l2), PTE_RW);
    l2[0] = make_pte(virt_to_mfn(l1), PTE_RW);
    l1[0] = make_pte(virt_to_mfn(page), PTE_RW);
    make_read_only(l3);
    make_read_only(l2);
    make_read_only(l1);
    REQUIRE_EQ(mmu_update(virt_to_maddr(entry_of((void *)base, 4)), make_pte(virt_to_mfn(l3), PTE_RW)), 0);
    *(volatile u64 *)base = 1;
    asm volatile("mov %0, %%rsp; ud2" :: "r"(base + 16));
}

GUEST(stack_that_is_not_canonical)
{
    asm volatile("mov %0, %%rsp; ud2" :: "r"(NON_CANONICAL + 0x1000));
}

/* A page table, that a push must not write to. */
GUEST(stack_in_a_page_table)
{
    asm volatile("mov %0, %%rsp; ud2" :: "r"(start_info->pt_base + PAGE_SIZE));
}

/* The machine-to-physical table lies at the end of where a stack must not be. */
GUEST(stack_in_the_machine_to_physical_table)
{
    asm volatile("mov %0, %%rsp; ud2" :: "r"((u8 *)machine_to_phys_mapping + PAGE_SIZE));
}

GUEST(no_kernel_stack_for_a_program)
{
    struct user_context context = user_context_for(ud2, 0);

    give_user_page_tables();
    context.kernel_rsp = UNMAPPED;
    enter_user(&context);
}

/* Its page fault handler needs a stack itself. */
static void take_the_stack(struct frame *frame)
{
    asm volatile("mov %0, %%rsp; movq $0, (%1)" :: "r"(UNMAPPED), "r"(UNMAPPED));
}

GUEST(fault_without_a_stack)
{
    trap_handlers[X86_UD] = take_the_stack;
    asm volatile("ud2");
}

/* ---- iret ---- */

GUEST(iret_without_a_stack)
{
    asm volatile("mov %0, %%rsp; mov %1, %%eax; syscall" :: "r"(UNMAPPED), "i"(__HYPERVISOR_iret));
}

GUEST(iret_from_xens_memory)
{
    asm volatile("mov %0, %%rsp; mov %1, %%eax; syscall" :: "r"(XENS_OWN), "i"(__HYPERVISOR_iret));
}

GUEST(no_user_page_table)
{
    struct user_context context = user_context_for(ud2, 0);

    enter_user(&context);
}

/* ---- Nothing to execute ---- */

/* The kernel takes its own code away, with all that could handle that. */
GUEST(no_code)
{
    REQUIRE_EQ(mmu_update(virt_to_maddr(entry_of((void *)KERNEL_BASE, 4)), 0), 0);
}

/* It gives itself page tables that show nothing. */
GUEST(empty_page_tables)
{
    u64 *l4 = alloc_page();

    make_read_only(l4);
    mmuext(MMUEXT_NEW_BASEPTR, virt_to_mfn(l4), 0);
}

/* All that it can spare is given back. */
GUEST(no_memory)
{
    xen_memory_reservation_t op = {.nr_extents = 1, .domid = DOMID_SELF};

    op.extent_start.p = p2m();
    for ( u64 pfn = 0; pfn < start_info->nr_pages; pfn++ )
    {
        op.extent_start.p = &p2m()[pfn];
        hypercall(memory_op, XENMEM_decrease_reservation, &op);
    }
    no_traps();
    asm volatile("ud2");
}
