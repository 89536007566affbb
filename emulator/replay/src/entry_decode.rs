//! Bytes to entries: the counterpart of [`crate::entry_encode`].
//!
//! The bytes come from files and peers. Whatever they are, decoding ends with entries or an error, and holds no more memory
//! than the bytes themselves. What is decoded encodes to the same bytes again.

use thiserror::Error;
use virtft_machine::io::{BlockStatus, CharPort, ClockAnchor, DeviceIndex, Input, InstructionCount, RequestId};
use virtft_machine::machine::StateDigest;

use crate::bytes::{BytesError, Cursor, unfold_difference};
use crate::entry::{EndReason, LogEntry, Positioned};
use crate::entry_encode::{FAR_DEVICE, Line, control, kind};
use crate::net_header::take_packet;

/// A payload that is not made of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntryError {
    /// The bytes do not hold what the entry needs.
    #[error("entry {sequence}: {source}")]
    Bytes {
        /// Number of the entry.
        sequence: u64,
        /// What is wrong.
        source: BytesError,
    },
    /// A field has a value that no writer gives it.
    #[error("entry {sequence}: {what} {value} does not exist")]
    Value {
        /// Number of the entry.
        sequence: u64,
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}

/// Something wrong inside an entry, before its number is known.
enum Wrong {
    Bytes(BytesError),
    Value(&'static str, u64),
}

impl From<BytesError> for Wrong {
    fn from(error: BytesError) -> Self {
        Self::Bytes(error)
    }
}

/// Reads the entries of one payload.
#[derive(Debug)]
pub struct EntryDecoder<'a> {
    cursor: Cursor<'a>,
    count: u64,
    sequence: u64,
    line: Option<Line>,
}

