/*
 * Descriptor tables: set_gdt, update_descriptor, MMUEXT_SET_LDT, and what selectors then do.
 * Xen: xen/arch/x86/pv/descriptor-tables.c.
 */
#include "runtime/kernel.h"

#define PRESENT (1ul << 47)
#define ACCESSED (1ul << 40)
#define DPL(n) ((u64)(n) << 45)
#define DATA (0x00cf1200ul << 32 | 0xffff | PRESENT)
#define CODE64 (0x00af1a00ul << 32 | 0xffff | PRESENT)
#define TSS (0x00000900ul << 32 | 0x67 | PRESENT)
/* A gate to a selector. */
#define CALL_GATE(selector) (0x00000c00ul << 32 | (u64)(selector) << 16 | PRESENT)

static u64 data_at(const void *base)
{
    return DATA | ((u64)base & 0xffffff) << 16 | ((u64)base >> 24 & 0xff) << 56;
}

static u64 load_ds(u16 selector)
{
    u64 vector = TRAP_OF("mov %0, %%ds", :: "r"(selector));

    asm volatile("mov %0, %%ds" :: "r"(0));
    return vector;
}

static u64 *gdt;

static long set_gdt(const void *page, unsigned int entries)
{
    u64 frame = virt_to_mfn(page);

    return hypercall(set_gdt, &frame, entries);
}

/* A GDT whose entry 1 is a data segment. */
static void make_gdt(void)
{
    gdt = alloc_page();
    gdt[1] = DATA;
    make_read_only(gdt);
    REQUIRE_EQ(set_gdt(gdt, 512), 0);
}

static long update_descriptor(const u64 *place, u64 descriptor)
{
    return hypercall(update_descriptor, virt_to_maddr(place), descriptor);
}

/* ---- set_gdt ---- */

TEST(gdt)
{
    CHECK_EQ(load_ds(8 | 3), X86_GP);
    make_gdt();
    CHECK_EQ(load_ds(8 | 3), NO_TRAP);
    /* Ring 3 is where a PV kernel is, whatever its descriptors say. */
    CHECK_EQ(gdt[1], DATA | DPL(3) | ACCESSED);
    CHECK_EQ(load_ds(8), NO_TRAP);
    CHECK_EQ(load_ds(16 | 3), X86_GP);
    CHECK_EQ(trapped.error_code, 16);
}

TEST(gdt_taken_away)
{
    make_gdt();
    CHECK_EQ(hypercall(set_gdt, 0, 0), 0);
    CHECK_EQ(load_ds(8 | 3), X86_GP);
    /* Nothing refers to the page any more. */
    CHECK_EQ(map(gdt, make_pte(virt_to_mfn(gdt), PTE_RW)), 0);
}

/* Whole frames are shown: how many entries there are is not looked at more closely. */
TEST(gdt_entries_count_in_frames)
{
    gdt = alloc_page();
    gdt[511] = DATA;
    make_read_only(gdt);
    REQUIRE_EQ(set_gdt(gdt, 1), 0);
    CHECK_EQ(load_ds(511 * 8), NO_TRAP);
    CHECK_EQ(load_ds(512 * 8), X86_GP);
}

TEST(gdt_of_14_frames)
{
    u64 frames[14], *last;

    for ( unsigned int i = 0; i < 14; i++ )
    {
        u64 *page = last = alloc_page();

        page[i] = DATA;
        make_read_only(page);
        frames[i] = virt_to_mfn(page);
    }
    REQUIRE_EQ(hypercall(set_gdt, frames, FIRST_RESERVED_GDT_ENTRY), 0);
    for ( unsigned int i = 1; i < 14; i++ )
        CHECK_EQ(load_ds((i * 512 + i) * 8), NO_TRAP);
    CHECK_EQ(last[13] & ACCESSED, ACCESSED);
    /* Xen's own entries follow. */
    CHECK_EQ(load_ds(FLAT_KERNEL_SS), NO_TRAP);
}

TEST(gdts_that_are_refused)
{
    u64 frames[16] = {virt_to_mfn(gdt)};

    make_gdt();
    frames[0] = virt_to_mfn(gdt);
    CHECK_EQ(hypercall(set_gdt, frames, FIRST_RESERVED_GDT_ENTRY + 1), -XEN_EINVAL);
    CHECK_EQ(hypercall(set_gdt, frames, -1u), -XEN_EINVAL);
    CHECK_EQ(hypercall(set_gdt, UNMAPPED, 1), -XEN_EFAULT);
    CHECK_EQ(hypercall(set_gdt, XENS_OWN, 1), -XEN_EFAULT);
    frames[0] = 0;
    CHECK_EQ(hypercall(set_gdt, frames, 1), -XEN_EINVAL);
    frames[0] = ~0ul;
    CHECK_EQ(hypercall(set_gdt, frames, 1), -XEN_EINVAL);
    frames[0] = virt_to_mfn((void *)start_info->pt_base);
    CHECK_EQ(hypercall(set_gdt, frames, 1), -XEN_EINVAL);
    frames[0] = virt_to_mfn(alloc_page());
    CHECK_EQ(hypercall(set_gdt, frames, 1), -XEN_EINVAL);
    /* The second frame is bad: the first is let go, and the old table holds. */
    frames[0] = virt_to_mfn(gdt);
    CHECK_EQ(hypercall(set_gdt, frames, 513), -XEN_EINVAL);
    CHECK_EQ(load_ds(8), NO_TRAP);
}

