//! The network device: packets both ways, offloads, filters, announcements.

use crate::devices::pci::DeliverError;
use crate::devices::virtio::net::{Net, NetConfig};
use crate::devices::virtio::testing::{Bench, Driver, function};
use crate::io::{DeviceIndex, Input, Output};
use crate::snapshot::Snapshot;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const HOST_TSO4: u64 = 1 << 11;
const MRG_RXBUF: u64 = 1 << 15;
/// Features that need checksum offload.
const GUEST_TSO: u64 = GUEST_TSO4 | 1 << 8 | 1 << 9;
const HOST_TSO: u64 = HOST_TSO4 | 1 << 12 | 1 << 13;

struct Nic {
    bench: Bench,
    driver: Driver,
}

fn nic(features: u64) -> Nic {
    nic_of(NetConfig::new(DeviceIndex(0), MAC), features)
}

fn nic_of(config: NetConfig, features: u64) -> Nic {
    let mut bench = Bench::new(vec![function(Net::new(config))]);
    let driver = Driver::start(&mut bench, 1, features);
    Nic { bench, driver }
}

/// A frame of `length` bytes for `destination` behind a header.
fn packet(header: [u8; 12], destination: [u8; 6], length: usize) -> Vec<u8> {
    let mut bytes = header.to_vec();
    bytes.extend(destination);
    bytes.extend((0..=255).cycle().take(length - 6));
    bytes
}

const PLAIN: [u8; 12] = [0; 12];

fn header(flags: u8, gso: u8, gso_size: u8, csum: [u8; 2]) -> [u8; 12] {
    [flags, gso, 0, 0, gso_size, 0, csum[0], 0, csum[1], 0, 0, 0]
}

