//! The other side: a computer with nothing but RAM and the PCI bus, and a driver that works devices as a guest does,
//! through configuration space, BARs and rings in memory. For tests and fuzzing.

use virtft_cpu::memory::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use super::transport::VirtioPci;
use super::{VirtioDevice, queue::NO_VECTOR};
use crate::context::{DeviceContext, Effect, Effects, EntropySource, MsiMessage};
use crate::devices::pci::{DeliverError, PciFunction, PciHost};
use crate::io::{Input, Output};

/// First address of the window for BARs.
pub const WINDOW: u64 = 0xc000_0000;
/// RAM of the bench in bytes.
pub const RAM_BYTES: u64 = 16 << 20;
/// Below this the bench puts rings and buffers; tests may use what is above as they like.
pub const HEAP_END: u64 = 8 << 20;

const HEAP: u64 = 0x10000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// SplitMix64: the same numbers for the same seed.
#[derive(Debug, Clone)]
pub struct SeededRandom(pub u64);

impl SeededRandom {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }
}

impl EntropySource for SeededRandom {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.number().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// RAM, bus, and what the devices caused.
#[derive(Debug)]
pub struct Bench {
    /// Guest RAM.
    pub ram: GuestRam,
    /// The bus.
    pub host: PciHost,
    /// What was caused and not yet taken.
    pub effects: Effects,
    /// Generator for the entropy device.
    pub entropy: SeededRandom,
    heap: u64,
}

/// A device as a PCI function.
pub fn function<D: VirtioDevice + 'static>(device: D) -> Box<dyn PciFunction> {
    Box::new(VirtioPci::new(device))
}

impl Bench {
    /// A bench with the functions on its bus.
    ///
    /// # Panics
    /// When memory or window do not suffice.
    #[must_use]
    pub fn new(functions: Vec<Box<dyn PciFunction>>) -> Self {
        let ram = GuestRam::new(RAM_BYTES).expect("some memory");
        let host = PciHost::new(WINDOW..0xe000_0000, functions).expect("they fit");
        Self { ram, host, effects: Vec::new(), entropy: SeededRandom(1), heap: HEAP }
    }