TEST(gdt_with_a_bad_descriptor)
{
    u64 *page = alloc_page();

    page[300] = TSS;
    make_read_only(page);
    CHECK_EQ(set_gdt(page, 512), -XEN_EINVAL);
    CHECK_EQ(map(page, make_pte(virt_to_mfn(page), PTE_RW)), 0);
    page[300] = TSS & ~PRESENT;
    make_read_only(page);
    CHECK_EQ(set_gdt(page, 512), 0);
}

TEST(gdt_is_not_to_be_mapped_writable)
{
    make_gdt();
    CHECK_EQ(map(gdt, make_pte(virt_to_mfn(gdt), PTE_RW)), -XEN_EBUSY);
    CHECK_EQ(TRAP_OF("mov %0, (%1)", :: "r"(0ul), "r"(gdt)), X86_PF);
}

/* ---- update_descriptor ---- */

TEST(update_descriptor)
{
    make_gdt();
    CHECK_EQ(update_descriptor(&gdt[2], DATA), 0);
    CHECK_EQ(gdt[2], DATA | DPL(3));
    CHECK_EQ(load_ds(16), NO_TRAP);
    CHECK_EQ(update_descriptor(&gdt[2], 0), 0);
    CHECK_EQ(load_ds(16), X86_GP);
}

TEST(update_descriptor_that_is_not_present)
{
    make_gdt();
    CHECK_EQ(update_descriptor(&gdt[2], (DATA | DPL(3)) & ~PRESENT), 0);
    CHECK_EQ(gdt[2], (DATA | DPL(3)) & ~PRESENT);
    CHECK_EQ(load_ds(16), X86_NP);
    CHECK_EQ(trapped.error_code, 16);
}

/* A page that is no table yet: its descriptors are checked all the same. */
TEST(update_descriptor_in_ordinary_memory)
{
    u64 *page = alloc_page();

    CHECK_EQ(update_descriptor(&page[1], DATA), 0);
    CHECK_EQ(page[1], DATA | DPL(3));
    CHECK_EQ(update_descriptor(&page[1], TSS), -XEN_EINVAL);
}

TEST(updates_of_descriptors_that_are_refused)
{
    make_gdt();
    CHECK_EQ(update_descriptor(&gdt[2], TSS), -XEN_EINVAL);
    CHECK_EQ(hypercall(update_descriptor, virt_to_maddr(gdt) + 4, DATA), -XEN_EINVAL);
    CHECK_EQ(hypercall(update_descriptor, 0, DATA), -XEN_EINVAL);
    CHECK_EQ(hypercall(update_descriptor, ~7ul, DATA), -XEN_EINVAL);
    CHECK_EQ(update_descriptor((u64 *)start_info->pt_base, DATA), -XEN_EINVAL);
    CHECK_EQ(gdt[2], 0);
}

/* Xen keeps its privilege in the selector's, and the gate can never be used. */
TEST(call_gates_are_disarmed)
{
    make_gdt();
    CHECK_EQ(update_descriptor(&gdt[2], CALL_GATE(FLAT_KERNEL_CS) | DPL(3)), 0);
    CHECK_EQ(gdt[2], CALL_GATE(FLAT_KERNEL_CS | 3));
    CHECK_EQ(update_descriptor(&gdt[2], CALL_GATE(8)), 0);
    CHECK_EQ(gdt[2], CALL_GATE(8 | 3));
    CHECK_EQ(update_descriptor(&gdt[2], CALL_GATE(0xe008)), -XEN_EINVAL);
    CHECK_EQ(update_descriptor(&gdt[2], CALL_GATE(8) | 1ul << 32), -XEN_EINVAL);
}

/* ---- Selectors ---- */

TEST(accessed_bit)
{
    make_gdt();
    CHECK_EQ(gdt[1] & ACCESSED, 0);
    load_ds(8);
    CHECK_EQ(gdt[1] & ACCESSED, ACCESSED);
}

static u64 seen_cs;

TEST(far_return_to_a_code_segment)
{
    make_gdt();
    REQUIRE_EQ(update_descriptor(&gdt[2], CODE64), 0);
    CHECK_EQ(TRAP_OF("lea 1f(%%rip), %%rax; push $0x13; push %%rax; lretq; 1: mov %%cs, %%eax; mov %%rax, %0;"
                     "lea 2f(%%rip), %%rax; push %1; push %%rax; lretq; 2:",
                     : "=m"(seen_cs) : "i"(FLAT_KERNEL_CS) : "rax", "memory"), NO_TRAP);
    CHECK_EQ(seen_cs, 0x13);
}

