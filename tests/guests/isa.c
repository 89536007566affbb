/* Instruction set extensions with known answers (from their standards where there is one). What CPUID does
 * not announce is skipped. */
#include "check.h"

#include <cpuid.h>
#include <immintrin.h>
#include <string.h>

static int has_leaf1_ecx(unsigned bit) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c >> bit & 1;
}

static int has_leaf7_ebx(unsigned bit) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && b >> bit & 1;
}

static uint64_t low(__m128i value) { return (uint64_t)_mm_cvtsi128_si64(value); }
static uint64_t high(__m128i value) { return low(_mm_srli_si128(value, 8)); }

static __m128i bytes_from(uint8_t first) {
    uint8_t bytes[16];
    for (unsigned i = 0; i < 16; i++)
        bytes[i] = (uint8_t)(first + i);
    return _mm_loadu_si128((const __m128i *)bytes);
}

__attribute__((target("sse4.2,ssse3,popcnt"))) static void check_v2(void) {
    volatile uint64_t value = 0xf0f0123456789abc;
    CHECK_EQ("popcnt", __builtin_popcountll(value), __builtin_popcount(0xf0f01234) + __builtin_popcount(0x56789abc));
    CHECK_EQ("crc32", _mm_crc32_u64(0xffffffff, value), 0x942c9401);
    __m128i order = bytes_from(0);
    CHECK_EQ("pshufb", low(_mm_shuffle_epi8(bytes_from(0x40), _mm_sub_epi8(_mm_set1_epi8(15), order))),
             0x48494a4b4c4d4e4f);
    CHECK_EQ("palignr", low(_mm_alignr_epi8(bytes_from(0x20), bytes_from(0x10), 5)), 0x1c1b1a1918171615);
    CHECK_EQ("pmaddubsw", low(_mm_maddubs_epi16(bytes_from(1), bytes_from(2))), 0x80004800200008);
    CHECK_EQ("phminposuw", low(_mm_minpos_epu16(_mm_setr_epi16(9, 8, 7, 3, 5, 3, 9, 9))), 0x30003);
    CHECK_EQ("ptest", _mm_testz_si128(order, _mm_set1_epi8(0x40)), 1);
    CHECK_EQ("pcmpistri", _mm_cmpistri(_mm_setr_epi8('a', 'e', 'i', 'o', 'u', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
                                       _mm_setr_epi8('s', 't', 'r', 'i', 'n', 'g', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
                                       _SIDD_CMP_EQUAL_ANY),
             3);
    __m128d rounded = _mm_round_pd(_mm_setr_pd(2.5, -2.5), _MM_FROUND_TO_NEAREST_INT);
    CHECK_EQ("roundpd", low(_mm_castpd_si128(rounded)), 0x4000000000000000);
    CHECK_EQ("dpps", _mm_cvtsi128_si32(_mm_castps_si128(
                         _mm_dp_ps(_mm_setr_ps(1, 2, 3, 4), _mm_setr_ps(5, 6, 7, 8), 0xf1))),
             0x428c0000);
    CHECK_EQ("pmulld", low(_mm_mullo_epi32(bytes_from(1), bytes_from(9))), 0x74fa9441643a1c09);
    CHECK_EQ("mpsadbw", low(_mm_mpsadbw_epu8(bytes_from(3), _mm_set1_epi8(5), 2)), 0xa000600040004);
}

__attribute__((target("pclmul"))) static void check_pclmul(void) {
    __m128i product = _mm_clmulepi64_si128(_mm_set_epi64x(0, 0x123456789abcdef1),
                                           _mm_set_epi64x(0, (long long)0xfedcba9876543211), 0);
    CHECK_EQ("pclmulqdq low", low(product), 0xe6ef65626069e3e1);
    CHECK_EQ("pclmulqdq high", high(product), 0xe038d8688850b04);
}

/* FIPS 197, appendix B: the first round of the example. */
__attribute__((target("aes"))) static void check_aes(void) {
    static const uint8_t start[16] = {0x19, 0x3d, 0xe3, 0xbe, 0xa0, 0xf4, 0xe2, 0x2b,
                                      0x9a, 0xc6, 0x8d, 0x2a, 0xe9, 0xf8, 0x48, 0x08};
    static const uint8_t key[16] = {0xa0, 0xfa, 0xfe, 0x17, 0x88, 0x54, 0x2c, 0xb1,
                                    0x23, 0xa3, 0x39, 0x39, 0x2a, 0x6c, 0x76, 0x05};
    static const uint8_t want[16] = {0xa4, 0x9c, 0x7f, 0xf2, 0x68, 0x9f, 0x35, 0x2b,
                                     0x6b, 0x5b, 0xea, 0x43, 0x02, 0x6a, 0x50, 0x49};
    uint8_t got[16];
    __m128i round = _mm_aesenc_si128(_mm_loadu_si128((const __m128i *)start),
                                     _mm_loadu_si128((const __m128i *)key));
    _mm_storeu_si128((__m128i *)got, round);
    CHECK_EQ("aesenc", memcmp(got, want, 16), 0);
    __m128i back = _mm_aesdec_si128(_mm_aesimc_si128(round), _mm_setzero_si128());
    CHECK_EQ("aesimc, aesdec", low(back), 0x8efccb8bf9f7eda2);
    CHECK_EQ("aeskeygenassist", high(_mm_aeskeygenassist_si128(round, 0x1b)), 0x773b53193b530277);
}

static const uint32_t sha256_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* FIPS 180-4: SHA-256 of "abc". */
__attribute__((target("sha,sse4.1,ssse3"))) static void check_sha256(void) {
    const __m128i first_abef = _mm_set_epi32(0x6a09e667, (int)0xbb67ae85, 0x510e527f, (int)0x9b05688c);
    const __m128i first_cdgh = _mm_set_epi32(0x3c6ef372, (int)0xa54ff53a, 0x1f83d9ab, 0x5be0cd19);
    __m128i abef = first_abef, cdgh = first_cdgh;
    __m128i w[16] = {_mm_set_epi32(0, 0, 0, 0x61626380), _mm_setzero_si128(), _mm_setzero_si128(),
                     _mm_set_epi32(24, 0, 0, 0)};
    for (int i = 4; i < 16; i++) {
        __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[i - 4], w[i - 3]), _mm_alignr_epi8(w[i - 1], w[i - 2], 4));
        w[i] = _mm_sha256msg2_epu32(sum, w[i - 1]);
    }
    for (int i = 0; i < 16; i++) {
        __m128i sum = _mm_add_epi32(w[i], _mm_loadu_si128((const __m128i *)(sha256_constants + 4 * i)));
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
    }
    abef = _mm_add_epi32(abef, first_abef);
    cdgh = _mm_add_epi32(cdgh, first_cdgh);
    CHECK_EQ("sha256 a,b", high(abef), 0xba7816bf8f01cfea);
    CHECK_EQ("sha256 c,d", high(cdgh), 0x414140de5dae2223);
    CHECK_EQ("sha256 e,f", low(abef), 0xb00361a396177a9c);
    CHECK_EQ("sha256 g,h", low(cdgh), 0xb410ff61f20015ad);
}

