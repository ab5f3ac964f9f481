/*
 * Hypercalls as such: numbers, multicalls, what Xen says of itself, its own console, assists, the virtual IOPL.
 * Xen: xen/arch/x86/pv/hypercall.c, xen/common/multicall.c and kernel.c, xen/drivers/char/console.c.
 */
#include "runtime/kernel.h"

/* ---- Numbers ---- */

TEST(numbers_there_are_not)
{
    u64 numbers[] = {11, 19, 43, 47, 55, 56, 63, 64, 1000, 1ul << 31, 1ul << 32 | __HYPERVISOR_xen_version, -1ul};

    for ( unsigned int i = 0; i < ARRAY_SIZE(numbers); i++ )
        CHECK_EQ(hypercall_numbered(numbers[i], 0, 0, 0, 0, 0), -XEN_ENOSYS);
    CHECK_EQ(hypercall_numbered(__HYPERVISOR_xen_version, XENVER_version, 0, 0, 0, 0), 4 << 16 | 17);
}

TEST(registers_are_kept)
{
    u64 rbx = 1, rbp_before, rbp_after, r12 = 2, r15 = 3, flags;

    asm volatile("mov %%rbp, %5; mov %6, %%eax; xor %%edi, %%edi; mov %3, %%r15; mov %2, %%r12; mov %1, %%rbx\n"
                 "stc; std; syscall\n"
                 "pushfq; cld; popq %0; mov %%rbp, %4; mov %%rbx, %1; mov %%r12, %2; mov %%r15, %3"
                 : "=m"(flags), "+m"(rbx), "+m"(r12), "+m"(r15), "=m"(rbp_after), "=m"(rbp_before)
                 : "i"(__HYPERVISOR_xen_version)
                 : "rax", "rbx", "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r10", "r11", "r12", "r15", "memory", "cc");
    CHECK_EQ(rbx, 1);
    CHECK_EQ(r12, 2);
    CHECK_EQ(r15, 3);
    CHECK_EQ(rbp_after, rbp_before);
    CHECK_EQ(flags & (FLAGS_DF | 1), FLAGS_DF | 1);
}

/* What only those who manage domains may do is refused, after a look at what is asked. */
TEST(not_for_unprivileged_domains)
{
    static u64 nothing[64];
    unsigned int managing[] = {__HYPERVISOR_platform_op, __HYPERVISOR_sysctl, __HYPERVISOR_domctl};
    unsigned int others[] = {__HYPERVISOR_kexec_op, __HYPERVISOR_arch_0, __HYPERVISOR_hypfs_op};

    for ( unsigned int i = 0; i < ARRAY_SIZE(managing); i++ )
    {
        CHECK_EQ(hypercall_numbered(managing[i], UNMAPPED, 0, 0, 0, 0), -XEN_EFAULT);
        /* Version 0 of the interface. */
        CHECK_EQ(hypercall_numbered(managing[i], (u64)nothing, 0, 0, 0, 0), -XEN_EACCES);
    }
    for ( unsigned int i = 0; i < ARRAY_SIZE(others); i++ )
        CHECK_EQ(hypercall_numbered(others[i], 0, (u64)nothing, 0, 0, 0), -XEN_EPERM);
}

/* ---- Multicalls ---- */

TEST(multicall)
{
    unsigned int port = make_ipi();
    struct evtchn_send send = {port};
    u64 *page = alloc_page();
    multicall_entry_t calls[] = {
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}},
        {.op = __HYPERVISOR_event_channel_op, .args = {EVTCHNOP_send, (u64)&send}},
        {.op = 64},
        {.op = __HYPERVISOR_update_va_mapping, .args = {(u64)page, 0, UVMF_INVLPG}},
        {.op = __HYPERVISOR_memory_op, .args = {XENMEM_maximum_ram_page}},
        {.op = __HYPERVISOR_sched_op, .args = {SCHEDOP_yield}, .result = 99},
    };

    CHECK_EQ(hypercall(multicall, calls, ARRAY_SIZE(calls)), 0);
    CHECK_EQ(calls[0].result, 4 << 16 | 17);
    CHECK_EQ(calls[1].result, 0);
    CHECK(port_is_pending(port));
    CHECK_EQ(calls[2].result, -XEN_ENOSYS);
    CHECK_EQ(calls[3].result, 0);
    CHECK_EQ(TRAP_OF("mov (%0), %%rax", :: "r"(page) : "rax"), X86_PF);
    CHECK_EQ(calls[4].result, hypercall(memory_op, XENMEM_maximum_ram_page, 0));
    CHECK_EQ(calls[5].result, 0);
}

