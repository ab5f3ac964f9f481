/* Starts the runtime, runs the test that the command line names, and says how it went. */
#include "kernel.h"

struct boot_registers boot;
const struct hvm_start_info *start_info;
const char *argument = "";
shared_info_t *shared_info;
vcpu_info_t *vcpu_info;

extern const struct test tests_begin[], tests_end[];
static const char *running = "?";
static unsigned int failures;

char hypercall_page[128][32] PAGE_ALIGNED;
static struct xencons_interface *ring;
static unsigned int console_port;

extern char image_end[];
static ulong next_page;

void init_traps(void);
void kernel_main(void);

/* ---- Checks ---- */

bool check(bool holds, const char *what, const char *file, int line)
{
    if ( !holds )
    {
        failures++;
        print(file);
        print(":");
        print_hex(line);
        print(" (in hex): ");
        print(what);
        print(" does not hold\n");
    }
    return holds;
}

bool check_equal(s64 actual, s64 expected, const char *what, const char *wanted, const char *file, int line)
{
    if ( actual != expected )
    {
        check(false, what, file, line);
        print_hex(actual);
        print(" and not ");
        print(wanted);
        print(", ");
        print_hex(expected);
        print("\n");
    }
    return actual == expected;
}

void finish(void)
{
    print(failures ? "FAIL " : "PASS ");
    print(running);
    print("\n");
    shutdown(SHUTDOWN_poweroff);
}

void shutdown(unsigned int reason)
{
    struct sched_shutdown op = {reason};

    for ( ; ; )
        hypercall(sched_op, SCHEDOP_shutdown, &op);
}

/* ---- The console ---- */

static void notify(void)
{
    send_event(console_port);
}

/* Without waiting for an event: the back end makes room when it is told of what there is. */
void print(const char *text)
{
    for ( ; *text; text++ )
    {
        while ( ring->out_prod - READ_ONCE(ring->out_cons) == sizeof(ring->out) )
            notify();
        ring->out[MASK_XENCONS_IDX(ring->out_prod, ring->out)] = *text;
        barrier();
        ring->out_prod++;
    }
    notify();
}

void print_hex(u64 value)
{
    char digits[19], *at = &digits[18];

    *at = 0;
    do
        *--at = "0123456789abcdef"[value & 15];
    while ( value >>= 4 );
    *--at = 'x';
    *--at = '0';
    print(at);
}

/* ---- Memory ---- */

long add_to_physmap(unsigned int space, ulong index, ulong gpfn)
{
    struct xen_add_to_physmap op = {.domid = DOMID_SELF, .space = space, .idx = index, .gpfn = gpfn};

    return hypercall(memory_op, XENMEM_add_to_physmap, &op);
}

long remove_from_physmap(ulong gpfn)
{
    struct xen_remove_from_physmap op = {DOMID_SELF, gpfn};

    return hypercall(memory_op, XENMEM_remove_from_physmap, &op);
}

static long reserve(unsigned int command, xen_pfn_t gpfn)
{
    struct xen_memory_reservation op = {.nr_extents = 1, .domid = DOMID_SELF};

    set_xen_guest_handle(op.extent_start, &gpfn);
    return hypercall(memory_op, command, &op);
}

long populate(ulong gpfn)
{
    return reserve(XENMEM_populate_physmap, gpfn);
}

long decrease(ulong gpfn)
{
    return reserve(XENMEM_decrease_reservation, gpfn);
}

void *alloc_page(void)
{
    void *page = (void *)next_page;

    next_page += PAGE_SIZE;
    memset(page, 0, PAGE_SIZE);
    return page;
}

u64 get_param(unsigned int index)
{
    struct xen_hvm_param op = {.domid = DOMID_SELF, .index = index};

    REQUIRE_EQ(hypercall(hvm_op, HVMOP_get_param, &op), 0);
    return op.value;
}

long set_param(unsigned int index, u64 value)
{
    struct xen_hvm_param op = {.domid = DOMID_SELF, .index = index, .value = value};

    return hypercall(hvm_op, HVMOP_set_param, &op);
}

/* ---- The start ---- */

/* Split the command line: the test's name, a blank, and its argument. */
static const struct test *find_test(void)
{
    const char *line = (const char *)(ulong)start_info->cmdline_paddr;
    size_t length = 0;

    while ( line[length] && line[length] != ' ' )
        length++;
    if ( line[length] )
        argument = line + length + 1;
    for ( const struct test *test = tests_begin; test < tests_end; test++ )
        if ( strlen(test->name) == length && !strncmp(test->name, line, length) )
            return test;
    return NULL;
}

void kernel_main(void)
{
    static u8 shared_info_page[PAGE_SIZE] PAGE_ALIGNED;
    const struct test *test;
    u32 registers[4];

    start_info = (const struct hvm_start_info *)(ulong)boot.ebx;
    next_page = ((ulong)start_info & -PAGE_SIZE) + 16 * PAGE_SIZE;
    init_traps();
    cpuid(XEN_CPUID_LEAF(2), 0, registers);
    wrmsr(registers[1], (ulong)hypercall_page);
    ring = (struct xencons_interface *)(ulong)(get_param(HVM_PARAM_CONSOLE_PFN) * PAGE_SIZE);
    console_port = get_param(HVM_PARAM_CONSOLE_EVTCHN);
    REQUIRE_EQ(add_to_physmap(XENMAPSPACE_shared_info, 0, TO_PFN(shared_info_page)), 0);
    shared_info = (shared_info_t *)shared_info_page;
    vcpu_info = &shared_info->vcpu_info[0];
    memset(shared_info->evtchn_mask, 0xff, sizeof(shared_info->evtchn_mask));
    test = find_test();
    if ( test )
    {
        running = test->name;
        test->run();
    }
    else
        check(false, "the test that the command line names", (const char *)(ulong)start_info->cmdline_paddr, 0);
    finish();
}
