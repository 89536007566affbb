/* Exceptions as signals, with the addresses and codes that the kernel derives from the processor's. */
#define _GNU_SOURCE
#include "check.h"

#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf resume;
static volatile int last_signal, last_code, trap_count;
static volatile uintptr_t last_address;
static volatile uint64_t last_error;

static void on_fault(int number, siginfo_t *info, void *context) {
    last_signal = number;
    last_code = info->si_code;
    last_address = (uintptr_t)info->si_addr;
    last_error = (uint64_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_ERR];
    siglongjmp(resume, 1);
}

static void on_trap(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    trap_count++;
}

/* Runs the statement, which must end in the handler. */
#define CAUGHT(statement)                                                                              \
    do {                                                                                               \
        last_signal = last_code = 0;                                                                   \
        if (sigsetjmp(resume, 1) == 0) {                                                               \
            statement;                                                                                 \
        }                                                                                              \
    } while (0)

static void install(void (*handler)(int, siginfo_t *, void *)) {
    static const int numbers[] = {SIGFPE, SIGSEGV, SIGBUS, SIGILL, SIGTRAP};
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaction(numbers[i], &action, NULL);
}

static void check_page_faults(void) {
    volatile uint8_t *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CAUGHT(page[123] = 1);
    CHECK_EQ("write to read-only", last_signal, SIGSEGV);
    CHECK_EQ("its code", last_code, SEGV_ACCERR);
    CHECK_EQ("its address", last_address, (uintptr_t)page + 123);
    CHECK_EQ("its error code", last_error & 7, 6 | (last_error & 1));
    munmap((void *)page, 4096);
    CAUGHT((void)page[7]);
    CHECK_EQ("read of unmapped", last_signal, SIGSEGV);
    CHECK_EQ("its code", last_code, SEGV_MAPERR);
    CHECK_EQ("its address", last_address, (uintptr_t)page + 7);
    uint8_t *data = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    data[0] = 0xc3;
    CAUGHT(((void (*)(void))(void *)data)());
    CHECK_EQ("fetch from no-execute", last_signal, SIGSEGV);
    CHECK_EQ("its address", last_address, (uintptr_t)data);
    CHECK_EQ("its error code has the fetch bit", last_error >> 4 & 1, 1);
    munmap(data, 4096);
}

static void check_faults(void) {
    CAUGHT(asm volatile("xor %%edx, %%edx\n\tmov $1, %%eax\n\txor %%ecx, %%ecx\n\tdiv %%ecx" ::
                            : "eax", "ecx", "edx"));
    CHECK_EQ("divide by zero", last_signal << 8 | last_code, SIGFPE << 8 | FPE_INTDIV);
    CAUGHT(asm volatile("ud2"));
    CHECK_EQ("undefined opcode", last_signal, SIGILL);
    CAUGHT(asm volatile("hlt"));
    CHECK_EQ("privileged instruction", last_signal, SIGSEGV);
    CAUGHT(asm volatile("mov %%cr3, %%rax" ::: "rax"));
    CHECK_EQ("control register", last_signal, SIGSEGV);
    CAUGHT(asm volatile("mov $0x8000000000000000, %%rax\n\tmov (%%rax), %%rax" ::: "rax"));
    CHECK_EQ("non-canonical address", last_signal, SIGSEGV);
    CHECK_EQ("its address", last_address, 0);
    CAUGHT(asm volatile("pxor %%xmm0, %%xmm0\n\tmovaps %%xmm0, 1(%%rsp)" ::: "xmm0", "memory"));
    CHECK_EQ("misaligned movaps", last_signal, SIGSEGV);
}

static void check_float_faults(void) {
    uint32_t unmasked = 0x1f80 & ~0x200u, masked = 0x1f80;
    volatile double zero = 0.0, one = 1.0;
    asm volatile("ldmxcsr %0" ::"m"(unmasked));
    CAUGHT(one = one / zero);
    asm volatile("ldmxcsr %0" ::"m"(masked));
    CHECK_EQ("SSE divide by zero", last_signal << 8 | last_code, SIGFPE << 8 | FPE_FLTDIV);
    uint16_t control = 0x037f & ~4;
    asm volatile("fninit\n\tfldcw %0" ::"m"(control));
    CAUGHT(asm volatile("fldz\n\tfld1\n\tfdivp\n\tfwait" ::: "st"));
    asm volatile("fninit");
    CHECK_EQ("x87 divide by zero", last_signal << 8 | last_code, SIGFPE << 8 | FPE_FLTDIV);
}

/* Breakpoint and single step within the process: TF traps after each instruction until it is cleared. */
static void check_traps(void) {
    install(on_trap);
    trap_count = 0;
    asm volatile("int3");
    CHECK_EQ("int3", trap_count, 1);
    trap_count = 0;
    asm volatile("pushfq\n\torl $0x100, (%%rsp)\n\tpopfq\n\t" /* TF acts from the next instruction on */
                 "nop\n\tnop\n\tnop\n\t"
                 "pushfq\n\tandl $~0x100, (%%rsp)\n\tpopfq" ::: "cc", "memory");
    CHECK_EQ("single steps", trap_count, 6);
}

void check_signals(void) {
    static uint8_t stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternate, NULL);
    install(on_fault);
    check_page_faults();
    check_faults();
    check_float_faults();
    check_traps();
    static const int numbers[] = {SIGFPE, SIGSEGV, SIGBUS, SIGILL, SIGTRAP};
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++)
        signal(numbers[i], SIG_DFL);
}
