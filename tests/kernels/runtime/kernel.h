/*
 * What a test kernel includes: Xen's own headers, hypercalls, traps, memory, the console, and checks.
 *
 * A kernel is one C file of TESTs. It runs the one that its command line names, says on its console which
 * checks failed, ends with "PASS <test>" or "FAIL <test>", and powers off. A GUEST is a TEST that is expected
 * to end in another way; who boots it says how.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define __XEN_INTERFACE_VERSION__ __XEN_LATEST_INTERFACE_VERSION__
#include <xen/xen.h>

#include <xen/callback.h>
#include <xen/errno.h>
#include <xen/event_channel.h>
#include <xen/features.h>
#include <xen/io/console.h>
#include <xen/memory.h>
#include <xen/nmi.h>
#include <xen/physdev.h>
#include <xen/sched.h>
#include <xen/vcpu.h>
#include <xen/version.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

/* ---- Tests and checks ---- */

struct test {
    const char *name;
    void (*run)(void);
};

#define TEST(name)                                                                                       \
    static void run_##name(void);                                                                        \
    static const struct test test_##name __attribute__((used, section(".tests"))) = {#name, run_##name}; \
    static void run_##name(void)
#define GUEST(name) TEST(name)

/* Each is true if the check holds; a check that does not is reported, and the test goes on. */
#define CHECK(condition) check((condition), #condition, __FILE__, __LINE__)
#define CHECK_EQ(actual, expected) \
    check_equal((u64)(actual), (u64)(expected), #actual, #expected, __FILE__, __LINE__)

/* For what the rest of the test builds on. */
#define REQUIRE(condition) do { if ( !CHECK(condition) ) finish(); } while ( 0 )
#define REQUIRE_EQ(actual, expected) do { if ( !CHECK_EQ(actual, expected) ) finish(); } while ( 0 )

bool check(bool holds, const char *what, const char *file, int line);
bool check_equal(u64 actual, u64 expected, const char *what, const char *wanted, const char *file, int line);

/* End the test now, with the checks made so far. */
void finish(void) __attribute__((noreturn));

/* ---- The console and strings ---- */

void print(const char *text);
/* %s %c %d %u %x %ld %lu %lx, no widths. */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A byte of input, waiting for it. */
char read_char(void);

void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);
int memcmp(const void *a, const void *b, size_t size);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t size);
size_t strlen(const char *text);

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define barrier() asm volatile("" ::: "memory")
/* For a function whose assembler has labels. */
#define ONLY_ONCE __attribute__((noipa))
/* Read what others write. */
#define READ_ONCE(place) (*(volatile typeof(place) *)&(place))

/* ---- How the kernel was started ---- */

struct boot_registers {
    u64 rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15;
    u64 rflags, cs, ss, ds, es, fs, gs;
};

extern struct boot_registers boot;
extern const start_info_t *start_info;
/* What the command line says after the test's name. */
extern const char *argument;

/* ---- Hypercalls ---- */

extern char hypercall_page[128][32];

/* By its stub in the hypercall page. */
static inline long hypercall_by_page(unsigned int number, u64 a1, u64 a2, u64 a3, u64 a4, u64 a5)
{
    register u64 r10 asm("r10") = a4;
    register u64 r8 asm("r8") = a5;
    long result;

    asm volatile("call *%[stub]"
                 : "=a"(result), "+D"(a1), "+S"(a2), "+d"(a3), "+r"(r10), "+r"(r8)
                 : [stub] "r"(hypercall_page[number])
                 : "rcx", "r9", "r11", "memory");
    return result;
}

/* By the instruction itself, with any number. */
static inline long hypercall_numbered(u64 number, u64 a1, u64 a2, u64 a3, u64 a4, u64 a5)
{
    register u64 r10 asm("r10") = a4;
    register u64 r8 asm("r8") = a5;
    long result = number;

    asm volatile("syscall"
                 : "+a"(result), "+D"(a1), "+S"(a2), "+d"(a3), "+r"(r10), "+r"(r8)
                 :
                 : "rcx", "r9", "r11", "memory");
    return result;
}

/* hypercall(event_channel_op, EVTCHNOP_send, &send): up to five arguments, numbers or pointers. */
#define hypercall(name, ...) HYPERCALL_(__HYPERVISOR_##name, ##__VA_ARGS__, 0, 0, 0, 0, 0)
#define HYPERCALL_(number, a1, a2, a3, a4, a5, ...) \
    hypercall_by_page(number, (u64)(a1), (u64)(a2), (u64)(a3), (u64)(a4), (u64)(a5))

