/* Hypercalls that make no sense, and some that nearly do. The command line: hypercalls SEED COUNT. */
#include "runtime/domains.h"

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
