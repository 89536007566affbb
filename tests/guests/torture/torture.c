/* The torture guest: does everything whose result or moment is not determined by the program, in an order drawn from a seed, and
 * mixes all that it sees into one hash a processor. Recorded and replayed runs must print the same hashes.
 *
 * Command line: seed=N work=N cpus=N. Freestanding; 32-bit protected mode with 4 MiB pages and one window of 4 KiB pages.
 */

#include <stddef.h>
#include <stdint.h>

#define CPUS 8
#define APIC 0xfee00000u
#define IOAPIC 0xfec00000u
#define ECAM 0xe0000000u
#define COM1 0x3f8
#define WINDOW 0x40000000u
#define WINDOW_PAGES 16
#define WINDOW_FRAMES 0x00600000u
#define TRAMPOLINE 0x8000

enum { TIMER = 0x20, IRQ = 0x30, IPI = 0x41, SPURIOUS = 0xff };

struct frame {
    uint32_t edi, esi, ebp, esp, ebx, edx, ecx, eax, vector, error, eip, cs, eflags;
};

/* One processor's own. */
struct cpu {
    uint64_t hash;
    uint32_t random, steps_left, interrupts, faults;
    volatile uint32_t woken, done;
    uint8_t code[64], from[4096], to[4096];
} __attribute__((aligned(4096)));

extern uint8_t stubs[], trampoline[], trampoline_end[];
extern volatile uint32_t started;

static struct cpu cpus[CPUS];
static uint32_t directory[1024] __attribute__((aligned(4096)));
static uint32_t window[CPUS][1024] __attribute__((aligned(4096)));
static uint64_t idt[256] __attribute__((aligned(8)));
static uint32_t seed = 1, work = 400, cpu_count = 1;
static volatile uint32_t ready;

