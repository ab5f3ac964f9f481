/*
 * The kernel's first instructions and its ELF notes, the ways in from Xen, and the way to user mode and back.
 *
 * -D chooses the notes: NOTES_MINIMAL has none but those without which Xen takes no kernel, NOTES_LEGACY has the
 * section __xen_guest in their place; NOTE_INIT_P2M is an address; NOTE_MOD_START_PFN has the RAM disk unmapped.
 */
#define __ASSEMBLY__
#include <xen/arch-x86/xen.h>
#include <xen/elfnote.h>
#include <xen/xen.h>

#define HYPERCALL(name) call hypercall_page + 32 * __HYPERVISOR_##name

#ifdef NOTES_LEGACY

    .section __xen_guest
    .ascii "GUEST_OS=euxen-tests,XEN_VER=xen-3.0,LOADER=generic,PAE=yes,HYPERCALL_PAGE=0x100"
    .asciz ",VIRT_BASE=0x0,VIRT_ENTRY=0x101000"

#else

    .macro note type, value:vararg
    .pushsection .note.Xen, "a", @note
    .balign 4
    .long 4, 2f - 1f, \type
    .asciz "Xen"
1:  \value
2:  .balign 4
    .popsection
    .endm

    note XEN_ELFNOTE_GUEST_OS, .asciz "euxen-tests"
    note XEN_ELFNOTE_LOADER, .asciz "generic"
    note XEN_ELFNOTE_XEN_VERSION, .asciz "xen-3.0"
#ifndef NOTES_MINIMAL
    note XEN_ELFNOTE_VIRT_BASE, .quad KERNEL_BASE
    note XEN_ELFNOTE_PADDR_OFFSET, .quad KERNEL_BASE
    note XEN_ELFNOTE_ENTRY, .quad start
    note XEN_ELFNOTE_HYPERCALL_PAGE, .quad hypercall_page
    note XEN_ELFNOTE_PAE_MODE, .asciz "yes"
    note XEN_ELFNOTE_HV_START_LOW, .quad 0xffff800000000000
#endif
#ifdef NOTE_INIT_P2M
    note XEN_ELFNOTE_INIT_P2M, .quad NOTE_INIT_P2M
#endif
#ifdef NOTE_MOD_START_PFN
    note XEN_ELFNOTE_MOD_START_PFN, .quad 1
#endif

#endif

/* Xen fills it in, if the notes name it: first in the image, at 1 MiB. */
    .section .hypercall_page, "aw"
    .balign 4096
    .globl hypercall_page
hypercall_page:
    .skip 4096

/* First behind it, as the old section says. */
    .section .text.start, "ax"
    .globl start
start:
    /* As Xen gave them: struct boot_registers. */
    at = 0
    .irp register, rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15
    mov %\register, boot + at(%rip)
    at = at + 8
    .endr
    pushfq
    popq boot + at(%rip)
    .irp selector, cs, ss, ds, es, fs, gs
    at = at + 8
    mov %\selector, %eax
    mov %rax, boot + at(%rip)
    .endr
    lea stack_end(%rip), %rsp
    xor %ebp, %ebp
    cld
    call kernel_main
    ud2

    .text
/* One for each vector and callback, 32 bytes apart. Xen has pushed RCX, R11 and perhaps an error code. */
    .balign 32
    .globl entry_points
entry_points:
    entry = 0
    .rept 0x105
    .balign 32
    pop %rcx
    pop %r11
    .if !(entry == 8 || (entry >= 10 && entry <= 14) || entry == 17)
    push $0
    .endif
    push $entry
    jmp enter_kernel
    entry = entry + 1
    .endr

    .globl enter_kernel
enter_kernel:
    .irp register, rdi, rsi, rdx, rcx, rax, r8, r9, r10, r11, rbx, rbp, r12, r13, r14, r15
    push %\register
    .endr
    mov %rsp, %rdi
    mov %rsp, %rbp
    and $~15, %rsp
    cld
    call handle_entry
    mov %rbp, %rsp
    .irp register, r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi
    pop %\register
    .endr
    /* In the place of the vector and the error code: the flags of an iret_context. */
    add $8, %rsp
    movq $0, (%rsp)
    jmp hypercall_page + 32 * __HYPERVISOR_iret

/* u64 enter_user(const struct user_context *context) */
    .globl enter_user
enter_user:
    .irp register, rbp, rbx, r12, r13, r14, r15
    push %\register
    .endr
    mov %rdi, %rbx
    mov %rsp, kernel_stack_pointer
    mov $FLAT_KERNEL_SS, %edi
    mov 64(%rbx), %rsi
    test %rsi, %rsi
    cmovz %rsp, %rsi
    HYPERCALL(stack_switch)
    pushq 32(%rbx)
    pushq 24(%rbx)
    pushq 16(%rbx)
    pushq 8(%rbx)
    pushq 0(%rbx)
    pushq 40(%rbx)
    mov 48(%rbx), %rdi
    mov 56(%rbx), %rsi
    .irp register, rax, rcx, rdx, rbx, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    xor %\register, %\register
    .endr
    jmp hypercall_page + 32 * __HYPERVISOR_iret

/* void leave_user(u64 result) */
    .globl leave_user
leave_user:
    mov %rdi, %rax
    mov kernel_stack_pointer, %rsp
    .irp register, r15, r14, r13, r12, rbx, rbp
    pop %\register
    .endr
    ret

/* In user mode: function in RDI, argument in RSI. */
    .globl user_start
user_start:
    xchg %rdi, %rsi
    call *%rsi
    int $0xff

    .bss
    .balign 16
    .skip 4 * 4096
stack_end:
kernel_stack_pointer:
    .skip 8
