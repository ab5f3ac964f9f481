/*
 * Code that changes: whoever writes it, the next execution is of what is there. A CPU that translates has to see
 * every write, the hypervisor's own as well.
 */
#include "runtime/kernel.h"

/* movabs $value, %rax; ret: with the value at an address of its own. */
struct routine {
    u8 movabs[2];
    u64 value;
    u8 ret;
} __attribute__((packed));

static struct routine *make_routine(void *place)
{
    struct routine *routine = place;

    *routine = (struct routine){{0x48, 0xb8}, 1, 0xc3};
    return routine;
}

static ONLY_ONCE u64 call(const struct routine *routine)
{
    return ((u64 (*)(void))routine)();
}

/* In a page of its own, executed already. */
static struct routine *executed(void)
{
    struct routine *routine = make_routine(alloc_page());

    CHECK_EQ(call(routine), 1);
    return routine;
}

TEST(written_by_the_guest)
{
    struct routine *routine = executed();

    for ( u64 i = 2; i < 10; i++ )
    {
        routine->value = i;
        CHECK_EQ(call(routine), i);
    }
}

TEST(written_under_another_address)
{
    struct routine *routine = executed();
    struct routine *alias = (struct routine *)FREE_AREA;

    make_tables();
    REQUIRE_EQ(map(alias, make_pte(virt_to_mfn(routine), PTE_RW)), 0);
    alias->value = 2;
    CHECK_EQ(call(routine), 2);
    CHECK_EQ(call(alias), 2);
    routine->value = 3;
    CHECK_EQ(call(alias), 3);
    CHECK_EQ(call(routine), 3);
}

/* The same address shows another page. */
TEST(mapped_elsewhere)
{
    struct routine *routine = executed(), *other = make_routine(alloc_page());

    other->value = 2;
    REQUIRE_EQ(map(routine, make_pte(virt_to_mfn(other), PTE_RO)), 0);
    CHECK_EQ(call(routine), 2);
}

TEST(written_across_pages)
{
    u8 *first = alloc_page(), *second = alloc_page();
    struct routine *routine = make_routine(second - 5);

    REQUIRE(second == first + PAGE_SIZE);
    CHECK_EQ(call(routine), 1);
    second[0] = 7;
    CHECK_EQ(call(routine), 7ul << 24 | 1);
    routine->value = 0x1122334455667788;
    CHECK_EQ(call(routine), 0x1122334455667788);
    /* And the page that holds its second half is another one. */
    u8 *other = alloc_page();
    memcpy(other, second, 16);
    other[0] = 0x99;
    REQUIRE_EQ(map(second, make_pte(virt_to_mfn(other), PTE_RO)), 0);
    CHECK_EQ(call(routine), 0x1122334499667788);
}

static u64 write_and_call(u64 address)
{
    struct routine *routine = (struct routine *)address;

    routine->value = 5;
    return call(routine);
}

TEST(written_in_user_mode)
{
    struct routine *routine = executed();

    CHECK_EQ(in_user(write_and_call, (u64)routine), 5);
    CHECK_EQ(call(routine), 5);
}

/* It overwrites the instruction that follows it. */
TEST(written_by_itself)
{
    static const u8 code[] = {0xc6, 0x47, 0x06, 0x02, 0x66, 0xb8, 0x01, 0x00, 0xc3};
    u8 *page = alloc_page();
    u16 result;

    memcpy(page, code, sizeof(code));
    asm volatile("call *%1" : "=a"(result) : "r"(page), "D"(page) : "memory");
    CHECK_EQ(result, 2);
}

/* ---- Written by Xen ---- */

TEST(written_by_copy_page)
{
    struct routine *routine = executed(), *other = make_routine(alloc_page());

    other->value = 2;
    CHECK_EQ(mmuext(MMUEXT_COPY_PAGE, virt_to_mfn(routine), virt_to_mfn(other)), 0);
    CHECK_EQ(call(routine), 2);
}

TEST(written_by_clear_page)
{
    struct routine *routine = executed();

    CHECK_EQ(mmuext(MMUEXT_CLEAR_PAGE, virt_to_mfn(routine), 0), 0);
    routine->ret = 0xc3;
    memcpy(routine->movabs, "\x48\xb8", 2);
    CHECK_EQ(call(routine), 0);
}

TEST(written_by_mmu_update)
{
    struct routine *routine = make_routine((u8 *)alloc_page() + 6);

    CHECK_EQ(call(routine), 1);
    CHECK_EQ(mmu_update(virt_to_maddr(&routine->value), 2), 0);
    CHECK_EQ(call(routine), 2);
}

TEST(written_by_update_descriptor)
{
    struct routine *routine = make_routine((u8 *)alloc_page() + 6);

    CHECK_EQ(call(routine), 1);
    CHECK_EQ(hypercall(update_descriptor, virt_to_maddr(&routine->value), 0x1234), 0);
    CHECK_EQ(call(routine), 0x1234);
}

/* As the answer to a hypercall. */
TEST(written_as_an_answer)
{
    struct routine *routine = executed();

    CHECK_EQ(hypercall(xen_version, XENVER_platform_parameters, &routine->value), 0);
    CHECK_EQ(call(routine), HYPERVISOR_VIRT_START);
}

