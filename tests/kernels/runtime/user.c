/* User programs: they are functions of the same image, as user mode has the kernel's page tables here. */
#include "runtime.h"

u8 user_stack[USER_STACK_SIZE] __attribute__((aligned(16)));

extern const char user_start[];

void give_user_page_tables(void)
{
    REQUIRE_EQ(mmuext(MMUEXT_NEW_USER_BASEPTR, virt_to_mfn((void *)start_info->pt_base), 0), 0);
}

struct user_context user_context_for(const void *function, u64 argument)
{
    return (struct user_context){
        .rip = (u64)user_start,
        .cs = FLAT_USER_CS,
        .rflags = vcpu_info->evtchn_upcall_mask ? 0 : FLAGS_IF,
        .rsp = (u64)(user_stack + USER_STACK_SIZE),
        .ss = FLAT_USER_SS,
        .rdi = (u64)function,
        .rsi = argument,
    };
}

u64 in_user(u64 (*function)(u64), u64 argument)
{
    struct user_context context = user_context_for(function, argument);

    give_user_page_tables();
    return enter_user(&context);
}
