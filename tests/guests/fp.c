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

/* Every operation on every pair under the given control bits of MXCSR. */
static uint32_t sse_digest(uint32_t control) {
    static uint64_t (*const operations[])(uint64_t, uint64_t, uint32_t *) = {
        sse_add, sse_sub, sse_mul,       sse_div, sse_sqrt,      sse_min,
        sse_max, sse_cmp, sse_to_single, sse_to_int, sse_single_div,
    };
    struct digest digest = {0};
    for (unsigned op = 0; op < sizeof operations / sizeof *operations; op++)
        for (int i = 0; i < OPERANDS; i++)
            for (int j = 0; j < OPERANDS; j++) {
                uint32_t mxcsr = control;
                struct {
                    uint64_t value, flags;
                } result = {operations[op](operands[i], operands[j], &mxcsr), 0};
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

/* Exception flags of the status word that IEEE fixes (IE, ZE, OE, UE, PE); DE is left out. */
#define X87_FLAGS 0x3d

static uint32_t x87_digest(uint16_t control) {
    static uint16_t (*const operations[])(const uint64_t *, const uint64_t *, uint16_t, uint8_t *) = {
        x87_add, x87_sub, x87_mul, x87_div, x87_sqrt, x87_round, x87_scale,
    };
    struct digest digest = {0};
    for (unsigned op = 0; op < sizeof operations / sizeof *operations; op++)
        for (int i = 0; i < OPERANDS; i++)
            for (int j = 0; j < OPERANDS; j++) {
                uint8_t result[12] = {0};
                uint16_t status = operations[op](&operands[i], &operands[j], control, result);
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
    static const uint32_t sse[4] = {0xbd53d604, 0xebeb689a, 0x32bb5936, 0xbcc32fbd};
    static const uint32_t x87[4] = {0x73e5e9b2, 0x18c0d027, 0x16fedee5, 0xb6106a6e};
    for (unsigned mode = 0; mode < 4; mode++) {
        CHECK_EQ("sse", sse_digest(MXCSR_MASKED | MXCSR_ROUNDING(mode)), sse[mode]);
        CHECK_EQ("x87", x87_digest(X87_MASKED | X87_EXTENDED | X87_ROUNDING(mode)), x87[mode]);
    }
    CHECK_EQ("sse, flush to zero", sse_digest(MXCSR_MASKED | MXCSR_FTZ_DAZ), 0x1a9c6eae);
    CHECK_EQ("x87, double precision", x87_digest(X87_MASKED | X87_DOUBLE), 0xe56ebd14);
    _mm_setcsr(MXCSR_MASKED);
    check_transcendentals();
    check_decimal();
    check_fxsave();
}