TEST(long_multicall)
{
    static multicall_entry_t calls[1000];

    for ( unsigned int i = 0; i < ARRAY_SIZE(calls); i++ )
        calls[i] = i % 2 ? (multicall_entry_t){.op = __HYPERVISOR_xen_version, .args = {XENVER_pagesize}}
                         : (multicall_entry_t){.op = __HYPERVISOR_sched_op, .args = {SCHEDOP_yield}, .result = 99};
    CHECK_EQ(hypercall(multicall, calls, ARRAY_SIZE(calls)), 0);
    for ( unsigned int i = 0; i < ARRAY_SIZE(calls); i++ )
        if ( !CHECK_EQ(calls[i].result, i % 2 ? PAGE_SIZE : 0) )
            break;
}

/* Results that no signed number holds: addresses, and what the guest itself says of its memory. */
TEST(multicall_with_large_results)
{
    domid_t self = DOMID_SELF;
    multicall_entry_t calls[] = {
        {.op = __HYPERVISOR_get_debugreg, .args = {0}},
        {.op = __HYPERVISOR_memory_op, .args = {XENMEM_maximum_gpfn, (u64)&self}},
    };

    REQUIRE_EQ(hypercall(set_debugreg, 0, 0xffffffff81000000ul), 0);
    shared_info->arch.max_pfn = ~0ul;
    CHECK_EQ(hypercall(multicall, calls, ARRAY_SIZE(calls)), 0);
    CHECK_EQ(calls[0].result, 0xffffffff81000000ul);
    CHECK_EQ(calls[1].result, ~0ul - 1);
}

/* What comes after a call that waits is done after the wait. */
TEST(multicall_that_blocks)
{
    struct evtchn_bind_virq bind = {.virq = VIRQ_TIMER, .vcpu = 0};
    struct vcpu_runstate_info runstate;
    u64 deadline = system_time() + 20000000;
    multicall_entry_t calls[] = {
        {.op = __HYPERVISOR_set_timer_op, .args = {deadline}},
        {.op = __HYPERVISOR_sched_op, .args = {SCHEDOP_block}},
        {.op = __HYPERVISOR_set_timer_op, .args = {0}},
        {.op = __HYPERVISOR_vcpu_op, .args = {VCPUOP_get_runstate_info, 0, (u64)&runstate}},
    };

    REQUIRE_EQ(hypercall(vcpu_op, VCPUOP_stop_periodic_timer, 0, 0), 0);
    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_bind_virq, &bind), 0);
    set_port_mask(bind.port, false);
    CHECK_EQ(hypercall(multicall, calls, ARRAY_SIZE(calls)), 0);
    CHECK(runstate.state_entry_time >= deadline);
    CHECK_EQ(events[bind.port], 1);
}

TEST(multicall_in_a_multicall)
{
    multicall_entry_t inner = {.op = __HYPERVISOR_xen_version, .result = 99};
    multicall_entry_t outer[] = {
        {.op = __HYPERVISOR_multicall, .args = {(u64)&inner, 1}},
        {.op = __HYPERVISOR_xen_version},
    };

    CHECK_EQ(hypercall(multicall, outer, 2), 0);
    CHECK_EQ(outer[0].result, -XEN_EINVAL);
    CHECK_EQ(inner.result, 99);
    CHECK_EQ(outer[1].result, 4 << 16 | 17);
    /* Nor is one forbidden from then on. */
    CHECK_EQ(hypercall(multicall, &inner, 1), 0);
    CHECK_EQ(inner.result, 4 << 16 | 17);
}

