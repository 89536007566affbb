//! The part of the log that was written and not yet acknowledged: kept, so that a connection that breaks can go on where it
//! was.

use std::collections::VecDeque;

/// Bytes of the log from the acknowledged offset to its end.
#[derive(Debug, Default)]
pub struct SendWindow {
    bytes: VecDeque<u8>,
    start: u64,
}

impl SendWindow {
    /// Offset of the first byte kept.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Offset behind the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Appends to the log.
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Everything below `offset` has been received: it is dropped. Offsets beyond the end are taken as the end.
    pub fn acknowledge(&mut self, offset: u64) {
        let end = offset.min(self.end());
        if let Ok(count) = usize::try_from(end.saturating_sub(self.start)) {
            self.bytes.drain(..count);
            self.start += count as u64;
        }
    }

    /// At most `limit` bytes from `offset` on; empty when they are not kept any more or not there yet.
    #[must_use]
    pub fn read(&self, offset: u64, limit: usize) -> Vec<u8> {
        let Some(skip) = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok()) else {
            return Vec::new();
        };
        let end = self.bytes.len().min(skip.saturating_add(limit));
        if skip >= end { Vec::new() } else { self.bytes.range(skip..end).copied().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_is_dropped_and_the_rest_can_be_read() {
        let mut window = SendWindow::default();
        window.append(b"abcdef");
        window.acknowledge(2);
        window.append(b"gh");
        assert_eq!((window.start(), window.end()), (2, 8));
        assert_eq!(window.read(3, 3), b"def");
        assert_eq!(window.read(7, 100), b"h");
        assert_eq!((window.read(1, 4), window.read(8, 4)), (vec![], vec![]));
        window.acknowledge(100);
        assert_eq!((window.start(), window.end()), (8, 8));
        window.acknowledge(3);
        assert_eq!(window.start(), 8, "acknowledgements do not go back");
    }
}
