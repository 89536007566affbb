//! The body of the fuzz target for the virtio devices: bytes become what a hostile guest and a busy host do.
//!
//! The bus carries every device. Nothing a guest does may panic or hang; a state must always survive a round trip; what
//! is refused must be an input that cannot have happened.

use super::balloon::Balloon;
use super::block::{Block, BlockConfig};
use super::console::{Console, PortConfig};
use super::net::{Net, NetConfig};
use super::rng::Rng;
use super::testing::{Bench, Driver, DriverBuffer, RAM_BYTES, WINDOW, function};
use crate::io::{BlockOperation, BlockStatus, CharPort, DeviceIndex, Input, Output, RequestId};
use crate::snapshot::Snapshot;

/// Functions on the bench: device numbers 1 to this.
const DEVICES: u8 = 6;
/// Largest step count of one run: bounds the time of one input of the fuzzer.
const STEPS: usize = 2000;
/// Room that a restart of any device may need.
const RESTART_ROOM: u64 = 1 << 20;

/// A bench with every kind of device, disks and consoles in two shapes.
#[must_use]
pub fn full_bench() -> Bench {
    let named = PortConfig { name: Some("org.example.0".into()), console: false };
    let queues = BlockConfig { queues: 2, physical_block_size: 4096, ..BlockConfig::new(DeviceIndex(1), 1 << 20) };
    Bench::new(vec![
        function(Block::new(BlockConfig::new(DeviceIndex(0), 8 << 20))),
        function(Net::new(NetConfig::new(DeviceIndex(0), [0x52, 0x54, 0, 0, 0, 1]))),
        function(Console::new(vec![PortConfig::console(), named])),
        function(Rng::new()),
        function(Balloon::new()),
        function(Block::new(queues)),
    ])
}

/// Bytes that steer a run; zeroes behind the end.
#[derive(Debug)]
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let count = self.0.len().min(N);
        bytes[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        bytes
    }

    fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn size(&mut self) -> usize {
        1 << (self.byte() & 3)
    }
}

#[derive(Debug)]
struct Run<'a> {
    source: Source<'a>,
    bench: Bench,
    drivers: Vec<Driver>,
    /// Block requests handed out and not completed.
    requests: Vec<(DeviceIndex, RequestId, BlockOperation)>,
}

/// Runs the devices on the bytes; returns the counters of all devices at the end, to see what was reached.
///
/// # Panics
/// When a device breaks a rule of its own.
pub fn run(data: &[u8]) -> Vec<(&'static str, u64)> {
    let mut bench = full_bench();
    let mut drivers: Vec<_> = (1..=DEVICES).map(|device| Driver::probe(&mut bench, device)).collect();
    for driver in &mut drivers {
        driver.restart(&mut bench, u64::MAX);
    }
    let mut run = Run { source: Source(data), bench, drivers, requests: Vec::new() };
    for _ in 0..STEPS {
        if run.source.0.is_empty() {
            break;
        }
        run.step();
        run.drain();
    }
    run.check_state();
    run.bench.host.functions().flat_map(|function| function.counters()).collect()
}

