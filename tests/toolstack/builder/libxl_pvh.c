/*
 * What Xen's own libxenguest and libxl build for a PVH guest, in a file instead of a domain's memory.
 *
 *     libxl_pvh KERNEL RAMDISK|- CMDLINE|- MIB VCPUS STORE_PORT CONSOLE_PORT CONTEXT MEMORY REPORT
 *
 * CONTEXT is what XEN_DOMCTL_gethvmcontext is to answer, MEMORY becomes the guest's memory, by guest-physical addresses,
 * and REPORT is a line for every hypercall. This file stands in for libxenctrl; the builder is linked statically.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <libxl.h>
#include <xenctrl.h>
#include <xenguest.h>
#include <xentoollog.h>
#include <xenforeignmemory.h>
#include <xen/hvm/e820.h>
#include <xen/hvm/params.h>

#define PAGE 4096ul
#define DOMID 1
#define SPACE (16ul << 30)

static int memory;
static FILE *report;
static char *context;
static size_t context_size;
static unsigned int vcpus;
static char grant_table[4096] __attribute__((aligned(4096)));
static struct e820entry map[E820MAX];
static unsigned int entries;

static char there[SPACE / PAGE];

/* libxenctrl. */

static void populated(unsigned long count, unsigned int order, xen_pfn_t *gfns)
{
    for (unsigned long i = 0; i < count; i++)
        for (unsigned long page = 0; page < 1ul << order; page++) {
            fprintf(report, "populate %#lx\n", gfns[i] + page);
            if (there[gfns[i] + page]++ &&
                fallocate(memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (gfns[i] + page) * PAGE, PAGE))
                abort();
        }
}

int xc_domain_populate_physmap(xc_interface *xch, uint32_t domid, unsigned long count, unsigned int order,
                               unsigned int flags, xen_pfn_t *gfns)
{
    populated(count, order, gfns);
    return count;
}

int xc_domain_populate_physmap_exact(xc_interface *xch, uint32_t domid, unsigned long count, unsigned int order,
                                     unsigned int flags, xen_pfn_t *gfns)
{
    populated(count, order, gfns);
    return 0;
}

int xc_domain_claim_pages(xc_interface *xch, uint32_t domid, unsigned long pages)
{
    return 0;
}

void *xc_map_foreign_range(xc_interface *xch, uint32_t domid, int size, int prot, unsigned long gfn)
{
    void *pages = mmap(NULL, size, prot, MAP_SHARED, memory, gfn * PAGE);

    return pages == MAP_FAILED ? NULL : pages;
}

struct range { /* privcmd_mmap_entry_t */
    uint64_t va, mfn, npages;
};

void *xc_map_foreign_ranges(xc_interface *xch, uint32_t domid, size_t size, int prot, size_t chunk,
                            struct range ranges[], int count)
{
    for (int i = 1; i < count; i++)
        if (ranges[i].mfn != ranges[i - 1].mfn + 1)
            abort();
    return xc_map_foreign_range(xch, domid, size, prot, ranges[0].mfn);
}

int xc_clear_domain_pages(xc_interface *xch, uint32_t domid, unsigned long gfn, int count)
{
    void *pages = xc_map_foreign_range(xch, domid, count * PAGE, PROT_READ | PROT_WRITE, gfn);

    memset(pages, 0, count * PAGE);
    return munmap(pages, count * PAGE);
}

int xc_domain_getinfo(xc_interface *xch, uint32_t first, unsigned int max, xc_dominfo_t *info)
{
    memset(info, 0, sizeof(*info));
    info->domid = DOMID;
    info->max_vcpu_id = vcpus - 1;
    return 1;
}

int xc_version(xc_interface *xch, int command, void *answer)
{
    if (command == XENVER_capabilities)
        strcpy(answer, "xen-3.0-x86_64 hvm-3.0-x86_32 ");
    return 4 << 16 | 17;
}

int xc_hvm_param_set(xc_interface *xch, uint32_t domid, uint32_t param, uint64_t value)
{
    fprintf(report, "param %u %#lx\n", param, value);
    return 0;
}

int xc_domain_hvm_getcontext(xc_interface *xch, uint32_t domid, uint8_t *buffer, uint32_t size)
{
    if (buffer)
        memcpy(buffer, context, context_size);
    return context_size;
}

int xc_domain_hvm_setcontext(xc_interface *xch, uint32_t domid, uint8_t *buffer, uint32_t size)
{
    fputs("context ", report);
    for (uint32_t i = 0; i < size; i++)
        fprintf(report, "%02x", buffer[i]);
    fputs("\n", report);
    return 0;
}

int xc_domain_set_memory_map(xc_interface *xch, uint32_t domid, struct e820entry given[], uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        fprintf(report, "e820 %#lx %#lx %u\n", given[i].addr, given[i].size, given[i].type);
    memcpy(map, given, count * sizeof(map[0]));
    entries = count;
    return 0;
}