TEST(multicalls_that_cannot_be_read)
{
    multicall_entry_t *calls = pfn_to_virt(last_mapped_pfn() + 1);

    CHECK_EQ(hypercall(multicall, UNMAPPED, 1), -XEN_EFAULT);
    CHECK_EQ(hypercall(multicall, XENS_OWN, 1), -XEN_EFAULT);
    CHECK_EQ(hypercall(multicall, UNMAPPED, 0), 0);
    CHECK_EQ(hypercall(multicall, XENS_OWN, 0), -XEN_EFAULT);
    calls--;
    calls[0] = (multicall_entry_t){.op = __HYPERVISOR_xen_version};
    CHECK_EQ(hypercall(multicall, calls, 2), -XEN_EFAULT);
    CHECK_EQ(calls[0].result, 4 << 16 | 17);
    /* Its results can't be written. */
    make_read_only((void *)((u64)calls & PAGE_MASK));
    CHECK_EQ(hypercall(multicall, calls, 1), -XEN_EFAULT);
}

/* ---- Batches of page-table updates, as calls ---- */

/* Xen's own sign that a batch was done when it was preempted: its result stands where the domain was. */
TEST(batches_that_were_done)
{
    CHECK_EQ(hypercall(mmu_update, 0, 1ul << 31, 0, 0x12345678), 0x12345678);
    CHECK_EQ(hypercall(mmu_update, 0, 1ul << 31, 0, 0xfffffffful), -1);
    CHECK_EQ(hypercall(mmuext_op, 0, 1ul << 31, 0, 0x500000000ul), 0);
    CHECK_EQ(hypercall(mmuext_op, 0, 1ul << 31, 0, 0xffffffeaul), -22);
}

TEST(batches_that_cannot_be_read)
{
    domid_t domains[] = {DOMID_SELF, 0, 0x7000};

    for ( unsigned int i = 0; i < ARRAY_SIZE(domains); i++ )
    {
        CHECK_EQ(hypercall(mmu_update, XENS_OWN, 0, 0, domains[i]), -XEN_EFAULT);
        CHECK_EQ(hypercall(mmuext_op, XENS_OWN, 0, 0, domains[i]), -XEN_EFAULT);
    }
    CHECK_EQ(hypercall(mmu_update, UNMAPPED, 0, 0, DOMID_SELF), 0);
    CHECK_EQ(hypercall(mmu_update, UNMAPPED, 1, 0, DOMID_SELF), -XEN_EFAULT);
    CHECK_EQ(hypercall(mmuext_op, UNMAPPED, 0, 0, DOMID_SELF), 0);
    CHECK_EQ(hypercall(mmuext_op, UNMAPPED, 1, 0, DOMID_SELF), -XEN_EFAULT);
}

/* ---- xen_version ---- */

static long version(unsigned int command, void *argument)
{
    return hypercall(xen_version, command, argument);
}

TEST(version)
{
    CHECK_EQ(version(XENVER_version, NULL), 4 << 16 | 17);
    CHECK_EQ(version(XENVER_version, (void *)UNMAPPED), 4 << 16 | 17);
    CHECK_EQ(version(XENVER_pagesize, NULL), PAGE_SIZE);
    CHECK_EQ(version(XENVER_pagesize, (void *)UNMAPPED), -XEN_EINVAL);
}

