//! The disk: requests, ordering, flushing, bounds, and what survives a restore.

use crate::devices::pci::DeliverError;
use crate::devices::virtio::block::{Block, BlockConfig, IN_FLIGHT_LIMIT};
use crate::devices::virtio::testing::{Bench, Driver, function};
use crate::io::{BlockOperation, BlockStatus, DeviceIndex, Input, Output, RequestId};
use crate::snapshot::Snapshot;

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const ZEROES: u32 = 13;
const CONFIG_WCE: u64 = 1 << 11;
const F_FLUSH: u64 = 1 << 9;
const SIZE: u64 = 1 << 20;

struct Disk {
    bench: Bench,
    driver: Driver,
}

fn config() -> BlockConfig {
    BlockConfig { serial: "serial-0123456789-too-long".into(), ..BlockConfig::new(DeviceIndex(2), SIZE) }
}

fn disk_of(config: BlockConfig, features: u64) -> Disk {
    let mut bench = Bench::new(vec![function(Block::new(config))]);
    let driver = Driver::start(&mut bench, 1, features);
    Disk { bench, driver }
}

fn disk() -> Disk {
    disk_of(config(), u64::MAX)
}

/// Addresses of a request's data and status.
struct Place {
    head: u16,
    data: u64,
    status: u64,
}

impl Disk {
    /// Puts a request with `length` bytes of room or payload into the ring.
    fn add(&mut self, kind: u32, sector: u64, payload: &[u8], room: u32) -> Place {
        let header = self.bench.alloc(16);
        let data = self.bench.alloc(payload.len() as u64 + u64::from(room) + 16);
        let status = self.bench.alloc(1);
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(sector.to_le_bytes());
        self.bench.poke(header, &bytes);
        self.bench.poke(data, payload);
        self.bench.poke(status, &[0xee]);
        let mut buffers = vec![(header, 16, false)];
        if !payload.is_empty() {
            buffers.push((data, u32::try_from(payload.len()).unwrap(), false));
        }
        if room > 0 {
            buffers.push((data, room, true));
        }
        buffers.push((status, 1, true));
        let head = self.driver.add(&self.bench, 0, &buffers);
        Place { head, data, status }
    }

    fn send(&mut self, kind: u32, sector: u64, payload: &[u8], room: u32) -> Place {
        let place = self.add(kind, sector, payload, room);
        self.driver.kick(&mut self.bench, 0);
        place
    }

    fn issued(&mut self) -> Vec<(u64, BlockOperation)> {
        let take = |output: Output| match output {
            Output::Block { device: DeviceIndex(2), request, operation } => (request.0, operation),
            other => panic!("{other:?}"),
        };
        self.bench.outputs().into_iter().map(take).collect()
    }

    fn complete(&mut self, id: u64, status: BlockStatus, data: &[u8]) -> Result<(), DeliverError> {
        let data = data.to_vec();
        let input = Input::BlockCompletion { device: DeviceIndex(2), request: RequestId(id), status, data };
        self.bench.deliver(&input)
    }

    fn status(&self, place: &Place) -> u8 {
        self.bench.peek(place.status, 1)[0]
    }

    fn counter(&self, name: &str) -> u64 {
        let counters = self.bench.host.functions().next().unwrap().counters();
        counters.into_iter().find(|(known, _)| *known == name).unwrap().1
    }
}

fn write_of(offset: u64, byte: u8, length: usize) -> BlockOperation {
    BlockOperation::Write { offset, data: vec![byte; length] }
}

#[test]
fn configuration_says_what_the_disk_is() {
    let mut disk = disk();
    let at = disk.driver.config;
    let mut read = |offset: u64, size: usize| disk.bench.read(at + offset, size);
    assert_eq!(read(0, 8), SIZE / 512);
    assert_eq!(read(12, 4), 254, "seg_max");
    assert_eq!((read(20, 4), read(24, 1), read(26, 2)), (512, 0, 1));
    assert_eq!(read(32, 1), 1, "writeback");
    assert_eq!((read(36, 4), read(40, 4), read(44, 4)), (1 << 21, 1, 1));
    assert_eq!((read(48, 4), read(52, 4), read(56, 1)), (1 << 21, 1, 1));
    assert_eq!(read(60, 8), 0);
    let large = BlockConfig { block_size: 4096, physical_block_size: 16384, queues: 3, ..config() };
    let mut disk = disk_of(large, u64::MAX);
    let at = disk.driver.config;
    assert_eq!((disk.bench.read(at + 20, 4), disk.bench.read(at + 24, 1)), (4096, 2));
    assert_eq!((disk.bench.read(at + 34, 2), disk.bench.read(disk.driver.common + 18, 2)), (3, 3));
}

