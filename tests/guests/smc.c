/* Self-modifying code: a store must be seen by the next instruction fetched, wherever it lands. */
#define _GNU_SOURCE
#include "check.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int (*code_fn)(void);

static void emit_return(uint8_t *at, uint32_t value) {
    at[0] = 0xb8; /* mov $value, %eax */
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3; /* ret */
}

/* The same address answers with each new immediate, also when the instruction crosses a page. */
static void check_rewrites(uint8_t *area) {
    static const unsigned offsets[] = {0, 100, 4093, 4095};
    for (unsigned i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        uint8_t *at = area + offsets[i];
        for (uint32_t value = 1; value <= 50; value++) {
            emit_return(at, value * 0x01010101u);
            CHECK_EQ("rewritten function", ((code_fn)(void *)at)(), value * 0x01010101u);
        }
    }
}

/* mov into the immediate of the instruction that follows directly, in the same block. */
static void check_next_instruction(uint8_t *area) {
    static const uint8_t code[] = {
        0xc7, 0x05, 0x01, 0x00, 0x00, 0x00, 0x78, 0x56, 0x34, 0x12, /* movl $0x12345678, 1(%rip) */
        0xb8, 0x00, 0x00, 0x00, 0x00,                               /* mov $0, %eax */
        0xc3,
    };
    memcpy(area, code, sizeof code);
    CHECK_EQ("next instruction", ((code_fn)(void *)area)(), 0x12345678);
}

/* Two mappings of one page: a store through the writable one changes what the executable one runs. */
static void check_alias(void) {
    int file = memfd_create("smc", 0);
    uint8_t page[4096] = {0};
    emit_return(page, 1);
    CHECK_EQ("page written", write(file, page, sizeof page), sizeof page);
    uint8_t *writable = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    uint8_t *executable = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    CHECK("aliases mapped", writable != MAP_FAILED && executable != MAP_FAILED);
    for (uint32_t value = 7; value < 60; value++) {
        emit_return(writable, value);
        asm volatile("" ::: "memory");
        CHECK_EQ("aliased function", ((code_fn)(void *)executable)(), value);
    }
    munmap(writable, 4096);
    munmap(executable, 4096);
    close(file);
}

/* REP STOS over the code behind it: the loop ends, then the new bytes run. */
static void check_rep_stos(uint8_t *area) {
    static const uint8_t code[] = {
        0x57,                               /* push %rdi */
        0x48, 0x8d, 0x3d, 0x0a, 0, 0, 0,    /* lea 10(%rip), %rdi  (the nops below) */
        0xb9, 0x04, 0x00, 0x00, 0x00,       /* mov $4, %ecx */
        0xb0, 0x40,                         /* mov $0x40, %al  (a REX prefix, harmless before xor) */
        0xf3, 0xaa,                         /* rep stosb */
        0x5f,                               /* pop %rdi */
        0x90, 0x90, 0x90, 0x90, 0x31, 0xc0, /* nops; xor %eax, %eax */
        0xb0, 0x2a, 0xc3,                   /* mov $42, %al; ret */
    };
    memcpy(area, code, sizeof code);
    CHECK_EQ("rep stos over code", ((code_fn)(void *)area)(), 42);
    CHECK_EQ("bytes stored", area[18] | area[21] << 8, 0x4040);
}

void check_smc(void) {
    uint8_t *area = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK("area mapped", area != MAP_FAILED);
    if (area == MAP_FAILED)
        return;
    check_rewrites(area);
    check_next_instruction(area);
    check_rep_stos(area);
    check_alias();
    munmap(area, 8192);
}
