/* Time: never backwards, on any CPU or between them, and the clocks agree with one another. */
#define _GNU_SOURCE
#include "check.h"

#include <cpuid.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int has_rdtscp(void) {
    unsigned a, b, c, d;
    return __get_cpuid(0x80000001, &a, &b, &c, &d) && d >> 27 & 1;
}

static void check_one_cpu(uint64_t *latest_tsc, uint64_t *latest_ns) {
    int rdtscp = has_rdtscp(), tsc_backwards = 0, clock_backwards = 0;
    for (int i = 0; i < 20000; i++) {
        unsigned cpu;
        uint64_t tsc = i & 1 || !rdtscp ? __rdtsc() : __rdtscp(&cpu);
        if (tsc < *latest_tsc)
            tsc_backwards++;
        *latest_tsc = tsc;
        if (i % 16 == 0) {
            uint64_t ns = clock_ns(CLOCK_MONOTONIC);
            if (ns < *latest_ns)
                clock_backwards++;
            *latest_ns = ns;
        }
    }
    CHECK_EQ("TSC never backwards", tsc_backwards, 0);
    CHECK_EQ("clock never backwards", clock_backwards, 0);
}

/* The TSC's rate must be the same over a busy and a sleeping stretch, by the monotonic clock. */
static void check_rate(void) {
    uint64_t rates[2];
    for (int sleeping = 0; sleeping < 2; sleeping++) {
        uint64_t tsc = __rdtsc(), start = clock_ns(CLOCK_MONOTONIC), now;
        do {
            if (sleeping)
                usleep(20000);
            now = clock_ns(CLOCK_MONOTONIC);
        } while (now - start < 200000000u);
        rates[sleeping] = (__rdtsc() - tsc) * 1000 / ((now - start) / 1000);
    }
    uint64_t difference = rates[0] > rates[1] ? rates[0] - rates[1] : rates[1] - rates[0];
    CHECK("same rate busy and asleep", difference < rates[0] / 100);
}

void check_tsc(void) {
    cpu_set_t before, one;
    sched_getaffinity(0, sizeof before, &before);
    uint64_t latest_tsc = 0, latest_ns = 0;
    for (int round = 0; round < 3; round++)
        for (int cpu = 0; cpu < 8; cpu++) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            if (sched_setaffinity(0, sizeof one, &one) == 0)
                check_one_cpu(&latest_tsc, &latest_ns);
        }
    sched_setaffinity(0, sizeof before, &before);
    check_rate();
}
