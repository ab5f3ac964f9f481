/*
 * What an ordinary domain gets for trying to manage others: what Xen finds wrong first, and else -EPERM.
 */
#include "runtime/domains.h"

TEST(no_domctl)
{
    struct xen_domctl op;

    for ( unsigned int command = 0; command < 90; command++ )
    {
        CHECK_EQ(plain_domctl(command, 0), -XEN_EPERM);
        CHECK_EQ(plain_domctl(command, 1), -XEN_EPERM);
        /* For a new domain, and for the next one, there need be none with the number. */
        if ( command != XEN_DOMCTL_createdomain && command != XEN_DOMCTL_getdomaininfo )
            CHECK_EQ(plain_domctl(command, 4711), -XEN_ESRCH);
        else
            CHECK_EQ(plain_domctl(command, 4711), -XEN_EPERM);
    }
    op = new_createdomain(0);
    CHECK_EQ(domctl(&op), -XEN_EPERM);
    op.interface_version = 0;
    CHECK_EQ(domctl(&op), -XEN_EACCES);
    CHECK_EQ(domctl((void *)NON_CANONICAL), -XEN_EFAULT);
}

TEST(no_sysctl)
{
    struct xen_sysctl op;

    for ( unsigned int command = 0; command < 40; command++ )
    {
        memset(&op, 0, sizeof(op));
        op.cmd = command;
        op.interface_version = XEN_SYSCTL_INTERFACE_VERSION;
        CHECK_EQ(hypercall(sysctl, &op), -XEN_EPERM);
    }
    op.interface_version = 0;
    CHECK_EQ(hypercall(sysctl, &op), -XEN_EACCES);
}

TEST(no_memory_of_others)
{
    u64 *tables = make_tables(), entry = virt_to_maddr(tables);
    u64 shared_info_of_domain_0 = start_info->shared_info / PAGE_SIZE - 1;
    domid_t domid = 0;
    xen_pfn_t frame = 0;
    struct xen_memory_reservation reservation = {.nr_extents = 1, .domid = 0};
    struct xen_mem_acquire_resource resource = {.type = XENMEM_resource_grant_table};
    mmuext_op_t op = {.cmd = MMUEXT_CLEAR_PAGE};
    mmu_update_t updates[2];
    unsigned int done = 7;

    for ( u64 mfn = shared_info_of_domain_0 - 8; mfn <= shared_info_of_domain_0; mfn++ )
    {
        CHECK_EQ(foreign_mmu_update(entry, make_pte(mfn, PTE_RO), 0), -XEN_EPERM);
        CHECK_EQ(foreign_mmu_update(entry, make_pte(mfn, PTE_RO), DOMID_XEN), -XEN_EPERM);
        CHECK_EQ(foreign_mmu_update(mfn * PAGE_SIZE, make_pte(mfn, PTE_RO), 1 << 16 | DOMID_SELF), -XEN_EPERM);
        CHECK_EQ(hypercall(update_va_mapping_otherdomain, FREE_AREA, make_pte(mfn, PTE_RO), 0, 0), -XEN_EPERM);
    }
    /* The domains come first, and then each request. */
    CHECK_EQ(foreign_mmu_update(entry, 0, 4711), -XEN_ESRCH);
    CHECK_EQ(foreign_mmu_update(entry, 0, 4711 << 16), -XEN_ESRCH);
    CHECK_EQ(foreign_mmu_update(entry, 0, 1), -XEN_ESRCH);
    CHECK_EQ(foreign_mmu_update(entry | 4, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(hypercall(mmu_update, UNMAPPED, 1, NULL, 0), -XEN_EFAULT);
    CHECK_EQ(hypercall(mmu_update, UNMAPPED, 0, NULL, 0), 0);
    updates[0].ptr = updates[1].ptr = entry;
    updates[0].val = updates[1].val = 0;
    CHECK_EQ(hypercall(mmu_update, updates, 2, &done, 0), -XEN_EPERM);
    CHECK_EQ(done, 0);
    CHECK_EQ(tables[0], 0);

    CHECK_EQ(hypercall(mmuext_op, &op, 1, NULL, 0), -XEN_EPERM);
    CHECK_EQ(hypercall(mmuext_op, &op, 1, NULL, DOMID_XEN), -XEN_EPERM);
    CHECK_EQ(hypercall(mmuext_op, &op, 1, NULL, 4711), -XEN_ESRCH);
    set_xen_guest_handle(reservation.extent_start, &frame);
    CHECK_EQ(hypercall(memory_op, XENMEM_populate_physmap, &reservation), 0);
    CHECK_EQ(hypercall(memory_op, XENMEM_decrease_reservation, &reservation), 0);
    CHECK_EQ(hypercall(memory_op, XENMEM_current_reservation, &domid), -XEN_EPERM);
    CHECK_EQ(hypercall(memory_op, XENMEM_acquire_resource, &resource), -XEN_EPERM);
    set_xen_guest_handle(reservation.extent_start, (void *)0);
    CHECK_EQ(hypercall(memory_op, XENMEM_claim_pages, &reservation), -XEN_EPERM);
    reservation.domid = 1;
    CHECK_EQ(hypercall(memory_op, XENMEM_claim_pages, &reservation), -XEN_EPERM);
}

TEST(pages_by_the_rights_of_nobody)
{
    u64 *tables = make_tables(), entry = virt_to_maddr(tables), mine = virt_to_mfn(alloc_page());

    /* Devices' memory may be mapped by those who have it, one's own pages are no devices. */
    CHECK_EQ(foreign_mmu_update(entry, make_pte(1ul << 38, PTE_RW), DOMID_IO), -XEN_EPERM);
    CHECK_EQ(foreign_mmu_update(entry, make_pte(mine, PTE_RW), DOMID_IO), -XEN_EBUSY);
    CHECK_EQ(tables[0], 0);
}
