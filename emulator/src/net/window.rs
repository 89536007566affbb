//! Keeps TCP windows small enough for peers that lose frames.
//!
//! passt sends as much as the guest's window admits, drops what its socket has no room for, and then waits seconds for the
//! guest to miss it: a guest that is slower than its host stalls and in the end is reset. So the window that a guest announces
//! is cut to [`WINDOW_BYTES`], which a socket does hold. What a window field means depends on the shift that was agreed when the
//! connection began (RFC 7323, section 2); connections whose beginning was not seen are left alone.

use std::collections::BTreeMap;

/// The largest window that is announced.
const WINDOW_BYTES: u32 = 64 << 10;
/// Connections whose shift is remembered; beyond that all are forgotten, which costs no more than speed.
const CONNECTIONS: usize = 4096;

const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const PROTOCOL_TCP: u8 = 6;
const TCP_HEADER: usize = 20;
const FLAGS: usize = 13;
const WINDOW: usize = 14;
const CHECKSUM: usize = 16;
const FLAG_SYN: u8 = 2;
const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_WINDOW_SCALE: u8 = 3;

/// Both addresses and ports.
type Connection = Vec<u8>;

/// Cuts the windows in the segments of one guest.
#[derive(Debug, Default)]
pub struct WindowLimiter {
    shifts: BTreeMap<Connection, u8>,
}

impl WindowLimiter {
    /// Looks at a frame that the guest sends, whose checksum is finished, and cuts its window.
    pub fn limit(&mut self, frame: &mut [u8]) {
        let Some((connection, transport)) = find_tcp(frame) else { return };
        let tcp = &mut frame[transport..];
        if tcp[FLAGS] & FLAG_SYN != 0 {
            if self.shifts.len() >= CONNECTIONS {
                self.shifts.clear();
            }
            // The window of the SYN itself is not shifted, so it is small enough.
            self.shifts.insert(connection, window_shift(tcp));
            return;
        }
        let Some(shift) = self.shifts.get(&connection) else { return };
        let most = u16::try_from(WINDOW_BYTES >> shift).unwrap_or(u16::MAX);
        let window = u16::from_be_bytes([tcp[WINDOW], tcp[WINDOW + 1]]);
        if window > most {
            tcp[WINDOW..WINDOW + 2].copy_from_slice(&most.to_be_bytes());
            let checksum = u16::from_be_bytes([tcp[CHECKSUM], tcp[CHECKSUM + 1]]);
            // RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
            let corrected = !add(add(!checksum, !window), most);
            tcp[CHECKSUM..CHECKSUM + 2].copy_from_slice(&corrected.to_be_bytes());
        }
    }
}

/// The connection of a TCP segment, and where its header begins; `None` for anything else.
fn find_tcp(frame: &[u8]) -> Option<(Connection, usize)> {
    let mut network = 14;
    let mut kind: [u8; 2] = *frame.get(12..14)?.first_chunk()?;
    if kind == ETHERTYPE_VLAN {
        network = 18;
        kind = *frame.get(16..18)?.first_chunk()?;
    }
    let (addresses, transport) = match kind {
        ETHERTYPE_IPV4 => {
            let header = frame.get(network..network + 20)?;
            let fragment = header[6] & 0x1f != 0 || header[7] != 0;
            let length = 4 * usize::from(header[0] & 15);
            (header[9] == PROTOCOL_TCP && !fragment).then_some((&header[12..20], network + length))?
        }
        // TCP behind extension headers is left alone.
        ETHERTYPE_IPV6 => {
            let header = frame.get(network..network + 40)?;
            (header[6] == PROTOCOL_TCP).then_some((&header[8..40], network + 40))?
        }
        _ => return None,
    };
    let header = frame.get(transport..transport + TCP_HEADER)?;
    Some(([addresses, &header[..4]].concat(), transport))
}

