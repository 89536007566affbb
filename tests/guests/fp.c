/* Floating point with known answers. The arithmetic is IEEE 754 and so the same on every processor: each
 * group runs every pair of awkward operands in every rounding mode and compares a CRC of all result bits
 * and exception flags. Transcendentals may differ in the last bit between processors: those are compared
 * within a tolerance. */
#include "check.h"

#include <emmintrin.h>
#include <string.h>

static const uint64_t operands[] = {
    0x0000000000000000, 0x8000000000000000, /* zeroes */
    0x3ff0000000000000, 0xbff0000000000000, /* ones */
    0x3fe5555555555555, 0x400921fb54442d18, /* 2/3, pi */
    0x0000000000000001, 0x800fffffffffffff, /* subnormal */
    0x0010000000000000, 0x7fefffffffffffff, /* smallest and largest normal */
    0x7ff0000000000000, 0xfff0000000000000, /* infinities */
    0x7ff8000000000123, 0xfff8000000000456, /* quiet NaNs */
    0x7ff0000000000789, 0x41dfffffffc00000, /* signalling NaN, 2^31-1 */
    0xc1e0000000000000, 0x43e0000000000000, /* -2^31, 2^63 */
    0x3cb0000000000000, 0x433fffffffffffff, /* epsilon, 2^53 - 1/2 region */
};
enum { OPERANDS = sizeof operands / sizeof *operands };

struct digest {
    uint32_t crc;
};

static void take(struct digest *digest, const void *data, unsigned length) {
    uint8_t block[32];
    memcpy(block, &digest->crc, 4);
    memcpy(block + 4, data, length);
    digest->crc = crc32_of(block, length + 4);
}

#define SSE_OP(name, instruction)                                                                      \
    static uint64_t name(uint64_t a, uint64_t b, uint32_t *mxcsr) {                                    \
        asm volatile("ldmxcsr %1\n\tmovq %2, %%xmm0\n\tmovq %3, %%xmm1\n\t" instruction                \
                     "\n\tmovq %%xmm0, %0\n\tstmxcsr %1"                                               \
                     : "=r"(a), "+m"(*mxcsr)                                                           \
                     : "r"(a), "r"(b)                                                                  \
                     : "xmm0", "xmm1");                                                                \
        return a;                                                                                      \
    }
SSE_OP(sse_add, "addsd %%xmm1, %%xmm0")
SSE_OP(sse_sub, "subsd %%xmm1, %%xmm0")
SSE_OP(sse_mul, "mulsd %%xmm1, %%xmm0")
SSE_OP(sse_div, "divsd %%xmm1, %%xmm0")
SSE_OP(sse_sqrt, "sqrtsd %%xmm1, %%xmm0")
SSE_OP(sse_min, "minsd %%xmm1, %%xmm0")
SSE_OP(sse_max, "maxsd %%xmm1, %%xmm0")
SSE_OP(sse_cmp, "cmpltsd %%xmm1, %%xmm0")
SSE_OP(sse_to_single, "cvtsd2ss %%xmm1, %%xmm0")
SSE_OP(sse_to_int, "cvtsd2si %%xmm1, %%rax\n\tmovq %%rax, %%xmm0")
SSE_OP(sse_single_div, "divps %%xmm1, %%xmm0")

static const struct {
    const char *name;
    uint64_t (*run)(uint64_t, uint64_t, uint32_t *);
    uint32_t want[5]; /* the four rounding modes; flush-to-zero with denormals-are-zero */
} sse_operations[] = {
    {"addsd", sse_add, {0x3877f7ee, 0x660f8c09, 0x680c94d6, 0x9ec17bc0, 0xd2ffcaf6}},
    {"subsd", sse_sub, {0xd321ad4a, 0x38001a99, 0x68cd67b8, 0x9427688e, 0x44434298}},
    {"mulsd", sse_mul, {0xee3d6e22, 0xe327f575, 0x40cdba68, 0x17879685, 0xe85f85ea}},
    {"divsd", sse_div, {0x9eadf819, 0x180aef10, 0x22eb7cdb, 0x4b6c2c13, 0x19115a46}},
    {"sqrtsd", sse_sqrt, {0xe85659c4, 0x6e8aa260, 0x4999d745, 0x6e8aa260, 0x31c0da61}},
    {"minsd", sse_min, {0xb751e90b, 0xb751e90b, 0xb751e90b, 0xb751e90b, 0x363318b4}},
    {"maxsd", sse_max, {0xcc1fa35c, 0xcc1fa35c, 0xcc1fa35c, 0xcc1fa35c, 0x6410a9}},
    {"cmpltsd", sse_cmp, {0x98dc712, 0x98dc712, 0x98dc712, 0x98dc712, 0x93a69967}},
    {"cvtsd2ss", sse_to_single, {0x6b0a265f, 0xbd596de7, 0x804629bc, 0x7b3c246f, 0x70faae6b}},
    {"cvtsd2si", sse_to_int, {0xc7ad556, 0xec3acf5a, 0x3a2cf7d9, 0x57f623a1, 0xb3859fc7}},
    {"divps", sse_single_div, {0xbff71001, 0x6320c71c, 0x1238400c, 0x44ebf7e6, 0xb548cbe7}},
};
enum { SSE_OPERATIONS = sizeof sse_operations / sizeof *sse_operations };