#[test]
fn a_write_is_read_at_the_notification_and_ends_at_its_completion() {
    let mut disk = disk();
    let place = disk.send(WRITE, 8, &[7; 1024], 0);
    disk.bench.poke(place.data, &[8; 1024]);
    assert_eq!(disk.issued(), [(0, write_of(4096, 7, 1024))]);
    assert_eq!((disk.status(&place), disk.driver.used(&disk.bench, 0).len()), (0xee, 0));
    disk.complete(0, BlockStatus::Ok, &[]).unwrap();
    assert_eq!(disk.status(&place), 0);
    assert_eq!(disk.driver.used(&disk.bench, 0), [(u32::from(place.head), 1)]);
    assert_eq!(disk.bench.messages(), [1]);
}

#[test]
fn data_read_is_written_at_the_completion_over_any_buffers() {
    let mut disk = disk();
    let header = disk.bench.alloc(16);
    disk.bench.poke(header, &[0, 0, 0, 0, 0, 0, 0, 0, 3]);
    let at = disk.bench.alloc(8192);
    // Header in two parts; data in three, the last of which also holds the status.
    let buffers =
        [(header, 5, false), (header + 5, 11, false), (at, 100, true), (at + 200, 900, true), (at + 2000, 25, true)];
    let head = disk.driver.add_indirect(&mut disk.bench, 0, &buffers);
    disk.driver.kick(&mut disk.bench, 0);
    assert_eq!(disk.issued(), [(0, BlockOperation::Read { offset: 1536, length: 1024 })]);
    let data: Vec<u8> = (0..=255).cycle().take(1024).collect();
    disk.complete(0, BlockStatus::Ok, &data).unwrap();
    assert_eq!(disk.driver.used(&disk.bench, 0), [(u32::from(head), 1025)]);
    assert_eq!(disk.bench.peek(at, 101), [&data[..100], &[0]].concat());
    assert_eq!(disk.bench.peek(at + 200, 900), data[100..1000]);
    assert_eq!(disk.bench.peek(at + 2000, 26), [&data[1000..], &[0, 0]].concat());
}

