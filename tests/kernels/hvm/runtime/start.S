/*
 * The kernel's first instructions, in 32-bit protected mode without paging, its ELF note, tables, and the ways into it.
 */
#define __ASSEMBLY__
#include <xen/elfnote.h>

#define CODE 0x08
#define DATA 0x10
#define CODE_64 0x18
#define USER_CODE 0x20
#define USER_DATA 0x28
#define USER_CODE_64 0x40

#define MSR_EFER 0xc0000080

    .pushsection .note.Xen, "a", @note
    .balign 4
    .long 4, 4, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start
    .popsection

    .section .text.start, "ax"
    .code32
    .globl start
start:
    /* As Xen gave them: struct boot_registers. */
    at = 0
    .irp register, eax, ebx, ecx, edx, esi, edi, ebp, esp
    mov %\register, boot + at
    at = at + 4
    .endr
    mov $stack_end, %esp
    pushfl
    popl boot + at
    .irp selector, cs, ss, ds, es, fs, gs
    at = at + 4
    mov %\selector, %eax
    mov %eax, boot + at
    .endr
    mov %cr0, %eax
    mov %eax, boot + at + 4
    mov %cr4, %eax
    mov %eax, boot + at + 8
    lgdt gdt_pointer
    mov $DATA, %eax
    .irp selector, ds, es, ss
    mov %eax, %\selector
    .endr
#if LEVELS
    mov $top_table, %eax
    mov %eax, %cr3
#if LEVELS == 2
    mov $0x90, %eax                     /* PSE and PGE */
#else
    mov $0xa0, %eax                     /* PAE and PGE */
#endif
    mov %eax, %cr4
#if LEVELS > 2
    mov $MSR_EFER, %ecx
    rdmsr
    or $0x800, %eax                     /* NXE */
#if LEVELS == 4
    or $0x101, %eax                     /* LME and SCE */
#endif
    wrmsr
#endif
    mov %cr0, %eax
    or $0x80010000, %eax                /* PG and WP */
    mov %eax, %cr0
#endif
#if LEVELS == 4
    ljmp $CODE_64, $1f
    .code64
1:  mov $stack_end, %rsp
#else
    ljmp $CODE, $1f
1:
#endif
    call kernel_main
    ud2

    .text
/* One for each vector, 16 bytes apart. The CPU has perhaps pushed an error code. */
    .balign 16
    .globl entry_points
entry_points:
    entry = 0
    .rept 256
    .balign 16
    .if !(entry == 8 || (entry >= 10 && entry <= 14) || entry == 17)
    push $0
    .endif
#if LEVELS == 4
    push $entry
#else
    pushl $entry
#endif
    jmp enter_kernel
    entry = entry + 1
    .endr

enter_kernel:
#if LEVELS == 4
    .irp register, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
    push %\register
    .endr
    mov %rsp, %rdi
    mov %rsp, %rbp
    and $~15, %rsp
    cld
    call handle_entry
    mov %rbp, %rsp
    .irp register, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax
    pop %\register
    .endr
    add $16, %rsp
    iretq
#else
    .irp register, eax, ecx, edx, ebx, ebp, esi, edi
    push %\register
    .endr
    /* From user mode with its segments. */
    mov $DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %esp, %ebp
    push %esp
    cld
    call handle_entry
    mov %ebp, %esp
    .irp register, edi, esi, ebp, ebx, edx, ecx, eax
    pop %\register
    .endr
    add $8, %esp
    iretl
#endif

/* ulong in_user(ulong (*function)(ulong), ulong argument) */
    .globl in_user
in_user:
#if LEVELS == 4
    .irp register, rbp, rbx, r12, r13, r14, r15
    push %\register
    .endr
    mov %rsp, kernel_stack_pointer
    mov %rsp, tss + 4
    pushq $USER_DATA + 3
    pushq $user_stack_end
    pushfq
    pushq $USER_CODE_64 + 3
    pushq $user_start
    iretq
#else
    .irp register, ebp, ebx, esi, edi
    push %\register
    .endr
    mov 20(%esp), %edi
    mov 24(%esp), %esi
    mov %esp, kernel_stack_pointer
    mov %esp, tss + 4
    mov $USER_DATA + 3, %eax
    mov %eax, %ds
    mov %eax, %es
    push $USER_DATA + 3
    push $user_stack_end
    pushfl
    push $USER_CODE + 3
    push $user_start
    iretl
#endif

/* void leave_user(ulong result) */
    .globl leave_user
leave_user:
#if LEVELS == 4
    mov %rdi, %rax
    mov kernel_stack_pointer, %rsp
    .irp register, r15, r14, r13, r12, rbx, rbp
    pop %\register
    .endr
#else
    mov 4(%esp), %eax
    mov kernel_stack_pointer, %esp
    .irp register, edi, esi, ebx, ebp
    pop %\register
    .endr
#endif
    ret

/* In user mode: function in (R|E)DI, argument in (R|E)SI. */
user_start:
#if LEVELS == 4
    xchg %rdi, %rsi
    call *%rsi
#else
    push %esi
    call *%edi
#endif
    int $0xff

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            /* CODE */
    .quad 0x00cf93000000ffff            /* DATA */
    .quad 0x00af9b000000ffff            /* CODE_64 */
    .quad 0x00cffb000000ffff            /* USER_CODE */
    .quad 0x00cff3000000ffff            /* USER_DATA */
    .globl tss_descriptor
tss_descriptor:
    .quad 0, 0
    .quad 0x00affb000000ffff            /* USER_CODE_64 */
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt, 0

    .balign 16
    .globl tss
tss:
    .long 0, 0, DATA
    .skip 90
    .word 104                           /* no ports for users */

#if LEVELS
    .balign 4096
#if LEVELS == 4
    .globl top_table
top_table:
    .long directory_pointers + 7, 0
    .skip 4088
#else
top_table:
#endif
#if LEVELS > 2
    .balign 4096
directory_pointers:
#if LEVELS == 3
    rights = 1
#else
    rights = 7
#endif
    number = 0
    .rept 4
    .long page_directory + number * 4096 + rights, 0
    number = number + 1
    .endr
    .balign 4096
    .globl page_directory
page_directory:
    number = 0
    .rept 2048
    .quad number * 0x200000 + 0xe7
    number = number + 1
    .endr
#else
    .globl page_directory
page_directory:
    number = 0
    .rept 1024
    .long number * 0x400000 + 0xe7
    number = number + 1
    .endr
#endif
#endif

    .bss
    .balign 16
    .skip 4 * 4096
    .globl stack_end
stack_end:
    .skip 2 * 4096
    .globl user_stack_end
user_stack_end:
kernel_stack_pointer:
    .skip 8
