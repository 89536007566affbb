/* A guest that means harm: junk into every register of every device it can reach, and queues that lie about
 * where their descriptors are. It may crash itself, reset or power off the machine; what it must not do is
 * crash the emulator. Follows from its seed. */
#define _GNU_SOURCE
#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEVICES "/sys/bus/pci/devices"
#define LARGEST_BAR (1 << 20)

static uint64_t state;

static uint64_t next_random(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545f4914f6cdd1du;
}

/* Values that find mistakes more often than random ones do. */
static uint64_t junk(void) {
    static const uint64_t edges[] = {0, 1, 2, 3, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000,
                                     0x7fffffff, 0x80000000, 0xffffffff, 0xfffffffff000, ~0ull, 0xfee00000};
    uint64_t random = next_random();
    switch (random % 4) {
    case 0:
        return next_random();
    case 1:
        return next_random() & 0x1ffff000; /* most likely RAM, page aligned */
    default:
        return edges[random / 4 % (sizeof edges / sizeof *edges)];
    }
}

/* One access of a random width, mostly a store. */
static void poke(volatile uint8_t *base, size_t offset) {
    uint64_t value = junk();
    volatile void *at = base + offset;
    switch (next_random() % 5) {
    case 0:
        *(volatile uint8_t *)at = (uint8_t)value;
        break;
    case 1:
        *(volatile uint16_t *)at = (uint16_t)value;
        break;
    case 2:
        *(volatile uint32_t *)at = (uint32_t)value;
        break;
    case 3:
        *(volatile uint64_t *)at = value;
        break;
    default:
        (void)*(volatile uint32_t *)at;
    }
}

/* virtio's common configuration, wherever in the BAR it is: a plausible start-up with lies in it. */
static void lie_about_queues(volatile uint8_t *base, size_t length) {
    static const uint8_t statuses[] = {0, 1, 3, 11, 15, 0x80, 0xff};
    for (size_t block = 0; block + 64 <= length && block < 0x8000; block += 0x1000) {
        volatile uint8_t *common = base + block;
        for (unsigned i = 0; i < sizeof statuses; i++) {
            *(volatile uint32_t *)(common + 8) = (uint32_t)(next_random() & 1);
            *(volatile uint32_t *)(common + 12) = (uint32_t)junk();
            common[20] = statuses[i];
            *(volatile uint16_t *)(common + 22) = (uint16_t)(next_random() % 4);
            *(volatile uint16_t *)(common + 24) = (uint16_t)junk();
            for (unsigned offset = 32; offset < 56; offset += 4)
                *(volatile uint32_t *)(common + offset) = offset % 8 ? 0 : (uint32_t)junk();
            *(volatile uint16_t *)(common + 28) = 1;
            common[20] = 15;
            for (size_t notify = 0; notify < length && notify < 0x8000; notify += 0x1000)
                *(volatile uint16_t *)(base + notify) = (uint16_t)(next_random() % 4);
        }
    }
}

/* Takes a device from its driver, so that the kernel does not stand in the way. */
static void unbind(const char *device) {
    char path[512];
    snprintf(path, sizeof path, DEVICES "/%s/driver/unbind", device);
    int file = open(path, O_WRONLY);
    if (file < 0)
        return;
    if (write(file, device, strlen(device)) < 0)
        printf("hostile: %s stays with its driver\n", device);
    close(file);
}

static void attack_configuration(const char *device) {
    char path[512];
    snprintf(path, sizeof path, DEVICES "/%s/config", device);
    int file = open(path, O_RDWR);
    if (file < 0)
        return;
    for (int i = 0; i < 400; i++) {
        uint32_t value = (uint32_t)junk();
        /* The BARs stay where they are: they are wanted next. */
        off_t offset = 0x40 + (off_t)(next_random() % 0xfc0);
        if (pwrite(file, &value, 1 + next_random() % 4, offset) < 0)
            break;
    }
    uint16_t command = 7;
    if (pwrite(file, &command, 2, 4) != 2)
        printf("hostile: no command register of %s\n", device);
    close(file);
}

static void attack_memory(const char *device, int rounds) {
    for (int bar = 0; bar < 6; bar++) {
        char path[512];
        struct stat status;
        snprintf(path, sizeof path, DEVICES "/%s/resource%d", device, bar);
        int file = open(path, O_RDWR);
        if (file < 0 || fstat(file, &status) || status.st_size == 0 || status.st_size > LARGEST_BAR) {
            close(file);
            continue;
        }
        size_t length = (size_t)status.st_size;
        volatile uint8_t *base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (base == MAP_FAILED)
            continue;
        printf("hostile: %s bar %d, %zu bytes\n", device, bar, length);
        lie_about_queues(base, length);
        for (int i = 0; i < rounds; i++)
            poke(base, next_random() % (length - 8));
        munmap((void *)base, length);
    }
}

/* Ports at which a store ends or resets the machine, left for last: i8042, system control, debug exit, reset
 * control, power management. A wide store reaches them from up to three ports below. */
static int is_ending(unsigned port) {
    static const struct {
        unsigned first, last;
    } ending[] = {{0x64, 0x64}, {0x92, 0x92}, {0xf4, 0xf7}, {0xcf9, 0xcf9}, {0x500, 0x6ff}, {0xb000, 0xb07f}};
    for (unsigned i = 0; i < sizeof ending / sizeof *ending; i++)
        if (port + 3 >= ending[i].first && port <= ending[i].last)
            return 1;
    return 0;
}

static void attack_port(unsigned port) {
    uint64_t value = junk();
    /* A wide access at the very end would reach past the last port, which the kernel does not allow. */
    switch (port > 0xfffc ? 0 : next_random() % 4) {
    case 0:
        outb((uint8_t)value, (uint16_t)port);
        break;
    case 1:
        outw((uint16_t)value, (uint16_t)port);
        break;
    case 2:
        outl((uint32_t)value, (uint16_t)port);
        break;
    default:
        (void)inl((uint16_t)port);
    }
}

static void attack_ports(int ending) {
    if (iopl(3)) {
        printf("hostile: no iopl\n");
        return;
    }
    for (int round = 0; round < 3; round++)
        for (unsigned port = 0; port < 0x10000; port++)
            /* COM1 is the witness: it stays usable to the end. */
            if (is_ending(port) == ending && (port < 0x3f8 || port > 0x3ff))
                attack_port(port);
}

int run_hostile(const char *seed) {
    state = (seed ? strtoull(seed, NULL, 0) : 1) * 0x9e3779b97f4a7c15u + 1;
    DIR *folder = opendir(DEVICES);
    struct dirent *entry;
    while (folder && (entry = readdir(folder))) {
        if (entry->d_name[0] == '.')
            continue;
        unbind(entry->d_name);
        attack_configuration(entry->d_name);
        attack_memory(entry->d_name, 20000);
    }
    if (folder)
        closedir(folder);
    printf("hostile: memory done\n");
    attack_ports(0);
    printf("hostile: ports done\n");
    attack_ports(1);
    printf("hostile: survived everything\n");
    return 0;
}