/* Strings that any guest may know, zero to their ends. */
TEST(version_strings)
{
    static char extra[32], capabilities[2048], changeset[128];
    static struct xen_compile_info compile;

    memset(extra, 'x', sizeof(extra));
    CHECK_EQ(version(XENVER_extraversion, extra), 0);
    CHECK_EQ(extra[0], '.');
    CHECK_EQ(extra[15], 0);
    CHECK_EQ(extra[16], 'x');
    memset(capabilities, 'x', sizeof(capabilities));
    CHECK_EQ(version(XENVER_capabilities, capabilities), 0);
    CHECK(!strncmp(capabilities, "xen-3.0-x86_64 ", 15));
    CHECK_EQ(capabilities[1023], 0);
    CHECK_EQ(capabilities[1024], 'x');
    memset(changeset, 'x', sizeof(changeset));
    CHECK_EQ(version(XENVER_changeset, changeset), 0);
    CHECK_EQ(changeset[63], 0);
    CHECK_EQ(changeset[64], 'x');
    CHECK(strcmp(changeset, "<denied>"));
    CHECK_EQ(version(XENVER_compile_info, &compile), 0);
    CHECK(strlen(compile.compiler) && strcmp(compile.compiler, "<denied>"));
}

/* And one that it may not. */
TEST(command_line_of_xen)
{
    char line[16] = "xxxxxxxxxxxxxxx";

    CHECK_EQ(version(XENVER_commandline, line), 0);
    CHECK(!strcmp(line, "<denied>"));
    CHECK_EQ(line[9], 'x');
    CHECK_EQ(version(XENVER_build_id, NULL), -XEN_EPERM);
}

TEST(platform_parameters)
{
    struct xen_platform_parameters parameters;

    CHECK_EQ(version(XENVER_platform_parameters, &parameters), 0);
    CHECK_EQ(parameters.virt_start, HYPERVISOR_VIRT_START);
}

TEST(features)
{
    struct xen_feature_info info = {.submap_idx = 0};

    CHECK_EQ(version(XENVER_get_features, &info), 0);
    CHECK_EQ(info.submap, 1u << XENFEAT_mmu_pt_update_preserve_ad | 1u << XENFEAT_highmem_assist |
                              1u << XENFEAT_gnttab_map_avail_bits | 1u << XENFEAT_memory_op_vnode_supported |
                              1u << XENFEAT_direct_mapped);
    REQUIRE_EQ(hypercall(vm_assist, VMASST_CMD_enable, VMASST_TYPE_pae_extended_cr3), 0);
    CHECK_EQ(version(XENVER_get_features, &info), 0);
    CHECK(info.submap & 1u << XENFEAT_pae_pgdir_above_4gb);
    info.submap_idx = 1;
    CHECK_EQ(version(XENVER_get_features, &info), -XEN_EINVAL);
}

/* The UUID that the toolstack gave; whoever boots the guest looks at it. */
TEST(guest_handle)
{
    xen_domain_handle_t handle;

    CHECK_EQ(version(XENVER_guest_handle, handle), 0);
    for ( unsigned int i = 0; i < sizeof(handle); i++ )
        printf("%u ", handle[i]);
    print("\n");
}

TEST(versions_that_are_refused)
{
    unsigned int commands[] = {
        XENVER_extraversion, XENVER_compile_info, XENVER_capabilities, XENVER_changeset,
        XENVER_platform_parameters, XENVER_get_features, XENVER_guest_handle, XENVER_commandline,
    };

    for ( unsigned int i = 0; i < ARRAY_SIZE(commands); i++ )
    {
        CHECK_EQ(version(commands[i], (void *)UNMAPPED), -XEN_EFAULT);
        CHECK_EQ(version(commands[i], (void *)XENS_OWN), -XEN_EFAULT);
    }
    CHECK_EQ(version(11, NULL), -XEN_ENOSYS);
    CHECK_EQ(version(-1u, NULL), -XEN_ENOSYS);
}

/* ---- Pointers ---- */

/* A structure across two pages, of which the second is not there, or is there elsewhere. */
TEST(structures_across_pages)
{
    u8 *first = alloc_page(), *second = alloc_page();
    struct xen_feature_info *info = (void *)(second - 4);

    CHECK_EQ(second, first + PAGE_SIZE);
    info->submap_idx = 0;
    CHECK_EQ(version(XENVER_get_features, info), 0);
    CHECK(info->submap != 0);
    make_read_only(second);
    CHECK_EQ(version(XENVER_get_features, info), -XEN_EFAULT);
    REQUIRE_EQ(map(second, 0), 0);
    CHECK_EQ(version(XENVER_get_features, info), -XEN_EFAULT);
}