impl Run<'_> {
    fn step(&mut self) {
        match self.source.byte() % 64 {
            0 => self.register_write(),
            1 => self.register_read(),
            2 => self.config_access(),
            3 => self.poke_ring(),
            4 => self.raw_descriptor(),
            5 => {
                let driver = self.driver();
                self.restart(driver);
            }
            6 => self.check_state(),
            7..=10 => self.kick(),
            11..=20 => self.complete_request(),
            21..=26 => self.packet(),
            27..=30 => self.other_input(),
            31..=40 => self.chain(),
            _ => self.sensible_chain(),
        }
    }

    fn driver(&mut self) -> usize {
        usize::from(self.source.byte() % DEVICES)
    }

    fn queue(&mut self, driver: usize) -> Option<u16> {
        let count = u16::try_from(self.drivers[driver].queues.len()).unwrap_or(0);
        (count > 0).then(|| self.source.short() % count)
    }

    fn register_write(&mut self) {
        let base = WINDOW + 0x8000 * (u64::from(self.source.byte() % DEVICES));
        let offset = match self.source.byte() % 4 {
            0 => u64::from(self.source.short() & 0x7fff),
            1 => 0x2000 + u64::from(self.source.byte() & 0x3f),
            2 => 0x4000 + u64::from(self.source.byte()),
            _ => u64::from(self.source.byte() & 0x3f),
        };
        let (size, value) = (self.source.size(), self.source.long());
        self.bench.write(base + offset, size, value);
    }

    fn register_read(&mut self) {
        let address = WINDOW + u64::from(self.source.word() & 0x3_ffff);
        let size = self.source.size();
        self.bench.read(address, size);
    }

    fn config_access(&mut self) {
        let (device, register) = (self.source.byte() % (DEVICES + 2), u64::from(self.source.byte()));
        let (size, value) = (self.source.size(), self.source.long());
        match self.source.byte() % 4 {
            0 => {
                self.bench.config(device, register, size);
            }
            1 => {
                let [a, b, c, d, ..] = value.to_le_bytes();
                let value = u32::from_le_bytes([a, b, c, d]);
                let port = 0xcf8 + u16::from(self.source.byte() & 7);
                self.bench.with(|host, cx| host.io_write(cx, port, size.min(4), value));
                self.bench.with(|host, cx| host.io_read(cx, port, size.min(4)));
            }
            // Mostly leave bus mastering on: without it nothing happens any more.
            2 if register & !3 == 4 => self.bench.set_config(device, 4, 2, value | 6),
            _ => self.bench.set_config(device, register, size, value),
        }
    }

    fn poke_ring(&mut self) {
        let driver = self.driver();
        let Some(queue) = self.queue(driver) else { return };
        let rings = &self.drivers[driver].queues[usize::from(queue)];
        let start = match self.source.byte() % 3 {
            0 => rings.descriptors,
            1 => rings.available,
            _ => rings.used,
        };
        let (offset, value) = (u64::from(self.source.short() & 0x1ff), self.source.long());
        self.bench.poke(start + offset, &value.to_le_bytes());
    }

    /// An address: mostly low RAM, sometimes a ring, the end of RAM, or nowhere.
    fn address(&mut self) -> u64 {
        let offset = u64::from(self.source.short());
        match self.source.byte() % 16 {
            0 => self.source.long(),
            1 => RAM_BYTES - (offset & 0xff),
            2 => self.drivers[0].queues.first().map_or(offset, |rings| rings.available) + (offset & 0x3f),
            3 => WINDOW + offset,
            _ => 0x90_0000 + 16 * offset,
        }
    }

    /// A chain of anything for any queue.
    fn chain(&mut self) {
        let driver = self.driver();
        let Some(queue) = self.queue(driver) else { return };
        let count = 1 + self.source.byte() % 6;
        let readable = self.source.byte() % 7;
        let mut buffers: Vec<DriverBuffer> = Vec::new();
        for index in 0..count {
            let address = self.address();
            let length = match self.source.byte() % 8 {
                0 => self.source.word(),
                1 => 0,
                2 => 16,
                3 => 1,
                4 => u32::from(self.source.byte()) * 512,
                _ => u32::from(self.source.byte()) + 12,
            };
            buffers.push((address, length, index >= readable));
        }
        self.request_header(&buffers);
        self.put(driver, queue, &buffers);
    }

    /// A chain as a driver of the device would make it, after a restart if the device is broken.
    fn sensible_chain(&mut self) {
        let driver = self.driver();
        let target = &self.drivers[driver];
        if target.status(&mut self.bench) != 15 {
            self.restart(driver);
        }
        let Some(queue) = self.queue(driver) else { return };
        let [a, b, c] = [0; 3].map(|_| 0x90_0000 + 16 * u64::from(self.source.short() & 0x7fff));
        let length = u32::from(self.source.byte());
        let buffers = match (driver, queue) {
            (0 | 5, _) => return self.disk_request(driver, queue, [a, b, c]),
            (1, 0) => vec![(a, 1 + 12 * length, true), (b, 1600, true)],
            (1, 1) => vec![(a, 12, false), (b, 14 + length, false)],
            (1, _) => vec![(a, 2, false), (b, 1 + length, false), (c, 1, true)],
            (2, 0 | 2 | 4) | (3, _) | (4, 3 | 4) => vec![(a, 1 + 40 * length, true)],
            _ => vec![(a, 1 + length, false)],
        };
        self.request_header(&buffers);
        if (driver, queue) == (1, 1) && length & 7 != 0 {
            self.bench.poke(a, &[0; 12]);
        }
        self.put(driver, queue, &buffers);
    }

    /// Header, data and status of a request for a few sectors near the start of the disk.
    fn disk_request(&mut self, driver: usize, queue: u16, places: [u64; 3]) {
        let [header, data, status] = places;
        let kind = [0u32, 0, 1, 1, 4, 8, 11, 13][usize::from(self.source.byte() & 7)];
        let sector = u64::from(self.source.byte() & 63);
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(sector.to_le_bytes());
        self.bench.poke(header, &bytes);
        let length = if kind < 2 { 512 * (1 + u32::from(self.source.byte() & 7)) } else { 20 };
        let buffers = match kind {
            11 | 13 => {
                let mut range = sector.to_le_bytes().to_vec();
                range.extend([self.source.byte() & 15, 0, 0, 0, 0, 0, 0, 0]);
                self.bench.poke(data, &range);
                vec![(header, 16, false), (data, 16, false), (status, 1, true)]
            }
            4 => vec![(header, 16, false), (status, 1, true)],
            _ => vec![(header, 16, false), (data, length, kind != 1), (status, 1, true)],
        };
        self.put(driver, queue, &buffers);
    }

    fn put(&mut self, driver: usize, queue: u16, buffers: &[DriverBuffer]) {
        let target = &mut self.drivers[driver];
        if self.source.byte() & 1 == 0 && self.bench.room() > RESTART_ROOM {
            target.add_indirect(&mut self.bench, queue, buffers);
        } else {
            target.add(&self.bench, queue, buffers);
        }
        if self.source.byte() & 3 != 0 {
            target.kick(&mut self.bench, queue);
        }
    }

    /// Puts something that may be a header of a disk request or a packet into the first buffer.
    fn request_header(&mut self, buffers: &[DriverBuffer]) {
        let (address, ..) = buffers[0];
        if address.checked_add(16).is_some_and(|end| end <= RAM_BYTES) {
            let mut header = u32::from(self.source.byte() % 16).to_le_bytes().to_vec();
            header.extend([0; 4]);
            header.extend(u64::from(self.source.short() & 0xfff).to_le_bytes());
            self.bench.poke(address, &header);
        }
    }

    fn raw_descriptor(&mut self) {
        let driver = self.driver();
        let Some(queue) = self.queue(driver) else { return };
        let descriptor = (self.address(), self.source.word(), self.source.short(), self.source.short() % 80);
        let (index, head) = (self.source.short() % 64, self.source.short() % 80);
        let target = &mut self.drivers[driver];
        target.set_descriptor(&self.bench, queue, index, descriptor);
        target.make_available(&self.bench, queue, head);
        target.kick(&mut self.bench, queue);
    }

    fn kick(&mut self) {
        let (driver, queue) = (self.driver(), self.source.short() % 80);
        self.drivers[driver].kick(&mut self.bench, queue);
    }

    fn complete_request(&mut self) {
        let choice = usize::from(self.source.byte());
        if self.requests.is_empty() {
            return;
        }
        let (device, request, operation) = self.requests.remove(choice % self.requests.len());
        let status = match self.source.byte() % 8 {
            0 => BlockStatus::IoError,
            1 => BlockStatus::Unsupported,
            _ => BlockStatus::Ok,
        };
        let data = match operation {
            BlockOperation::Read { length, .. } if status == BlockStatus::Ok => vec![7; length as usize],
            _ => Vec::new(),
        };
        let input = Input::BlockCompletion { device, request, status, data };
        self.bench.deliver(&input).expect("the request is in flight");
        self.bench.deliver(&input).expect_err("it is not any more");
    }

    fn packet(&mut self) {
        let mut packet: Vec<u8> = self.source.take::<26>().to_vec();
        if self.source.byte() & 3 != 0 {
            packet[..12].fill(0);
        }
        let length = usize::from(self.source.short());
        packet.resize(packet.len() + length, 0x55);
        let input = Input::NetReceive { device: DeviceIndex(0), packet };
        self.bench.deliver(&input).expect("packets are always taken");
    }

    fn other_input(&mut self) {
        let input = match self.source.byte() % 4 {
            0 => Input::NetLink { device: DeviceIndex(0), up: self.source.byte() & 3 != 0 },
            1 => Input::BalloonTarget { pages: self.source.word() },
            _ => {
                let port = CharPort::Console(self.source.byte() & 1);
                Input::CharReceive { port, data: vec![b'x'; usize::from(self.source.short())] }
            }
        };
        self.bench.deliver(&input).expect("these are always taken");
    }

    /// A driver that starts its device again: everything is in order afterwards.
    fn restart(&mut self, driver: usize) {
        let features = match self.source.byte() % 3 {
            0 => 1 << 32,
            1 => !(1 << 29),
            _ => u64::MAX,
        };
        if self.bench.room() < RESTART_ROOM {
            self.bench.free_all();
        }
        let target = &mut self.drivers[driver];
        let device = target.device;
        self.bench.set_config(device, 4, 2, 6);
        let base = WINDOW + 0x8000 * u64::from(device - 1);
        self.bench.set_config(device, 0x10, 8, base);
        self.bench.set_config(device, target.msix_capability + 2, 2, 0);
        // Where another function's BAR was moved over this one, the driver sees the wrong device.
        let before = self.bench.read(target.common + 20, 1);
        self.bench.write(target.common + 20, 1, 0);
        if before != u64::MAX && target.negotiate(&mut self.bench, features & !0x9b_0000) {
            target.enable_msix(&mut self.bench);
            target.set_up_queues(&mut self.bench, 64);
            self.bench.write(target.common + 20, 1, 15);
        }
    }

    /// The state survives a round trip, and the twin has the same requests in flight.
    fn check_state(&mut self) {
        let state = self.bench.host.save();
        let mut twin = full_bench();
        twin.host.restore(state.clone()).expect("a machine accepts the state of its twin");
        assert_eq!(twin.host.save(), state);
        assert_eq!(twin.host.in_flight(), self.bench.host.in_flight());
    }

    /// Takes what was caused; requests handed out together never overlap where one of them changes the disk.
    fn drain(&mut self) {
        for output in self.bench.outputs() {
            if let Output::Block { device, request, operation } = output {
                for (other, _, earlier) in &self.requests {
                    assert!(*other != device || !conflict(earlier, &operation), "{earlier:?} beside {operation:?}");
                }
                self.requests.push((device, request, operation));
            }
        }
        self.bench.effects.clear();
    }
}

fn conflict(a: &BlockOperation, b: &BlockOperation) -> bool {
    let span = |operation: &BlockOperation| match operation {
        BlockOperation::Read { offset, length } => (*offset, *offset + u64::from(*length), false),
        BlockOperation::Write { offset, data } => (*offset, *offset + data.len() as u64, true),
        BlockOperation::Discard { offset, length } | BlockOperation::WriteZeroes { offset, length, .. } => {
            (*offset, *offset + *length, true)
        }
        BlockOperation::Flush => (0, 0, false),
    };
    let ((a, a_end, a_changes), (b, b_end, b_changes)) = (span(a), span(b));
    (a_changes || b_changes) && a < b_end && b < a_end
}