impl Nic {
    fn send(&mut self, bytes: &[u8]) {
        let at = self.bench.alloc(bytes.len() as u64);
        self.bench.poke(at, bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        self.driver.add(&self.bench, 1, &[(at, 12, false), (at + 12, length - 12, false)]);
        self.driver.kick(&mut self.bench, 1);
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        let take = |output: Output| match output {
            Output::NetTransmit { device: DeviceIndex(0), packet } => packet,
            other => panic!("{other:?}"),
        };
        self.bench.outputs().into_iter().map(take).collect()
    }

    fn offer(&mut self, length: u32) -> u64 {
        let at = self.bench.alloc(u64::from(length));
        self.driver.add(&self.bench, 0, &[(at, length, true)]);
        self.driver.kick(&mut self.bench, 0);
        at
    }

    fn arrive(&mut self, packet: &[u8]) {
        let input = Input::NetReceive { device: DeviceIndex(0), packet: packet.to_vec() };
        self.bench.deliver(&input).unwrap();
    }

    fn command(&mut self, class: u8, code: u8, data: &[u8]) -> u8 {
        let at = self.bench.alloc(4096);
        let bytes = [&[class, code], data].concat();
        self.bench.poke(at, &bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        self.driver.add(&self.bench, 2, &[(at, length, false), (at + 4000, 1, true)]);
        self.bench.poke(at + 4000, &[0xee]);
        self.driver.kick(&mut self.bench, 2);
        self.driver.used(&self.bench, 2);
        self.bench.peek(at + 4000, 1)[0]
    }

    fn counter(&self, name: &str) -> u64 {
        let counters = self.bench.host.functions().next().unwrap().counters();
        counters.into_iter().find(|(known, _)| *known == name).unwrap().1
    }
}

#[test]
fn packets_leave_at_the_notification() {
    let mut nic = nic(u64::MAX);
    let bytes = packet(PLAIN, [1; 6], 60);
    nic.send(&bytes);
    assert_eq!(nic.sent(), [bytes]);
    assert_eq!(nic.driver.used(&nic.bench, 1).len(), 1);
    assert_eq!((nic.counter("transmitted"), nic.counter("transmitted_bytes")), (1, 60));
}

#[test]
fn headers_ask_only_for_what_was_negotiated() {
    let good = packet(header(1, 1, 100, [34, 16]), [1; 6], 200);
    let mut all = nic(u64::MAX);
    let mut noisy = good.clone();
    noisy[0] |= 0xf6;
    noisy[10] = 9;
    all.send(&noisy);
    assert_eq!(all.sent()[0], good, "what has no meaning on transmit is cleared");
    for bad in [
        packet(header(0, 1, 100, [0, 0]), [1; 6], 200),
        packet(header(1, 1, 0, [34, 16]), [1; 6], 200),
        packet(header(1, 3, 100, [34, 16]), [1; 6], 200),
        packet(header(1, 0x80, 100, [34, 16]), [1; 6], 200),
        packet(header(1, 0, 0, [190, 9]), [1; 6], 200),
        packet(PLAIN, [1; 6], 13),
    ] {
        all.send(&bad);
        assert_eq!(all.sent().len(), 0, "{:?}", &bad[..12]);
    }
    assert_eq!(all.counter("transmit_drops"), 6);
    assert_eq!(all.driver.used(&all.bench, 1).len(), 7, "dropped packets are used too");
    let mut few = nic(!(CSUM | HOST_TSO));
    few.send(&good);
    few.send(&packet(header(1, 0, 0, [34, 16]), [1; 6], 200));
    assert_eq!(few.sent().len(), 0);
}

#[test]
fn an_offload_that_the_configuration_lacks_is_not_offered() {
    let config = NetConfig { offloads: MRG_RXBUF, mtu: Some(1400), ..NetConfig::new(DeviceIndex(0), MAC) };
    let mut nic = nic_of(config, u64::MAX);
    assert_eq!(nic.driver.features & (CSUM | GUEST_CSUM | GUEST_TSO | HOST_TSO | MRG_RXBUF), MRG_RXBUF);
    assert_eq!(nic.bench.read(nic.driver.config + 10, 2), 1400);
    let mac: Vec<u8> = (0..6).map(|byte| u8::try_from(nic.bench.read(nic.driver.config + byte, 1)).unwrap()).collect();
    assert_eq!(mac, MAC);
    let features = nic.driver.offered(&mut nic.bench);
    assert!(!nic.driver.negotiate(&mut nic.bench, features & !(1 << 17)), "CTRL_RX needs CTRL_VQ");
}

#[test]
fn received_packets_fill_buffers() {
    let mut nic = nic(!MRG_RXBUF);
    let bytes = packet(PLAIN, MAC, 100);
    nic.arrive(&bytes);
    assert_eq!(nic.counter("receive_no_buffers"), 1);
    let at = nic.offer(112);
    nic.arrive(&packet(PLAIN, MAC, 101));
    assert_eq!(nic.counter("receive_no_buffers"), 2, "too small, and still there");
    nic.arrive(&bytes);
    assert_eq!(nic.driver.used(&nic.bench, 0), [(0, 112)]);
    let mut expected = bytes;
    expected[10] = 1;
    assert_eq!(nic.bench.peek(at, 112), expected);
    assert_eq!(nic.bench.messages(), [1]);
}

#[test]
fn a_packet_is_spread_over_merged_buffers() {
    let mut nic = nic(u64::MAX);
    let places: Vec<_> = (0..4).map(|_| nic.offer(100)).collect();
    nic.arrive(&packet(PLAIN, MAC, 400));
    assert_eq!((nic.counter("receive_no_buffers"), nic.driver.used(&nic.bench, 0).len()), (1, 0));
    let bytes = packet(PLAIN, MAC, 250);
    nic.arrive(&bytes);
    assert_eq!(nic.driver.used(&nic.bench, 0), [(0, 100), (1, 100), (2, 62)]);
    let found: Vec<u8> = places.iter().flat_map(|&at| nic.bench.peek(at, 100)).take(262).collect();
    assert_eq!((found[10], &found[12..]), (3, &bytes[12..]));
    nic.arrive(&packet(PLAIN, MAC, 60));
    assert_eq!(nic.driver.used(&nic.bench, 0), [(3, 72)]);
}

#[test]
fn offloads_that_the_guest_lacks_are_done_here_or_the_packet_dropped() {
    let mut nic = nic(!(GUEST_CSUM | GUEST_TSO));
    // A UDP-like part of 10 bytes from offset 20 on, whose checksum field holds the sum of the pseudo header.
    let mut bytes = packet(header(1, 0, 0, [20, 6]), MAC, 30);
    bytes[32..].copy_from_slice(&[0x12, 0x34, 0x00, 0x35, 0x00, 0x0a, 0xab, 0xcd, 0xff, 0xee]);
    let at = nic.offer(200);
    nic.arrive(&bytes);
    let found = nic.bench.peek(at, 42);
    assert_eq!(found[..10], [0; 10], "no checksum is left to do");
    let sum = found[32..].chunks(2).fold(0u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    // Over the finished part the sum differs from all ones by the pseudo header that the field held.
    assert_eq!(((sum & 0xffff) + (sum >> 16) + 0xabcd) % 0xffff, 0);
    nic.offer(2000);
    nic.arrive(&packet(header(1, 1, 100, [34, 16]), MAC, 1000));
    nic.arrive(&packet(header(1, 0, 0, [34, 200]), MAC, 60));
    assert_eq!(nic.counter("receive_drops"), 2, "not TCP; a checksum outside the frame");

    let mut able = self::nic(u64::MAX);
    let at = able.offer(2000);
    let bytes = packet(header(1, 1, 100, [34, 16]), MAC, 1000);
    able.arrive(&bytes);
    assert_eq!(able.bench.peek(at, 10), bytes[..10]);
}

#[test]
fn the_filter_follows_the_control_queue() {
    let other = [0x52, 0x54, 0, 0, 0, 9];
    let group = [0x33, 0x33, 0, 0, 0, 1];
    let mut nic = nic(u64::MAX);
    let got = |nic: &mut Nic, destination: [u8; 6]| {
        nic.offer(200);
        let before = nic.counter("received");
        nic.arrive(&packet(PLAIN, destination, 60));
        nic.counter("received") > before
    };
    assert!(got(&mut nic, other), "promiscuous until told otherwise");
    assert_eq!(nic.command(0, 0, &[0]), 0);
    assert!(!got(&mut nic, other) && !got(&mut nic, group) && got(&mut nic, MAC) && got(&mut nic, [0xff; 6]));
    assert_eq!(nic.command(0, 1, &[1]), 0);
    assert!(got(&mut nic, group));
    assert_eq!(nic.command(0, 1, &[0]), 0);
    let table = |addresses: &[[u8; 6]]| {
        let count = u32::try_from(addresses.len()).unwrap();
        [&count.to_le_bytes()[..], addresses.as_flattened()].concat()
    };
    assert_eq!(nic.command(1, 0, &[table(&[other]), table(&[group])].concat()), 0);
    assert!(got(&mut nic, other) && got(&mut nic, group) && !got(&mut nic, [3; 6]));
    assert_eq!(nic.command(1, 0, &[table(&[]), table(&[[5; 6]; 65])].concat()), 0);
    assert!(!got(&mut nic, other) && got(&mut nic, [3; 6]), "too many groups: all of them");
    assert_eq!(nic.command(1, 0, &table(&[other])), 1, "the second table is missing");
    assert_eq!(nic.command(0, 5, &[1]), 0);
    assert!(!got(&mut nic, [0xff; 6]));
    assert_eq!(nic.command(1, 1, &other), 0);
    assert!(got(&mut nic, other) && !got(&mut nic, MAC));
    assert_eq!(nic.bench.read(nic.driver.config + 4, 2), 0x0900);
    for (class, code, data) in [(0, 6, &[1][..]), (0, 0, &[]), (1, 1, &[1, 2]), (9, 0, &[0]), (1, 0, &[0xff; 4])] {
        assert_eq!(nic.command(class, code, data), 1);
    }
    assert_eq!(nic.counter("control_errors"), 6);
    let features = nic.driver.features;
    nic.driver.restart(&mut nic.bench, features);
    assert!(got(&mut nic, [3; 6]), "a reset forgets all of it");
}

#[test]
fn the_link_stops_packets_and_announcements_are_asked_for() {
    let mut nic = nic(u64::MAX);
    let link = |nic: &mut Nic, up: bool| nic.bench.deliver(&Input::NetLink { device: DeviceIndex(0), up }).unwrap();
    assert_eq!(nic.bench.read(nic.driver.config + 6, 2), 1);
    link(&mut nic, false);
    assert_eq!((nic.bench.read(nic.driver.config + 6, 2), nic.bench.messages()), (0, vec![0]));
    nic.offer(200);
    nic.arrive(&packet(PLAIN, MAC, 60));
    nic.send(&packet(PLAIN, [1; 6], 60));
    assert_eq!((nic.counter("receive_drops"), nic.counter("transmit_drops"), nic.sent().len()), (1, 1, 0));
    nic.bench.messages();
    link(&mut nic, true);
    assert_eq!((nic.bench.read(nic.driver.config + 6, 2), nic.bench.messages()), (3, vec![0]), "announce");
    assert_eq!(nic.command(3, 0, &[]), 0);
    assert_eq!(nic.bench.read(nic.driver.config + 6, 2), 1);
    nic.bench.messages();
    link(&mut nic, true);
    assert_eq!((nic.bench.read(nic.driver.config + 6, 2), nic.bench.messages()), (3, vec![0]), "asked for again");
}

#[test]
fn sizes_out_of_range_are_dropped_or_refused() {
    let mut nic = nic(u64::MAX);
    for _ in 0..8 {
        nic.offer(65536);
    }
    for length in [13, 65551] {
        nic.arrive(&packet(PLAIN, MAC, length));
    }
    assert_eq!(nic.counter("receive_drops"), 2);
    nic.arrive(&packet(PLAIN, MAC, 65550));
    assert_eq!(nic.counter("received"), 1);
    let input = Input::NetReceive { device: DeviceIndex(0), packet: vec![0; 11] };
    let error = nic.bench.deliver(&input).unwrap_err();
    assert_eq!(error, DeliverError::PacketHeader { device: DeviceIndex(0), found: 11 });
}

#[test]
fn a_driver_that_is_not_ready_gets_nothing() {
    let mut bench = Bench::new(vec![function(Net::new(NetConfig::new(DeviceIndex(0), MAC)))]);
    bench.deliver(&Input::NetReceive { device: DeviceIndex(0), packet: packet(PLAIN, MAC, 60) }).unwrap();
    bench.deliver(&Input::NetLink { device: DeviceIndex(0), up: false }).unwrap();
    assert_eq!(bench.effects, []);
    let driver = Driver::start(&mut bench, 1, u64::MAX);
    assert_eq!(bench.read(driver.config + 6, 2), 0, "the link is still down");
    let state = bench.host.save();
    let mut twin = Bench::new(vec![function(Net::new(NetConfig::new(DeviceIndex(0), MAC)))]);
    twin.host.restore(state.clone()).unwrap();
    assert_eq!(twin.host.save(), state);
    let mut other = Bench::new(vec![function(Net::new(NetConfig::new(DeviceIndex(0), [2; 6])))]);
    assert!(other.host.restore(state).is_err());
}

/// A TCP frame of IPv4 or IPv6 with 250 bytes of payload, to be cut into 100 bytes each.
fn merged(ipv6: bool) -> Vec<u8> {
    let mut bytes = header(1, if ipv6 { 4 } else { 1 }, 100, [if ipv6 { 54 } else { 34 }, 16]).to_vec();
    bytes.extend(MAC);
    bytes.extend([2; 6]);
    if ipv6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0x01, 0x0e, 6, 64]);
        bytes.extend(1..=32);
    } else {
        bytes.extend([0x08, 0, 0x45, 0, 0x01, 0x22, 0xff, 0xff, 0x40, 0, 64, 6, 0, 0]);
        bytes.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    }
    // Ports, sequence, acknowledgement, length, flags (CWR, ACK, PSH, FIN), window, checksum, urgent.
    bytes.extend([0, 80, 0x1f, 0x90, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 1, 0x50, 0x99, 1, 0, 0x12, 0x34, 0, 0]);
    bytes.extend(0..250);
    bytes
}

