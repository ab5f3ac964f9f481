/*
 * What a test kernel for HVM guests includes: Xen's own headers, hypercalls, traps, memory, the local APIC, and checks.
 *
 * One source is four kernels. LEVELS, of page tables, chooses: 4 is 64-bit code; 32-bit code has 3 (PAE), 2, or 0, which
 * is no paging. All of the first 4 GiB are mapped as they are, so that pointers are guest-physical addresses.
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

#include <xen/arch-x86/cpuid.h>
#include <xen/arch-x86/hvm/start_info.h>
#include <xen/errno.h>
#include <xen/event_channel.h>
#include <xen/features.h>
#include <xen/grant_table.h>
#include <xen/hvm/hvm_op.h>
#include <xen/hvm/hvm_vcpu.h>
#include <xen/hvm/params.h>
#include <xen/io/console.h>
#include <xen/memory.h>
#include <xen/physdev.h>
#include <xen/sched.h>
#include <xen/vcpu.h>
#include <xen/version.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;
typedef unsigned long ulong;

#define IS_64 (LEVELS == 4)

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
/* Numbers of any size and sign. */
#define CHECK_EQ(actual, expected) \
    check_equal((s64)(actual), (s64)(expected), #actual, #expected, __FILE__, __LINE__)

/* For what the rest of the test builds on. */
#define REQUIRE(condition) do { if ( !CHECK(condition) ) finish(); } while ( 0 )
#define REQUIRE_EQ(actual, expected) do { if ( !CHECK_EQ(actual, expected) ) finish(); } while ( 0 )

bool check(bool holds, const char *what, const char *file, int line);
bool check_equal(s64 actual, s64 expected, const char *what, const char *wanted, const char *file, int line);

/* End the test now, with the checks made so far. */
void finish(void) __attribute__((noreturn));
void shutdown(unsigned int reason) __attribute__((noreturn));

/* ---- The console and strings ---- */

void print(const char *text);
void print_hex(u64 value);

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
    u32 eax, ebx, ecx, edx, esi, edi, ebp, esp;
    u32 eflags, cs, ss, ds, es, fs, gs;
    u32 cr0, cr4;
};

extern struct boot_registers boot;
extern const struct hvm_start_info *start_info;
/* What the command line says after the test's name. */
extern const char *argument;

/* ---- Instructions ---- */

static inline void cpuid(u32 leaf, u32 subleaf, u32 registers[4])
{
    asm volatile("cpuid"
                 : "=a"(registers[0]), "=b"(registers[1]), "=c"(registers[2]), "=d"(registers[3])
                 : "a"(leaf), "c"(subleaf));
}

static inline u64 rdmsr(u32 msr)
{
    u32 low, high;

    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (u64)high << 32 | low;
}

