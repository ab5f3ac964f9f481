/* A domain that is built and run by a test kernel. */
#include "domains.h"

/* CHILD_ADDRESS(CHILD_DATA), which assembler cannot work out. */
#define DATA "0x105000"
_Static_assert(CHILD_ADDRESS(CHILD_DATA) == 0x105000, "the address of a child's data");

#define CODE(name, text) asm(".globl " #name "_code, " #name "_code_end\n" #name "_code: " text "\n" #name "_code_end:\n")

CODE(count, "mov $" DATA ", %edi\n 1: incq (%rdi)\n jmp 1b");
CODE(shut_down, "mov $" DATA ", %esi\n mov $2, %edi\n mov $29, %eax\n syscall\n 1: jmp 1b");
CODE(store, "mov $" DATA ", %esi\n mov (%rsi), %rdi\n movq $1, (%rdi)\n 1: jmp 1b");

/* The entries that map children, which are 2 MiB of FREE_AREA; the pages of the next begin there. */
static u64 *tables;
static unsigned int used;

void new_child(struct child *child)
{
    struct xen_domctl op = new_createdomain(0);
    xen_pfn_t frames[CHILD_PAGES];
    struct xen_memory_reservation reservation = {.nr_extents = CHILD_PAGES};

    memset(child, 0, sizeof(*child));
    REQUIRE_EQ(domctl(&op), 0);
    child->domid = op.domain;
    op = new_domctl(XEN_DOMCTL_max_vcpus, child->domid);
    op.u.max_vcpus.max = 1;
    REQUIRE_EQ(domctl(&op), 0);
    op = new_domctl(XEN_DOMCTL_max_mem, child->domid);
    op.u.max_mem.max_memkb = CHILD_PAGES * 4;
    REQUIRE_EQ(domctl(&op), 0);
    for ( unsigned int page = 0; page < CHILD_PAGES; page++ )
        frames[page] = page;
    set_xen_guest_handle(reservation.extent_start, frames);
    reservation.domid = child->domid;
    REQUIRE_EQ(hypercall(memory_op, XENMEM_populate_physmap, &reservation), CHILD_PAGES);
    if ( !tables )
        tables = make_tables();
    child->entries = tables + used;
    for ( unsigned int page = 0; page < CHILD_PAGES; page++ )
    {
        u64 entry = virt_to_maddr(child->entries + page);

        child->frames[page] = frames[page];
        REQUIRE_EQ(foreign_mmu_update(entry, make_pte(frames[page], PTE_RW), child->domid), 0);
        child->pages[page] = (volatile u64 *)(FREE_AREA + (used + page) * PAGE_SIZE);
    }
    used += CHILD_PAGES;
}

void unmap_child_page(struct child *child, unsigned int page)
{
    if ( child->pages[page] )
        REQUIRE_EQ(mmu_update(virt_to_maddr(child->entries + page), 0), 0);
    child->pages[page] = NULL;
}

void unmap_child(struct child *child)
{
    for ( unsigned int page = 0; page < CHILD_PAGES; page++ )
        unmap_child_page(child, page);
}

void build_child(struct child *child, const u8 *code, const u8 *end)
{
    static vcpu_guest_context_t context;
    struct xen_domctl op;
    struct mmuext_op pin = {.cmd = MMUEXT_PIN_L4_TABLE};

    new_child(child);
    child->pages[CHILD_L4][0] = make_pte(child->frames[CHILD_L3], PTE_RW);
    child->pages[CHILD_L3][0] = make_pte(child->frames[CHILD_L2], PTE_RW);
    child->pages[CHILD_L2][0] = make_pte(child->frames[CHILD_L1], PTE_RW);
    for ( unsigned int page = CHILD_CODE; page < CHILD_PAGES; page++ )
        child->pages[CHILD_L1][CHILD_ADDRESS(page) / PAGE_SIZE] = make_pte(child->frames[page], PTE_RW);
    memcpy((void *)child->pages[CHILD_CODE], code, end - code);
    /* Page tables can be mapped writable by nobody. */
    for ( unsigned int page = CHILD_L4; page <= CHILD_L1; page++ )
        unmap_child_page(child, page);
    pin.arg1.mfn = child->frames[CHILD_L4];
    REQUIRE_EQ(hypercall(mmuext_op, &pin, 1, NULL, child->domid), 0);

    memset(&context, 0, sizeof(context));
    context.flags = VGCF_in_kernel | VGCF_online;
    context.user_regs.rip = CHILD_ADDRESS(CHILD_CODE);
    context.user_regs.rsp = context.kernel_sp = CHILD_ADDRESS(CHILD_PAGES);
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = context.kernel_ss = FLAT_KERNEL_SS;
    context.user_regs.rflags = FLAGS_IF;
    context.ctrlreg[3] = xen_pfn_to_cr3(child->frames[CHILD_L4]);
    op = new_domctl(XEN_DOMCTL_setvcpucontext, child->domid);
    set_xen_guest_handle(op.u.vcpucontext.ctxt, &context);
    REQUIRE_EQ(domctl(&op), 0);
}

void unpause(domid_t domid)
{
    REQUIRE_EQ(plain_domctl(XEN_DOMCTL_unpausedomain, domid), 0);
}

unsigned int wait_for_shutdown(domid_t domid)
{
    struct xen_domctl_getdomaininfo info;

    do
        REQUIRE_EQ(getdomaininfo(domid, &info), 0);
    while ( !(info.flags & XEN_DOMINF_shutdown) );
    return info.flags >> XEN_DOMINF_shutdownshift & XEN_DOMINF_shutdownmask;
}

void destroy(domid_t domid)
{
    REQUIRE_EQ(plain_domctl(XEN_DOMCTL_destroydomain, domid), 0);
}
