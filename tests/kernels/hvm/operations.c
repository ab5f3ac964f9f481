/*
 * Which operations there are of the hypercall that is for HVM guests: every command, with an argument that is all zero.
 * Numbers are hexadecimal.
 */
#include "runtime/kernel.h"

#define COMMANDS 32

static u64 nothing[PAGE_SIZE / 8] PAGE_ALIGNED;

TEST(every_command)
{
    for ( unsigned int command = 0; command < COMMANDS; command++ )
    {
        long result = hypercall(hvm_op, command, nothing);

        print("hvm_op ");
        print_hex(command);
        print(result < 0 ? " -" : " ");
        print_hex(result < 0 ? -result : result);
        print("\n");
        memset(nothing, 0, sizeof(nothing));
    }
}
