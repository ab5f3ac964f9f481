/* What kernels with front ends have in common: xenstore by its ring, and the nodes of a device. */
#ifndef XENBUS_H
#define XENBUS_H

#include "grants.h"

/* What rings are made with. */
#define xen_mb() asm volatile("mfence" ::: "memory")
#define xen_rmb() barrier()
#define xen_wmb() barrier()

#include <xen/io/xenbus.h>
#include <xen/io/xs_wire.h>

#define MAX_PATH 128

static inline void yield(void)
{
    hypercall(sched_op, SCHEDOP_yield);
}

static inline char *append(char *to, const char *text)
{
    while ( *text )
        *to++ = *text++;
    *to = 0;
    return to;
}

static inline char *append_number(char *to, u64 number)
{
    char digits[24], *digit = digits + sizeof(digits) - 1;

    *digit = 0;
    do
        *--digit = '0' + number % 10;
    while ( number /= 10 );
    return append(to, digit);
}

static inline void xs_put(const void *data, u32 size)
{
    struct xenstore_domain_interface *ring = mfn_to_virt(start_info->store_mfn);

    for ( u32 i = 0; i < size; i++ )
    {
        while ( ring->req_prod - READ_ONCE(ring->req_cons) == XENSTORE_RING_SIZE )
            yield();
        ring->req[MASK_XENSTORE_IDX(ring->req_prod)] = ((const char *)data)[i];
        barrier();
        ring->req_prod++;
    }
}

static inline void xs_get(void *data, u32 size)
{
    struct xenstore_domain_interface *ring = mfn_to_virt(start_info->store_mfn);

    for ( u32 i = 0; i < size; i++ )
    {
        while ( READ_ONCE(ring->rsp_prod) == ring->rsp_cons )
            yield();
        ((char *)data)[i] = ring->rsp[MASK_XENSTORE_IDX(ring->rsp_cons)];
        barrier();
        ring->rsp_cons++;
    }
}

/* A request and its reply, which is put into answer; its type. The payload is a path and, unless it is NULL, a value. */
static inline u32 xs_request(u32 type, const char *path, const char *value, char *answer, u32 room)
{
    struct xsd_sockmsg message = {.type = type, .len = strlen(path) + 1 + (value ? strlen(value) : 0)};

    xs_put(&message, sizeof(message));
    xs_put(path, strlen(path) + 1);
    if ( value )
        xs_put(value, strlen(value));
    send_event(start_info->store_evtchn);
    xs_get(&message, sizeof(message));
    REQUIRE(message.len < room);
    xs_get(answer, message.len);
    answer[message.len] = 0;
    send_event(start_info->store_evtchn);
    return message.type;
}

static char xs_answer[4096 + 1];

/* A node's value, or NULL if it cannot be read. */
static inline const char *xs_read(const char *path)
{
    return xs_request(XS_READ, path, NULL, xs_answer, sizeof(xs_answer)) == XS_READ ? xs_answer : NULL;
}

static inline bool xs_write(const char *path, const char *value)
{
    return xs_request(XS_WRITE, path, value, xs_answer, sizeof(xs_answer)) == XS_WRITE;
}

static inline bool xs_remove(const char *path)
{
    return xs_request(XS_RM, path, NULL, xs_answer, sizeof(xs_answer)) == XS_RM;
}

/* A device: its two directories. */
struct xenbus_device {
    char frontend[MAX_PATH], backend[MAX_PATH];
};

static inline const char *node(const char *directory, const char *name)
{
    static char path[2 * MAX_PATH];

    append(append(append(path, directory), "/"), name);
    return path;
}

static inline void front_write(struct xenbus_device *device, const char *name, const char *value)
{
    REQUIRE(xs_write(node(device->frontend, name), value));
}

static inline void front_write_number(struct xenbus_device *device, const char *name, u64 value)
{
    char text[24];

    append_number(text, value);
    front_write(device, name, text);
}

static inline u64 number_of(const char *text)
{
    u64 value = 0;

    while ( text && *text >= '0' && *text <= '9' )
        value = value * 10 + *text++ - '0';
    return value;
}

static inline u64 back_number(struct xenbus_device *device, const char *name)
{
    return number_of(xs_read(node(device->backend, name)));
}

static inline void find_device(struct xenbus_device *device, const char *kind, unsigned int devid)
{
    const char *backend;

    append_number(append(append(append(device->frontend, "device/"), kind), "/"), devid);
    backend = xs_read(node(device->frontend, "backend"));
    REQUIRE(backend != NULL);
    append(device->backend, backend);
}

/* Switch the front end's state. */
static inline void switch_state(struct xenbus_device *device, unsigned int state)
{
    front_write_number(device, "state", state);
}

/* Wait until the back end has a state. */
static inline void await(struct xenbus_device *device, unsigned int state)
{
    while ( back_number(device, "state") != state )
        yield();
}

/* A fresh port for a back end of Domain 0's. */
static inline unsigned int new_port(void)
{
    struct evtchn_alloc_unbound op = {.dom = DOMID_SELF, .remote_dom = 0};

    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_alloc_unbound, &op), 0);
    set_port_mask(op.port, false);
    return op.port;
}

static inline void close_port(unsigned int port)
{
    struct evtchn_close op = {port};

    REQUIRE_EQ(hypercall(event_channel_op, EVTCHNOP_close, &op), 0);
}

#endif
