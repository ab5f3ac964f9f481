/*
 * How a guest finds itself when it starts: xen/include/public/xen.h, "Start-of-day memory layout", and
 * tools/libs/guest/xg_dom_x86.c. Every test holds for each way to build the image (NOTE_* and NOTES_*).
 */
#include "runtime/kernel.h"

#define HYPERCALLS 64

extern const char image_end[];

static u64 pages_of(u64 bytes)
{
    return (bytes + PAGE_SIZE - 1) / PAGE_SIZE;
}

TEST(segment_registers_are_flat)
{
    CHECK_EQ(boot.cs, FLAT_KERNEL_CS);
    CHECK_EQ(boot.ss, FLAT_KERNEL_SS);
    CHECK_EQ(boot.ds, 0);
    CHECK_EQ(boot.es, 0);
    CHECK_EQ(boot.fs, 0);
    CHECK_EQ(boot.gs, 0);
}

TEST(interrupts_are_on_for_the_cpu_and_off_for_events)
{
    CHECK_EQ(boot.rflags, FLAGS_IF | 2);
    for ( unsigned int vcpu = 0; vcpu < XEN_LEGACY_MAX_VCPUS; vcpu++ )
        CHECK_EQ(shared_info->vcpu_info[vcpu].evtchn_upcall_mask, 1);
}

TEST(other_registers_are_zero)
{
    CHECK_EQ(boot.rax | boot.rbx | boot.rcx | boot.rdx | boot.rdi | boot.rbp, 0);
    CHECK_EQ(boot.r8 | boot.r9 | boot.r10 | boot.r11 | boot.r12 | boot.r13 | boot.r14 | boot.r15, 0);
}

TEST(start_info_says_what_there_is)
{
    CHECK(!strcmp(start_info->magic, "xen-3.0-x86_64"));
    CHECK_EQ(start_info->nr_pages, 4096);
    CHECK_EQ(start_info->shared_info % PAGE_SIZE, 0);
    CHECK(start_info->store_mfn && start_info->console.domU.mfn);
    CHECK(start_info->store_evtchn && start_info->console.domU.evtchn);
    CHECK(start_info->store_evtchn != start_info->console.domU.evtchn);
#ifdef NOTE_MOD_START_PFN
    CHECK_EQ(start_info->flags, SIF_VIRT_P2M_4TOOLS | (start_info->mod_len ? SIF_MOD_START_PFN : 0));
#else
    CHECK_EQ(start_info->flags, SIF_VIRT_P2M_4TOOLS);
#endif
}

TEST(command_line)
{
    CHECK(!strcmp((const char *)start_info->cmd_line, "command_line root=/dev/xvda1 \"quoted\"  two blanks "));
}

TEST(longest_command_line)
{
    CHECK_EQ(strlen((const char *)start_info->cmd_line), MAX_GUEST_CMDLINE - 1);
}

TEST(no_ramdisk)
{
    CHECK_EQ(start_info->mod_start, 0);
    CHECK_EQ(start_info->mod_len, 0);
}

/* Kernel, RAM disk, p2m, start_info, xenstore, console, page tables, stack: one behind the other. */
static void check_layout(void)
{
    u64 at = (u64)image_end;

#ifndef NOTE_MOD_START_PFN
    if ( start_info->mod_len )
    {
        CHECK_EQ(start_info->mod_start, at);
        at += pages_of(start_info->mod_len) * PAGE_SIZE;
    }
#endif
#ifndef NOTE_INIT_P2M
    CHECK_EQ(start_info->mfn_list, at);
    at += pages_of(start_info->nr_pages * 8) * PAGE_SIZE;
#endif
    CHECK_EQ(start_info, at);
    CHECK_EQ(mfn_to_virt(start_info->store_mfn), at + PAGE_SIZE);
    CHECK_EQ(mfn_to_virt(start_info->console.domU.mfn), at + 2 * PAGE_SIZE);
    CHECK_EQ(start_info->pt_base, at + 3 * PAGE_SIZE);
    at += (3 + start_info->nr_pt_frames) * PAGE_SIZE;
    CHECK_EQ(boot.rsp, at + PAGE_SIZE);
}

TEST(layout)
{
    check_layout();
}

TEST(layout_with_ramdisk)
{
    CHECK(start_info->mod_len);
    check_layout();
}

/* From the base to a multiple of 4 MiB with at least 512 KiB to spare; page tables read-only, the others not. */
TEST(initial_mapping)
{
    u64 first_table = virt_to_pfn((void *)start_info->pt_base);

    CHECK_EQ((last_mapped_pfn() + 1) % 1024, 0);
    for ( u64 pfn = 0; pfn <= last_mapped_pfn(); pfn++ )
    {
        bool is_table = pfn >= first_table && pfn < first_table + start_info->nr_pt_frames;
        u64 entry = *entry_of(pfn_to_virt(pfn), 1);

        if ( pfn == virt_to_pfn(shared_info) )
            continue;
        if ( !CHECK_EQ(pte_mfn(entry), pfn_to_mfn(pfn)) || !CHECK_EQ(entry & PAGE_RW, is_table ? 0 : PAGE_RW) )
            break;
    }
    CHECK_EQ(*entry_of(pfn_to_virt(last_mapped_pfn()), 2) & PAGE_PRESENT, PAGE_PRESENT);
    CHECK_EQ(*entry_of(pfn_to_virt(last_mapped_pfn() + 1), 2) & PAGE_PRESENT, 0);
}