TEST(structures_that_are_read_only)
{
    u8 *page = alloc_page();

    make_read_only(page);
    CHECK_EQ(version(XENVER_guest_handle, page), -XEN_EFAULT);
    CHECK_EQ(page[0], 0);
}

/* ---- Xen's console ---- */

/* Whoever boots the guest looks at what came. */
TEST(console_io)
{
    static char text[] = "Hello, Xen.\n", read[16];

    CHECK_EQ(hypercall(console_io, CONSOLEIO_write, sizeof(text) - 1, text), 0);
    CHECK_EQ(hypercall(console_io, CONSOLEIO_write, 0, UNMAPPED), 0);
    CHECK_EQ(hypercall(console_io, CONSOLEIO_write, 5, UNMAPPED), -XEN_EFAULT);
    CHECK_EQ(hypercall(console_io, CONSOLEIO_read, sizeof(read), read), -XEN_EPERM);
    CHECK_EQ(hypercall(console_io, 2, 0, 0), -XEN_EPERM);
}

/* As much as an int says. */
TEST(long_console_io)
{
    static char text[3 << 20];

    CHECK_EQ(hypercall(console_io, CONSOLEIO_write, sizeof(text), text), 0);
    CHECK_EQ(hypercall(console_io, CONSOLEIO_write, 1ul << 31, text), -XEN_E2BIG);
}

/* ---- Assists ---- */

TEST(vm_assist)
{
    unsigned int types[] = {
        VMASST_TYPE_4gb_segments, VMASST_TYPE_4gb_segments_notify, VMASST_TYPE_writable_pagetables,
        VMASST_TYPE_pae_extended_cr3, VMASST_TYPE_architectural_iopl, VMASST_TYPE_runstate_update_flag,
        VMASST_TYPE_m2p_strict,
    };

    for ( unsigned int i = 0; i < ARRAY_SIZE(types); i++ )
    {
        CHECK_EQ(hypercall(vm_assist, VMASST_CMD_enable, types[i]), 0);
        CHECK_EQ(hypercall(vm_assist, VMASST_CMD_disable, types[i]), 0);
        CHECK_EQ(hypercall(vm_assist, 2, types[i]), -XEN_ENOSYS);
    }
    CHECK_EQ(hypercall(vm_assist, VMASST_CMD_enable, 6), -XEN_EINVAL);
    CHECK_EQ(hypercall(vm_assist, VMASST_CMD_enable, 63), -XEN_EINVAL);
    CHECK_EQ(hypercall(vm_assist, 2, 64), -XEN_EINVAL);
}

/* ---- The virtual IOPL ---- */

static long set_iopl(u32 level)
{
    struct physdev_set_iopl op = {level};

    return hypercall(physdev_op, PHYSDEVOP_set_iopl, &op);
}

static u64 cli(u64 unused)
{
    return TRAP_OF("cli");
}

TEST(iopl)
{
    CHECK_EQ(cli(0), X86_GP);
    CHECK_EQ(set_iopl(1), 0);
    CHECK_EQ(cli(0), NO_TRAP);
    CHECK_EQ(in_user(cli, 0), X86_GP);
    CHECK_EQ(set_iopl(3), 0);
    CHECK_EQ(in_user(cli, 0), NO_TRAP);
    CHECK_EQ(set_iopl(4), -XEN_EINVAL);
    CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_set_iopl, UNMAPPED), -XEN_EFAULT);
    /* Without the assist no flags show it. */
    CHECK_EQ(TRAP_OF("ud2"), X86_UD);
    CHECK_EQ(trapped.rflags & FLAGS_IOPL, 0);
}

static void change_iopl(struct frame *frame)
{
    trapped = *frame;
    frame->rip += 2;
    frame->rflags ^= FLAGS_IOPL;
}