static inline void out8(uint16_t port, uint8_t value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out16(uint16_t port, uint16_t value) { asm volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline uint16_t in16(uint16_t port)
{
    uint16_t value;
    asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline uint32_t in32(uint16_t port)
{
    uint32_t value;
    asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline uint32_t read32(uint32_t address) { return *(volatile uint32_t *)address; }
static inline void write32(uint32_t address, uint32_t value) { *(volatile uint32_t *)address = value; }
static inline uint64_t rdtsc(void)
{
    uint64_t value;
    asm volatile("rdtsc" : "=A"(value));
    return value;
}

static struct cpu *me(void)
{
    uint32_t id = read32(APIC + 0x20) >> 24;
    return &cpus[id % CPUS];
}

static void mix(struct cpu *cpu, uint64_t value)
{
    cpu->hash = (cpu->hash ^ value) * 0x9e3779b97f4a7c15ull;
    cpu->hash ^= cpu->hash >> 29;
}

static uint32_t draw(struct cpu *cpu, uint32_t limit)
{
    cpu->random ^= cpu->random << 13;
    cpu->random ^= cpu->random >> 17;
    cpu->random ^= cpu->random << 5;
    return cpu->random % limit;
}

static void print(const char *text)
{
    for (; *text; text++) {
        while (!(in8(COM1 + 5) & 0x20))
            ;
        out8(COM1, *text);
    }
}

static void print_hex(uint64_t value)
{
    char text[18] = {0};
    for (int digit = 15; digit >= 0; digit--, value >>= 4)
        text[digit] = "0123456789abcdef"[value & 15];
    text[16] = ' ';
    print(text);
}

static uint8_t rtc_read(uint8_t index)
{
    out8(0x70, index);
    return in8(0x71);
}

/* What an interrupt brings, by its line. */
static void device_interrupt(struct cpu *cpu, uint32_t line)
{
    if (line == 1)
        mix(cpu, in8(0x60));
    if (line == 4) {
        mix(cpu, in8(COM1 + 2));
        while (in8(COM1 + 5) & 1)
            mix(cpu, in8(COM1));
    }
    if (line == 8) {
        /* The interrupted code may have chosen a register: it has interrupts off then. */
        mix(cpu, rtc_read(0x0c));
    }
    if (line == 9) {
        uint16_t status = in16(0x600);
        mix(cpu, status);
        out16(0x600, status);
    }
}

/* Something that the guest does not do on purpose. */
static void give_up(const char *what, const struct frame *frame, uint32_t detail)
{
    print("\ntorture: unexpected ");
    print(what);
    print(": vector, address, detail, flags, processor ");
    print_hex(frame->vector);
    print_hex(frame->eip);
    print_hex(detail);
    print_hex(frame->eflags);
    print_hex(me() - cpus);
    out16(0x604, 0x2000 | 5 << 10);
}

void on_interrupt(struct frame *frame)
{
    struct cpu *cpu = me();
    mix(cpu, frame->vector | (uint64_t)frame->eip << 32);
    mix(cpu, frame->ecx ^ (uint64_t)frame->esi << 32);
    mix(cpu, frame->edi ^ (uint64_t)frame->eflags << 32);
    mix(cpu, rdtsc());
    cpu->interrupts++;
    switch (frame->vector) {
    case 0:
        frame->eip += 2; /* div %ecx */
        break;
    case 1:
        if (cpu->steps_left == 0 || --cpu->steps_left == 0)
            frame->eflags &= ~0x100u;
        break;
    case 2:
    case 3:
        break;
    case 6:
        frame->eip += 2; /* ud2 */
        break;
    case 14: {
        uint32_t address;
        asm volatile("mov %%cr2, %0" : "=r"(address));
        mix(cpu, address);
        mix(cpu, frame->error);
        uint32_t index = cpu - cpus, page = (address - WINDOW - index * 0x400000u) >> 12;
        if (page >= WINDOW_PAGES)
            give_up("page fault", frame, address);
        window[index][page] |= 1;
        cpu->faults++;
        break;
    }
    default:
        if (frame->vector < 0x20)
            give_up("exception", frame, frame->error);
        if (frame->vector >= IRQ && frame->vector < IRQ + 16)
            device_interrupt(cpu, frame->vector - IRQ);
        cpu->woken = 1;
        if (frame->vector != SPURIOUS)
            write32(APIC + 0xb0, 0);
    }
}

/* Things to do. Each leaves interrupts on. */

static void time_stamps(struct cpu *cpu)
{
    for (uint32_t turn = draw(cpu, 200); turn; turn--)
        mix(cpu, rdtsc());
    uint32_t low, high, aux;
    asm volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(aux));
    mix(cpu, low ^ (uint64_t)high << 32);
}

static void random_numbers(struct cpu *cpu)
{
    for (uint32_t turn = draw(cpu, 20); turn; turn--) {
        uint32_t a, b;
        asm volatile("rdrand %0" : "=r"(a));
        asm volatile("rdseed %0" : "=r"(b));
        mix(cpu, a ^ (uint64_t)b << 32);
    }
}

static void identification(struct cpu *cpu)
{
    static const uint32_t leaves[] = {0, 1, 2, 4, 6, 7, 0xb, 0xd, 0x15, 0x16, 0x40000000, 0x80000001, 0x80000008};
    uint32_t a = leaves[draw(cpu, sizeof leaves / sizeof *leaves)], b, c = draw(cpu, 3), d;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    mix(cpu, a ^ (uint64_t)b << 32);
    mix(cpu, c ^ (uint64_t)d << 32);
}

static void interval_timer(struct cpu *cpu)
{
    asm volatile("cli");
    uint32_t period = 101 + 2 * draw(cpu, 9000);
    out8(0x43, draw(cpu, 2) ? 0x34 : 0x30);
    out8(0x40, period);
    out8(0x40, period >> 8);
    out8(0x43, 0);
    mix(cpu, in8(0x40) | in8(0x40) << 8);
    out8(0x43, 0xe2);
    mix(cpu, in8(0x40));
    mix(cpu, in8(0x61));
    asm volatile("sti");
}

static void local_timer(struct cpu *cpu)
{
    write32(APIC + 0x3e0, draw(cpu, 2) ? 0xb : draw(cpu, 4));
    write32(APIC + 0x320, TIMER | (draw(cpu, 2) ? 0x20000 : 0));
    /* All processors share one thread's time: a periodic timer must leave room for the handlers of the others. */
    write32(APIC + 0x380, (3001 + 2 * draw(cpu, 40000)) * cpu_count);
    for (uint32_t turn = draw(cpu, 30); turn; turn--)
        mix(cpu, read32(APIC + 0x390));
}

static void clock(struct cpu *cpu)
{
    asm volatile("cli");
    out8(0x70, 0x0a);
    out8(0x71, 0x20 | (3 + draw(cpu, 12)));
    uint8_t control = rtc_read(0x0b);
    out8(0x70, 0x0b);
    out8(0x71, control | 0x40);
    for (uint8_t index = 0; index < 14; index++)
        mix(cpu, rtc_read(index));
    asm volatile("sti");
}

static void ports(struct cpu *cpu)
{
    uint16_t first = draw(cpu, 0x10000);
    for (uint16_t offset = 0; offset < 48; offset++) {
        uint16_t port = first + offset;
        mix(cpu, in8(port));
        if (!(port & 3))
            mix(cpu, in32(port));
    }
    mix(cpu, in32(0x608));
}

static void device_memory(struct cpu *cpu)
{
    for (uint32_t offset = 0x20; offset < 0x400; offset += 0x10)
        mix(cpu, read32(APIC + offset));
    asm volatile("cli");
    for (uint32_t index = 0; index < 0x40; index++) {
        write32(IOAPIC, index);
        mix(cpu, read32(IOAPIC + 0x10));
    }
    asm volatile("sti");
    uint32_t function = draw(cpu, 32) << 15;
    for (uint32_t offset = 0; offset < 0x100; offset += 4)
        mix(cpu, read32(ECAM + function + offset));
}

static void strings(struct cpu *cpu)
{
    uint32_t length = 1 + draw(cpu, 4096), count = length;
    void *from = cpu->from, *to = cpu->to;
    asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
    to = cpu->to, count = length / 4;
    asm volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(draw(cpu, 7)) : "memory");
    from = cpu->from, to = cpu->to, count = length;
    asm volatile("repe cmpsb" : "+S"(from), "+D"(to), "+c"(count) : : "cc", "memory");
    mix(cpu, count);
    to = cpu->from, count = length;
    asm volatile("repne scasb" : "+D"(to), "+c"(count) : "a"(draw(cpu, 256)) : "cc", "memory");
    mix(cpu, count);
    to = cpu->from, count = 1 + draw(cpu, 64);
    asm volatile("rep insb" : "+D"(to), "+c"(count) : "d"(0x608) : "memory");
}

static void wait_for_interrupt(struct cpu *cpu)
{
    cpu->woken = 0;
    asm volatile("cli");
    write32(APIC + 0x3e0, 0xb);
    write32(APIC + 0x320, TIMER);
    write32(APIC + 0x380, 1 + draw(cpu, 200));
    /* The interrupt may come before, at, or after the halt. */
    for (uint32_t turn = draw(cpu, 12); turn; turn--)
        asm volatile("pause");
    while (!cpu->woken) {
        write32(APIC + 0x380, 1 + draw(cpu, 2000));
        asm volatile("sti; hlt; cli" : : : "memory");
    }
    asm volatile("sti");
    mix(cpu, rdtsc());
}

static void shadows(struct cpu *cpu)
{
    for (uint32_t turn = draw(cpu, 50); turn; turn--) {
        uint64_t now;
        asm volatile("mov %%ss, %%ecx; mov %%ecx, %%ss; rdtsc" : "=A"(now) : : "ecx");
        mix(cpu, now);
        asm volatile("cli; sti; rdtsc" : "=A"(now));
        mix(cpu, now);
        asm volatile("push %%ss; pop %%ss; nop" : : : "memory");
    }
}

static void own_code(struct cpu *cpu)
{
    volatile uint8_t *code = cpu->code;
    for (uint32_t turn = 1 + draw(cpu, 20); turn; turn--) {
        uint32_t value = draw(cpu, 1u << 31), result;
        code[0] = 0xb8; /* mov $value, %eax */
        *(volatile uint32_t *)(code + 1) = value;
        code[5] = 0xc3;
        asm volatile("call *%1" : "=a"(result) : "r"(code) : "memory");
        mix(cpu, result == value ? 1 : result);
        /* An instruction that changes the one behind it: inc becomes dec. */
        static const uint8_t changing[] = {0xc6, 0x41, 0x05, 0x4b, 0x90, 0x43, 0xc3};
        for (uint32_t at = 0; at < sizeof changing; at++)
            code[16 + at] = changing[at];
        result = value;
        asm volatile("call *%1" : "+b"(result) : "c"(code + 16) : "memory");
        mix(cpu, result == value - 1 ? 2 : result);
    }
}

static void page_faults(struct cpu *cpu)
{
    uint32_t index = cpu - cpus, *table = window[index];
    /* No INVLPG: a store to a page-table entry counts at once. */
    for (uint32_t page = 0; page < WINDOW_PAGES; page++)
        if (draw(cpu, 3) == 0)
            table[page] &= ~1u;
    uint32_t base = WINDOW + index * 0x400000u, start = draw(cpu, 0x8000), count = 1 + draw(cpu, 0x4000);
    void *from = (void *)(base + start), *to = (void *)(base + 0x8000 + draw(cpu, 0x4000));
    asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
    mix(cpu, cpu->faults);
    for (uint32_t page = 0; page < WINDOW_PAGES; page++)
        mix(cpu, table[page]);
}

static void signals(struct cpu *cpu)
{
    uint32_t target = draw(cpu, cpu_count), kind = draw(cpu, 10);
    asm volatile("cli");
    write32(APIC + 0x310, target << 24);
    write32(APIC + 0x300, kind == 0 ? 0x4400 : kind < 4 ? (0x44000 | IPI) : (0x4000 | IPI));
    asm volatile("sti");
}

static void single_steps(struct cpu *cpu)
{
    cpu->steps_left = 1 + draw(cpu, 40);
    asm volatile("pushf; orl $0x100, (%%esp); popf" : : : "memory", "cc");
    for (volatile uint32_t turn = 0; turn < 10; turn++)
        mix(cpu, turn);
}

static void exceptions(struct cpu *cpu)
{
    asm volatile("int3");
    asm volatile("ud2");
    asm volatile("xor %%ecx, %%ecx; div %%ecx" : : : "eax", "ecx", "edx", "cc");
    mix(cpu, cpu->interrupts);
}

static void floating_point(struct cpu *cpu)
{
    uint32_t angle = draw(cpu, 1000);
    uint64_t image[2] = {0, 0};
    asm volatile("fninit; fildl %1; fsin; fldpi; fmulp; fsqrt; fstpt %0" : "=m"(image) : "m"(angle));
    mix(cpu, image[0]);
    mix(cpu, image[1]);
}

static void (*const things[])(struct cpu *) = {
    time_stamps, random_numbers, identification, interval_timer, local_timer, clock, ports, device_memory, strings, strings,
    wait_for_interrupt, wait_for_interrupt, shadows, own_code, page_faults, page_faults, signals, signals, single_steps, exceptions,
    floating_point,
};

static void torture(struct cpu *cpu)
{
    /* A signal to a processor that has no interrupt table yet would be its end. */
    asm volatile("lock incl %0" : "+m"(ready));
    while (ready < cpu_count)
        asm volatile("pause");
    asm volatile("sti");
    for (uint32_t turn = 0; turn < work; turn++) {
        uint32_t chosen = draw(cpu, sizeof things / sizeof *things);
        mix(cpu, chosen);
        things[chosen](cpu);
        if (cpu == cpus && turn % 64 == 63) {
            asm volatile("cli");
            print_hex(cpu->hash);
            asm volatile("sti");
        }
    }
    cpu->done = 1;
}

/* Paging, exceptions and the local APIC, for every processor alike. */
static void set_up(uint32_t index)
{
    struct { uint16_t limit; uint32_t base; } __attribute__((packed)) pointer = {sizeof idt - 1, (uint32_t)idt};
    asm volatile("lidt %0" : : "m"(pointer));
    uint32_t value;
    asm volatile("mov %%cr4, %0" : "=r"(value));
    asm volatile("mov %0, %%cr4" : : "r"(value | 0x10));
    asm volatile("mov %0, %%cr3" : : "r"(directory));
    asm volatile("mov %%cr0, %0" : "=r"(value));
    asm volatile("mov %0, %%cr0" : : "r"(value | 0x80010022));
    asm volatile("fninit");
    write32(APIC + 0xf0, 0x100 | SPURIOUS);
    write32(APIC + 0x80, 0);
    cpus[index].random = seed * 2654435761u + index * 40503u + 1;
    cpus[index].hash = index;
}

void processor_main(void)
{
    /* By its APIC ID, as interrupts find it, not by the order in which processors came up. */
    uint32_t index = me() - cpus;
    set_up(index);
    torture(&cpus[index]);
    /* Interrupts go on being taken, so that whoever signals this processor is not alone with it. */
    for (;;)
        asm volatile("sti; hlt");
}

static uint32_t option(const char *line, const char *name, uint32_t otherwise)
{
    for (; *line; line++) {
        const char *a = line, *b = name;
        while (*b && *a == *b)
            a++, b++;
        if (*b)
            continue;
        uint32_t value = 0;
        for (; *a >= '0' && *a <= '9'; a++)
            value = value * 10 + (*a - '0');
        return value;
    }
    return otherwise;
}

static void set_up_machine(void)
{
    for (uint32_t entry = 0; entry < 1024; entry++)
        directory[entry] = entry << 22 | 0x83;
    for (uint32_t index = 0; index < CPUS; index++) {
        for (uint32_t page = 0; page < WINDOW_PAGES; page++)
            window[index][page] = (WINDOW_FRAMES + index * 0x10000u + page * 0x1000u) | 3;
        directory[(WINDOW >> 22) + index] = (uint32_t)window[index] | 3;
    }
    for (uint32_t vector = 0; vector < 256; vector++) {
        uint32_t entry = (uint32_t)stubs + vector * 16;
        idt[vector] = (entry & 0xffff) | 8u << 16 | 0x8e0000000000ull | (uint64_t)(entry & 0xffff0000) << 32;
    }
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    static const uint8_t lines[][2] = {{2, 0}, {1, 1}, {4, 4}, {8, 8}};
    for (uint32_t at = 0; at < 4; at++) {
        write32(IOAPIC, 0x10 + 2 * lines[at][0]);
        write32(IOAPIC + 0x10, IRQ + lines[at][1]);
    }
    /* The system control interrupt is level-triggered. */
    write32(IOAPIC, 0x10 + 2 * 9);
    write32(IOAPIC + 0x10, (IRQ + 9) | 1 << 15);
    out8(0xb2, 0xa1);
    out16(0x602, 0x100);
    out8(COM1 + 1, 1);
    out8(COM1 + 4, 8);
}

void boot_main(const uint32_t *multiboot)
{
    const char *line = multiboot[0] & 4 ? (const char *)multiboot[4] : "";
    seed = option(line, "seed=", seed);
    work = option(line, "work=", work);
    cpu_count = option(line, "cpus=", 1);
    set_up_machine();
    set_up(0);
    uint8_t *target = (uint8_t *)TRAMPOLINE;
    for (uint8_t *from = trampoline; from < trampoline_end; from++)
        *target++ = *from;
    if (cpu_count > 1) {
        write32(APIC + 0x300, 0xc4500); /* INIT to all others */
        write32(APIC + 0x300, 0xc4600 | TRAMPOLINE >> 12);
        while (started < cpu_count - 1)
            asm volatile("pause");
    }
    torture(&cpus[0]);
    for (uint32_t index = 0; index < cpu_count; index++)
        while (!cpus[index].done)
            asm volatile("pause");
    asm volatile("cli");
    print("\nhashes ");
    for (uint32_t index = 0; index < cpu_count; index++)
        print_hex(cpus[index].hash);
    print("\n");
    out16(0x604, 0x2000 | 5 << 10);
    for (;;)
        asm volatile("hlt");
}
