/* Processes and threads: fork and exec, pipes, futexes, timers; the sums are known. */
#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4
#define ROUNDS 20000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t under_lock, atomically;
static __thread uint64_t own;
static volatile sig_atomic_t alarms;

static void *add(void *argument) {
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&lock);
        under_lock++;
        pthread_mutex_unlock(&lock);
        __atomic_fetch_add(&atomically, 3, __ATOMIC_RELAXED);
        own += (uintptr_t)argument;
    }
    return (void *)own;
}

static void check_threads(void) {
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK_EQ("thread", pthread_create(&threads[i], NULL, add, (void *)(i + 1)), 0);
    for (uintptr_t i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        CHECK_EQ("thread's own sum", (uintptr_t)result, (i + 1) * ROUNDS);
    }
    CHECK_EQ("sum under a lock", under_lock, THREADS * ROUNDS);
    CHECK_EQ("atomic sum", atomically, 3 * THREADS * ROUNDS);
}

static void check_fork(void) {
    for (int i = 0; i < 50; i++) {
        int ends[2];
        if (pipe(ends))
            abort();
        pid_t child = fork();
        if (child == 0) {
            uint32_t value = (uint32_t)i * 2654435761u;
            _exit(write(ends[1], &value, 4) == 4 ? i : 255);
        }
        uint32_t value = 0;
        int status = 0;
        CHECK_EQ("read from child", read(ends[0], &value, 4), 4);
        CHECK_EQ("child's value", value, (uint32_t)i * 2654435761u);
        CHECK_EQ("child's pid", waitpid(child, &status, 0), child);
        CHECK_EQ("child's status", WEXITSTATUS(status), i);
        close(ends[0]), close(ends[1]);
    }
}

static void check_exec(void) {
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();
        if (child == 0) {
            execl("/bin/sh", "sh", "-c", "exit $((6 * 7))", (char *)NULL);
            _exit(255);
        }
        int status = 0;
        waitpid(child, &status, 0);
        CHECK_EQ("shell's arithmetic", WEXITSTATUS(status), 42);
    }
}

static void on_alarm(int number) {
    (void)number;
    alarms++;
}

/* Timer interrupts arrive in a loop that makes no system call. */
static void check_timer(void) {
    signal(SIGALRM, on_alarm);
    struct itimerval every = {{0, 5000}, {0, 5000}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &every, NULL);
    volatile uint64_t spins = 0;
    while (alarms < 10 && spins < 10000000000u)
        spins++;
    setitimer(ITIMER_REAL, &never, NULL);
    CHECK("timer signals", alarms >= 10);
    signal(SIGALRM, SIG_DFL);
}

void check_processes(void) {
    check_fork();
    check_exec();
    check_threads();
    check_timer();
}
