/* The console ring (xen/include/public/io/console.h), and printf. */
#include "runtime.h"

static struct xencons_interface *ring;

void init_console(void)
{
    ring = mfn_to_virt(start_info->console.domU.mfn);
}

static void notify(void)
{
    struct evtchn_send send = {start_info->console.domU.evtchn};

    hypercall(event_channel_op, EVTCHNOP_send, &send);
}

/* Without waiting for an event: the back end makes room when it is told of what there is. */
static void put(const char *text, size_t size)
{
    while ( size )
    {
        u32 used = ring->out_prod - READ_ONCE(ring->out_cons);

        if ( used == sizeof(ring->out) )
        {
            notify();
            continue;
        }
        ring->out[MASK_XENCONS_IDX(ring->out_prod, ring->out)] = *text++;
        barrier();
        ring->out_prod++;
        size--;
    }
    notify();
}

void print(const char *text)
{
    put(text, strlen(text));
}

char read_char(void)
{
    char c;

    while ( READ_ONCE(ring->in_prod) == ring->in_cons )
        wait_for_port(start_info->console.domU.evtchn);
    c = ring->in[MASK_XENCONS_IDX(ring->in_cons, ring->in)];
    barrier();
    ring->in_cons++;
    notify();
    return c;
}

static char *number(char *end, u64 value, unsigned int base)
{
    *--end = 0;
    do
        *--end = "0123456789abcdef"[value % base];
    while ( value /= base );
    return end;
}

void printf(const char *format, ...)
{
    static char line[1024];
    char digits[24], *digits_end = digits + sizeof(digits);
    size_t used = 0;
    va_list list;

    va_start(list, format);
    for ( ; *format && used < sizeof(line) - sizeof(digits); format++ )
    {
        const char *part = digits;
        bool is_long;

        if ( *format != '%' )
        {
            line[used++] = *format;
            continue;
        }
        is_long = *++format == 'l';
        format += is_long;
        if ( *format == 's' )
            part = va_arg(list, const char *);
        else if ( *format == 'c' )
        {
            digits[0] = va_arg(list, int);
            digits[1] = 0;
        }
        else if ( *format == 'd' )
        {
            s64 value = is_long ? va_arg(list, long) : va_arg(list, int);

            if ( value < 0 )
                line[used++] = '-';
            part = number(digits_end, value < 0 ? -(u64)value : (u64)value, 10);
        }
        else
        {
            u64 value = is_long ? va_arg(list, unsigned long) : va_arg(list, unsigned int);

            part = number(digits_end, value, *format == 'x' ? 16 : 10);
        }
        while ( *part && used < sizeof(line) - sizeof(digits) )
            line[used++] = *part++;
    }
    va_end(list);
    put(line, used);
}