/* Four levels for one range of 4 MiB; those for a p2m elsewhere are not counted. */
TEST(page_tables)
{
    CHECK_EQ(start_info->nr_pt_frames, 5);
    CHECK_EQ(*entry_of(pfn_to_virt(0), 4) & PAGE_USER, PAGE_USER);
    CHECK_EQ(TRAP_OF("mov %0, (%1)", :: "r"(0ul), "r"(start_info->pt_base)), X86_PF);
    CHECK_EQ(trapped.error_code, PFEC_PRESENT | PFEC_WRITE);
}

TEST(p2m_and_m2p_are_each_others_inverse)
{
    for ( u64 pfn = 0; pfn < start_info->nr_pages; pfn++ )
        if ( !CHECK_EQ(mfn_to_pfn(pfn_to_mfn(pfn)), pfn) )
            break;
}

TEST(p2m_is_where_the_notes_say)
{
#ifdef NOTE_INIT_P2M
    u64 first = start_info->first_p2m_pfn;

    CHECK_EQ(start_info->mfn_list, NOTE_INIT_P2M);
    CHECK(first > last_mapped_pfn());
    make_tables();
    REQUIRE_EQ(map((void *)FREE_AREA, make_pte(pfn_to_mfn(first), PTE_RO)), 0);
    CHECK(!memcmp((void *)FREE_AREA, p2m(), PAGE_SIZE));
    /* The p2m, a table for each of its three levels, and no more. */
    CHECK_EQ(start_info->nr_p2m_frames, pages_of(start_info->nr_pages * 8) + 3);
#else
    CHECK_EQ(start_info->first_p2m_pfn, 0);
    CHECK_EQ(start_info->nr_p2m_frames, 0);
    CHECK(virt_to_pfn(p2m()) <= last_mapped_pfn());
#endif
}

TEST(m2p_is_read_only)
{
    CHECK_EQ(TRAP_OF("mov %0, (%1)", :: "r"(0ul), "r"(machine_to_phys_mapping)), X86_PF);
    CHECK_EQ(trapped.error_code, PFEC_PRESENT | PFEC_WRITE);
    CHECK_EQ(trapped_cr2, machine_to_phys_mapping);
}

TEST(frames_of_nobodys_have_no_pfn)
{
    CHECK_EQ(mfn_to_pfn(0), ~0ul);
}

TEST(m2p_ends_with_the_machines_memory)
{
    CHECK_EQ(TRAP_OF("mov (%0), %%rax", :: "r"(MACH2PHYS_VIRT_END - 8) : "rax"), X86_PF);
    CHECK_EQ(trapped.error_code, 0);
}

TEST(hypercall_page)
{
    static const u8 stub[] = {0x51, 0x41, 0x53, 0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3};
    static const u8 iret_stub[] = {0x51, 0x41, 0x53, 0x50, 0xb8, __HYPERVISOR_iret, 0, 0, 0, 0x0f, 0x05};

    for ( unsigned int number = 0; number < HYPERCALLS; number++ )
    {
        u8 expected[sizeof(stub)];

        memcpy(expected, stub, sizeof(stub));
        expected[4] = number;
        if ( number == __HYPERVISOR_iret )
            CHECK(!memcmp(hypercall_page[number], iret_stub, sizeof(iret_stub)));
        else
            CHECK(!memcmp(hypercall_page[number], expected, sizeof(stub)));
    }
    CHECK_EQ((u8)hypercall_page[HYPERCALLS][0], 0xcc);
}

static const char *ramdisk(void)
{
#ifdef NOTE_MOD_START_PFN
    CHECK_EQ(start_info->flags & SIF_MOD_START_PFN, SIF_MOD_START_PFN);
    CHECK(start_info->mod_start > last_mapped_pfn());
    make_tables();
    for ( u64 page = 0; page < pages_of(start_info->mod_len); page++ )
        REQUIRE_EQ(map((void *)(FREE_AREA + page * PAGE_SIZE),
                       make_pte(pfn_to_mfn(start_info->mod_start + page), PTE_RO)), 0);
    return (const char *)FREE_AREA;
#else
    CHECK_EQ(start_info->flags & SIF_MOD_START_PFN, 0);
    return (const char *)start_info->mod_start;
#endif
}

/* Whoever boots it gives bytes 0, 1, 2 ... 250, 0, 1 and so on. */
TEST(with_ramdisk)
{
    const char *content = ramdisk();

    CHECK_EQ(start_info->mod_len, 3 * PAGE_SIZE + 5);
    for ( u64 i = 0; i < start_info->mod_len; i++ )
        if ( !CHECK_EQ((u8)content[i], i % 251) )
            break;
    for ( u64 i = start_info->mod_len; i % PAGE_SIZE; i++ )
        if ( !CHECK_EQ(content[i], 0) )
            break;
}

TEST(console_and_xenstore_rings_are_empty)
{
    const u64 *page = mfn_to_virt(start_info->store_mfn);

    /* Nobody asked anything of xenstored, which leaves all but its features zero. */
    for ( unsigned int i = 0; i < 2048 / 8; i++ )
        CHECK_EQ(page[i], 0);
}

TEST(memory_that_nobody_filled_is_zero)
{
    const u64 *page = alloc_page();

    for ( unsigned int i = 0; i < PAGE_SIZE / 8; i++ )
        CHECK_EQ(page[i], 0);
}

TEST(page_0_is_mapped_at_the_base)
{
    CHECK_EQ(pfn_to_mfn(0), pte_mfn(*entry_of((void *)KERNEL_BASE, 1)));
}
