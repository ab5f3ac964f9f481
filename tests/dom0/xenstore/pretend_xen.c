/*
 * A pretend hypervisor for Xen's xenstoreds, to be preloaded: domains are files in the directory
 * that the variable PRETEND_XEN names. "ring.<domid>" is a domain's ring page, "state.<domid>" says
 * how it is (0 runs, 1 dying, 2 shut down), and a port number written to the fifo "evtchn" is an
 * event: 1 for VIRQ_DOM_EXC, 100 + domid for a domain's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <xenctrl.h>
#include <xenevtchn.h>

static int handle, events = -1;

static int open_file(const char *name, int domid)
{
    char path[512];

    snprintf(path, sizeof(path), name, getenv("PRETEND_XEN"), domid);
    return open(path, O_RDWR);
}

int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    return 0; /* oxenstored wants more files than it may have here, and needs few */
}

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *builder, unsigned flags)
{
    return (xc_interface *)&handle;
}

int xc_interface_close(xc_interface *xch)
{
    return 0;
}

void *xc_map_foreign_range(xc_interface *xch, uint32_t domid, int size, int prot, unsigned long mfn)
{
    int fd = open_file("%s/ring.%d", domid);
    void *page;

    if (fd < 0)
        return NULL;
    page = mmap(NULL, size, prot, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

int xc_domain_getinfolist(xc_interface *xch, uint32_t first, unsigned count, xc_domaininfo_t *info)
{
    char state = '0';
    int fd = open_file("%s/state.%d", first);

    if (fd < 0)
        return 0;
    if (read(fd, &state, 1) != 1)
        state = '0';
    close(fd);
    memset(info, 0, sizeof(*info));
    info->domain = first;
    info->flags = state == '1' ? XEN_DOMINF_dying : state == '2' ? XEN_DOMINF_shutdown : XEN_DOMINF_running;
    return 1;
}

xenevtchn_handle *xenevtchn_open(xentoollog_logger *logger, unsigned flags)
{
    events = open_file("%s/evtchn", 0);
    return (xenevtchn_handle *)&handle;
}

int xenevtchn_close(xenevtchn_handle *xce)
{
    return close(events);
}

int xenevtchn_fd(xenevtchn_handle *xce)
{
    return events;
}

int xenevtchn_notify(xenevtchn_handle *xce, evtchn_port_t port)
{
    return 0; /* the clients look at their rings */
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *xce, uint32_t domid, evtchn_port_t port)
{
    return 100 + domid;
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *xce, unsigned virq)
{
    return 1;
}

int xenevtchn_unbind(xenevtchn_handle *xce, evtchn_port_t port)
{
    return 0;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *xce)
{
    uint32_t port;

    return read(events, &port, sizeof(port)) == sizeof(port) ? (int)port : -1;
}

int xenevtchn_unmask(xenevtchn_handle *xce, evtchn_port_t port)
{
    return 0;
}
