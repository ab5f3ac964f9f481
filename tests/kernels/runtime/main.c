/* Starts the runtime, runs the test that the command line names, and says how it went. */
#include "runtime.h"

struct boot_registers boot;
const start_info_t *start_info;
const char *argument = "";

extern const struct test tests_begin[], tests_end[];
static const char *running = "?";
static unsigned int failures;

bool check(bool holds, const char *what, const char *file, int line)
{
    if ( !holds )
    {
        failures++;
        printf("%s:%d: %s does not hold\n", file, line, what);
    }
    return holds;
}

bool check_equal(u64 actual, u64 expected, const char *what, const char *wanted, const char *file, int line)
{
    if ( actual != expected )
    {
        failures++;
        printf("%s:%d: %s is %ld (0x%lx) and not %s, %ld (0x%lx)\n", file, line, what, actual, actual, wanted,
               expected, expected);
    }
    return actual == expected;
}

void finish(void)
{
    printf("%s %s\n", failures ? "FAIL" : "PASS", running);
    shutdown(SHUTDOWN_poweroff);
}

void shutdown(unsigned int reason)
{
    struct sched_shutdown op = {reason};

    for ( ; ; )
        hypercall(sched_op, SCHEDOP_shutdown, &op);
}

/* Split the command line: the test's name, a blank, and its argument. */
static const struct test *find_test(void)
{
    const char *line = (const char *)start_info->cmd_line;
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
    const struct test *test;

    start_info = (const start_info_t *)boot.rsi;
    init_hypercalls();
    init_memory();
    init_console();
    init_traps();
    init_events();
    test = find_test();
    if ( test )
    {
        running = test->name;
        test->run();
    }
    else
        check(false, "the test that the command line names", (const char *)start_info->cmd_line, 0);
    finish();
}
