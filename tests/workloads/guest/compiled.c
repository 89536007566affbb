/* Compiled and run in the guest: integers, doubles, strings, the heap and recursion, with known answers. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static unsigned ackermann(unsigned m, unsigned n) {
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

int main(void) {
    enum { LIMIT = 1000000, COUNT = 50000 };
    char *composite = calloc(LIMIT, 1);
    unsigned primes = 0;
    for (unsigned n = 2; n < LIMIT; n++) {
        if (composite[n])
            continue;
        primes++;
        for (uint64_t m = (uint64_t)n * n; m < LIMIT; m += n)
            composite[m] = 1;
    }
    free(composite);

    uint32_t *numbers = malloc(COUNT * sizeof *numbers), state = 1;
    for (int i = 0; i < COUNT; i++)
        numbers[i] = state = state * 1664525u + 1013904223u;
    qsort(numbers, COUNT, sizeof *numbers, compare);
    uint32_t median = numbers[COUNT / 2];
    free(numbers);

    double integral = 0;
    for (int i = 0; i < 100000; i++) {
        double x = (i + 0.5) / 100000;
        integral += 4 / (1 + x * x) / 100000;
    }
    printf("primes %u\nmedian %u\nackermann %u\npi %.10f\npow %.12f\n", primes, median, ackermann(2, 300),
           integral, pow(2.5, 3.25));
    return 0;
}
