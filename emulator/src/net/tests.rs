//! Frames over real sockets, and over a tap where the test may make one.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use virtft_machine::io::Input;

use super::header::tests::udp_frame;
use super::*;

fn next(queue: &InputQueue) -> Input {
    assert!(queue.wait(Some(Instant::now() + Duration::from_secs(10))), "nothing came");
    queue.pop().unwrap()
}

fn start(text: &str, queue: &Arc<InputQueue>) -> (NetFacts, NetHandle) {
    let net = Net::open(&text.parse().unwrap(), 0).unwrap();
    let facts = net.facts;
    (facts, net.start(0, &Confinement::new().unwrap(), Arc::clone(queue)).unwrap())
}

#[test]
fn a_stream_finishes_checksums_and_frames_the_wire() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("net");
    let listener = UnixListener::bind(&path).unwrap();
    let queue = Arc::new(InputQueue::default());
    let (facts, handle) = start(&format!("stream={}", path.display()), &queue);
    assert!(facts.link_up && facts.offload.checksum && !facts.offload.receive_segmentation);
    let (mut peer, _) = listener.accept().unwrap();

    let (header, mut frame) = udp_frame(b"question");
    let mut packet = vec![header.flags, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
    packet.extend(&frame);
    handle.transmit(packet);
    let mut seen = vec![0; 4 + frame.len()];
    peer.read_exact(&mut seen).unwrap();
    assert!(header::complete_checksum(&header, &mut frame));
    assert_eq!(seen[..4], u32::try_from(frame.len()).unwrap().to_be_bytes());
    assert_eq!(seen[4..], frame);

    // Two frames in three pieces.
    let wire = [seen.clone(), seen.clone()].concat();
    for piece in [&wire[..3], &wire[3..60], &wire[60..]] {
        peer.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    for _ in 0..2 {
        let Input::NetReceive { packet, .. } = next(&queue) else { panic!("a frame") };
        assert_eq!(packet[..12], header::receive_header(true));
        assert_eq!(packet[12..], frame);
    }

    drop(peer);
    assert!(matches!(next(&queue), Input::NetLink { up: false, .. }));
    let (mut peer, _) = listener.accept().unwrap();
    assert!(matches!(next(&queue), Input::NetLink { up: true, .. }));
    peer.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert!(matches!(next(&queue), Input::NetLink { up: false, .. }), "an impossible length ends the connection");
}

#[test]
fn two_ends_move_megabytes_without_loss() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("net");
    let (from, to) = (Arc::new(InputQueue::default()), Arc::new(InputQueue::default()));
    let (facts, receiver) = start(&format!("stream={},server", path.display()), &to);
    assert!(!facts.link_up);
    let (_, sender) = start(&format!("stream={}", path.display()), &from);
    assert!(matches!(next(&to), Input::NetLink { up: true, .. }));
    let count = 5000_u32;
    let feeder = std::thread::spawn(move || {
        for number in 0..count {
            let mut packet = vec![0; 12 + 1500];
            packet[12..16].copy_from_slice(&number.to_be_bytes());
            while sender.shared.transmit.lock().unwrap().len() >= TRANSMIT_LIMIT {
                std::thread::yield_now();
            }
            sender.transmit(packet);
        }
        sender
    });
    for number in 0..count {
        let Input::NetReceive { packet, .. } = next(&to) else { panic!("a frame") };
        assert_eq!(packet[12..16], number.to_be_bytes());
        assert_eq!(packet.len(), 1512);
    }
    assert_eq!((feeder.join().unwrap().dropped(), receiver.dropped()), (0, 0));
}

#[test]
fn a_full_queue_drops_and_counts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("net");
    let listener = UnixListener::bind(&path).unwrap();
    let queue = Arc::new(InputQueue::default());
    let (_, handle) = start(&format!("stream={}", path.display()), &queue);
    let peer = listener.accept().unwrap();
    for _ in 0..TRANSMIT_LIMIT * 4 {
        handle.transmit(vec![0; 12 + 9000]);
    }
    assert!(handle.dropped() > 0, "the peer reads nothing");
    drop((peer, handle));
}