impl<'a> EntryDecoder<'a> {
    /// Begins with the entry number `sequence`.
    ///
    /// # Errors
    /// When the payload has no beginning.
    pub fn new(payload: &'a [u8], sequence: u64) -> Result<Self, EntryError> {
        let mut cursor = Cursor::new(payload);
        let count = cursor.integer().map_err(|source| EntryError::Bytes { sequence, source })?;
        Ok(Self { cursor, count, sequence, line: None })
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// See [`EntryError`]; nothing can be read after one.
    #[expect(clippy::should_implement_trait, reason = "an error ends the reading, which an iterator cannot say")]
    pub fn next(&mut self) -> Result<Option<Positioned>, EntryError> {
        if self.cursor.is_empty() {
            return Ok(None);
        }
        let sequence = self.sequence;
        let entry = self.entry().map_err(|wrong| match wrong {
            Wrong::Bytes(source) => EntryError::Bytes { sequence, source },
            Wrong::Value(what, value) => EntryError::Value { sequence, what, value },
        })?;
        self.sequence += 1;
        Ok(Some(Positioned { count: InstructionCount(self.count), sequence, entry }))
    }

    /// Bytes that were not read yet.
    #[must_use]
    pub fn remaining_bytes(&self) -> usize {
        self.cursor.remaining()
    }

    fn entry(&mut self) -> Result<LogEntry, Wrong> {
        let tag = self.cursor.byte()?;
        let (kind, variant) = (tag >> 4, tag & 15);
        let steps = self.cursor.integer()?;
        self.count = self.count.checked_add(steps).ok_or(Wrong::Value("distance", steps))?;
        Ok(match kind {
            kind::ANCHOR => LogEntry::Input(Input::ClockAnchor(self.anchor(variant)?)),
            kind::NET_RECEIVE => {
                let device = self.device(variant)?;
                let packet =
                    take_packet(&mut self.cursor)?.ok_or(Wrong::Value("packet header of device", device.0.into()))?;
                LogEntry::Input(Input::NetReceive { device, packet })
            }
            kind::NET_LINK => {
                let device = self.device(variant)?;
                let up = self.flag("link state")?;
                LogEntry::Input(Input::NetLink { device, up })
            }
            kind::BLOCK_COMPLETION => {
                let device = self.device(variant)?;
                let request = RequestId(self.cursor.integer()?);
                let status = self.status()?;
                let data = self.cursor.bytes()?.to_vec();
                LogEntry::Input(Input::BlockCompletion { device, request, status, data })
            }
            kind::BLOCK_REFERENCE => self.reference(variant)?,
            kind::CHAR_RECEIVE => LogEntry::Input(self.char_receive(variant)?),
            kind::CONTROL => LogEntry::Input(self.control(variant)?),
            kind::MARK if variant == 0 => LogEntry::Mark,
            kind::DIGEST => self.digest(variant)?,
            kind::STRUCTURE => self.structure(variant)?,
            _ => return Err(Wrong::Value("kind", tag.into())),
        })
    }

    fn anchor(&mut self, variant: u8) -> Result<ClockAnchor, Wrong> {
        let (time, rate) = (self.cursor.integer()?, self.cursor.integer()?);
        let anchor = match (variant, self.line) {
            (0, None) => ClockAnchor { time_ns: time, rate },
            (1, Some(line)) => ClockAnchor {
                time_ns: unfold_difference(time, line.time_at(self.count)),
                rate: unfold_difference(rate, line.anchor.rate),
            },
            _ => return Err(Wrong::Value("variant of an anchor", variant.into())),
        };
        self.line = Some(Line { at: self.count, anchor });
        Ok(anchor)
    }

    fn reference(&mut self, variant: u8) -> Result<LogEntry, Wrong> {
        let device = self.device(variant)?;
        let request = RequestId(self.cursor.integer()?);
        let status = self.status()?;
        let length = self.cursor.integer()?;
        let length = u32::try_from(length).map_err(|_| Wrong::Value("length", length))?;
        let crc = u32::from_le_bytes(self.cursor.array()?);
        Ok(LogEntry::BlockReference { device, request, status, length, crc })
    }

    fn char_receive(&mut self, variant: u8) -> Result<Input, Wrong> {
        let index = self.cursor.byte()?;
        let port = match variant {
            0 => CharPort::Serial(index),
            1 => CharPort::Console(index),
            2 if index == 0 => CharPort::DebugCon,
            _ => return Err(Wrong::Value("character channel", variant.into())),
        };
        Ok(Input::CharReceive { port, data: self.cursor.bytes()?.to_vec() })
    }

    fn control(&mut self, variant: u8) -> Result<Input, Wrong> {
        Ok(match variant {
            control::RTC_ORIGIN => Input::RtcOrigin { unix_ns: self.cursor.integer()? },
            control::KEYBOARD => Input::Keyboard { scancodes: self.cursor.bytes()?.to_vec() },
            control::ENTROPY => Input::EntropySeed(self.cursor.array()?),
            control::BALLOON => {
                let pages = self.cursor.integer()?;
                Input::BalloonTarget { pages: u32::try_from(pages).map_err(|_| Wrong::Value("balloon target", pages))? }
            }
            control::POWER_BUTTON => Input::PowerButton,
            control::RESET => Input::Reset,
            control::NMI => Input::Nmi,
            _ => return Err(Wrong::Value("control action", variant.into())),
        })
    }

    fn digest(&mut self, variant: u8) -> Result<LogEntry, Wrong> {
        let digest = StateDigest(u128::from_le_bytes(self.cursor.array()?));
        match variant {
            0 => Ok(LogEntry::StateDigest { state: digest, outputs: u64::from_le_bytes(self.cursor.array()?) }),
            1 => Ok(LogEntry::MemoryDigest(digest)),
            _ => Err(Wrong::Value("kind of digest", variant.into())),
        }
    }

    fn structure(&mut self, variant: u8) -> Result<LogEntry, Wrong> {
        match variant {
            0 => {
                let number = self.cursor.integer()?;
                Ok(LogEntry::Snapshot(u32::try_from(number).map_err(|_| Wrong::Value("snapshot", number))?))
            }
            1 => Ok(LogEntry::End(match self.cursor.array::<2>()? {
                [0, status] => EndReason::Off { status },
                [1, 0] => EndReason::TripleFault,
                [2, 0] => EndReason::Stopped,
                [reason, _] => return Err(Wrong::Value("reason for the end", reason.into())),
            })),
            _ => Err(Wrong::Value("kind of structure", variant.into())),
        }
    }

    fn device(&mut self, variant: u8) -> Result<DeviceIndex, Wrong> {
        if variant < FAR_DEVICE {
            return Ok(DeviceIndex(variant));
        }
        match self.cursor.byte()? {
            index if index >= FAR_DEVICE => Ok(DeviceIndex(index)),
            index => Err(Wrong::Value("far device", index.into())),
        }
    }

    fn status(&mut self) -> Result<BlockStatus, Wrong> {
        match self.cursor.byte()? {
            0 => Ok(BlockStatus::Ok),
            1 => Ok(BlockStatus::IoError),
            2 => Ok(BlockStatus::Unsupported),
            other => Err(Wrong::Value("disk status", other.into())),
        }
    }

    fn flag(&mut self, what: &'static str) -> Result<bool, Wrong> {
        match self.cursor.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Wrong::Value(what, other.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry_encode::EntryEncoder;
    use crate::fuzz::sample_entries;

    fn decode(payload: &[u8]) -> Result<Vec<Positioned>, EntryError> {
        let mut decoder = EntryDecoder::new(payload, 7)?;
        let mut entries = Vec::new();
        while let Some(entry) = decoder.next()? {
            entries.push(entry);
        }
        Ok(entries)
    }

    #[test]
    fn every_kind_of_entry_comes_back() {
        let entries = sample_entries();
        let mut encoder = EntryEncoder::new(InstructionCount(1000));
        for (steps, entry) in (0..).zip(&entries) {
            encoder.put(InstructionCount(1000 + steps * 777), entry);
        }
        assert_eq!(encoder.entries(), entries.len() as u64);
        let decoded = decode(&encoder.finish()).unwrap();
        assert_eq!(decoded.iter().map(|entry| &entry.entry).collect::<Vec<_>>(), entries.iter().collect::<Vec<_>>());
        for (index, entry) in decoded.iter().enumerate() {
            assert_eq!((entry.sequence, entry.count.0), (7 + index as u64, 1000 + index as u64 * 777));
        }
    }

    #[test]
    fn a_busy_anchor_and_a_packet_are_small() {
        let size = |entries: &[LogEntry]| {
            let mut encoder = EntryEncoder::new(InstructionCount(0));
            let mut sizes = Vec::new();
            for (index, entry) in (1..).zip(entries) {
                let before = encoder.size_bytes();
                encoder.put(InstructionCount(index * 1_000_000), entry);
                sizes.push(encoder.size_bytes() - before);
            }
            sizes
        };
        let line = Line { at: 1_000_000, anchor: ClockAnchor { time_ns: 5, rate: 10 << 32 } };
        let next = ClockAnchor { time_ns: line.time_at(2_000_000), rate: (10 << 32) + 0x123_4567 };
        let anchors = [LogEntry::Input(Input::ClockAnchor(line.anchor)), LogEntry::Input(Input::ClockAnchor(next))];
        assert!(size(&anchors)[1] <= 9, "{:?}", size(&anchors));
        let packet = LogEntry::Input(Input::NetReceive { device: DeviceIndex(0), packet: vec![0; 12 + 1500] });
        assert!(size(&[packet])[0] <= 1500 + 12);
    }

    #[test]
    fn damage_is_named() {
        let mut encoder = EntryEncoder::new(InstructionCount(5));
        encoder.put(InstructionCount(6), &LogEntry::MemoryDigest(StateDigest(3)));
        let payload = encoder.finish();
        let error = decode(&payload[..payload.len() - 1]).unwrap_err();
        assert_eq!(error.to_string(), "entry 7: the bytes end too early");
        assert_eq!(decode(&[0, 0xf0, 0]).unwrap_err().to_string(), "entry 7: kind 240 does not exist");
        assert_eq!(decode(&[]).unwrap_err(), EntryError::Bytes { sequence: 7, source: BytesError::End });
        // A count beyond 64 bits.
        let mut overflow = Vec::new();
        crate::bytes::put_integer(&mut overflow, u64::MAX);
        overflow.extend([kind::MARK << 4, 1]);
        assert!(matches!(decode(&overflow), Err(EntryError::Value { what: "distance", .. })));
    }
}