void shutdown(unsigned int reason) __attribute__((noreturn));

/* ---- Memory ---- */

#define PAGE_SIZE 4096ul
#define PAGE_MASK (~(PAGE_SIZE - 1))
#define PAGE_ALIGNED __attribute__((aligned(4096)))

#define PAGE_PRESENT 0x001ul
#define PAGE_RW 0x002ul
#define PAGE_USER 0x004ul
#define PAGE_ACCESSED 0x020ul
#define PAGE_DIRTY 0x040ul
#define PAGE_PSE 0x080ul
#define PAGE_GLOBAL 0x100ul
#define PAGE_NX (1ul << 63)
#define PTE_FRAME 0x000ffffffffff000ul

#define PTE_RO (PAGE_PRESENT | PAGE_USER | PAGE_ACCESSED)
#define PTE_RW (PTE_RO | PAGE_RW | PAGE_DIRTY)

/* Where nothing of the runtime's is mapped; each L2 table's worth is 1 GiB. */
#define FREE_AREA 0x10000000000ul
/* Not a canonical address, one of Xen's own, and one where nothing is. */
#define NON_CANONICAL 0x0000800000000000ul
#define XENS_OWN 0xffff830000000000ul
#define UNMAPPED 0x00007ffffffff000ul

/* KERNEL_BASE is where pfn 0 is mapped. */
static inline u64 virt_to_pfn(const void *virt) { return ((u64)virt - (u64)KERNEL_BASE) / PAGE_SIZE; }
static inline void *pfn_to_virt(u64 pfn) { return (void *)((u64)KERNEL_BASE + pfn * PAGE_SIZE); }
static inline u64 *p2m(void) { return (u64 *)start_info->mfn_list; }
static inline u64 pfn_to_mfn(u64 pfn) { return p2m()[pfn]; }
static inline u64 mfn_to_pfn(u64 mfn) { return machine_to_phys_mapping[mfn]; }
static inline u64 virt_to_mfn(const void *virt) { return pfn_to_mfn(virt_to_pfn(virt)); }
static inline void *mfn_to_virt(u64 mfn) { return pfn_to_virt(mfn_to_pfn(mfn)); }
static inline u64 virt_to_maddr(const void *virt) { return virt_to_mfn(virt) * PAGE_SIZE + (u64)virt % PAGE_SIZE; }
static inline u64 make_pte(u64 mfn, u64 flags) { return mfn * PAGE_SIZE | flags; }
static inline u64 pte_mfn(u64 pte) { return (pte & PTE_FRAME) / PAGE_SIZE; }

/* A page that is all zero and mapped writable. There are some hundred. */
void *alloc_page(void);
/* The last pfn that the initial mapping shows; those above are mapped nowhere. */
u64 last_mapped_pfn(void);
/* The entry of the page table of a level (1 to 4) that maps an address. To be read only. */
const u64 *entry_of(const void *virt, int level);
/* Xen's answer to update_va_mapping, with the address flushed from the TLB. */
long map(const void *virt, u64 pte);
/* Xen's answer to one mmu_update. */
long mmu_update(u64 pointer, u64 value);
/* The same for one mmuext_op. */
long mmuext(unsigned int command, u64 arg1, u64 arg2);
/* Map a page read-only, as page tables have to be. */
void make_read_only(const void *page);
/* Fresh tables of three levels below the kernel's top one, for the 2 MiB at FREE_AREA; the level 1 table. */
u64 *make_tables(void);

extern shared_info_t *shared_info;
extern vcpu_info_t *vcpu_info;

/* ---- Traps ---- */

struct frame {
    u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
    u64 vector, error_code;
    u64 rip;
    u16 cs, cs_pad;
    u8 saved_upcall_mask, mask_pad[3];
    u64 rflags, rsp, ss;
};

#define X86_DE 0
#define X86_DB 1
#define X86_NMI 2
#define X86_BP 3
#define X86_OF 4
#define X86_BR 5
#define X86_UD 6
#define X86_NM 7
#define X86_TS 10
#define X86_NP 11
#define X86_SS 12
#define X86_GP 13
#define X86_PF 14
#define X86_MF 16
#define X86_AC 17
#define X86_XM 19
/* User programs leave user mode by it. */
#define LEAVE_USER 0xff
/* Entries that are no traps, but build the same frame. */
#define ENTRY_EVENT 0x100
#define ENTRY_SYSCALL 0x101
#define ENTRY_SYSCALL32 0x102
#define ENTRY_SYSENTER 0x103
#define ENTRY_NMI 0x104
#define ENTRIES 0x105
#define NO_TRAP 0x1000

