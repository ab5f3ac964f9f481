/* How a guest finds itself when it starts: xen/include/public/xen.h, "Start-of-day memory layout". */
#include "runtime/kernel.h"

TEST(hello)
{
    print("Hello, Xen.\n");
}
