/*
 * Hypercalls that make no sense, and some that nearly do. The command line: hypercalls SEED COUNT, or grants SEED COUNT
 * for operations on grants that nearly all make sense, in an order that makes none, or, for a privileged domain,
 * management SEED COUNT.
 */
#include "runtime/domains.h"
#include "grants.h"

static u64 state;

static u64 any(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545f4914f6cdd1dul;
}

static u64 below(u64 end)
{
    return (any() >> 11) % end;
}

static u64 number(const char **text)
{
    u64 value = 0;

    while ( **text == ' ' )
        ++*text;
    for ( ; **text >= '0' && **text <= '9'; ++*text )
        value = value * 10 + (u64)(**text - '0');
    return value;
}

/* Where most arguments point: words that are plausible in some structure or other. */
static u64 area[2][PAGE_SIZE / 8] PAGE_ALIGNED;

static u64 word(void)
{
    static const u64 special[] = {
        0, 1, 2, 3, ~0ul, 0x7fff, 0x7ff0, 0x7ff1, 0x7ff2, 0x8000, 1ul << 31, 1ul << 32, 1ul << 47, 1ul << 63,
        NON_CANONICAL, XENS_OWN, UNMAPPED, 0xffff800000000000ul, PTE_RW, PTE_RO, 0x80000001, 0xfff, 0x1000,
    };
    u64 pfn = below(start_info->nr_pages), mapped = below(last_mapped_pfn());

    switch ( below(14) )
    {
    case 0 ... 2: return special[below(ARRAY_SIZE(special))];
    case 3 ... 4: return below(64);
    case 5: return pfn;
    case 6: return pfn_to_mfn(pfn);
    case 7: return make_pte(pfn_to_mfn(pfn), PTE_RO | below(2) * PAGE_RW | below(4096));
    case 8: return pfn_to_mfn(pfn) * PAGE_SIZE + below(512) * 8 + below(4);
    case 9: return (u64)area + below(sizeof(area));
    case 10: return (u64)area + below(sizeof(area) / 8) * 8;
    case 11: return (u64)pfn_to_virt(mapped) + below(512) * 8;
    case 12: return virt_to_maddr(entry_of(pfn_to_virt(mapped), 1)) | below(4);
    default: return any();
    }
}

static void fill_area(void)
{
    unsigned int at = below(2 * PAGE_SIZE / 8 - 64);

    for ( unsigned int i = 0; i < 1 + below(48); i++ )
        ((u64 *)area)[at + i] = below(3) ? word() : (word() << 32) | (u32)word();
}

/* Neither the way back from a hypercall nor the end of the domain. */
static bool ends_the_test(u64 call, u64 command)
{
    if ( call == __HYPERVISOR_iret )
        return true;
    return (call == __HYPERVISOR_sched_op || call == __HYPERVISOR_sched_op_compat) &&
           (u32)command != SCHEDOP_yield;
}

/* Calls for a multicall, none of which ends the test. */
static void fill_calls(unsigned int count)
{
    multicall_entry_t *calls = (multicall_entry_t *)area;

    for ( unsigned int i = 0; i < count; i++ )
    {
        do
            calls[i].op = below(50);
        while ( ends_the_test(calls[i].op, ~0u) );
        for ( unsigned int j = 0; j < ARRAY_SIZE(calls[i].args); j++ )
            calls[i].args[j] = word();
        if ( below(2) )
            calls[i].args[0] = below(40);
        if ( below(2) )
            calls[i].args[1] = (u64)area + PAGE_SIZE + below(PAGE_SIZE / 8) * 8;
    }
}

GUEST(hypercalls)
{
    const char *text = argument;
    u64 seed = number(&text), count = number(&text), done;

    state = seed * 0x9e3779b97f4a7c15ul + 1;
    vcpu_info->evtchn_upcall_mask = 1;
    for ( done = 0; done < count; )
    {
        u64 call = below(50), args[5];

        if ( below(4) )
            fill_area();
        for ( unsigned int i = 0; i < 5; i++ )
            args[i] = word();
        if ( below(2) )
            args[0] = below(40);
        if ( below(2) )
            args[1] = (u64)area + below(sizeof(area) / 8) * 8;
        if ( call == __HYPERVISOR_mmu_update || call == __HYPERVISOR_mmuext_op || call == __HYPERVISOR_multicall )
        {
            if ( below(8) )
                args[0] = (u64)area + below(PAGE_SIZE / 8) * 8;
            if ( below(8) )
                args[1] = below(16);
            if ( below(4) )
                args[3] = DOMID_SELF;
        }
        if ( ends_the_test(call, args[0]) )
            continue;
        if ( call == __HYPERVISOR_multicall )
        {
            args[0] = (u64)area;
            fill_calls(args[1] = below(16));
        }
        hypercall_numbered(below(200) ? call : any(), args[0], args[1], args[2], args[3], args[4]);
        done++;
    }
    printf("%lu hypercalls\n", done);
    finish();
}