#define PFEC_PRESENT 0x01
#define PFEC_WRITE 0x02
#define PFEC_USER 0x04
#define PFEC_FETCH 0x10
/* The error code of a fault that an entry of the IDT is to blame for. */
#define XEC_IDT(vector) ((vector) << 3 | 2)

#define FLAGS_TF 0x100ul
#define FLAGS_IF 0x200ul
#define FLAGS_DF 0x400ul
#define FLAGS_IOPL 0x3000ul
#define FLAGS_NT 0x4000ul
#define FLAGS_RF 0x10000ul
#define FLAGS_AC 0x40000ul

/*
 * The vector of the exception that some assembler raises, or NO_TRAP; execution goes on behind it.
 * TRAP_OF("mov %0, %%cr3", :: "r"(value)): the text, and operands as for asm.
 */
#define TRAP_OF(text, ...)                                                   \
    ({                                                                       \
        trapped.vector = NO_TRAP;                                            \
        asm volatile("771: " text "\n772:\n"                                 \
                     "\t.pushsection .expected_traps, \"a\"\n"               \
                     "\t.quad 771b, 772b\n\t.popsection" __VA_ARGS__);       \
        READ_ONCE(trapped.vector);                                           \
    })

/* What TRAP_OF saw: the frame, and CR2 as Xen shows it. */
extern struct frame trapped;
extern u64 trapped_cr2;

/* What happens at an entry; NULL is the runtime's own way. A handler may change the frame. */
typedef void trap_handler_t(struct frame *frame);
extern trap_handler_t *trap_handlers[ENTRIES];
/* The code that builds a struct frame and calls the handler. */
const void *entry_point(unsigned int entry);
/* Have Xen use an entry point for a vector; flags: a DPL, and 4 to have events masked. */
void set_trap(unsigned int vector, unsigned int flags, const void *address);
/* CALLBACKOP_register, and what Xen says. */
long register_callback(unsigned int type, unsigned int flags, const void *address);

/* ---- Events ---- */

/* How often each port was notified; handlers may do more. */
extern unsigned int events[4096];
extern unsigned int upcalls;
extern void (*event_handlers[4096])(unsigned int port);

static inline void mask_events(void) { vcpu_info->evtchn_upcall_mask = 1; barrier(); }
/* Unmask, and take what came in between. */
void unmask_events(void);
/* Sleep until an event has come. Events are masked before and afterwards, and are taken in between. */
void wait_for_event(void);
/* Wait until a port was notified. */
void wait_for_port(unsigned int port);

bool port_is_pending(unsigned int port);
bool port_is_masked(unsigned int port);
void set_port_mask(unsigned int port, bool masked);
void clear_port(unsigned int port);

/* A fresh port: an IPI channel of the only vCPU, unmasked. */
unsigned int make_ipi(void);
long send_event(unsigned int port);
/* Xen's system time in ns, by the time record. */
u64 system_time(void);

static inline u64 rdtsc(void)
{
    u32 low, high;

    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

/* ---- User mode ---- */

/* What HYPERVISOR_iret takes, two registers, and the stack for traps; 0 is the current one. */
struct user_context {
    u64 rip, cs, rflags, rsp, ss;
    u64 vgcf_flags;
    u64 rdi, rsi;
    u64 kernel_rsp;
};

#define USER_STACK_SIZE (4 * PAGE_SIZE)
extern u8 user_stack[USER_STACK_SIZE];

/* Run a function in user mode, with the kernel's page tables; what it returns. Events as they are. */
u64 in_user(u64 (*function)(u64), u64 argument);
/* Go to user mode; returns what leave_user is called with. */
u64 enter_user(const struct user_context *context);
/* From a trap handler: back to where enter_user was called. */
void leave_user(u64 result) __attribute__((noreturn));
/* A context for a function: flags as the kernel has them, a stack, flat segments. */
struct user_context user_context_for(const void *function, u64 argument);
/* Let user programs run with the kernel's page tables. */
void give_user_page_tables(void);

#endif