    /// Calls the bus.
    pub fn with<T>(&mut self, call: impl FnOnce(&mut PciHost, &mut DeviceContext<'_>) -> T) -> T {
        let mut cx = DeviceContext {
            memory: self.ram.memory(),
            now_ns: 0,
            effects: &mut self.effects,
            entropy: &mut self.entropy,
        };
        call(&mut self.host, &mut cx)
    }

    /// Reads device memory; all ones where nothing answers.
    pub fn read(&mut self, address: u64, size: usize) -> u64 {
        self.with(|host, cx| host.mmio_read(cx, address, size)).unwrap_or(u64::MAX)
    }

    /// Writes device memory.
    pub fn write(&mut self, address: u64, size: usize, value: u64) {
        self.with(|host, cx| host.mmio_write(cx, address, size, value));
    }

    /// Reads configuration space by ECAM.
    pub fn config(&mut self, device: u8, register: u64, size: usize) -> u64 {
        self.with(|host, cx| host.ecam_read(cx, (u64::from(device) << 15) | register, size))
    }

    /// Writes configuration space by ECAM.
    pub fn set_config(&mut self, device: u8, register: u64, size: usize, value: u64) {
        self.with(|host, cx| host.ecam_write(cx, (u64::from(device) << 15) | register, size, value));
    }

    /// Delivers an input.
    ///
    /// # Errors
    /// When the bus refuses it.
    pub fn deliver(&mut self, input: &Input) -> Result<(), DeliverError> {
        self.with(|host, cx| host.deliver(cx, input))
    }

    /// Takes the outputs caused so far.
    pub fn outputs(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.effects.retain(|effect| match effect {
            Effect::Output(output) => {
                outputs.push(output.clone());
                false
            }
            _ => true,
        });
        outputs
    }

    /// Takes the data words of the messages sent so far.
    pub fn messages(&mut self) -> Vec<u32> {
        let mut messages = Vec::new();
        self.effects.retain(|effect| match effect {
            Effect::Msi(MsiMessage { data, .. }) => {
                messages.push(*data);
                false
            }
            _ => true,
        });
        messages
    }

    /// Takes the line changes so far.
    pub fn lines(&mut self) -> Vec<(u8, bool)> {
        let mut lines = Vec::new();
        self.effects.retain(|effect| match effect {
            Effect::Line(line, level) => {
                lines.push((line.0, *level));
                false
            }
            _ => true,
        });
        lines
    }

    /// Room in RAM, 4 KiB aligned, for the rest of the bench's life.
    ///
    /// # Panics
    /// When there is none left.
    pub fn alloc(&mut self, size: u64) -> u64 {
        let at = self.heap;
        self.heap = (at + size).next_multiple_of(4096);
        assert!(self.heap <= HEAP_END, "the bench has no room for {size} bytes");
        at
    }

    /// Starts handing out room from the beginning again, over what was handed out before.
    pub fn free_all(&mut self) {
        self.heap = HEAP;
    }

    /// Room that is left in bytes.
    #[must_use]
    pub fn room(&self) -> u64 {
        HEAP_END - self.heap
    }

    /// Writes RAM as a vCPU would.
    ///
    /// # Panics
    /// When it is not RAM.
    pub fn poke(&self, address: u64, bytes: &[u8]) {
        self.ram.memory().write_slice(bytes, GuestAddress(address)).expect("an address in RAM");
    }

    /// Reads RAM.
    ///
    /// # Panics
    /// When it is not RAM.
    #[must_use]
    pub fn peek(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.memory().read_slice(&mut bytes, GuestAddress(address)).expect("an address in RAM");
        bytes
    }

    fn peek_u16(&self, address: u64) -> u16 {
        let bytes = self.peek(address, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    fn peek_u32(&self, address: u64) -> u32 {
        let bytes = self.peek(address, 4);
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

/// The rings of one queue as the driver sees them.
#[derive(Debug, Clone)]
pub struct DriverQueue {
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
    /// Entries.
    pub size: u16,
    next_descriptor: u16,
    next_available: u16,
    last_used: u16,
}

/// A buffer of a chain: address, length, and whether the device writes it.
pub type DriverBuffer = (u64, u32, bool);

/// A descriptor as it is in the table: address, length, flags, next.
pub type RawDescriptor = (u64, u32, u16, u16);

/// A driver of one virtio device.
#[derive(Debug, Clone)]
pub struct Driver {
    /// PCI device number.
    pub device: u8,
    /// Address of the common configuration.
    pub common: u64,
    /// Address of the interrupt status.
    pub isr: u64,
    /// Address of the device configuration.
    pub config: u64,
    /// Address of the notification area.
    pub notify: u64,
    multiplier: u64,
    /// Address of the MSI-X table.
    pub msix_table: u64,
    /// Offset of the MSI-X capability in configuration space.
    pub msix_capability: u64,
    /// Offset of the access capability in configuration space.
    pub access_capability: u64,
    /// Features accepted.
    pub features: u64,
    /// The queues.
    pub queues: Vec<DriverQueue>,
}

impl Driver {
    /// Finds the device's registers by its capabilities and lets it be bus master.
    ///
    /// # Panics
    /// When it is not a virtio device.
    #[must_use]
    pub fn probe(bench: &mut Bench, device: u8) -> Self {
        assert_eq!(bench.config(device, 0, 2), 0x1af4, "device {device} is not virtio");
        bench.set_config(device, 4, 2, 0b110);
        let low = bench.config(device, 0x10, 4) & !0xf;
        let base = low | (bench.config(device, 0x14, 4) << 32);
        let mut driver = Self {
            device,
            common: 0,
            isr: 0,
            config: 0,
            notify: 0,
            multiplier: 0,
            msix_table: 0,
            msix_capability: 0,
            access_capability: 0,
            features: 0,
            queues: Vec::new(),
        };
        let mut at = bench.config(device, 0x34, 1);
        while at != 0 {
            let id = bench.config(device, at, 1);
            let offset = base + bench.config(device, at + 8, 4);
            match (id, bench.config(device, at + 3, 1)) {
                (0x11, _) => {
                    driver.msix_capability = at;
                    driver.msix_table = base + (bench.config(device, at + 4, 4) & !7);
                }
                (9, 1) => driver.common = offset,
                (9, 2) => {
                    driver.notify = offset;
                    driver.multiplier = bench.config(device, at + 16, 4);
                }
                (9, 3) => driver.isr = offset,
                (9, 4) => driver.config = offset,
                (9, 5) => driver.access_capability = at,
                other => panic!("capability {other:?}"),
            }
            at = bench.config(device, at + 1, 1);
        }
        driver
    }

    /// Device status.
    pub fn status(&self, bench: &mut Bench) -> u64 {
        bench.read(self.common + 20, 1)
    }

    /// Features offered.
    pub fn offered(&self, bench: &mut Bench) -> u64 {
        bench.write(self.common, 4, 0);
        let low = bench.read(self.common + 4, 4);
        bench.write(self.common, 4, 1);
        low | (bench.read(self.common + 4, 4) << 32)
    }

    /// Accepts features; true when the device agrees.
    pub fn negotiate(&mut self, bench: &mut Bench, features: u64) -> bool {
        bench.write(self.common + 20, 1, 0);
        self.queues.clear();
        bench.write(self.common + 20, 1, 1);
        bench.write(self.common + 20, 1, 3);
        for half in 0..2 {
            bench.write(self.common + 8, 4, half);
            bench.write(self.common + 12, 4, (features >> (32 * half)) & 0xffff_ffff);
        }
        self.features = features;
        bench.write(self.common + 20, 1, 11);
        self.status(bench) & 8 != 0
    }

    /// Gives every queue rings of at most `limit` entries and vector `queue + 1`, and enables it.
    pub fn set_up_queues(&mut self, bench: &mut Bench, limit: u16) {
        let count = bench.read(self.common + 18, 2);
        bench.write(self.common + 16, 2, 0);
        for queue in 0..count {
            bench.write(self.common + 22, 2, queue);
            let size = u16::try_from(bench.read(self.common + 24, 2)).unwrap_or(0).min(limit);
            let descriptors = bench.alloc(16 * u64::from(size));
            let available = bench.alloc(6 + 2 * u64::from(size));
            let used = bench.alloc(6 + 8 * u64::from(size));
            for (start, length) in [(available, 6 + 2 * usize::from(size)), (used, 6 + 8 * usize::from(size))] {
                bench.poke(start, &vec![0; length]);
            }
            bench.write(self.common + 24, 2, u64::from(size));
            bench.write(self.common + 26, 2, queue + 1);
            bench.write(self.common + 32, 8, descriptors);
            bench.write(self.common + 40, 4, available & 0xffff_ffff);
            bench.write(self.common + 44, 4, available >> 32);
            bench.write(self.common + 48, 8, used);
            bench.write(self.common + 28, 2, 1);
            self.queues.push(DriverQueue {
                descriptors,
                available,
                used,
                size,
                next_descriptor: 0,
                next_available: 0,
                last_used: 0,
            });
        }
    }

    /// Routes vector `n` to a message with data `n` and turns MSI-X on.
    pub fn enable_msix(&self, bench: &mut Bench) {
        let vectors = 1 + (bench.config(self.device, self.msix_capability + 2, 2) & 0x7ff);
        for vector in 0..vectors {
            let entry = self.msix_table + 16 * vector;
            bench.write(entry, 8, 0xfee0_0000);
            bench.write(entry + 8, 4, vector);
            bench.write(entry + 12, 4, 0);
        }
        bench.set_config(self.device, self.msix_capability + 2, 2, 0x8000);
    }

    /// The usual start: all features that are offered and in `mask`, all queues, MSI-X, DRIVER_OK.
    ///
    /// # Panics
    /// When the device does not accept the features.
    pub fn start(bench: &mut Bench, device: u8, mask: u64) -> Self {
        let mut driver = Self::probe(bench, device);
        driver.restart(bench, mask);
        driver
    }

    /// Resets the device and starts it again.
    ///
    /// # Panics
    /// When the device does not accept the features.
    pub fn restart(&mut self, bench: &mut Bench, mask: u64) {
        let features = self.offered(bench) & mask;
        assert!(self.negotiate(bench, features), "features {features:#x} were refused");
        self.enable_msix(bench);
        self.set_up_queues(bench, 64);
        bench.write(self.common + 20, 1, 15);
        assert_eq!(self.status(bench), 15);
    }

    /// Writes a descriptor.
    pub fn set_descriptor(&self, bench: &Bench, queue: u16, index: u16, descriptor: RawDescriptor) {
        let (address, length, flags, next) = descriptor;
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        bench.poke(self.queues[usize::from(queue)].descriptors + 16 * u64::from(index), &bytes);
    }

    /// Puts a head into the available ring.
    pub fn make_available(&mut self, bench: &Bench, queue: u16, head: u16) {
        let rings = &mut self.queues[usize::from(queue)];
        let slot = u64::from(rings.next_available % rings.size);
        bench.poke(rings.available + 4 + 2 * slot, &head.to_le_bytes());
        rings.next_available = rings.next_available.wrapping_add(1);
        bench.poke(rings.available + 2, &rings.next_available.to_le_bytes());
    }

    /// Puts a chain into a queue and returns its head. Descriptors are taken round the table: at most the size of the
    /// queue may be in use.
    pub fn add(&mut self, bench: &Bench, queue: u16, buffers: &[DriverBuffer]) -> u16 {
        let rings = &mut self.queues[usize::from(queue)];
        let (size, head) = (rings.size, rings.next_descriptor);
        let count = u16::try_from(buffers.len()).unwrap_or(u16::MAX);
        rings.next_descriptor = (head + count) % size;
        for (offset, &(address, length, write)) in (0u16..).zip(buffers) {
            let next = (head + offset + 1) % size;
            let more = if offset + 1 < count { NEXT } else { 0 };
            let flags = more | if write { WRITE } else { 0 };
            self.set_descriptor(bench, queue, (head + offset) % size, (address, length, flags, next));
        }
        self.make_available(bench, queue, head);
        head
    }

    /// Puts a chain into a queue through an indirect table.
    pub fn add_indirect(&mut self, bench: &mut Bench, queue: u16, buffers: &[DriverBuffer]) -> u16 {
        let table = bench.alloc(16 * buffers.len() as u64);
        for (index, &(address, length, write)) in (0u16..).zip(buffers) {
            let more = if usize::from(index) + 1 < buffers.len() { NEXT } else { 0 };
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(length.to_le_bytes());
            bytes.extend((more | if write { WRITE } else { 0 }).to_le_bytes());
            bytes.extend((index + 1).to_le_bytes());
            bench.poke(table + 16 * u64::from(index), &bytes);
        }
        let rings = &mut self.queues[usize::from(queue)];
        let head = rings.next_descriptor;
        rings.next_descriptor = (head + 1) % rings.size;
        let length = u32::try_from(16 * buffers.len()).unwrap_or(u32::MAX);
        self.set_descriptor(bench, queue, head, (table, length, INDIRECT, 0));
        self.make_available(bench, queue, head);
        head
    }

    /// Notifies the device.
    pub fn kick(&self, bench: &mut Bench, queue: u16) {
        bench.write(self.notify + self.multiplier * u64::from(queue), 2, u64::from(queue));
    }

    /// Takes what the device has used: heads and bytes written.
    pub fn used(&mut self, bench: &Bench, queue: u16) -> Vec<(u32, u32)> {
        let rings = &mut self.queues[usize::from(queue)];
        let index = bench.peek_u16(rings.used + 2);
        let mut used = Vec::new();
        while rings.last_used != index {
            let entry = rings.used + 4 + 8 * u64::from(rings.last_used % rings.size);
            used.push((bench.peek_u32(entry), bench.peek_u32(entry + 4)));
            rings.last_used = rings.last_used.wrapping_add(1);
        }
        used
    }

    /// With event indices: asks for an interrupt when the next chain is used.
    pub fn arm(&self, bench: &Bench, queue: u16) {
        let rings = &self.queues[usize::from(queue)];
        bench.poke(rings.available + 4 + 2 * u64::from(rings.size), &rings.last_used.to_le_bytes());
    }

    /// With event indices: the available index from which on the device wants to be notified.
    #[must_use]
    pub fn wanted(&self, bench: &Bench, queue: u16) -> u16 {
        let rings = &self.queues[usize::from(queue)];
        bench.peek_u16(rings.used + 4 + 8 * u64::from(rings.size))
    }

    /// True when the device waits for a reset.
    pub fn broken(&self, bench: &mut Bench) -> bool {
        self.status(bench) & 0x40 != 0
    }

    /// Takes the vector of configuration changes away.
    pub fn without_config_vector(&self, bench: &mut Bench) {
        bench.write(self.common + 16, 2, u64::from(NO_VECTOR));
    }
}