/* One operation on every pair of operands under the given control bits of MXCSR. */
static uint32_t sse_digest(uint64_t (*run)(uint64_t, uint64_t, uint32_t *), uint32_t control) {
    struct digest digest = {0};
    for (int i = 0; i < OPERANDS; i++)
        for (int j = 0; j < OPERANDS; j++) {
            uint32_t mxcsr = control;
            struct {
                uint64_t value, flags;
            } result = {run(operands[i], operands[j], &mxcsr), 0};
            result.flags = mxcsr & 0x3f;
            take(&digest, &result, sizeof result);
        }
    return digest.crc;
}

#define X87_OP(name, instruction)                                                                      \
    static uint16_t name(const uint64_t *a, const uint64_t *b, uint16_t control, uint8_t *out) {       \
        uint16_t status;                                                                               \
        asm volatile("fninit\n\tfldcw %4\n\tfldl %3\n\tfldl %2\n\t" instruction                        \
                     "\n\tfnstsw %0\n\tfstpt %1"                                                       \
                     : "=m"(status), "=m"(*(uint8_t(*)[10])out)                                        \
                     : "m"(*a), "m"(*b), "m"(control)                                                  \
                     : "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");           \
        asm volatile("fninit");                                                                        \
        return status;                                                                                 \
    }
X87_OP(x87_add, "faddp")
X87_OP(x87_sub, "fsubp")
X87_OP(x87_mul, "fmulp")
X87_OP(x87_div, "fdivp")
X87_OP(x87_sqrt, "fsqrt")
X87_OP(x87_round, "frndint")
X87_OP(x87_scale, "fscale")

static const struct {
    const char *name;
    uint16_t (*run)(const uint64_t *, const uint64_t *, uint16_t, uint8_t *);
    uint32_t want[5]; /* the four rounding modes at 64 bits; to nearest at 53 bits */
} x87_operations[] = {
    {"faddp", x87_add, {0x700fe835, 0x819d7360, 0x15868b3d, 0xd0f09b75, 0x6dbb5c36}},
    {"fsubp", x87_sub, {0x74e1bb26, 0x28b742e2, 0xc80df4eb, 0xcacedbd9, 0x48b5d40f}},
    {"fmulp", x87_mul, {0x7d194d11, 0x5753e1b1, 0x82e272f9, 0xb5a42baf, 0x4ebc5f1f}},
    {"fdivp", x87_div, {0x8989b2d0, 0x13b5a86a, 0xb35b912f, 0x4f4c6ccd, 0xec5dba54}},
    {"fsqrt", x87_sqrt, {0x695ffcd6, 0x1e781c40, 0xbfad14e6, 0x1e781c40, 0x5a15d9b6}},
    {"frndint", x87_round, {0x789acd5f, 0x28a0a917, 0xc563c904, 0x409bfc20, 0x789acd5f}},
    {"fscale", x87_scale, {0xca3b9871, 0x2376d8f4, 0xd917969a, 0xa4444b35, 0xca3b9871}},
};
enum { X87_OPERATIONS = sizeof x87_operations / sizeof *x87_operations };

/* Exception flags of the status word that IEEE fixes (IE, ZE, OE, UE, PE); DE is left out. */
#define X87_FLAGS 0x3d

static uint32_t x87_digest(uint16_t (*run)(const uint64_t *, const uint64_t *, uint16_t, uint8_t *),
                           uint16_t control) {
    struct digest digest = {0};
    for (int i = 0; i < OPERANDS; i++)
        for (int j = 0; j < OPERANDS; j++) {
            uint8_t result[12] = {0};
            uint16_t status = run(&operands[i], &operands[j], control, result);
            result[10] = status & X87_FLAGS;
            take(&digest, result, sizeof result);
        }
    return digest.crc;
}