fn ones_sum(parts: &[&[u8]]) -> u32 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum = words.fold(0u32, |sum, pair| sum + u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0)));
    (sum & 0xffff) + (sum >> 16)
}

#[test]
fn merged_tcp_segments_are_taken_apart_for_a_guest_without_the_offload() {
    for ipv6 in [false, true] {
        let mut nic = nic(!(GUEST_TSO | MRG_RXBUF));
        let places: Vec<_> = (0..4).map(|_| nic.offer(1600)).collect();
        nic.arrive(&merged(ipv6));
        let lengths: Vec<_> = nic.driver.used(&nic.bench, 0).into_iter().map(|(_, length)| length as usize).collect();
        let headers = 12 + 14 + if ipv6 { 60 } else { 40 };
        assert_eq!(lengths, [headers + 100, headers + 100, headers + 50]);
        let mut payload = Vec::new();
        for (index, (&at, &length)) in places.iter().zip(&lengths).enumerate() {
            let bytes = nic.bench.peek(at, length);
            assert_eq!(bytes[..10], [0; 10]);
            let ip = &bytes[26..];
            let tcp = &bytes[headers - 20..];
            if ipv6 {
                assert_eq!(usize::from(u16::from_be_bytes([ip[4], ip[5]])), ip.len() - 40);
            } else {
                assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip.len());
                assert_eq!(ip[4..6], [0xffffu16, 0, 1][index].to_be_bytes());
                assert_eq!(ones_sum(&[&ip[..20]]), 0xffff);
            }
            let addresses = if ipv6 { &ip[8..40] } else { &ip[12..20] };
            let pseudo = [0, 6, 0, u8::try_from(tcp.len()).unwrap()];
            assert_eq!(ones_sum(&[addresses, &pseudo, tcp]), 0xffff, "segment {index}");
            let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
            assert_eq!(sequence, [0xffff_fff0, 0x54, 0xb8][index]);
            assert_eq!(tcp[13], [0x90, 0x10, 0x19][index], "flags");
            payload.extend_from_slice(&tcp[20..]);
        }
        assert_eq!(payload, (0..250).collect::<Vec<u8>>());
        assert_eq!(nic.counter("received"), 3);
    }
}
