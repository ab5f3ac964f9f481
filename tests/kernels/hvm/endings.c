/*
 * Guests that end in another way than by saying so: what they do to themselves, they do to nobody else.
 * Xen: hvm_triple_fault, hvm_hlt, hvm_hap_nested_page_fault, p2m_add_page.
 */
#include "runtime/kernel.h"

#define FIRST TO_PFN(HOLE)

static void load_idt(ulong base, u16 limit)
{
    struct table_pointer pointer = {limit, base};

    asm volatile("lidt %0" :: "m"(pointer));
}

GUEST(triple_fault_by_a_short_idt)
{
    load_idt(0, 0);
    asm volatile("ud2");
}

GUEST(triple_fault_by_an_idt_that_is_none)
{
    load_idt(HOLE, 0xfff);
    asm volatile("ud2");
}

GUEST(triple_fault_by_empty_gates)
{
    memset(idt, 0, sizeof(idt));
    asm volatile("int3");
}

GUEST(page_tables_that_are_none)
{
#if LEVELS
    WRITE_CR(3, HOLE);
#endif
    load_idt(0, 0);
    asm volatile("ud2");
}

GUEST(page_tables_far_away)
{
#if LEVELS == 4
    WRITE_CR(3, 0xfffffff000ul);
#elif LEVELS
    WRITE_CR(3, 0xfffff000ul);
#endif
    load_idt(0, 0);
    asm volatile("ud2");
}

/* In 64-bit code what is pushed there vanishes, and it faults for ever. */
GUEST(a_stack_that_is_none)
{
    asm volatile("mov %0, %%esp; ud2" :: "r"((u32)HOLE + 0x800) : "memory");
    finish();
}

GUEST(halt_for_ever)
{
    asm volatile("cli; hlt");
    finish();
}

GUEST(shutdowns)
{
    shutdown(argument[0] - '0');
}

GUEST(crash_itself)
{
    shutdown(SHUTDOWN_crash);
}

/* Memory put where what is lent is mapped: Xen has no way to undo the mapping then. */
GUEST(memory_over_a_grant)
{
    grant_entry_v1_t *table = alloc_page();
    struct gnttab_map_grant_ref op = {.host_addr = HOLE, .flags = GNTMAP_host_map, .ref = 20};
    u32 registers[4];

    cpuid(XEN_CPUID_LEAF(4), 0, registers);
    REQUIRE_EQ(add_to_physmap(XENMAPSPACE_grant_table, 0, TO_PFN(table)), 0);
    table[20] = (grant_entry_v1_t){GTF_permit_access, registers[2], TO_PFN(alloc_page())};
    op.dom = registers[2];
    REQUIRE_EQ(hypercall(grant_table_op, GNTTABOP_map_grant_ref, &op, 1), 0);
    REQUIRE_EQ(op.status, GNTST_okay);
    populate(FIRST);
    finish();
}

/* What is lent may not be executed. */
GUEST(code_in_a_grant)
{
    grant_entry_v1_t *table = alloc_page();
    struct gnttab_map_grant_ref op = {.host_addr = HOLE, .flags = GNTMAP_host_map, .ref = 20};
    u8 *page = alloc_page();
    u32 registers[4];

    cpuid(XEN_CPUID_LEAF(4), 0, registers);
    REQUIRE_EQ(add_to_physmap(XENMAPSPACE_grant_table, 0, TO_PFN(table)), 0);
    page[0] = 0xc3;
    table[20] = (grant_entry_v1_t){GTF_permit_access, registers[2], TO_PFN(page)};
    op.dom = registers[2];
    REQUIRE_EQ(hypercall(grant_table_op, GNTTABOP_map_grant_ref, &op, 1), 0);
    REQUIRE_EQ(op.status, GNTST_okay);
    ((void (*)(void))HOLE)();
    finish();
}

/* Its own code among others. */
GUEST(gives_everything_away)
{
    for ( ulong gfn = 0; gfn < 0x100000; gfn++ )
        decrease(gfn);
    finish();
}

/* As many places of the p2m as there are: the pool for it ends. */
GUEST(uses_up_the_pool)
{
    ulong gfn = 0x110000, moved = TO_PFN(alloc_page()), count = 0;
    long error;

#if IS_64
    for ( ; gfn < 1ul << 28; gfn += 512 )
#else
    for ( gfn = 0; gfn < 0x100000; gfn += 512 )
#endif
    {
        error = add_to_physmap(XENMAPSPACE_gmfn, moved, gfn);
        if ( error )
            break;
        moved = gfn;
        count++;
    }
    if ( IS_64 )
        CHECK_EQ(error, -XEN_ENOMEM);
    CHECK(count > 100);
    finish();
}