/// The shift that a SYN segment announces; 0 without the option.
fn window_shift(tcp: &[u8]) -> u8 {
    let length = (4 * usize::from(tcp[12] >> 4)).min(tcp.len());
    let mut at = TCP_HEADER;
    while at < length {
        let size = match tcp[at] {
            OPTION_END => return 0,
            OPTION_NOTHING => 1,
            _ => usize::from(tcp.get(at + 1).copied().unwrap_or(0)),
        };
        if size == 0 || at + size > length {
            return 0;
        }
        if tcp[at] == OPTION_WINDOW_SCALE && size == 3 {
            // Larger shifts count as 14 (RFC 7323, section 2.3).
            return tcp[at + 2].min(14);
        }
        at += size;
    }
    0
}

/// Sum in ones' complement.
fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::header::checksum_is_valid;

    fn sum(bytes: &[u8]) -> u16 {
        bytes.chunks_exact(2).fold(0, |sum, word| add(sum, u16::from_be_bytes([word[0], word[1]])))
    }

    /// A segment from 192.0.2.1 to 192.0.2.2 with options, and right checksums.
    fn segment(flags: u8, window: u16, options: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 14 + 20];
        frame[12..14].copy_from_slice(&ETHERTYPE_IPV4);
        let length = 40 + options.len();
        let total = u16::try_from(length).unwrap().to_be_bytes();
        frame[14..]
            .copy_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        let offset = u8::try_from(((20 + options.len()) / 4) << 4).unwrap();
        let mut tcp = vec![0x80, 0x01, 0, 22, 1, 2, 3, 4, 0, 0, 0, 0, offset, flags, 0, 0, 0, 0, 0, 0];
        tcp[WINDOW..WINDOW + 2].copy_from_slice(&window.to_be_bytes());
        tcp.extend(options);
        let [high, low] = u16::try_from(tcp.len()).unwrap().to_be_bytes();
        let pseudo = sum(&[192, 0, 2, 1, 192, 0, 2, 2, 0, 6, high, low]);
        let checksum = !add(pseudo, sum(&tcp));
        tcp[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
        frame.extend(tcp);
        let header = !sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&header.to_be_bytes());
        frame
    }

    fn window_of(frame: &[u8]) -> u16 {
        u16::from_be_bytes([frame[34 + WINDOW], frame[34 + WINDOW + 1]])
    }

    #[test]
    fn windows_are_cut_and_checksums_stay_right() {
        for shift in 0..=14 {
            let mut limiter = WindowLimiter::default();
            let mut syn = segment(FLAG_SYN, 0xffff, &[2, 4, 5, 0xb4, 1, 3, 3, shift]);
            let before = syn.clone();
            limiter.limit(&mut syn);
            assert_eq!(syn, before);
            for window in [0, 1, 512, 0x7fff, 0xffff] {
                let mut data = segment(0x10, window, &[]);
                assert!(checksum_is_valid(&data));
                limiter.limit(&mut data);
                assert!(checksum_is_valid(&data), "shift {shift}, window {window}");
                let seen = u32::from(window_of(&data)) << shift;
                assert!(seen <= WINDOW_BYTES && (seen == WINDOW_BYTES || window_of(&data) == window || shift == 0));
            }
        }
    }

    #[test]
    fn what_is_not_known_stays_as_it_is() {
        let mut limiter = WindowLimiter::default();
        let data = segment(0x10, 0xffff, &[]);
        let mut other = data.clone();
        limiter.limit(&mut other);
        assert_eq!(other, data, "its beginning was not seen");
        // Cut anywhere, with options that do not add up, and not TCP.
        let syn = segment(FLAG_SYN, 0xffff, &[8, 0, 3, 3, 7, 0, 0, 0]);
        for length in 0..syn.len() {
            limiter.limit(&mut syn[..length].to_vec());
        }
        let mut udp = data.clone();
        udp[23] = 17;
        let before = udp.clone();
        limiter.limit(&mut udp);
        assert_eq!(udp, before);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut limiter = WindowLimiter::default();
        for port in 0..=u16::try_from(CONNECTIONS).unwrap() {
            let mut syn = segment(FLAG_SYN, 0xffff, &[]);
            syn[34..36].copy_from_slice(&port.to_be_bytes());
            limiter.limit(&mut syn);
            assert!(limiter.shifts.len() <= CONNECTIONS);
        }
    }
}