static inline void wrmsr(u32 msr, u64 value)
{
    asm volatile("wrmsr" :: "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

static inline u64 rdtsc(void)
{
    u32 low, high;

    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

#define READ_CR(number) ({ ulong value_; asm volatile("mov %%cr" #number ", %0" : "=r"(value_)); value_; })
#define WRITE_CR(number, value) asm volatile("mov %0, %%cr" #number :: "r"((ulong)(value)) : "memory")

#define CR0_PE (1ul << 0)
#define CR0_WP (1ul << 16)
#define CR0_NW (1ul << 29)
#define CR0_CD (1ul << 30)
#define CR0_PG (1ul << 31)
#define CR4_VME (1ul << 0)
#define CR4_PSE (1ul << 4)
#define CR4_PAE (1ul << 5)
#define CR4_PGE (1ul << 7)
#define EFER_SCE (1u << 0)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NXE (1u << 11)
#define FLAGS_IF 0x200ul

#define MSR_TSC 0x10
#define MSR_APIC_BASE 0x1b
#define MSR_PAT 0x277
#define MSR_MTRR_DEFAULT_TYPE 0x2ff
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_EFER 0xc0000080

static inline void cli(void) { asm volatile("cli" ::: "memory"); }
static inline void sti(void) { asm volatile("sti; nop" ::: "memory"); }
/* Sleep until an interrupt, which has been taken when this returns. */
static inline void halt(void) { asm volatile("sti; hlt; cli" ::: "memory"); }

/* ---- Hypercalls ---- */

extern char hypercall_page[128][32];

/* By an instruction: vmcall or vmmcall with a number, or a call of the address of a stub. */
#if LEVELS == 4
#define HYPERCALL_BY(instruction, number, a1, a2, a3, a4, a5)                                              \
    ({                                                                                                    \
        register ulong a4_ asm("r10") = (ulong)(a4);                                                      \
        register ulong a5_ asm("r8") = (ulong)(a5);                                                       \
        long result_ = (long)(number);                                                                    \
        ulong a1_ = (ulong)(a1), a2_ = (ulong)(a2), a3_ = (ulong)(a3);                                    \
        asm volatile(instruction                                                                          \
                     : "+a"(result_), "+D"(a1_), "+S"(a2_), "+d"(a3_), "+r"(a4_), "+r"(a5_)               \
                     :                                                                                    \
                     : "rcx", "r9", "r11", "memory");                                                     \
        result_;                                                                                          \
    })
#define CALL_STUB "call *%%rax"
#else
#define HYPERCALL_BY(instruction, number, a1, a2, a3, a4, a5)                                              \
    ({                                                                                                    \
        long result_ = (long)(number);                                                                    \
        ulong a1_ = (ulong)(a1), a2_ = (ulong)(a2), a3_ = (ulong)(a3);                                    \
        ulong a4_ = (ulong)(a4), a5_ = (ulong)(a5);                                                       \
        asm volatile(instruction                                                                          \
                     : "+a"(result_), "+b"(a1_), "+c"(a2_), "+d"(a3_), "+S"(a4_), "+D"(a5_)               \
                     :                                                                                    \
                     : "memory");                                                                         \
        result_;                                                                                          \
    })
#define CALL_STUB "call *%%eax"
#endif

/* hypercall(event_channel_op, EVTCHNOP_send, &send): up to five arguments, numbers or pointers. */
#define hypercall(name, ...) HYPERCALL_(__HYPERVISOR_##name, ##__VA_ARGS__, 0, 0, 0, 0, 0)
#define HYPERCALL_(number, a1, a2, a3, a4, a5, ...) \
    HYPERCALL_BY(CALL_STUB, hypercall_page[number], a1, a2, a3, a4, a5)
#define vmcall(number, a1, a2) HYPERCALL_BY("vmcall", number, a1, a2, 0, 0, 0)
#define vmmcall(number, a1, a2) HYPERCALL_BY("vmmcall", number, a1, a2, 0, 0, 0)

/* ---- Memory ---- */

#define PAGE_SIZE 4096ul
#define PAGE_ALIGNED __attribute__((aligned(4096)))
#define PAGE_PRESENT 0x001ul
#define PAGE_RW 0x002ul
#define PAGE_USER 0x004ul
#define PAGE_PSE 0x080ul

/* Where no memory is, nor anything else: the start of a space for tests, below 4 GiB. */
#define HOLE 0xd0000000ul
/* What is mapped there by those that map a page: one of the guest frames from HOLE on. */
#define HOLE_PAGE(number) (HOLE + (number) * PAGE_SIZE)
#define TO_PFN(address) ((ulong)(address) / PAGE_SIZE)

/* A page that is all zero, of memory that belongs to nobody. There are some hundred. */
void *alloc_page(void);
/* XENMEM_add_to_physmap, and what Xen says. */
long add_to_physmap(unsigned int space, ulong index, ulong gpfn);
long remove_from_physmap(ulong gpfn);
/* XENMEM_populate_physmap and XENMEM_decrease_reservation of one page. */
long populate(ulong gpfn);
long decrease(ulong gpfn);
static inline u32 load(ulong address) { return *(volatile u32 *)address; }
static inline void store(ulong address, u32 value) { *(volatile u32 *)address = value; }
u64 get_param(unsigned int index);
long set_param(unsigned int index, u64 value);

extern shared_info_t *shared_info;
extern vcpu_info_t *vcpu_info;

#if LEVELS
/* The tables that are in use, by level; there are four of level 2 where each has 512 entries. */
extern ulong page_directory[];
/* The entry of level 2 that maps an address, for 2 or 4 MiB. */
#if LEVELS == 2
typedef u32 pte_t;
#define LARGE_SHIFT 22
#else
typedef u64 pte_t;
#define LARGE_SHIFT 21
#endif
static inline pte_t *directory_entry(ulong address) { return (pte_t *)page_directory + (address >> LARGE_SHIFT); }
static inline void flush_tlb(void) { WRITE_CR(3, READ_CR(3)); }
#endif

/* ---- Traps and interrupts ---- */

struct frame {
#if LEVELS == 4
    ulong r15, r14, r13, r12, r11, r10, r9, r8;
#endif
    ulong di, si, bp, bx, dx, cx, ax;
    ulong vector, error_code;
    ulong ip, cs, flags;
    /* Of 32-bit code only if it was in another ring. */
    ulong sp, ss;
};

#define X86_DE 0
#define X86_NMI 2
#define X86_UD 6
#define X86_DF 8
#define X86_NP 11
#define X86_GP 13
#define X86_PF 14
/* User programs leave user mode by it. */
#define LEAVE_USER 0xff
#define NO_TRAP 0x1000

#define PFEC_PRESENT 0x01
#define PFEC_WRITE 0x02
#define PFEC_USER 0x04

#if LEVELS == 4
#define WORD_DIRECTIVE ".quad"
#else
#define WORD_DIRECTIVE ".long"
#endif

/*
 * The vector of the exception that some assembler raises, or NO_TRAP; execution goes on behind it.
 * TRAP_OF("mov %0, %%cr3", :: "r"(value)): the text, and operands as for asm.
 */
#define TRAP_OF(text, ...)                                                   \
    ({                                                                       \
        trapped.vector = NO_TRAP;                                            \
        asm volatile("771: " text "\n772:\n"                                 \
                     "\t.pushsection .expected_traps, \"a\"\n"               \
                     "\t" WORD_DIRECTIVE " 771b, 772b\n\t.popsection" __VA_ARGS__); \
        READ_ONCE(trapped.vector);                                           \
    })

/* What TRAP_OF saw: the frame, and CR2. */
extern struct frame trapped;
extern ulong trapped_cr2;

#define RDMSR_TRAP(msr) TRAP_OF("rdmsr", :: "c"(msr) : "eax", "edx")
#define WRMSR_TRAP(msr, value) \
    TRAP_OF("wrmsr", :: "c"(msr), "a"((u32)(value)), "d"((u32)((u64)(value) >> 32)) : "memory")
#define CR_TRAP(number, value) TRAP_OF("mov %0, %%cr" #number, :: "r"((ulong)(value)) : "memory")

/* What happens at a vector; NULL is the runtime's own way. A handler may change the frame. */
typedef void trap_handler_t(struct frame *frame);
extern trap_handler_t *trap_handlers[256];
/* How often each vector from 32 on came. */
extern unsigned int interrupts[256];
/* Wait, with interrupts on, until one has come so often, but not for ever. */
void wait_for_interrupt(unsigned int vector, unsigned int count);

extern u8 idt[256 * (LEVELS == 4 ? 16 : 8)];
struct table_pointer {
    u16 limit;
    ulong base;
} __attribute__((packed));

/* ---- Events ---- */

#define CALLBACK_VECTOR 0xe0

/* How often each port was notified, and how often events were looked at. */
extern unsigned int events[4096];
extern unsigned int upcalls;

/* Take what is pending, as every guest does. */
void take_events(void);
/* Wait until a port was notified. Interrupts are off before and afterwards. */
void wait_for_port(unsigned int port);
bool port_is_pending(unsigned int port);
void set_port_mask(unsigned int port, bool masked);
/* A fresh port: an IPI channel of the only vCPU, unmasked. */
unsigned int make_ipi(void);
long send_event(unsigned int port);
/* Xen's system time in ns, by the time record. */
u64 system_time(void);

/* ---- The local APIC ---- */

#define APIC_PAGE 0xfee00000ul
#define APIC_ID 0x20
#define APIC_VERSION 0x30
#define APIC_TPR 0x80
#define APIC_PPR 0xa0
#define APIC_EOI 0xb0
#define APIC_LDR 0xd0
#define APIC_DFR 0xe0
#define APIC_SPIV 0xf0
#define APIC_ISR 0x100
#define APIC_IRR 0x200
#define APIC_ESR 0x280
#define APIC_ICR 0x300
#define APIC_ICR2 0x310
#define APIC_LVTT 0x320
#define APIC_LVTERR 0x370
#define APIC_TMICT 0x380
#define APIC_TMCCT 0x390
#define APIC_TDCR 0x3e0

#define APIC_ENABLED 0x100
#define APIC_MASKED 0x10000
#define APIC_PERIODIC 0x20000
#define APIC_TSC_DEADLINE 0x40000
#define APIC_TO_SELF 0x40000

static inline u32 apic_read(unsigned int offset) { return load(APIC_PAGE + offset); }
static inline void apic_write(unsigned int offset, u32 value) { store(APIC_PAGE + offset, value); }

/* ---- User mode ---- */

/* Run a function in ring 3 with a stack of its own; what it returns. */
ulong in_user(ulong (*function)(ulong), ulong argument);
void leave_user(ulong result) __attribute__((noreturn));

#endif
