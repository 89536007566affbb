/* Counting checks: one line per failure, a summary at the end. Shared by the programs of this folder. */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>

extern int checks_passed;
extern int checks_failed;

/* Compares two 64-bit values; prints both when they differ. */
#define CHECK_EQ(what, got, want)                                                                      \
    do {                                                                                               \
        uint64_t got_value = (uint64_t)(got), want_value = (uint64_t)(want);                           \
        if (got_value == want_value) {                                                                 \
            checks_passed++;                                                                           \
        } else {                                                                                       \
            checks_failed++;                                                                           \
            printf("FAILED %s:%d %s: got %#llx, expected %#llx\n", __FILE__, __LINE__, what,           \
                   (unsigned long long)got_value, (unsigned long long)want_value);                     \
        }                                                                                              \
    } while (0)

/* A condition that must hold. */
#define CHECK(what, condition) CHECK_EQ(what, !!(condition), 1)

/* CRC-32 (IEEE) of a buffer, bit by bit: needs no table and no library. */
uint32_t crc32_of(const void *data, unsigned long length);

void check_fp(void);
void check_isa(void);
void check_debug(void);
void check_signals(void);
void check_memory(void);
void check_processes(void);
void check_smc(void);
void check_tsc(void);

/* Runs the benchmark of that name, or all for NULL; 0 when it exists. */
int run_benchmarks(const char *name);

/* Attacks every device it can reach; returns 0 if the machine still stands. */
int run_hostile(const char *seed);

#endif
