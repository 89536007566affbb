/* A 32-bit program without a C library: compatibility mode, INT 0x80, the instructions that 64-bit mode
 * lost, and x87 code as compilers make it for i686. Exit status 0 when all answers were right. */

typedef unsigned int u32;
typedef unsigned char u8;

static int call(int number, u32 a, u32 b, u32 c) {
    int result;
    asm volatile("int $0x80" : "=a"(result) : "0"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

static u32 length_of(const char *text) {
    u32 length = 0;
    while (text[length])
        length++;
    return length;
}

static void say(const char *text) { call(4, 1, (u32)text, length_of(text)); }

static int failures;

static void check(const char *what, u32 got, u32 want) {
    if (got == want)
        return;
    failures++;
    say("FAILED hello32: ");
    say(what);
    say("\n");
}

static u32 crc32_of(const u8 *data, u32 length) {
    u32 crc = ~0u;
    for (u32 i = 0; i < length; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

/* Decimal adjust, BOUND's neighbours and segment pushes exist only outside 64-bit mode. */
static void check_old_instructions(void) {
    u32 value = 0x38;
    asm("addb $0x45, %%al\n\tdaa" : "+a"(value)::"cc");
    check("daa", value & 0xff, 0x83);
    value = 0x47;
    asm("subb $0x28, %%al\n\tdas" : "+a"(value)::"cc");
    check("das", value & 0xff, 0x19);
    value = 63;
    asm("aam" : "+a"(value)::"cc");
    check("aam", value & 0xffff, 0x0603);
    asm("aad" : "+a"(value)::"cc");
    check("aad", value & 0xffff, 63);
    u32 selector = 0;
    asm("push %%ds\n\tpop %0" : "=r"(selector));
    check("ds is a user selector", selector & 3, 3);
    u32 array[8], *stack = array + 8;
    asm volatile("mov %%esp, %%ebp\n\tmov %1, %%esp\n\tpusha\n\tmov %%esp, %1\n\tmov %%ebp, %%esp"
                 : "=m"(array), "+d"(stack)
                 : "a"(0x11111111)
                 : "ebp", "memory");
    check("pusha", array[7], 0x11111111);
}

static void check_x87(void) {
    volatile double ten = 10.0, sum = 0.0;
    for (int i = 1; i <= 1000; i++)
        sum += 1.0 / (ten * i);
    union {
        double value;
        u32 words[2];
    } bits = {.value = sum};
    check("harmonic sum, high", bits.words[1], 0x3fe7f419);
    check("harmonic sum, low", bits.words[0], 0x4c3eb42);
    volatile float third = 1.0f / 3.0f;
    volatile int rounded = (int)(third * 3e6f);
    check("float to int", (u32)rounded, 1000000);
}

/* SYSENTER through the kernel's vsyscall page, as a 32-bit C library calls it. */
static void check_vsyscall(const u32 *stack) {
    const u32 *vector = stack + 1 + stack[0] + 1;
    while (*vector)
        vector++;
    u32 entry = 0;
    for (vector++; vector[0]; vector += 2)
        if (vector[0] == 32)
            entry = vector[1];
    if (!entry)
        return;
    u32 first = (u32)call(20, 0, 0, 0), second;
    asm volatile("call *%1" : "=a"(second) : "r"(entry), "0"(20) : "memory", "cc");
    check("getpid through the vsyscall page", second, first);
}

__attribute__((used)) static void run(const u32 *stack) {
    static const u8 text[] = "123456789";
    check("crc32", crc32_of(text, 9), 0xcbf43926);
    volatile u32 product = 123456789u;
    u32 high;
    asm("mull %2" : "=d"(high), "=a"((u32){0}) : "r"(product), "1"(987654321u) : "cc");
    check("mul", high, 0x1b13114);
    check_old_instructions();
    check_x87();
    check_vsyscall(stack);
    say(failures ? "hello32: failed\n" : "hello32: 32-bit code ok\n");
    call(1, failures != 0, 0, 0);
    __builtin_unreachable();
}

asm(".globl _start\n_start:\n\tmov %esp, %eax\n\tpush %eax\n\tcall run\n");