/* Pages that are lent, and places where they are mapped. */
#define LENT 4
#define PLACES 6

static u8 *lent[LENT], *places[PLACES];
static grant_handle_t handles[32];
static unsigned int version = 1;

static domid_t some_domid(void)
{
    static const domid_t odd[] = {DOMID_SELF, 0, NOBODYS, DOMID_IO};

    return below(6) ? self : odd[below(ARRAY_SIZE(odd))];
}

static unsigned int some_ref(void)
{
    return below(40) ? below(24) : (u32)word();
}

static u64 some_place(void)
{
    u8 *place = places[below(PLACES)];

    return below(4) ? (u64)place : below(8) ? virt_to_maddr(entry_of(place, 1)) : word();
}

static void change_entry(void)
{
    static const u16 flags[] = {
        GTF_permit_access, GTF_permit_access | GTF_readonly, GTF_permit_access | GTF_sub_page, GTF_transitive,
        GTF_accept_transfer, GTF_invalid, GTF_permit_access | GTF_reading | GTF_writing};
    unsigned int ref = 2 + below(20);
    u64 frame = below(10) ? virt_to_mfn(lent[below(LENT)]) : word();

    if ( version == 1 )
        table[ref] = (grant_entry_v1_t){.domid = some_domid(), .frame = frame, .flags = flags[below(7)]};
    else
    {
        table2[ref].full_page.frame = frame;
        table2[ref].sub_page.page_off = below(5000);
        table2[ref].sub_page.length = below(5000);
        if ( !below(4) )
        {
            table2[ref].transitive.gref = some_ref();
            table2[ref].transitive.trans_domid = some_domid();
        }
        table2[ref].hdr.domid = some_domid();
        table2[ref].hdr.flags = flags[below(7)];
    }
}

static struct gnttab_copy_ptr some_side(bool gref)
{
    struct gnttab_copy_ptr side = {.domid = gref ? some_domid() : DOMID_SELF, .offset = below(4200)};

    if ( gref )
        side.u.ref = some_ref();
    else
        side.u.gmfn = below(10) ? virt_to_mfn(lent[below(LENT)]) : word();
    return side;
}

static void operate(void)
{
    static union {
        struct gnttab_map_grant_ref map[8];
        struct gnttab_unmap_grant_ref unmap[8];
        struct gnttab_unmap_and_replace replace[8];
        struct gnttab_copy copy[8];
        struct gnttab_transfer transfer;
        struct gnttab_swap_grant_ref swap;
        struct gnttab_set_version version;
        struct gnttab_setup_table setup;
        struct gnttab_cache_flush flush;
    } op;
    static xen_pfn_t frames[64];
    unsigned int count = 1 + below(8);

    switch ( below(12) )
    {
    case 0 ... 3:
        for ( unsigned int i = 0; i < count; i++ )
            op.map[i] = (struct gnttab_map_grant_ref){
                .host_addr = some_place(), .ref = some_ref(), .dom = some_domid(), .flags = below(32)};
        gnttab(GNTTABOP_map_grant_ref, op.map, count);
        for ( unsigned int i = 0; i < count; i++ )
            if ( op.map[i].status == GNTST_okay )
                handles[below(ARRAY_SIZE(handles))] = op.map[i].handle;
        break;
    case 4 ... 6:
        for ( unsigned int i = 0; i < count; i++ )
            op.unmap[i] = (struct gnttab_unmap_grant_ref){
                .host_addr = below(5) ? some_place() : 0,
                .dev_bus_addr = below(3) ? virt_to_maddr(lent[below(LENT)]) : 0,
                .handle = below(8) ? handles[below(ARRAY_SIZE(handles))] : (u32)word()};
        gnttab(GNTTABOP_unmap_grant_ref, op.unmap, count);
        break;
    case 7:
        for ( unsigned int i = 0; i < count; i++ )
            op.replace[i] = (struct gnttab_unmap_and_replace){
                .host_addr = some_place(), .new_addr = below(3) ? some_place() : 0,
                .handle = handles[below(ARRAY_SIZE(handles))]};
        gnttab(GNTTABOP_unmap_and_replace, op.replace, count);
        break;
    case 8 ... 9:
        for ( unsigned int i = 0; i < count; i++ )
        {
            u16 flags = below(4);
            op.copy[i] = (struct gnttab_copy){
                .source = some_side(flags & GNTCOPY_source_gref), .dest = some_side(flags & GNTCOPY_dest_gref),
                .len = below(4200), .flags = flags};
        }
        gnttab(GNTTABOP_copy, op.copy, count);
        break;
    case 10:
        op.swap = (struct gnttab_swap_grant_ref){.ref_a = some_ref(), .ref_b = some_ref()};
        gnttab(GNTTABOP_swap_grant_ref, &op, 1);
        break;
    default:
        if ( !below(3) )
        {
            op.version.version = 1 + below(2);
            gnttab(GNTTABOP_set_version, &op, 1);
            version = op.version.version;
        }
        else if ( below(2) )
        {
            op.setup = (struct gnttab_setup_table){.dom = DOMID_SELF, .nr_frames = below(6)};
            set_xen_guest_handle(op.setup.frame_list, frames);
            gnttab(below(2) ? GNTTABOP_setup_table : GNTTABOP_get_status_frames, &op, 1);
        }
        else
        {
            op.flush = (struct gnttab_cache_flush){
                .a.dev_bus_addr = word(), .offset = below(4100), .length = below(4100), .op = below(4)};
            gnttab(GNTTABOP_cache_flush, &op, 1);
        }
    }
}

