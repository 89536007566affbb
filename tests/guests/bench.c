/* Benchmarks: each does a fixed amount of work between two lines on the console,
 *
 *   bench NAME start UNITS UNIT
 *   bench NAME end CHECKSUM
 *
 * The host takes the time at those lines, so a guest clock that does not follow the host's (QEMU's
 * -icount, virtft's --clock virtual) does not spoil the figure. Equal work gives equal checksums. */
#define _GNU_SOURCE
#include "check.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Eight instructions an iteration, none of them touching memory. */
#define INT_LOOP_INSTRUCTIONS 8

static uint64_t bench_int(uint64_t units) {
    uint64_t iterations = units * 1000000 / INT_LOOP_INSTRUCTIONS, a = 1, b = 2, c = 3;
    asm volatile("1: add %1, %0\n\t"
                 "xor %2, %1\n\t"
                 "rol $7, %2\n\t"
                 "lea 5(%0,%1,2), %2\n\t"
                 "sub %0, %1\n\t"
                 "imul $3, %0, %0\n\t"
                 "dec %3\n\t"
                 "jnz 1b"
                 : "+r"(a), "+r"(b), "+r"(c), "+r"(iterations)
                 :
                 : "cc");
    return a ^ b ^ c;
}

/* A table-driven CRC: loads, shifts and a data-dependent address each byte. */
static uint64_t bench_crc(uint64_t units) {
    static uint32_t table[256];
    static uint8_t buffer[65536];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0);
        table[i] = value;
    }
    for (unsigned i = 0; i < sizeof buffer; i++)
        buffer[i] = (uint8_t)(i * 167 + (i >> 8));
    uint32_t crc = ~0u;
    for (uint64_t round = 0; round < units * 16; round++)
        for (unsigned i = 0; i < sizeof buffer; i++)
            crc = crc >> 8 ^ table[(crc ^ buffer[i]) & 0xff];
    return ~crc;
}

static uint64_t bench_memcpy(uint64_t units) {
    static uint8_t from[1 << 20], to[1 << 20];
    for (unsigned i = 0; i < sizeof from; i++)
        from[i] = (uint8_t)(i * 31);
    for (uint64_t round = 0; round < units; round++) {
        memcpy(to, from, sizeof to);
        from[round & 0xfffff] ^= to[(round * 7) & 0xfffff];
    }
    return to[12345] + to[77777];
}

static uint64_t bench_fork(uint64_t units) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < units; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit((int)(i & 0x7f));
        int status = 0;
        waitpid(child, &status, 0);
        sum += (uint64_t)WEXITSTATUS(status);
    }
    return sum;
}

static uint64_t bench_fault(uint64_t units) {
    const size_t length = 16 << 20;
    uint64_t sum = 0, faults = units * 1000;
    while (faults > 0) {
        uint8_t *area = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (area == MAP_FAILED)
            exit(1);
        madvise(area, length, MADV_NOHUGEPAGE);
        for (size_t at = 0; at < length && faults > 0; at += 4096, faults--)
            area[at] = (uint8_t)faults, sum += area[at];
        munmap(area, length);
    }
    return sum;
}

static uint64_t bench_syscall(uint64_t units) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < units * 1000; i++)
        sum += (uint64_t)syscall(SYS_umask, 022);
    return sum;
}

/* Scalar SSE2 doubles: multiply, add, divide, square root. */
static uint64_t bench_fp(uint64_t units) {
    double x = 0.5, y = 1.25;
    for (uint64_t i = 0; i < units * 1000000 / 4; i++) {
        x = x * 1.000000119 + y;
        y = y / 1.000000357;
        asm("sqrtsd %0, %0" : "+x"(x));
    }
    uint64_t bits;
    double sum = x + y;
    memcpy(&bits, &sum, sizeof bits);
    return bits;
}

/* The same with the x87 and its 80-bit registers. */
static uint64_t bench_x87(uint64_t units) {
    long double x = 0.5L, y = 1.25L;
    for (uint64_t i = 0; i < units * 1000000 / 4; i++) {
        x = x * 1.000000119L + y;
        y = y / 1.000000357L;
        asm("fsqrt" : "+t"(x));
    }
    long double sum = x + y;
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    return bits;
}

static uint64_t bench_pipe(uint64_t units) {
    int there[2], back[2];
    if (pipe(there) || pipe(back))
        exit(1);
    uint64_t trips = units * 1000, sum = 0;
    pid_t child = fork();
    for (uint64_t i = 0; i < trips; i++) {
        uint8_t byte = (uint8_t)i;
        if (child == 0) {
            if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1)
                _exit(1);
        } else {
            if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
                exit(1);
            sum += byte;
        }
    }
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
    return sum;
}

static const struct {
    const char *name;
    uint64_t units;
    const char *unit;
    uint64_t (*run)(uint64_t units);
} benchmarks[] = {
    {"int", 1000, "Minstructions", bench_int}, {"crc", 32, "MiB", bench_crc},
    {"memcpy", 2000, "MiB", bench_memcpy},     {"fork", 300, "forks", bench_fork},
    {"fault", 100, "kfaults", bench_fault},    {"syscall", 300, "kcalls", bench_syscall},
    {"fp", 20, "Moperations", bench_fp},       {"x87", 20, "Moperations", bench_x87},
    {"pipe", 10, "kroundtrips", bench_pipe},
};

int run_benchmarks(const char *name) {
    int found = 0;
    for (unsigned i = 0; i < sizeof benchmarks / sizeof *benchmarks; i++) {
        if (name && strcmp(name, benchmarks[i].name))
            continue;
        found = 1;
        printf("bench %s start %llu %s\n", benchmarks[i].name, (unsigned long long)benchmarks[i].units,
               benchmarks[i].unit);
        uint64_t checksum = benchmarks[i].run(benchmarks[i].units);
        printf("bench %s end %016llx\n", benchmarks[i].name, (unsigned long long)checksum);
    }
    if (!found)
        fprintf(stderr, "virtft-guest: no benchmark %s\n", name);
    return !found;
}
