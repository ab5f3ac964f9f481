/*
 * As much of a hypervisor and a xenstore as Xen's xl wants to see before it reads a configuration without
 * creating a domain; to be preloaded. The host has eight CPUs in two NUMA nodes.
 */
#include <errno.h>
#include <string.h>

#include <xenctrl.h>
#include <xenstore.h>

#define CPUS 8
#define NODES 2

static int handle;

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *builder, unsigned flags)
{
    return (xc_interface *)&handle;
}

int xc_interface_close(xc_interface *xch)
{
    return 0;
}

struct xs_handle *xs_open(unsigned long flags)
{
    return (struct xs_handle *)&handle;
}

void xs_close(struct xs_handle *xsh)
{
}

int xc_version(xc_interface *xch, int command, void *argument)
{
    switch (command) {
    case XENVER_version:
        return 4 << 16 | 17;
    case XENVER_pagesize:
        return 4096;
    case XENVER_build_id:
        errno = ENOSYS;
        return -1;
    case XENVER_compile_info:
        memset(argument, 0, sizeof(xen_compile_info_t));
        return 0;
    case XENVER_platform_parameters:
        memset(argument, 0, sizeof(xen_platform_parameters_t));
        return 0;
    default:
        *(char *)argument = '\0';
        return 0;
    }
}

int xc_physinfo(xc_interface *xch, xc_physinfo_t *info)
{
    memset(info, 0, sizeof(*info));
    info->nr_cpus = CPUS;
    info->max_cpu_id = CPUS - 1;
    info->nr_nodes = NODES;
    info->max_node_id = NODES - 1;
    return 0;
}

int xc_cputopoinfo(xc_interface *xch, unsigned *count, xc_cputopo_t *topology)
{
    if (topology)
        for (unsigned cpu = 0; cpu < CPUS; cpu++)
            topology[cpu] = (xc_cputopo_t){ .core = cpu, .socket = 0, .node = cpu * NODES / CPUS };
    *count = CPUS;
    return 0;
}

int xc_get_max_cpus(xc_interface *xch)
{
    return CPUS;
}

int xc_get_online_cpus(xc_interface *xch)
{
    return CPUS;
}

int xc_get_max_nodes(xc_interface *xch)
{
    return NODES;
}

long xc_memory_op(xc_interface *xch, unsigned command, void *argument, size_t size)
{
    return 0;
}

long xc_sharing_freed_pages(xc_interface *xch)
{
    return 0;
}

long xc_sharing_used_frames(xc_interface *xch)
{
    return 0;
}
