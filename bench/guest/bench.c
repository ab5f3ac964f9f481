/*
 * What a guest can do in a second: the workload of `make bench`, the same binary on every side.
 *
 * Each measurement prints, on its standard output, which is the guest's console:
 *
 *     BENCH begin NAME            before it
 *     BENCH NAME VALUE UNIT       one or two results
 *     BENCH end NAME SECONDS      after it, with what the guest's clock says has passed since `begin`
 *
 * and the whole run ends with `BENCH done`. The host notes when it sees `begin` and `end`, so that a guest whose clock
 * runs fast or slow cannot make its hypervisor look better than it is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define MIB (1ul << 20)
#define NS_PER_S 1000000000ull
#define ENOUGH NS_PER_S /* how long a measurement that counts events goes on, in ns */

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

/*
 * Repeat a batch of work until enough time has passed. The clock is read once per batch: on a guest without a usable
 * time-stamp counter each reading is itself a system call, so a batch has to be much longer than that.
 */
struct rate {
    double each_ns;
    double per_s;
};

static struct rate measure(void (*batch)(void), unsigned int events_per_batch)
{
    uint64_t start, elapsed, events = 0;

    batch(); /* warms the caches, the page tables and the translator */
    start = now();
    do {
        batch();
        events += events_per_batch;
        elapsed = now() - start;
    } while (elapsed < ENOUGH);
    return (struct rate){(double)elapsed / events, (double)events * NS_PER_S / elapsed};
}

/* getppid(2) is the least that a system call can do. By syscall(2), as the C library might remember the answer. */
#define SYSCALLS 2000

static void null_syscalls(void)
{
    for (int i = 0; i < SYSCALLS; i++)
        syscall(SYS_getppid);
}

static void null_syscall(void)
{
    struct rate rate = measure(null_syscalls, SYSCALLS);

    printf("BENCH null_syscall %.3f ns\n", rate.each_ns);
    printf("BENCH null_syscall_rate %.1f /s\n", rate.per_s);
}

#define FORKS 20

static void forks(void)
{
    for (int i = 0; i < FORKS; i++) {
        pid_t child = fork();

        if (child < 0)
            fail("fork");
        if (child == 0)
            _exit(0);
        if (waitpid(child, NULL, 0) != child)
            fail("waitpid");
    }
}

static void fork_exit_wait(void)
{
    printf("BENCH fork_exit_wait %.1f /s\n", measure(forks, FORKS).per_s);
}

/* Small pages only: a guest that has huge ones would take one fault where another takes 512. */
#define FAULT_BYTES (8 * MIB)

static size_t page_size;

static void page_faults(void)
{
    volatile char *memory = mmap(NULL, FAULT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        fail("mmap");
    madvise((void *)memory, FAULT_BYTES, MADV_NOHUGEPAGE); /* fails where the kernel has none, which is as good */
    for (size_t offset = 0; offset < FAULT_BYTES; offset += page_size)
        memory[offset] = 1;
    if (munmap((void *)memory, FAULT_BYTES))
        fail("munmap");
}

static void page_fault(void)
{
    page_size = (size_t)sysconf(_SC_PAGESIZE);
    printf("BENCH page_fault %.1f /s\n", measure(page_faults, FAULT_BYTES / page_size).per_s);
}

/* One byte to another process and one byte back: four system calls and two context switches. */
#define ROUND_TRIPS 100

static int to_child[2], to_parent[2];

static void echo(void)
{
    char byte;

    close(to_child[1]);
    close(to_parent[0]);
    while (read(to_child[0], &byte, 1) == 1)
        if (write(to_parent[1], &byte, 1) != 1)
            _exit(1);
    _exit(0);
}

static void round_trips(void)
{
    char byte = 0;

    for (int i = 0; i < ROUND_TRIPS; i++)
        if (write(to_child[1], &byte, 1) != 1 || read(to_parent[0], &byte, 1) != 1)
            fail("pipe");
}

static void pipe_round_trip(void)
{
    pid_t child;

    if (pipe(to_child) || pipe(to_parent))
        fail("pipe");
    child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0)
        echo();
    close(to_child[0]);
    close(to_parent[1]);
    printf("BENCH pipe_round_trip %.1f /s\n", measure(round_trips, ROUND_TRIPS).per_s);
    close(to_child[1]);
    close(to_parent[0]);
    waitpid(child, NULL, 0);
}

/* The next two do a fixed amount of work; their results are printed so that no compiler can leave the work out. */
static uint64_t xorshift64(uint64_t x, uint64_t steps)
{
    while (steps--) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    return x;
}

static void integer(void)
{
    uint64_t start, elapsed, x = xorshift64(88172645463325252ull, 1000000);

    start = now();
    x = xorshift64(x, 200000000);
    elapsed = now() - start;
    printf("BENCH integer %.6f s\n", (double)elapsed / NS_PER_S);
    printf("integer: %016llx\n", (unsigned long long)x);
}

static double multiply_add(double x, uint64_t steps)
{
    while (steps--)
        x = x * 0.999999 + 0.000001;
    return x;
}

static void floating_point(void)
{
    uint64_t start, elapsed;
    double x = multiply_add(2.0, 1000000);

    start = now();
    x = multiply_add(x, 50000000);
    elapsed = now() - start;
    printf("BENCH float %.6f s\n", (double)elapsed / NS_PER_S);
    printf("float: %a\n", x);
}

#define MEMSET_BYTES (64 * MIB)
#define MEMSETS 4

static char *memset_buffer;

static void memsets(void)
{
    for (int i = 0; i < MEMSETS; i++) {
        memset(memset_buffer, i, MEMSET_BYTES);
        __asm__ volatile("" : : "r"(memset_buffer) : "memory"); /* someone might look */
    }
}

static void memset_bandwidth(void)
{
    memset_buffer = mmap(NULL, MEMSET_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memset_buffer == MAP_FAILED)
        fail("mmap");
    printf("BENCH memset %.1f MiB/s\n", measure(memsets, MEMSETS).per_s * (MEMSET_BYTES / MIB));
    munmap(memset_buffer, MEMSET_BYTES);
}

static const struct {
    const char *name;
    void (*run)(void);
} workloads[] = {
    {"null_syscall", null_syscall},       {"fork_exit_wait", fork_exit_wait}, {"page_fault", page_fault},
    {"pipe_round_trip", pipe_round_trip}, {"integer", integer},               {"float", floating_point},
    {"memset", memset_bandwidth},
};

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* line by line, also where the console is no terminal */

    for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++) {
        uint64_t start;

        printf("BENCH begin %s\n", workloads[i].name);
        tcdrain(STDOUT_FILENO); /* until the line has left the guest, or its time would be counted as the workload's */
        start = now();
        workloads[i].run();
        printf("BENCH end %s %.6f\n", workloads[i].name, (double)(now() - start) / NS_PER_S);
        tcdrain(STDOUT_FILENO);
    }
    puts("BENCH done");
    return 0;
}