#[test]
fn errors_of_the_host_reach_the_guest() {
    let mut disk = disk();
    let failed = disk.send(READ, 0, &[], 512);
    let refused = disk.send(DISCARD, 0, &range(0, 8, 0), 0);
    disk.complete(0, BlockStatus::IoError, &[]).unwrap();
    disk.complete(1, BlockStatus::Unsupported, &[]).unwrap();
    assert_eq!((disk.status(&failed), disk.status(&refused)), (1, 2));
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

#[test]
fn flush_discard_zeroes_and_identification() {
    let mut disk = disk();
    disk.send(FLUSH, 0, &[], 0);
    disk.send(DISCARD, 0, &range(8, 16, 0), 0);
    disk.send(ZEROES, 0, &range(100, 1, 1), 0);
    disk.send(ZEROES, 0, &range(200, 1, 0), 0);
    let operations: Vec<_> = disk.issued().into_iter().map(|(_, operation)| operation).collect();
    let expected = [
        BlockOperation::Flush,
        BlockOperation::Discard { offset: 4096, length: 8192 },
        BlockOperation::WriteZeroes { offset: 51200, length: 512, unmap: true },
        BlockOperation::WriteZeroes { offset: 102_400, length: 512, unmap: false },
    ];
    assert_eq!(operations, expected);
    let place = disk.send(GET_ID, 0, &[], 20);
    assert_eq!(disk.bench.peek(place.data, 20), b"serial-0123456789-to");
    assert_eq!((disk.status(&place), disk.issued().len()), (0, 0));
}

#[test]
fn what_cannot_be_done_fails_at_once_and_only_itself() {
    let mut disk = disk();
    let cases = [
        (disk.send(READ, SIZE / 512, &[], 512), 1),
        (disk.send(READ, u64::MAX, &[], 512), 1),
        (disk.send(READ, 0, &[], 511), 1),
        (disk.send(WRITE, SIZE / 512 - 1, &[0; 1024], 0), 1),
        (disk.send(WRITE, 0, &[0; 100], 0), 1),
        (disk.send(DISCARD, 0, &range(0, 8, 1), 0), 2),
        (disk.send(DISCARD, 0, &range(0, u32::MAX, 0), 0), 1),
        (disk.send(ZEROES, 0, &range(u64::MAX, 1, 0), 0), 1),
        (disk.send(ZEROES, 0, &range(0, 1, 2), 0), 2),
        (disk.send(ZEROES, 0, &[range(0, 1, 0), range(8, 1, 0)].concat(), 0), 1),
        (disk.send(GET_ID, 0, &[], 19), 1),
        (disk.send(77, 0, &[], 0), 2),
        (disk.send(READ, 5, &[], 0), 0),
        (disk.send(WRITE, 5, &[], 0), 0),
    ];
    for (index, (place, expected)) in cases.iter().enumerate() {
        assert_eq!(disk.status(place), *expected, "case {index}");
    }
    assert_eq!(disk.issued(), []);
    assert!(!disk.driver.broken(&mut disk.bench));

    let mut disk = disk_of(BlockConfig { read_only: true, ..config() }, u64::MAX);
    assert_eq!(disk.driver.features & (1 << 5 | 1 << 13 | 1 << 14), 1 << 5);
    let write = disk.send(WRITE, 0, &[0; 512], 0);
    let discard = disk.send(DISCARD, 0, &range(0, 8, 0), 0);
    assert_eq!((disk.status(&write), disk.status(&discard), disk.issued().len()), (1, 2, 0));
}

#[test]
fn requests_without_header_or_status_break_the_device() {
    for buffers in [vec![(0x1000, 16, false)], vec![(0x1000, 15, false), (0x2000, 1, true)], vec![(0x1000, 1, true)]] {
        let mut disk = disk();
        disk.driver.add(&disk.bench, 0, &buffers);
        disk.driver.kick(&mut disk.bench, 0);
        assert!(disk.driver.broken(&mut disk.bench));
        assert_eq!(disk.bench.messages(), [0], "the driver is told");
        let place = disk.send(READ, 0, &[], 512);
        assert_eq!((disk.issued().len(), disk.status(&place)), (0, 0xee), "nothing works before a reset");
        disk.driver.restart(&mut disk.bench, u64::MAX);
        disk.send(READ, 0, &[], 512);
        assert_eq!(disk.issued().len(), 1);
    }
}

#[test]
fn overlapping_requests_wait_for_each_other_in_order() {
    let mut disk = disk();
    disk.add(WRITE, 0, &[1; 1024], 0);
    disk.add(READ, 1, &[], 1024);
    disk.add(WRITE, 2, &[2; 512], 0);
    disk.add(READ, 8, &[], 512);
    disk.add(READ, 8, &[], 512);
    disk.add(DISCARD, 0, &range(8, 8, 0), 0);
    disk.add(FLUSH, 0, &[], 0);
    disk.driver.kick(&mut disk.bench, 0);
    let ids = |issued: Vec<(u64, BlockOperation)>| issued.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(ids(disk.issued()), [0, 3, 4, 6]);
    disk.complete(1, BlockStatus::Ok, &[0; 1024]).expect_err("it was not handed out");
    disk.complete(0, BlockStatus::Ok, &[]).unwrap();
    assert_eq!(ids(disk.issued()), [1], "the third still overlaps the second");
    disk.complete(3, BlockStatus::Ok, &[0; 512]).unwrap();
    assert!(ids(disk.issued()).is_empty());
    disk.complete(4, BlockStatus::Ok, &[0; 512]).unwrap();
    assert_eq!(ids(disk.issued()), [5]);
    disk.complete(1, BlockStatus::Ok, &[0; 1024]).unwrap();
    assert_eq!(ids(disk.issued()), [2]);
    assert_eq!(disk.counter("held_back"), 3);
}

#[test]
fn write_through_flushes_before_the_guest_hears() {
    for (features, writeback, flushes) in [
        (u64::MAX, true, false),
        (u64::MAX, false, true),
        (!CONFIG_WCE, false, false),
        (!(CONFIG_WCE | F_FLUSH), true, true),
    ] {
        let mut disk = disk_of(config(), features);
        disk.bench.write(disk.driver.config + 32, 1, u64::from(writeback));
        let place = disk.send(WRITE, 0, &[1; 512], 0);
        assert_eq!(disk.issued().len(), 1);
        disk.complete(0, BlockStatus::Ok, &[]).unwrap();
        if flushes {
            assert_eq!(disk.issued(), [(1, BlockOperation::Flush)]);
            assert_eq!(disk.status(&place), 0xee);
            disk.complete(1, BlockStatus::IoError, &[]).unwrap();
            assert_eq!(disk.status(&place), 1, "a failed flush is a failed write");
        }
        assert_eq!(disk.status(&place), u8::from(flushes));
        assert_eq!(disk.driver.used(&disk.bench, 0).len(), 1);
    }
}

#[test]
fn wrong_completions_are_refused() {
    let mut disk = disk();
    disk.send(READ, 0, &[], 1024);
    let device = DeviceIndex(2);
    let error = disk.complete(5, BlockStatus::Ok, &[]).unwrap_err();
    assert_eq!(error, DeliverError::UnknownRequest { device, request: RequestId(5) });
    let error = disk.complete(0, BlockStatus::Ok, &[0; 512]).unwrap_err();
    assert_eq!(error, DeliverError::DataLength { device, request: RequestId(0), expected: 1024, found: 512 });
    disk.complete(0, BlockStatus::IoError, &[1]).expect_err("an error has no data");
    disk.complete(0, BlockStatus::Ok, &[0; 1024]).expect("and it is still in flight");
}

#[test]
fn a_reset_drops_results_but_keeps_the_order() {
    let mut disk = disk();
    let old = disk.send(WRITE, 0, &[1; 512], 0);
    disk.send(READ, 0, &[], 512);
    assert_eq!(disk.issued().len(), 1);
    disk.driver.restart(&mut disk.bench, u64::MAX);
    let new = disk.send(READ, 0, &[], 512);
    assert_eq!(disk.issued(), [], "the old write is still under way");
    assert_eq!(disk.bench.host.in_flight().len(), 1);
    disk.complete(0, BlockStatus::Ok, &[]).unwrap();
    assert_eq!(disk.status(&old), 0xee);
    assert_eq!(disk.issued(), [(2, BlockOperation::Read { offset: 0, length: 512 })]);
    disk.complete(2, BlockStatus::Ok, &[9; 512]).unwrap();
    assert_eq!((disk.status(&new), disk.counter("abandoned")), (0, 1));
    // The whole machine starts over while a request is out.
    disk.send(READ, 0, &[], 512);
    disk.bench.with(|host, cx| host.reset(cx));
    disk.complete(3, BlockStatus::Ok, &[9; 512]).unwrap();
    assert_eq!(disk.bench.host.in_flight(), []);
}

#[test]
fn in_flight_requests_survive_save_and_restore() {
    let mut disk = disk();
    let write = disk.send(WRITE, 4, &[3; 512], 0);
    let read = disk.send(READ, 4, &[], 512);
    let issued = disk.bench.outputs();
    let state = disk.bench.host.save();
    let memory = disk.bench.peek(0, 8 << 20);

    let mut twin = self::disk();
    twin.bench.poke(0, &memory);
    twin.bench.host.restore(state.clone()).unwrap();
    twin.bench.effects.clear();
    assert_eq!(twin.bench.host.save(), state);
    assert_eq!(twin.bench.host.in_flight(), issued, "to be issued again");
    twin.complete(0, BlockStatus::Ok, &[]).unwrap();
    assert_eq!(twin.issued(), [(1, BlockOperation::Read { offset: 2048, length: 512 })]);
    twin.complete(1, BlockStatus::Ok, &[3; 512]).unwrap();
    assert_eq!((twin.status(&write), twin.status(&read)), (0, 0));
    assert_eq!(twin.bench.peek(read.data, 512), [3; 512]);

    let mut other = disk_of(BlockConfig::new(DeviceIndex(2), SIZE / 2), u64::MAX);
    let before = other.bench.host.save();
    assert!(other.bench.host.restore(state).unwrap_err().to_string().contains("1048576"));
    assert_eq!(other.bench.host.save(), before);
}

#[test]
fn requests_beyond_the_bound_stay_in_the_ring_until_there_is_room() {
    // Large writes to distinct places; one buffer of guest memory serves them all.
    let large = BlockConfig::new(DeviceIndex(2), 1 << 30);
    let mut disk = disk_of(large, u64::MAX);
    let header = disk.bench.alloc(16 * 64);
    for index in 0u64..20 {
        let mut bytes = WRITE.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend((index * 8192).to_le_bytes());
        disk.bench.poke(header + 16 * index, &bytes);
        let buffers = [(header + 16 * index, 16, false), (0x80_0000, 4 << 20, false), (header + 1023, 1, true)];
        disk.driver.add(&disk.bench, 0, &buffers);
    }
    disk.driver.kick(&mut disk.bench, 0);
    assert_eq!(disk.issued().len(), 16, "64 MiB");
    disk.complete(7, BlockStatus::Ok, &[]).unwrap();
    assert_eq!(disk.issued().len(), 1);
    disk.complete(8, BlockStatus::Ok, &[]).unwrap();
    disk.complete(9, BlockStatus::Ok, &[]).unwrap();
    assert_eq!(disk.issued().len(), 2);
}

#[test]
fn resets_do_not_get_around_the_bound() {
    let mut disk = disk();
    let mut issued = 0;
    for _ in 0..20 {
        for _ in 0..20 {
            let place = disk.add(READ, 0, &[], 512);
            disk.bench.poke(place.status, &[0]);
        }
        disk.driver.kick(&mut disk.bench, 0);
        issued += disk.issued().len();
        disk.bench.free_all();
        disk.driver.restart(&mut disk.bench, u64::MAX);
    }
    assert_eq!(issued, IN_FLIGHT_LIMIT);
    assert_eq!(disk.bench.host.in_flight().len(), IN_FLIGHT_LIMIT);
}