#[test]
fn without_a_backend_frames_vanish() {
    let queue = Arc::new(InputQueue::default());
    let (facts, handle) = start("none,mac=02:00:00:00:00:07", &queue);
    assert!(!facts.link_up);
    assert_eq!(facts.mac.to_string(), "02:00:00:00:00:07");
    handle.transmit(vec![0; 100]);
    assert_eq!(handle.dropped(), 1);
}

#[test]
fn refusals_name_the_way_out() {
    let tap = Net::open(&"tap=virtft-none".parse().unwrap(), 0).unwrap_err().to_string();
    assert!(tap.contains("ip tuntap add dev virtft-none"), "{tap}");
    let stream = Net::open(&"stream=/nonexistent/s".parse().unwrap(), 0).unwrap_err().to_string();
    assert!(stream.contains("start its server first"), "{stream}");
}

/// Needs the right to make a tap interface; without it there is nothing to test.
#[test]
fn a_tap_carries_frames_both_ways() {
    let name = format!("vft{}", std::process::id() % 100_000);
    let ip = |arguments: &str| {
        Command::new("ip").args(arguments.split(' ')).output().is_ok_and(|output| output.status.success())
    };
    if !ip(&format!("tuntap add dev {name} mode tap")) {
        return;
    }
    let queue = Arc::new(InputQueue::default());
    let (facts, handle) = start(&format!("tap={name}"), &queue);
    assert!(facts.offload.segmentation && facts.offload.receive_checksum);
    let busy = Net::open(&format!("tap={name}").parse().unwrap(), 0).unwrap_err().to_string();
    assert!(ip(&format!("link set {name} up")));
    // The host's own neighbour discovery is what arrives first.
    let Input::NetReceive { packet, .. } = next(&queue) else { panic!("a frame") };
    let count = |name: &str| -> u64 {
        std::fs::read_to_string(format!("/sys/class/net/{name}/statistics/rx_packets")).unwrap().trim().parse().unwrap()
    };
    let before = count(&name);
    let (header, frame) = udp_frame(b"x");
    let mut sent = vec![header.flags, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
    sent.extend(frame);
    handle.transmit(sent);
    let deadline = Instant::now() + Duration::from_secs(5);
    while count(&name) == before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let after = count(&name);
    drop(handle);
    assert!(ip(&format!("link del {name}")));
    assert!(packet.len() > 26 && packet[10] == 1);
    assert_eq!(after, before + 1);
    assert!(busy.contains("another program is attached"), "{busy}");
}

/// Needs the passt program.
#[test]
fn passt_answers_dhcp_and_ends_with_us() {
    if Command::new("passt").arg("--version").output().is_err() {
        return;
    }
    let queue = Arc::new(InputQueue::default());
    let net = match Net::open(&"passt".parse().unwrap(), 0) {
        Ok(net) => net,
        // A sandbox without a default route or user namespaces: passt itself says so.
        Err(error) => return assert!(error.to_string().contains("ended at once"), "{error}"),
    };
    let handle = net.start(0, &Confinement::new().unwrap(), Arc::clone(&queue)).unwrap();
    handle.transmit(dhcp_discover());
    let offer = loop {
        match next(&queue) {
            Input::NetReceive { packet, .. } if packet.len() > 300 && packet[12 + 23] == 17 => break packet,
            Input::NetLink { up: false, .. } => panic!("passt ended"),
            _ => {}
        }
    };
    assert_eq!(offer[12 + 14 + 20..12 + 14 + 24], [0, 67, 0, 68], "from the server's port to the client's");
    let started = Instant::now();
    drop(handle);
    assert!(started.elapsed() < Duration::from_millis(450), "passt had to be killed");
}

fn dhcp_discover() -> Vec<u8> {
    let mut bootp = vec![1, 1, 6, 0, 1, 2, 3, 4];
    bootp.resize(28, 0);
    bootp.extend([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    bootp.resize(236, 0);
    bootp.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    bootp.resize(300, 0);
    let udp_length = u16::try_from(8 + bootp.len()).unwrap();
    let mut frame = vec![0xff; 6];
    frame.extend([0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 0, 0x45, 0]);
    frame.extend((20 + udp_length).to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
    let checksum = header::finish_sum(header::ones_sum(&frame[14..34], 0));
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend([0, 68, 0, 67]);
    frame.extend(udp_length.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(bootp);
    [vec![0; 12], frame].concat()
}