GUEST(grants)
{
    const char *text = argument;
    u64 seed = number(&text), count = number(&text);

    state = seed * 0x9e3779b97f4a7c15ul + 1;
    vcpu_info->evtchn_upcall_mask = 1;
    prepare();
    u64 frame = pte_mfn(*entry_of(table, 1));
    for ( unsigned int i = 0; i < LENT; i++ )
        lent[i] = alloc_page();
    for ( unsigned int i = 0; i < PLACES; i++ )
        places[i] = hole();
    for ( u64 done = 0; done < count; done++ )
    {
        if ( below(2) )
            change_entry();
        operate();
        if ( !below(6) )
            map(places[below(PLACES)], below(2) ? 0 : make_pte(virt_to_mfn(lent[below(LENT)]), PTE_RW));
        if ( !below(30) )
            mmuext(below(2) ? MMUEXT_PIN_L1_TABLE : MMUEXT_UNPIN_TABLE, virt_to_mfn(lent[below(LENT)]), 0);
        CHECK_EQ(pte_mfn(*entry_of(table, 1)), frame);
    }
    printf("%lu operations\n", count);
    finish();
}

/* A domain that there may be, but Domain 0, without which nobody would learn what came of all this. */
static domid_t some_domain(void)
{
    return below(8) ? 1 + below(8) : word() | 1;
}

/* For a privileged domain: management SEED COUNT. */
GUEST(management)
{
    const char *text = argument;
    u64 seed = number(&text), count = number(&text);

    state = seed * 0x9e3779b97f4a7c15ul + 1;
    for ( u64 done = 0; done < count; done++ )
    {
        struct xen_domctl op = new_domctl(below(90), some_domain());
        struct xen_sysctl machine;

        if ( below(4) )
            fill_area();
        switch ( below(8) )
        {
        case 0:
            op = new_createdomain(below(4) ? 0 : some_domain());
            domctl(&op);
            op = new_domctl(XEN_DOMCTL_max_vcpus, op.domain);
            op.u.max_vcpus.max = below(3);
            domctl(&op);
            op = new_domctl(XEN_DOMCTL_max_mem, op.domain);
            op.u.max_mem.max_memkb = below(100);
            break;
        case 1:
            memset(&machine, 0, sizeof(machine));
            machine.cmd = below(32);
            machine.interface_version = XEN_SYSCTL_INTERFACE_VERSION;
            for ( unsigned int i = 0; i < 8; i++ )
                ((u64 *)&machine.u)[i] = word();
            hypercall(sysctl, &machine);
            continue;
        case 2:
        {
            struct xen_memory_reservation reservation = {
                .nr_extents = below(16), .extent_order = below(3), .domid = some_domain()};

            set_xen_guest_handle(reservation.extent_start, below(8) ? (void *)area : (void *)word());
            hypercall(memory_op, below(8) ? XENMEM_populate_physmap : below(30), &reservation);
            continue;
        }
        case 3:
            foreign_mmu_update(word(), word(), some_domain() | (below(2) ? 0 : (some_domain() + 1u) << 16));
            continue;
        default:
            for ( unsigned int i = 0; i < 8; i++ )
                ((u64 *)&op.u)[i] = below(2) ? word() : below(2);
        }
        domctl(&op);
    }
    printf("%lu requests\n", count);
    finish();
}