/* With it, flags that a handler sees and returns with have it; the kernel is in ring 0 then. */
TEST(architectural_iopl)
{
    REQUIRE_EQ(hypercall(vm_assist, VMASST_CMD_enable, VMASST_TYPE_architectural_iopl), 0);
    CHECK_EQ(cli(0), NO_TRAP);
    CHECK_EQ(set_iopl(2), 0);
    CHECK_EQ(TRAP_OF("ud2"), X86_UD);
    CHECK_EQ(trapped.rflags & FLAGS_IOPL, 0x2000);
    trap_handlers[X86_UD] = change_iopl;
    asm volatile("ud2; ud2" ::: "memory", "cc");
    CHECK_EQ(trapped.rflags & FLAGS_IOPL, 0x1000);
    asm volatile("ud2" ::: "memory", "cc");
    CHECK_EQ(trapped.rflags & FLAGS_IOPL, 0x2000);
}

static u64 port_value;

static u64 read_port(u64 port)
{
    port_value = 0;
    return TRAP_OF("inb %%dx, %%al", : "+a"(port_value) : "d"(port));
}

static u64 read_two_ports(u64 port)
{
    port_value = 0;
    return TRAP_OF("inw %%dx, %%ax", : "+a"(port_value) : "d"(port));
}

static u64 read_port_into_memory(u64 port)
{
    u64 *value = &port_value;

    port_value = 0;
    return TRAP_OF("insb", : "+D"(value) : "d"(port) : "memory");
}

static long set_iobitmap(const void *bitmap, u32 ports)
{
    struct physdev_set_iobitmap op = {.nr_ports = ports};

    op.bitmap.p = (u8 *)bitmap;
    return hypercall(physdev_op, PHYSDEVOP_set_iobitmap, &op);
}

/* What it allows is done, though there is no device. */
TEST(io_bitmap)
{
    static u8 bitmap[8192];

    CHECK_EQ(read_port(0x378), X86_GP);
    CHECK_EQ(set_iobitmap(bitmap, 65536), 0);
    CHECK_EQ(read_port(0x378), NO_TRAP);
    CHECK_EQ(port_value, 0xff);
    CHECK_EQ(in_user(read_port, 0x378), NO_TRAP);
    CHECK_EQ(port_value, 0xff);
    CHECK_EQ(in_user(read_two_ports, 0x378), NO_TRAP);
    CHECK_EQ(port_value, 0xffff);
    CHECK_EQ(in_user(read_port_into_memory, 0x378), NO_TRAP);
    CHECK_EQ(port_value, 0xff);
    CHECK_EQ(in_user(cli, 0), X86_GP);
    bitmap[0x379 / 8] = 1 << 0x379 % 8;
    CHECK_EQ(in_user(read_port, 0x378), NO_TRAP);
    CHECK_EQ(in_user(read_port, 0x379), X86_GP);
    CHECK_EQ(in_user(read_two_ports, 0x378), X86_GP);
    CHECK_EQ(in_user(read_port_into_memory, 0x379), X86_GP);
    CHECK_EQ(set_iobitmap(bitmap, 0x380), 0);
    CHECK_EQ(in_user(read_port, 0x37f), NO_TRAP);
    CHECK_EQ(in_user(read_two_ports, 0x37f), X86_GP);
    CHECK_EQ(in_user(read_port, 0x380), X86_GP);
    CHECK_EQ(set_iobitmap((void *)UNMAPPED, 65536), 0);
    CHECK_EQ(in_user(read_two_ports, 0x378), X86_PF);
    CHECK_EQ(trapped_cr2, UNMAPPED + 0x378 / 8);
}

TEST(io_bitmaps_that_are_refused)
{
    static u8 bitmap[8192];

    CHECK_EQ(set_iobitmap(bitmap, 65537), -XEN_EINVAL);
    CHECK_EQ(set_iobitmap((void *)XENS_OWN, 8), -XEN_EINVAL);
    CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_set_iobitmap, UNMAPPED), -XEN_EFAULT);
    CHECK_EQ(read_port(0), X86_GP);
}

/* ---- Devices, of which there are none ---- */

