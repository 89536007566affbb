/* virtft-guest: what the tests and benchmarks run inside a guest.
 *
 *   virtft-guest selftest [GROUP]   checks with known answers; exit status 1 when one failed
 *   virtft-guest bench [NAME]       fixed amounts of work, a line before and after each (timed by the host)
 *   virtft-guest hostile [SEED]     attacks the machine's devices: only in a guest of no value
 *
 * Runs on any x86-64 Linux, so that what a real processor says to the self-tests can be compared. */
#include "check.h"

#include <stdlib.h>
#include <string.h>

int checks_passed;
int checks_failed;

static const struct {
    const char *name;
    void (*run)(void);
} groups[] = {
    {"fp", check_fp},           {"isa", check_isa},       {"debug", check_debug},
    {"signals", check_signals}, {"memory", check_memory}, {"processes", check_processes},
    {"smc", check_smc},         {"tsc", check_tsc},
};

uint32_t crc32_of(const void *data, unsigned long length) {
    const uint8_t *bytes = data;
    uint32_t crc = ~0u;
    for (unsigned long i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

static int selftest(const char *only) {
    int found = 0;
    for (unsigned i = 0; i < sizeof groups / sizeof *groups; i++) {
        if (only && strcmp(only, groups[i].name))
            continue;
        found = 1;
        int passed = checks_passed, failed = checks_failed;
        groups[i].run();
        printf("selftest %s: %d passed, %d failed\n", groups[i].name, checks_passed - passed,
               checks_failed - failed);
        fflush(stdout);
    }
    if (!found) {
        fprintf(stderr, "virtft-guest: no group %s\n", only);
        return 2;
    }
    printf("selftest total: %d passed, %d failed\n", checks_passed, checks_failed);
    return checks_failed != 0;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *argument = argc > 2 ? argv[2] : NULL;
    if (argc > 1 && !strcmp(argv[1], "selftest"))
        return selftest(argument);
    if (argc > 1 && !strcmp(argv[1], "bench"))
        return run_benchmarks(argument);
    if (argc > 1 && !strcmp(argv[1], "hostile"))
        return run_hostile(argument);
    fprintf(stderr, "usage: virtft-guest selftest [GROUP] | bench [NAME] | hostile [SEED]\n");
    return 2;
}
