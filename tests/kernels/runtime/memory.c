/* Page tables as Xen's builder made them, pages to play with, and hypercalls that change mappings. */
#include "runtime.h"

#define MSR_HYPERCALL_PAGE 0x40000000

shared_info_t *shared_info;
vcpu_info_t *vcpu_info;

static u8 shared_info_page[PAGE_SIZE] PAGE_ALIGNED;
static u64 next_page, mapping_end;

/* The stubs, if the notes did not ask for them, as a kernel asks that is already running. */
void init_hypercalls(void)
{
    u64 address = start_info ? virt_to_maddr(hypercall_page) : 0;

    if ( !hypercall_page[0][0] )
        asm volatile("wrmsr" :: "c"(MSR_HYPERCALL_PAGE), "a"((u32)address), "d"(address >> 32) : "memory");
}

void init_memory(void)
{
    /* Behind the boot stack the initial mapping goes on to a multiple of 4 MiB. */
    next_page = virt_to_pfn((void *)boot.rsp);
    mapping_end = virt_to_pfn((void *)((boot.rsp + (4ul << 20) - 1) & -(4ul << 20)));
    map(shared_info_page, start_info->shared_info | PTE_RW);
    shared_info = (shared_info_t *)shared_info_page;
    vcpu_info = &shared_info->vcpu_info[0];
}

void *alloc_page(void)
{
    REQUIRE(next_page < mapping_end);
    return pfn_to_virt(next_page++);
}

u64 last_mapped_pfn(void)
{
    return mapping_end - 1;
}

const u64 *entry_of(const void *virt, int level)
{
    const u64 *table = (const u64 *)start_info->pt_base;

    for ( int at = 4; ; at-- )
    {
        const u64 *entry = &table[(u64)virt >> (12 + 9 * (at - 1)) & 511];

        if ( at == level )
            return entry;
        REQUIRE(*entry & PAGE_PRESENT);
        table = mfn_to_virt(pte_mfn(*entry));
    }
}

long map(const void *virt, u64 pte)
{
    return hypercall(update_va_mapping, virt, pte, UVMF_INVLPG);
}

long mmu_update(u64 pointer, u64 value)
{
    struct mmu_update request = {pointer, value};

    return hypercall(mmu_update, &request, 1, 0, DOMID_SELF);
}

long mmuext(unsigned int command, u64 arg1, u64 arg2)
{
    struct mmuext_op op = {.cmd = command};

    op.arg1.linear_addr = arg1;
    op.arg2.vcpumask.p = (void *)arg2;
    return hypercall(mmuext_op, &op, 1, 0, DOMID_SELF);
}

void make_read_only(const void *page)
{
    REQUIRE_EQ(map(page, make_pte(virt_to_mfn(page), PTE_RO)), 0);
}

u64 *make_tables(void)
{
    u64 *l3 = alloc_page(), *l2 = alloc_page(), *l1 = alloc_page();

    l3[0] = make_pte(virt_to_mfn(l2), PTE_RW);
    l2[0] = make_pte(virt_to_mfn(l1), PTE_RW);
    make_read_only(l3);
    make_read_only(l2);
    make_read_only(l1);
    REQUIRE_EQ(mmu_update(virt_to_maddr(entry_of((void *)FREE_AREA, 4)), make_pte(virt_to_mfn(l3), PTE_RW)), 0);
    return l1;
}
