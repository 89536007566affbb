//! Tells switches where a machine's MAC addresses are now: a RARP request (RFC 903), as hypervisors send after a migration.

use virtft_machine::io::{DeviceIndex, Output};

/// Bytes of the `virtio_net_hdr_v1` in front of a frame.
const VIRTIO_HEADER: usize = 12;
/// Shortest Ethernet frame without FCS.
const SHORTEST: usize = 60;

/// The frame that a network device's MAC address is announced with.
#[must_use]
pub fn frame(device: u8, mac: [u8; 6]) -> Output {
    let mut packet = vec![0; VIRTIO_HEADER];
    packet.extend([0xff; 6]);
    packet.extend(mac);
    // EtherType RARP; Ethernet, IPv4, address lengths 6 and 4; request reverse.
    packet.extend([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    for _ in 0..2 {
        packet.extend(mac);
        packet.extend([0; 4]);
    }
    packet.resize(VIRTIO_HEADER + SHORTEST, 0);
    Output::NetTransmit { device: DeviceIndex(device), packet }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_a_broadcast_from_the_address() {
        let Output::NetTransmit { device, packet } = frame(2, [2, 0, 0, 0, 0, 9]) else { panic!("no packet") };
        assert_eq!((device, packet.len()), (DeviceIndex(2), 72));
        assert_eq!(packet[12..26], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 0x80, 0x35]);
    }
}