__attribute__((target("sha"))) static void check_sha1(void) {
    __m128i state = bytes_from(0x11), message = bytes_from(0x81);
    CHECK_EQ("sha1rnds4, 0", high(_mm_sha1rnds4_epu32(state, message, 0)), 0x5eadf0cec382d0b8);
    CHECK_EQ("sha1rnds4, 1", high(_mm_sha1rnds4_epu32(state, message, 1)), 0x73414f94ae4078a8);
    CHECK_EQ("sha1rnds4, 2", high(_mm_sha1rnds4_epu32(state, message, 2)), 0x951cf12a01738b40);
    CHECK_EQ("sha1nexte", high(_mm_sha1nexte_epu32(state, message)), 0xd89756148c8b8a89);
    CHECK_EQ("sha1msg1", low(_mm_sha1msg1_epu32(state, message)), 0x8898989898989898);
    CHECK_EQ("sha1msg2", low(_mm_sha1msg2_epu32(state, message)), 0x392929299a747670);
}

__attribute__((target("bmi,bmi2,lzcnt"))) static void check_bmi(void) {
    volatile uint64_t value = 0x00f0123456789ab0, mask = 0x0ff00ff00ff00ff0;
    CHECK_EQ("tzcnt", _tzcnt_u64(value), 4);
    CHECK_EQ("andn", _andn_u64(value, mask), mask & ~value);
    CHECK_EQ("blsr", _blsr_u64(value), value & (value - 1));
    CHECK_EQ("bextr", _bextr_u64(value, 4, 12), 0x9ab);
    CHECK_EQ("bzhi", _bzhi_u64(value, 20), 0x89ab0);
    CHECK_EQ("pext", _pext_u64(value, mask), 0xf2367ab);
    CHECK_EQ("pdep", _pdep_u64(0x12345678, mask), 0x120034005600780);
    unsigned long long upper;
    CHECK_EQ("mulx low", _mulx_u64(value, mask, &upper), value * mask);
    CHECK_EQ("mulx high", upper, (uint64_t)((unsigned __int128)value * mask >> 64));
    uint64_t result;
    asm("rorx $13, %1, %0" : "=r"(result) : "r"(value));
    CHECK_EQ("rorx", result, value >> 13 | value << 51);
    asm("shlx %2, %1, %0" : "=r"(result) : "r"(value), "r"(mask + 7)); /* counts modulo 64 */
    CHECK_EQ("shlx", result, value << 55);
    asm("sarx %2, %1, %0" : "=r"(result) : "r"(~value), "r"(mask));
    CHECK_EQ("sarx", result, (uint64_t)((int64_t)~value >> 48));
}

