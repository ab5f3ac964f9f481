/* For kernels that manage other domains: domctl, memory for others, foreign mappings, and a domain to try them on. */
#ifndef DOMAINS_H
#define DOMAINS_H

#define __XEN_TOOLS__ 1
#include "kernel.h"

#include <xen/domctl.h>
#include <xen/sysctl.h>

static inline struct xen_domctl new_domctl(unsigned int command, domid_t domid)
{
    struct xen_domctl op;

    memset(&op, 0, sizeof(op));
    op.cmd = command;
    op.interface_version = XEN_DOMCTL_INTERFACE_VERSION;
    op.domain = domid;
    return op;
}

static inline long domctl(struct xen_domctl *op) { return hypercall(domctl, op); }

/* A command without arguments. */
static inline long plain_domctl(unsigned int command, domid_t domid)
{
    struct xen_domctl op = new_domctl(command, domid);

    return domctl(&op);
}

static inline struct xen_domctl new_createdomain(domid_t domid)
{
    struct xen_domctl op = new_domctl(XEN_DOMCTL_createdomain, domid);

    op.u.createdomain.max_vcpus = 1;
    op.u.createdomain.max_evtchn_port = 1023;
    op.u.createdomain.max_grant_frames = -1;
    op.u.createdomain.max_maptrack_frames = -1;
    op.u.createdomain.grant_opts = XEN_DOMCTL_GRANT_version(1);
    return op;
}

/* Xen's answer, and what it tells of the domain. */
static inline long getdomaininfo(domid_t domid, struct xen_domctl_getdomaininfo *info)
{
    struct xen_domctl op = new_domctl(XEN_DOMCTL_getdomaininfo, domid);
    long result = domctl(&op);

    *info = op.u.getdomaininfo;
    return result;
}

/* The XEN_DOMINF_* of a domain that there is, without the shutdown code. */
static inline unsigned int flags_of(domid_t domid)
{
    struct xen_domctl_getdomaininfo info;

    REQUIRE_EQ(getdomaininfo(domid, &info), 0);
    REQUIRE_EQ(info.domain, domid);
    return info.flags & 0xffff;
}

/* Xen's answer to one mmu_update for tables and pages of others: domid_of_tables + 1 << 16 | domid_of_pages. */
static inline long foreign_mmu_update(u64 pointer, u64 value, unsigned int foreign)
{
    mmu_update_t update = {pointer, value};

    return hypercall(mmu_update, &update, 1, NULL, foreign);
}

/*
 * A domain with some pages at CHILD_BASE: its page tables, code, data and a stack. Its code is one of the functions
 * below, which do without anything else.
 */
#define CHILD_BASE 0x100000ul
enum { CHILD_L4, CHILD_L3, CHILD_L2, CHILD_L1, CHILD_CODE, CHILD_DATA, CHILD_STACK, CHILD_PAGES };
#define CHILD_ADDRESS(page) (CHILD_BASE + (page) * PAGE_SIZE)

struct child {
    domid_t domid;
    u64 frames[CHILD_PAGES];
    /* Where its pages are mapped here, and the entries by which they are. */
    volatile u64 *pages[CHILD_PAGES];
    u64 *entries;
};

/* Counts in the first word of its data, for ever. */
extern const u8 count_code[], count_code_end[];
/* Shuts down, with the reason that is in the first word of its data. */
extern const u8 shut_down_code[], shut_down_code_end[];
/* Stores to the address that is in the first word of its data. */
extern const u8 store_code[], store_code_end[];

/* Create a domain, paused, with memory that is mapped here and nothing in it. */
void new_child(struct child *child);
/* The same with page tables, code and a vCPU. */
void build_child(struct child *child, const u8 *code, const u8 *end);
/* Unmap one of its pages, or all. */
void unmap_child_page(struct child *child, unsigned int page);
void unmap_child(struct child *child);
void unpause(domid_t domid);
/* Wait until a domain has shut down; the reason. */
unsigned int wait_for_shutdown(domid_t domid);
void destroy(domid_t domid);

#endif