TEST(physical_interrupts)
{
    struct physdev_irq_status_query query = {.irq = 1, .flags = 99};
    struct physdev_map_pirq map = {.domid = DOMID_SELF};
    struct physdev_unmap_pirq unmap = {.domid = 0x7000};
    struct physdev_setup_gsi gsi = {.gsi = 1};

    CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_irq_status_query, &query), 0);
    CHECK_EQ(query.flags, XENIRQSTAT_needs_eoi);
    query.irq = 100000;
    CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_irq_status_query, &query), -XEN_EINVAL);
    CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_map_pirq, &map), -XEN_EPERM);
    map.domid = 0x7000;
    CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_map_pirq, &map), -XEN_ESRCH);
    map.type = MAP_PIRQ_TYPE_MULTI_MSI;
    map.table_base = 1;
    CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_map_pirq, &map), -XEN_EINVAL);
    CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_unmap_pirq, &unmap), -XEN_ESRCH);
    unmap.domid = 0;
    CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_unmap_pirq, &unmap), -XEN_EPERM);
    CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_setup_gsi, &gsi), -XEN_EPERM);
    gsi.gsi = -1;
    CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_setup_gsi, &gsi), -XEN_EINVAL);
    CHECK_EQ(hypercall(physdev_op, PHYSDEVOP_IRQ_UNMASK_NOTIFY, UNMAPPED), 0);
}

/* The command before the structure, as Xen 3.0 had it. */
TEST(old_physdev_call)
{
    physdev_op_t op = {.cmd = PHYSDEVOP_irq_status_query};

    op.u.irq_status_query.irq = 1;
    CHECK_EQ(hypercall_by_page(19, (u64)&op, 0, 0, 0, 0), 0);
    CHECK_EQ(op.u.irq_status_query.flags, XENIRQSTAT_needs_eoi);
    CHECK_EQ(hypercall_by_page(19, UNMAPPED, 0, 0, 0, 0), -XEN_EFAULT);
}

/* What is asked is read before it is refused, with few exceptions. */
TEST(devices)
{
    static u64 nothing[8];
    static const struct { unsigned int command; int error, fault; } expected[] = {
        {PHYSDEVOP_eoi, XEN_EINVAL, XEN_EFAULT},
        {PHYSDEVOP_apic_read, XEN_EPERM, XEN_EFAULT},
        {PHYSDEVOP_apic_write, XEN_EPERM, XEN_EFAULT},
        {PHYSDEVOP_alloc_irq_vector, XEN_EPERM, XEN_EFAULT},
        {PHYSDEVOP_free_irq_vector, XEN_ENOSYS, XEN_ENOSYS},
        {PHYSDEVOP_manage_pci_add, XEN_EPERM, XEN_EFAULT},
        {PHYSDEVOP_manage_pci_remove, XEN_EPERM, XEN_EFAULT},
        {PHYSDEVOP_manage_pci_add_ext, XEN_EPERM, XEN_EFAULT},
        {PHYSDEVOP_pci_device_add, XEN_EPERM, XEN_EFAULT},
        {PHYSDEVOP_pci_device_remove, XEN_EPERM, XEN_EFAULT},
        {PHYSDEVOP_restore_msi, XEN_ENODEV, XEN_EFAULT},
        {PHYSDEVOP_restore_msi_ext, XEN_ENODEV, XEN_EFAULT},
        {PHYSDEVOP_prepare_msix, XEN_EPERM, XEN_EFAULT},
        {PHYSDEVOP_release_msix, XEN_EPERM, XEN_EFAULT},
        {PHYSDEVOP_pci_mmcfg_reserved, XEN_EPERM, XEN_EPERM},
        {PHYSDEVOP_dbgp_op, XEN_EPERM, XEN_EPERM},
    };

    for ( unsigned int i = 0; i < ARRAY_SIZE(expected); i++ )
    {
        CHECK_EQ(hypercall(physdev_op, expected[i].command, nothing), -expected[i].error);
        CHECK_EQ(hypercall(physdev_op, expected[i].command, UNMAPPED), -expected[i].fault);
    }
}