TEST(data_is_no_code_and_code_no_stack)
{
    make_gdt();
    REQUIRE_EQ(update_descriptor(&gdt[2], CODE64), 0);
    CHECK_EQ(TRAP_OF("push $0xb; push $0; lretq"), X86_GP);
    asm volatile("add $16, %%rsp" ::: "memory");
    CHECK_EQ(trapped.error_code, 8);
    CHECK_EQ(TRAP_OF("mov %0, %%ss", :: "r"(0x13)), X86_GP);
    CHECK_EQ(trapped.error_code, 0x10);
}

TEST(segment_limits)
{
    u64 limit = 0;
    bool seen;

    make_gdt();
    REQUIRE_EQ(update_descriptor(&gdt[2], (DATA & ~(0x0080ul << 48) & ~0xffff) | 0x1234), 0);
    asm("lsl %2, %0" : "=r"(limit), "=@ccz"(seen) : "r"(16ul));
    CHECK(seen);
    CHECK_EQ(limit, 0xf1234);
    asm("lsl %2, %0" : "=r"(limit), "=@ccz"(seen) : "r"(24ul));
    CHECK(!seen);
}

/* ---- LDT ---- */

static u64 *ldt;

static long set_ldt(const void *base, u64 entries)
{
    return mmuext(MMUEXT_SET_LDT, (u64)base, entries);
}

static void make_ldt(void)
{
    ldt = alloc_page();
    ldt[0] = DATA;
    ldt[3] = DATA;
    make_read_only(ldt);
    REQUIRE_EQ(set_ldt(ldt, 512), 0);
}

TEST(ldt)
{
    CHECK_EQ(load_ds(4), X86_GP);
    make_ldt();
    CHECK_EQ(load_ds(4), NO_TRAP);
    CHECK_EQ(load_ds(3 * 8 | 7), NO_TRAP);
    CHECK_EQ(ldt[3], DATA | DPL(3) | ACCESSED);
    CHECK_EQ(load_ds(2 * 8 | 4), X86_GP);
    CHECK_EQ(trapped.error_code, 2 * 8 | 4);
    CHECK_EQ(set_ldt(0, 0), 0);
    CHECK_EQ(load_ds(4), X86_GP);
}

TEST(ldt_entries)
{
    make_ldt();
    REQUIRE_EQ(set_ldt(ldt, 3), 0);
    CHECK_EQ(load_ds(4), NO_TRAP);
    CHECK_EQ(load_ds(3 * 8 | 4), X86_GP);
}

TEST(ldts_that_are_refused)
{
    make_ldt();
    CHECK_EQ(set_ldt((u8 *)ldt + 8, 1), -XEN_EINVAL);
    CHECK_EQ(set_ldt(ldt, 8193), -XEN_EINVAL);
    CHECK_EQ(set_ldt((void *)XENS_OWN, 1), -XEN_EINVAL);
    CHECK_EQ(set_ldt((void *)NON_CANONICAL, 1), -XEN_EINVAL);
    CHECK_EQ(load_ds(4), NO_TRAP);
    /* Without entries the base does not matter; nor does it whether there is anything, until it is used. */
    CHECK_EQ(set_ldt((void *)1, 0), 0);
    CHECK_EQ(set_ldt((void *)UNMAPPED, 8192), 0);
    CHECK(load_ds(4) != NO_TRAP);
}

/* Memory that the guest can write to, or that is a page table, can't be used as descriptors. */
TEST(ldt_in_memory_that_is_something_else)
{
    u64 *page = alloc_page();

    page[0] = DATA;
    REQUIRE_EQ(set_ldt(page, 512), 0);
    CHECK(load_ds(4) != NO_TRAP);
    CHECK_EQ(page[0], DATA);
    REQUIRE_EQ(set_ldt((void *)start_info->pt_base, 512), 0);
    CHECK(load_ds(4) != NO_TRAP);
}

TEST(ldt_with_a_bad_descriptor)
{
    u64 *page = alloc_page();

    page[0] = DATA;
    page[7] = TSS;
    make_read_only(page);
    REQUIRE_EQ(set_ldt(page, 512), 0);
    CHECK(load_ds(4) != NO_TRAP);
}

/* A segment with a base, as 32-bit programs have it for their threads. */
u32 thread_word = 0x1234567;
extern const char read_by_fs[];
asm(".code32\n"
    "read_by_fs: mov %di, %fs; mov %fs:0, %eax; int $0xff\n"
    ".code64");

TEST(ldt_segment_of_a_32_bit_program)
{
    struct user_context context = user_context_for(NULL, 0);

    make_ldt();
    give_user_page_tables();
    REQUIRE_EQ(update_descriptor(&ldt[5], data_at(&thread_word)), 0);
    context.rip = (u64)read_by_fs;
    context.cs = FLAT_USER_CS32;
    context.rdi = 5 * 8 | 7;
    CHECK_EQ((u32)enter_user(&context), 0x1234567);
}
