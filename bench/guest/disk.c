/*
 * What a guest's disk does in a second: reads and writes past the guest's page cache, several of them at a time.
 *
 *     disk DEVICE
 *
 * It prints what bench.c prints. The contents of DEVICE are lost.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define MIB (1ul << 20)
#define NS_PER_S 1000000000ull
#define ENOUGH (2 * NS_PER_S)
#define MOST_DEPTH 32

static void fail(const char *what)
{
    printf("BENCH failed %s: %s\n", what, strerror(errno));
    fflush(stdout);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec t;

    if (clock_gettime(CLOCK_MONOTONIC, &t))
        fail("clock_gettime");
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static int disk;
static uint64_t disk_size, random_state = 88172645463325252ull, position;
static aio_context_t context;
static struct iocb requests[MOST_DEPTH];
static void *buffers[MOST_DEPTH];

struct workload {
    const char *name;
    int write, random;
    unsigned int depth;
    size_t size;
};

static uint64_t next_offset(const struct workload *w)
{
    uint64_t places = disk_size / w->size;

    if (!w->random)
        return position++ % places * w->size;
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % places * w->size;
}

static void submit(const struct workload *w, unsigned int slot)
{
    struct iocb *request = &requests[slot];

    memset(request, 0, sizeof(*request));
    request->aio_data = slot;
    request->aio_lio_opcode = w->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
    request->aio_fildes = disk;
    request->aio_buf = (uint64_t)buffers[slot];
    request->aio_nbytes = w->size;
    request->aio_offset = next_offset(w);
}

/* Keep so many requests under way until enough time has passed. */
static void run(const struct workload *w)
{
    struct iocb *list[MOST_DEPTH];
    struct io_event events[MOST_DEPTH];
    uint64_t start = now(), elapsed, done = 0;
    unsigned int under_way = w->depth;

    position = 0;
    for (unsigned int slot = 0; slot < w->depth; slot++) {
        submit(w, slot);
        list[slot] = &requests[slot];
    }
    if (syscall(SYS_io_submit, context, w->depth, list) != w->depth)
        fail("io_submit");
    while (under_way) {
        long count = syscall(SYS_io_getevents, context, 1, MOST_DEPTH, events, NULL);
        unsigned int again = 0;

        if (count < 1)
            fail("io_getevents");
        for (long i = 0; i < count; i++)
            if (events[i].res != (int64_t)w->size) {
                errno = events[i].res < 0 ? -events[i].res : EIO;
                fail(w->name);
            }
        done += count;
        under_way -= count;
        if (now() - start >= ENOUGH)
            continue;
        for (long i = 0; i < count; i++) {
            submit(w, events[i].data);
            list[again++] = &requests[events[i].data];
        }
        if (again && syscall(SYS_io_submit, context, again, list) != again)
            fail("io_submit");
        under_way += again;
    }
    elapsed = now() - start;
    if (w->random)
        printf("BENCH %s %.1f /s\n", w->name, (double)done * NS_PER_S / elapsed);
    else
        printf("BENCH %s %.1f MiB/s\n", w->name, (double)done * w->size / MIB * NS_PER_S / elapsed);
}

static const struct workload workloads[] = {
    {"disk_write", 1, 0, 4, MIB},
    {"disk_read", 0, 0, 4, MIB},
    {"disk_random_write", 1, 1, 32, 4096},
    {"disk_random_read", 0, 1, 32, 4096},
};

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc != 2)
        return 2;
    disk = open(argv[1], O_RDWR | O_DIRECT);
    if (disk < 0 || ioctl(disk, BLKGETSIZE64, &disk_size))
        fail(argv[1]);
    if (syscall(SYS_io_setup, MOST_DEPTH, &context))
        fail("io_setup");
    for (unsigned int slot = 0; slot < MOST_DEPTH; slot++) {
        if (posix_memalign(&buffers[slot], 4096, MIB))
            fail("posix_memalign");
        memset(buffers[slot], slot + 1, MIB);
    }
    for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++) {
        uint64_t start;

        printf("BENCH begin %s\n", workloads[i].name);
        tcdrain(STDOUT_FILENO);
        start = now();
        run(&workloads[i]);
        printf("BENCH end %s %.6f\n", workloads[i].name, (double)(now() - start) / NS_PER_S);
        tcdrain(STDOUT_FILENO);
    }
    puts("BENCH done");
    return 0;
}
