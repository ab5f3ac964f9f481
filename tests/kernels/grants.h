/* What kernels that test grants have in common: a table, grants to oneself, mapping them. */
#ifndef GRANTS_H
#define GRANTS_H

#include "runtime/kernel.h"

#include <xen/grant_table.h>

#define NOBODYS 0x7000
/* A grant reference that is not one of the tools'. */
#define REF 20

/* The first frame of the table, of version 1 or 2. */
static grant_entry_v1_t *table;
static grant_entry_v2_t *table2 __attribute__((unused));
static domid_t self;

static inline long gnttab(unsigned int command, void *op, unsigned int count)
{
    return hypercall(grant_table_op, command, op, count);
}

/* Xen tells a domain its number as that of a port's other end. */
static inline domid_t own_domid(void)
{
    struct evtchn_alloc_unbound unbound = {.dom = DOMID_SELF, .remote_dom = DOMID_SELF};
    struct evtchn_status status = {.dom = DOMID_SELF};

    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_alloc_unbound, &unbound), 0);
    status.port = unbound.port;
    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_status, &status), 0);
    return status.u.unbound.dom;
}

static inline void prepare(void)
{
    struct gnttab_setup_table setup = {.dom = DOMID_SELF, .nr_frames = 1};
    xen_pfn_t frame;

    set_xen_guest_handle(setup.frame_list, &frame);
    REQUIRE_EQ(gnttab(GNTTABOP_setup_table, &setup, 1), 0);
    REQUIRE_EQ(setup.status, GNTST_okay);
    table = alloc_page();
    table2 = (void *)table;
    REQUIRE_EQ(map(table, make_pte(frame, PTE_RW)), 0);
    self = own_domid();
}

static inline void grant_to(unsigned int ref, const void *page, domid_t domid, u16 flags)
{
    table[ref].domid = domid;
    table[ref].frame = virt_to_mfn(page);
    barrier();
    table[ref].flags = GTF_permit_access | flags;
}

static inline void grant(unsigned int ref, const void *page, u16 flags)
{
    grant_to(ref, page, self, flags);
}

static inline struct gnttab_map_grant_ref map_with(u64 address, unsigned int ref, u32 flags, domid_t domid)
{
    struct gnttab_map_grant_ref op = {.host_addr = address, .flags = flags, .ref = ref, .dom = domid, .status = 99};

    CHECK_EQ(gnttab(GNTTABOP_map_grant_ref, &op, 1), 0);
    return op;
}

static inline struct gnttab_map_grant_ref map_at(void *address, unsigned int ref, u32 flags)
{
    return map_with((u64)address, ref, flags | GNTMAP_host_map, self);
}

static inline int unmap_all(u64 address, u64 bus, grant_handle_t handle)
{
    struct gnttab_unmap_grant_ref op = {.host_addr = address, .dev_bus_addr = bus, .handle = handle, .status = 99};

    CHECK_EQ(gnttab(GNTTABOP_unmap_grant_ref, &op, 1), 0);
    return op.status;
}

static inline int unmap(void *address, grant_handle_t handle)
{
    return unmap_all((u64)address, 0, handle);
}

/* A page's worth of addresses with nothing there. */
static inline void *hole(void)
{
    void *page = alloc_page();

    REQUIRE_EQ(map(page, 0), 0);
    return page;
}

#endif