TEST(written_as_the_result_of_a_multicall)
{
    multicall_entry_t *calls = alloc_page();
    struct routine *routine;

    calls[0] = (multicall_entry_t){.op = __HYPERVISOR_xen_version, .args = {XENVER_version}};
    /* The entry's op is 17: in front of the result there is room for two bytes only. */
    routine = (struct routine *)((u8 *)&calls[0].result - 2);
    calls[0].op = 0xb848000000000000ul;
    *((u8 *)&calls[0].result + 8) = 0xc3;
    calls[0].result = 1;
    CHECK_EQ(call(routine), 1);
    calls[0].op = __HYPERVISOR_xen_version;
    calls[0].args[0] = XENVER_version;
    CHECK_EQ(hypercall(multicall, calls, 1), 0);
    calls[0].op = 0xb848000000000000ul;
    *((u8 *)&calls[0].result + 8) = 0xc3;
    CHECK_EQ(call(routine), 4 << 16 | 17);
}

static void back_to_the_test(struct frame *frame)
{
    leave_user(0);
}

extern const char undefined_instruction[];
asm("undefined_instruction: ud2");

/* As the frame of an exception: SS is what lies at the top, and below it the program's RSP, here with an opcode. */
TEST(written_as_a_frame)
{
    u8 *page = alloc_page();
    struct routine *routine = make_routine(page + 2048 - 10);
    struct user_context context = user_context_for(NULL, 0);

    CHECK_EQ(call(routine), 1);
    trap_handlers[X86_UD] = back_to_the_test;
    context.rip = (u64)undefined_instruction;
    context.rsp = 0xb848ul << 48;
    context.kernel_rsp = (u64)page + 2048;
    give_user_page_tables();
    enter_user(&context);
    CHECK_EQ(call(routine), FLAT_KERNEL_SS);
}

TEST(written_as_a_runstate)
{
    struct vcpu_register_runstate_memory_area area;
    struct vcpu_runstate_info *info = alloc_page();
    struct routine *routine = make_routine((u8 *)&info->state_entry_time - 2);

    CHECK_EQ(call(routine), 1);
    area.addr.p = (u64)info;
    CHECK_EQ(hypercall(vcpu_op, VCPUOP_register_runstate_memory_area, 0, &area), 0);
    memcpy(routine->movabs, "\x48\xb8", 2);
    routine->ret = 0xc3;
    CHECK_EQ(call(routine), info->state_entry_time);
    CHECK(info->state_entry_time != 1);
}

/* ---- What a page may be used for while it is remembered as something else ---- */

/* A translation for writing that the guest does not flush is gone once the page becomes a page table. */
TEST(stale_writable_translation)
{
    volatile u64 *page = alloc_page();

    page[0] = 0;
    REQUIRE_EQ(hypercall(update_va_mapping, page, make_pte(virt_to_mfn((void *)page), PTE_RO), UVMF_NONE), 0);
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn((void *)page), 0), 0);
    CHECK_EQ(TRAP_OF("movq $77, (%0)", :: "r"(page) : "memory"), X86_PF);
    CHECK_EQ(page[0], 0);
}

static u64 write_word(u64 address)
{
    return TRAP_OF("movq $77, (%0)", :: "r"(address) : "memory");
}

TEST(stale_writable_translation_in_user_mode)
{
    volatile u64 *page = alloc_page();

    page[0] = 0;
    CHECK_EQ(in_user(write_word, (u64)page), NO_TRAP);
    page[0] = 0;
    REQUIRE_EQ(hypercall(update_va_mapping, page, make_pte(virt_to_mfn((void *)page), PTE_RO), UVMF_NONE), 0);
    REQUIRE_EQ(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn((void *)page), 0), 0);
    CHECK_EQ(in_user(write_word, (u64)page), X86_PF);
    CHECK_EQ(page[0], 0);
}

/* Nor can a page be written that was given back, and is another one by now. */
TEST(stale_translation_of_a_page_given_back)
{
    u64 *l1 = make_tables(), pfn = last_mapped_pfn() + 1, frame = pfn_to_mfn(pfn), got = pfn;
    xen_memory_reservation_t op = {.nr_extents = 1, .domid = DOMID_SELF};
    volatile u64 *place = (u64 *)FREE_AREA;

    REQUIRE_EQ(map((void *)place, make_pte(frame, PTE_RW)), 0);
    place[0] = 1;
    REQUIRE_EQ(mmu_update(virt_to_maddr(l1), 0), 0);
    op.extent_start.p = &frame;
    REQUIRE_EQ(hypercall(memory_op, XENMEM_decrease_reservation, &op), 1);
    op.extent_start.p = &got;
    REQUIRE_EQ(hypercall(memory_op, XENMEM_populate_physmap, &op), 1);
    CHECK_EQ(TRAP_OF("movq $77, (%0)", :: "r"(place) : "memory"), X86_PF);
    REQUIRE_EQ(map((void *)place, make_pte(got, PTE_RW)), 0);
    CHECK_EQ(place[0], 0);
}