#define MXCSR_MASKED 0x1f80u
#define MXCSR_ROUNDING(mode) ((uint32_t)(mode) << 13)
#define MXCSR_FTZ_DAZ 0x8040u
#define X87_MASKED 0x003fu
#define X87_EXTENDED 0x0300u
#define X87_DOUBLE 0x0200u
#define X87_ROUNDING(mode) ((uint16_t)((mode) << 10))

static void check_close(const char *what, long double got, long double want) {
    long double error = (got - want) / want;
    if (error < 0)
        error = -error;
    CHECK(what, error < 0x1p-61L);
}

static void check_transcendentals(void) {
    long double result, one = 1.0L, three = 3.0L, half = 0.5L;
    asm("fsin" : "=t"(result) : "0"(one));
    check_close("fsin(1)", result, 0.841470984807896506652502321630298999622563L);
    asm("fcos" : "=t"(result) : "0"(one));
    check_close("fcos(1)", result, 0.540302305868139717400936607442976603731L);
    asm("fpatan" : "=t"(result) : "0"(three), "u"(one) : "st(1)");
    check_close("fpatan(1, 3)", result, 0.321750554396642193401404614358661319021L);
    asm("f2xm1" : "=t"(result) : "0"(half));
    check_close("f2xm1(0.5)", result, 0.414213562373095048801688724209698078570L);
    asm("fyl2x" : "=t"(result) : "0"(three), "u"(one) : "st(1)");
    check_close("fyl2x(3)", result, 1.584962500721156181453738943947816508760L);
    asm("fyl2xp1" : "=t"(result) : "0"(0.25L), "u"(one) : "st(1)");
    check_close("fyl2xp1(0.25)", result, 0.321928094887362347870319429489390175865L);
    asm("fldpi" : "=t"(result));
    uint64_t mantissa;
    memcpy(&mantissa, &result, 8);
    CHECK_EQ("fldpi", mantissa, 0xc90fdaa22168c235);
}

static void check_decimal(void) {
    static const uint8_t packed[10] = {0x89, 0x67, 0x45, 0x23, 0x01, 0, 0, 0, 0, 0x80};
    uint8_t back[10];
    long double value;
    asm("fbld %1" : "=t"(value) : "m"(packed));
    CHECK("fbld", value == -123456789.0L);
    asm("fbstp %0" : "=m"(back) : "t"(value) : "st");
    CHECK_EQ("fbstp", memcmp(back, packed, 10), 0);
}

/* FXSAVE and FXRSTOR keep every register; the stack top and the tags come back too. */
static void check_fxsave(void) {
    static uint8_t first[512] __attribute__((aligned(16))), second[512] __attribute__((aligned(16)));
    asm volatile("fninit\n\tfld1\n\tfldpi\n\tfldl2e\n\t"
                 "movq %2, %%xmm7\n\tpshufd $0x44, %%xmm7, %%xmm15\n\t"
                 "fxsave %0\n\tfninit\n\tpxor %%xmm7, %%xmm7\n\tpxor %%xmm15, %%xmm15\n\t"
                 "fxrstor %0\n\tfxsave %1\n\tfninit"
                 : "+m"(first), "=m"(second)
                 : "r"(0x123456789abcdef0)
                 : "xmm7", "xmm15", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
    CHECK_EQ("fxsave round trip", memcmp(first, second, 416), 0);
    CHECK_EQ("stack top", first[3] >> 3 & 7, 5);
    CHECK_EQ("abridged tags", first[4], 0xe0);
    CHECK_EQ("xmm15", *(uint64_t *)(second + 160 + 15 * 16 + 8), 0x123456789abcdef0);
}

void check_fp(void) {
    for (unsigned mode = 0; mode < 5; mode++) {
        uint32_t mxcsr = MXCSR_MASKED | (mode == 4 ? MXCSR_FTZ_DAZ : MXCSR_ROUNDING(mode));
        for (unsigned i = 0; i < SSE_OPERATIONS; i++)
            CHECK_EQ(sse_operations[i].name, sse_digest(sse_operations[i].run, mxcsr), sse_operations[i].want[mode]);
        uint16_t control = X87_MASKED | (mode == 4 ? X87_DOUBLE : X87_EXTENDED | X87_ROUNDING(mode));
        for (unsigned i = 0; i < X87_OPERATIONS; i++)
            CHECK_EQ(x87_operations[i].name, x87_digest(x87_operations[i].run, control),
                     x87_operations[i].want[mode]);
    }
    _mm_setcsr(MXCSR_MASKED);
    check_transcendentals();
    check_decimal();
    check_fxsave();
}