__attribute__((target("adx"))) static void check_adx(void) {
    unsigned long long sum;
    unsigned char carry = _addcarryx_u64(1, ~0ull, 5, &sum);
    CHECK_EQ("adcx sum", sum, 5);
    CHECK_EQ("adcx carry", carry, 1);
}

static void check_movbe(void) {
    volatile uint64_t memory = 0x0102030405060708;
    uint64_t value;
    asm volatile("movbe %1, %0" : "=r"(value) : "m"(memory));
    CHECK_EQ("movbe", value, 0x0807060504030201);
}

static void check_cmpxchg16b(void) {
    static uint64_t memory[2] __attribute__((aligned(16))) = {1, 2};
    uint64_t a = 1, d = 2;
    uint8_t equal;
    asm volatile("lock cmpxchg16b %0\n\tsetz %1"
                 : "+m"(memory), "=q"(equal), "+a"(a), "+d"(d)
                 : "b"(3ull), "c"(4ull)
                 : "cc");
    CHECK_EQ("cmpxchg16b swapped", equal && memory[0] == 3 && memory[1] == 4, 1);
    asm volatile("lock cmpxchg16b %0\n\tsetz %1"
                 : "+m"(memory), "=q"(equal), "+a"(a), "+d"(d)
                 : "b"(5ull), "c"(6ull)
                 : "cc");
    CHECK_EQ("cmpxchg16b kept", !equal && a == 3 && d == 4, 1);
}

static void check_rdrand(void) {
    uint64_t first = 0, second = 0;
    uint8_t carry_first, carry_second;
    asm volatile("rdrand %0\n\tsetc %1" : "=r"(first), "=q"(carry_first)::"cc");
    asm volatile("rdrand %0\n\tsetc %1" : "=r"(second), "=q"(carry_second)::"cc");
    CHECK("rdrand", carry_first && carry_second && first != second);
}

/* XSAVE into a cleared area, registers spoiled, XRSTOR brings them back. */
static void check_xsave(void) {
    static uint8_t area[1088] __attribute__((aligned(64)));
    uint64_t value;
    asm volatile("movq %2, %%xmm9\n\txsave %1\n\tpxor %%xmm9, %%xmm9\n\txrstor %1\n\tmovq %%xmm9, %0"
                 : "=r"(value), "+m"(area)
                 : "r"(0x1122334455667788), "a"(3), "d"(0)
                 : "xmm9", "memory");
    CHECK_EQ("xsave round trip", value, 0x1122334455667788);
    CHECK_EQ("XSTATE_BV has SSE", area[512] >> 1 & 1, 1);
    uint32_t a, d;
    asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    CHECK_EQ("XCR0 has x87 and SSE", a & 3, 3);
}

static void check_flags(void) {
    uint64_t flags;
    asm volatile("mov $0xd5, %%ah\n\tsahf\n\tmov $0, %%ah\n\tlahf\n\tmovzbl %%ah, %%eax" : "=a"(flags)::"cc");
    CHECK_EQ("sahf, lahf", flags & 0xff, 0xd7);
    uint8_t zero;
    asm volatile("xor %%eax, %%eax\n\tcmp $1, %%eax\n\tadc $0, %%eax\n\tsetz %0" : "=q"(zero)::"eax", "cc");
    CHECK_EQ("carry into adc", zero, 0);
    uint64_t quotient, remainder;
    asm("divq %4" : "=a"(quotient), "=d"(remainder) : "0"(5ull), "1"(3ull), "r"(7ull) : "cc");
    CHECK_EQ("128-bit quotient", quotient, 0x6db6db6db6db6db7);
    CHECK_EQ("128-bit remainder", remainder, 4);
}

void check_isa(void) {
    check_flags();
    check_cmpxchg16b();
    if (has_leaf1_ecx(20) && has_leaf1_ecx(23))
        check_v2();
    if (has_leaf1_ecx(1))
        check_pclmul();
    if (has_leaf1_ecx(25))
        check_aes();
    if (has_leaf7_ebx(29))
        check_sha256(), check_sha1();
    if (has_leaf7_ebx(3) && has_leaf7_ebx(8))
        check_bmi();
    if (has_leaf7_ebx(19))
        check_adx();
    if (has_leaf1_ecx(22))
        check_movbe();
    if (has_leaf1_ecx(30))
        check_rdrand();
    if (has_leaf1_ecx(27))
        check_xsave();
}
