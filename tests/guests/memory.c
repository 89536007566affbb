/* Memory management: protection changes, copy on write, remapping, and accesses across pages. */
#define _GNU_SOURCE
#include "check.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES 512

static void fill(uint64_t *area, uint64_t seed) {
    for (size_t i = 0; i < PAGES * 4096 / 8; i++)
        area[i] = seed = seed * 6364136223846793005u + 1442695040888963407u;
}

static void check_copy_on_write(void) {
    uint64_t *area = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fill(area, 1);
    uint32_t before = crc32_of(area, 64 * 4096);
    pid_t child = fork();
    if (child == 0) {
        fill(area, 2);
        _exit(crc32_of(area, 64 * 4096) == before);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ("child saw its own copy", status, 0);
    CHECK_EQ("parent's copy unchanged", crc32_of(area, 64 * 4096), before);
    munmap(area, PAGES * 4096);
}

/* The same address gets another page again and again: no translation of the old one may survive. */
static void check_remap(void) {
    uint8_t *pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *window = pages + 2 * 4096;
    for (int round = 0; round < 200; round++) {
        uint8_t *fresh = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        fresh[9] = (uint8_t)round;
        CHECK("mremap", mremap(fresh, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, window) == window);
        CHECK_EQ("window shows the new page", window[9], (uint8_t)round);
    }
    munmap(pages, 3 * 4096);
}

static void check_across_pages(void) {
    uint8_t *area = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int offset = 4088; offset <= 4096; offset++) {
        uint64_t value = 0x1122334455667788u + (uint64_t)offset;
        memcpy(area + offset, &value, 8);
        volatile uint64_t *misaligned = (volatile uint64_t *)(void *)(area + offset);
        CHECK_EQ("load across pages", *misaligned, value);
        __atomic_fetch_add(misaligned, 1, __ATOMIC_SEQ_CST);
        CHECK_EQ("locked add across pages", *misaligned, value + 1);
    }
    munmap(area, 2 * 4096);
}

static void check_protection(void) {
    int ends[2];
    CHECK_EQ("pipe", pipe(ends), 0);
    uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page[0] = 'x';
    for (int round = 0; round < 50; round++) {
        CHECK_EQ("protect", mprotect(page, 4096, PROT_NONE), 0);
        CHECK_EQ("kernel refuses too", write(ends[1], page, 1), -1);
        CHECK_EQ("unprotect", mprotect(page, 4096, PROT_READ), 0);
        CHECK_EQ("readable again", write(ends[1], page, 1), 1);
    }
    munmap(page, 4096);
    close(ends[0]), close(ends[1]);
}

/* REP MOVS and REP STOS in both directions and over page boundaries, against byte loops. */
static void check_string_instructions(void) {
    static uint8_t from[20000], to[20000];
    for (unsigned i = 0; i < sizeof from; i++)
        from[i] = (uint8_t)(i * 7 + (i >> 8));
    void *source = from + 3, *target = to + 5;
    uint64_t count = 12345;
    asm volatile("rep movsb" : "+S"(source), "+D"(target), "+c"(count)::"memory");
    CHECK_EQ("rep movsb", memcmp(from + 3, to + 5, 12345), 0);
    CHECK_EQ("rep movsb stops there", to[5 + 12345], 0);
    source = to + 12000, target = to + 12003, count = 9000;
    uint32_t before = crc32_of(to + 3001, 9000);
    asm volatile("std\n\trep movsb\n\tcld" : "+S"(source), "+D"(target), "+c"(count)::"memory");
    CHECK_EQ("backwards, overlapping", crc32_of(to + 3004, 9000), before);
    target = to, count = 1000;
    asm volatile("rep stosq" : "+D"(target), "+c"(count) : "a"(0x0807060504030201) : "memory");
    CHECK_EQ("rep stosq", to[7999] << 8 | to[0], 0x801);
    source = to, target = from, count = sizeof to;
    memcpy(from, to, sizeof to);
    from[777]++;
    asm volatile("repe cmpsb" : "+S"(source), "+D"(target), "+c"(count)::"cc", "memory");
    CHECK_EQ("repe cmpsb", sizeof to - count, 778);
}

void check_memory(void) {
    check_copy_on_write();
    check_remap();
    check_across_pages();
    check_protection();
    check_string_instructions();
}
