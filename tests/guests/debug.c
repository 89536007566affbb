/* Debugging another process, as gdb does: single steps, hardware breakpoints and watchpoints in DR0-DR7. */
#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile uint64_t watched[2];

/* Code of known length for the child: ten instructions between two labels. */
extern const char steps_start[], steps_end[];
asm(".text\n.globl steps, steps_start, steps_end\n"
    "steps:\n"
    "steps_start: xor %eax, %eax\n"
    "inc %eax\nadd $5, %eax\nmov %eax, %ecx\nimul %ecx, %eax\n"
    "push %rax\npop %rcx\nxchg %rax, %rcx\nnop\nlea 1(%rax), %rax\n"
    "steps_end: ret\n");
uint64_t steps(void);

#define DEBUG_REGISTER(n) (offsetof(struct user, u_debugreg) + (n) * sizeof(unsigned long))

static int wait_stop(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSTOPPED(status) ? WSTOPSIG(status) : -WEXITSTATUS(status) - 1000;
}

static pid_t start(void (*body)(void)) {
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        body();
        _exit(0);
    }
    CHECK_EQ("first stop", wait_stop(child), SIGSTOP);
    return child;
}

static uint64_t instruction_pointer(pid_t child) {
    struct user_regs_struct registers;
    ptrace(PTRACE_GETREGS, child, NULL, &registers);
    return registers.rip;
}

static void child_steps(void) { _exit(steps() == 37 ? 0 : 1); }

static void child_watch(void) {
    for (volatile int i = 0; i < 10; i++)
        ;
    watched[1] = 5;
    watched[0] = 7;
    if (watched[0] != 7)
        _exit(1);
}

static void set_debug(pid_t child, int number, uint64_t value) {
    errno = 0;
    ptrace(PTRACE_POKEUSER, child, DEBUG_REGISTER(number), value);
    CHECK_EQ("debug register set", errno, 0);
}

/* A hardware breakpoint stops before the instruction; from there, single steps walk the code one by one. */
static void check_breakpoint_and_steps(void) {
    pid_t child = start(child_steps);
    set_debug(child, 0, (uint64_t)(uintptr_t)steps_start);
    set_debug(child, 7, 0x1);
    ptrace(PTRACE_CONT, child, NULL, NULL);
    CHECK_EQ("breakpoint stop", wait_stop(child), SIGTRAP);
    CHECK_EQ("breakpoint address", instruction_pointer(child), (uintptr_t)steps_start);
    CHECK_EQ("DR6 has B0", ptrace(PTRACE_PEEKUSER, child, DEBUG_REGISTER(6), NULL) & 0xf, 1);
    set_debug(child, 7, 0);
    int count = 0;
    while (instruction_pointer(child) != (uintptr_t)steps_end && count < 100) {
        ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
        if (wait_stop(child) != SIGTRAP)
            break;
        count++;
    }
    CHECK_EQ("instructions stepped", count, 10);
    ptrace(PTRACE_CONT, child, NULL, NULL);
    CHECK_EQ("child's result", wait_stop(child), -1000);
}

/* A write watchpoint of 8 bytes: stops after the store to watched[0], not for the one beside it. */
static void check_watchpoint(void) {
    pid_t child = start(child_watch);
    set_debug(child, 1, (uint64_t)(uintptr_t)&watched[0]);
    set_debug(child, 7, 1u << 2 | 1u << 20 | 2u << 22); /* L1, write, length 8 */
    ptrace(PTRACE_CONT, child, NULL, NULL);
    CHECK_EQ("watchpoint stop", wait_stop(child), SIGTRAP);
    errno = 0;
    CHECK_EQ("value stored", ptrace(PTRACE_PEEKDATA, child, &watched[0], NULL), 7);
    CHECK_EQ("neighbour stored before", ptrace(PTRACE_PEEKDATA, child, &watched[1], NULL), 5);
    CHECK_EQ("DR6 has B1", ptrace(PTRACE_PEEKUSER, child, DEBUG_REGISTER(6), NULL) & 0xf, 2);
    ptrace(PTRACE_CONT, child, NULL, NULL);
    CHECK_EQ("child went on", wait_stop(child), -1000);
}

void check_debug(void) {
    check_breakpoint_and_steps();
    check_watchpoint();
}