xenforeignmemory_resource_handle *xenforeignmemory_map_resource(xenforeignmemory_handle *handle, domid_t domid,
                                                                unsigned int type, unsigned int id,
                                                                unsigned long frame, unsigned long frames,
                                                                void **address, int prot, int flags)
{
    *address = grant_table;
    return (void *)grant_table;
}

int xenforeignmemory_unmap_resource(xenforeignmemory_handle *handle, xenforeignmemory_resource_handle *resource)
{
    return 0;
}

/* What libxl_x86.c and libxl_x86_acpi.c need of libxl. */

typedef void libxl__gc;

int libxl__arch_domain_finalise_hw_description(libxl__gc *gc, uint32_t domid, libxl_domain_config *config,
                                               struct xc_dom_image *dom);

void *libxl__malloc(libxl__gc *gc, size_t size)
{
    return malloc(size);
}

void *libxl__zalloc(libxl__gc *gc, size_t size)
{
    return calloc(1, size);
}

void libxl__log(void *ctx, int level, int error, const char *file, int line, const char *function, uint32_t domid,
                const char *format, ...)
{
}

bool libxl_defbool_val(libxl_defbool value)
{
    return value.val > 0;
}

/* libxl__build_hvm and libxl__build_dom, for PVH. */

#define CHECK(call)                             \
    do                                          \
        if (call) {                             \
            fprintf(report, "failed " #call "\n"); \
            return 1;                           \
        }                                       \
    while (0)

#define ACPI_INFO 0xfc000000ul

int main(int argc, char **argv)
{
    const char *kernel = argv[1], *ramdisk = argv[2], *cmdline = strcmp(argv[3], "-") ? argv[3] : NULL;
    unsigned long mib = strtoul(argv[4], NULL, 0), size = mib << 20, start = ACPI_INFO;
    xentoollog_logger *log = (xentoollog_logger *)xtl_createlogger_stdiostream(stderr, XTL_ERROR, 0);
    xc_interface *xch = xc_interface_open(log, log, XC_OPENFLAG_DUMMY);
    struct xc_dom_image *dom = xc_dom_allocate(xch, cmdline, NULL);
    static libxl_domain_config config;
    static uint8_t online[64];
    static void *ctx[512], *gc[512];
    int file;

    vcpus = strtoul(argv[5], NULL, 0);
    file = open(argv[8], O_RDONLY);
    context_size = lseek(file, 0, SEEK_END);
    context = mmap(NULL, context_size, PROT_READ, MAP_PRIVATE, file, 0);
    memory = open(argv[9], O_RDWR | O_CREAT | O_TRUNC, 0600);
    report = fopen(argv[10], "w");
    if (!report || memory < 0 || context == MAP_FAILED || ftruncate(memory, SPACE))
        abort();

    for (int i = 0; i < 512; i++)
        gc[i] = ctx; /* gc->owner, wherever that is; what it points to is not looked at here */
    config.c_info.type = config.b_info.type = LIBXL_DOMAIN_TYPE_PVH;
    config.b_info.apic.val = 1;
    for (unsigned int i = 0; i < vcpus; i++)
        online[i / 8] |= i % 3 == 2 ? 0 : 1 << i % 8; /* every third is not online */
    config.b_info.avail_vcpus.size = (vcpus + 7) / 8;
    config.b_info.avail_vcpus.map = online;

    dom->container_type = XC_DOM_HVM_CONTAINER;
    dom->target_pages = size >> 12;
    if (size > start) {
        dom->lowmem_end = start;
        dom->highmem_end = (1ul << 32) + size - start;
    } else
        dom->lowmem_end = size;
    dom->mmio_start = start;
    dom->mmio_size = (1ul << 32) - start;
    dom->max_vcpus = vcpus;
    dom->xenstore_evtchn = strtoul(argv[6], NULL, 0);
    dom->console_evtchn = strtoul(argv[7], NULL, 0);

    CHECK(xc_dom_kernel_file(dom, kernel));
    if (strcmp(ramdisk, "-"))
        CHECK(xc_dom_module_file(dom, ramdisk, NULL));
    CHECK(xc_dom_boot_xen_init(dom, xch, DOMID));
    CHECK(xc_dom_parse_image(dom));
    CHECK(xc_dom_mem_init(dom, mib));
    CHECK(xc_dom_boot_mem_init(dom));
    CHECK(libxl__arch_domain_finalise_hw_description(gc, DOMID, &config, dom));
    CHECK(xc_dom_build_image(dom));
    CHECK(xc_dom_boot_image(dom));
    CHECK(xc_dom_gnttab_init(dom));
    for (int i = 0; i < 8; i++)
        fprintf(report, "grant %d %u %u %#x\n", i, *(uint16_t *)(grant_table + 8 * i),
                *(uint16_t *)(grant_table + 8 * i + 2), *(uint32_t *)(grant_table + 8 * i + 4));
    fprintf(report, "rings %#lx %#lx\n", dom->console_pfn, dom->xenstore_pfn);
    fclose(report);
    return 0;
}
