//! Virtio balloon (virtio 1.2, 5.5) with statistics and free page reporting.
//!
//! A page that the guest gives up (inflate) or reports as free reads as zeroes from that moment on, on every replica:
//! this device clears it, unless it is clear already, and then tells the outside by
//! [`crate::io::Output::BalloonInflate`] that its memory may be dropped. The guest may use the page again at any time, so the
//! outside may drop a page only if it is still all zeroes at that moment; then nobody can see whether it was dropped.
//!
//! Statistics: the driver's buffer is kept, and given back (which asks for fresh ones) with every new target.
//!
//! Queues: drivers disagree about the numbers behind a queue that is not there. Free page hinting is not offered, so
//! queue 3 (counted by queues that exist) and queue 4 (counted by the standard) both serve reporting.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use virtft_cpu::memory::{GuestMemory, PAGE_SIZE};
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::queue::{Buffer, Chain, RingError, Rings, gather};
use super::{DeviceError, VirtioDevice, VirtioIdentity, feature, to_usize};
use crate::context::Effect;
use crate::devices::pci::value_of;
use crate::io::{Input, Output};
use crate::snapshot::{RestoreError, Snapshot};

/// Feature: statistics.
pub const F_STATS_VQ: u32 = 1;
/// Feature: the guest takes pages back before it kills processes.
pub const F_DEFLATE_ON_OOM: u32 = 2;
/// Feature: free page reporting.
pub const F_REPORTING: u32 = 5;

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS: u16 = 2;

/// Most pages of one inflate request; a driver sends 256 at a time.
const FRAMES_LIMIT: usize = 4096;
/// Most bytes of one report; a driver sends 32 blocks of at most 4 MiB.
const REPORT_LIMIT: u64 = 128 << 20;
/// Tags of statistics that are kept.
const TAGS: u16 = 32;
/// Offset of the size that the driver has reached.
const CONFIG_ACTUAL: u64 = 4;

/// A virtio balloon.
#[derive(Debug, Default)]
pub struct Balloon {
    state: BalloonState,
}

/// Saved state of a [`Balloon`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BalloonState {
    /// Pages of 4 KiB that the guest is asked to give up.
    pub target: u32,
    /// Pages of 4 KiB that the driver says it gave up.
    pub actual: u32,
    /// Head of the statistics buffer that the driver lent.
    pub statistics_head: Option<u16>,
    /// Latest statistics by tag (virtio 1.2, 5.5.6.3).
    pub statistics: BTreeMap<u16, u64>,
    /// Pages inflated since power-on.
    pub inflated: u64,
    /// Pages deflated since power-on.
    pub deflated: u64,
    /// Pages reported as free since power-on.
    pub reported: u64,
    /// Page numbers outside RAM.
    pub bad_frames: u64,
}

impl Balloon {
    /// An empty balloon.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Target, size and statistics.
    #[must_use]
    pub fn state(&self) -> &BalloonState {
        &self.state
    }

    fn inflate(&mut self, rings: &mut Rings<'_, '_>) -> Result<(), RingError> {
        while let Some(chain) = rings.pop(INFLATE)? {
            let mut frames = Vec::new();
            for frame in frames_of(rings.memory(), &chain)? {
                if clear_page(rings.memory(), frame)? {
                    frames.push(frame);
                } else {
                    self.state.bad_frames += 1;
                }
            }
            self.state.inflated += frames.len() as u64;
            give(rings, frames);
            rings.complete(INFLATE, chain.head, 0)?;
        }
        rings.arm(INFLATE)
    }

    /// A page that comes back has been all zeroes since it was given up: there is nothing to do.
    fn deflate(&mut self, rings: &mut Rings<'_, '_>) -> Result<(), RingError> {
        while let Some(chain) = rings.pop(DEFLATE)? {
            self.state.deflated += frames_of(rings.memory(), &chain)?.len() as u64;
            rings.complete(DEFLATE, chain.head, 0)?;
        }
        rings.arm(DEFLATE)
    }

    fn take_statistics(&mut self, rings: &mut Rings<'_, '_>) -> Result<(), RingError> {
        while let Some(chain) = rings.pop(STATISTICS)? {
            // A driver lends one buffer; with a second one the first goes back.
            self.return_statistics(rings)?;
            let bytes = gather(rings.memory(), &chain.readable, usize::from(TAGS) * 10)?;
            let (entries, _) = bytes.as_chunks::<10>();
            for entry in entries {
                let tag = u16::from_le_bytes([entry[0], entry[1]]);
                if tag < TAGS {
                    self.state.statistics.insert(tag, value_of(&entry[2..]));
                }
            }
            self.state.statistics_head = Some(chain.head);
        }
        rings.arm(STATISTICS)
    }

    fn return_statistics(&mut self, rings: &mut Rings<'_, '_>) -> Result<(), RingError> {
        match self.state.statistics_head.take() {
            Some(head) => rings.complete(STATISTICS, head, 0),
            None => Ok(()),
        }
    }

    fn report(&mut self, rings: &mut Rings<'_, '_>, queue: u16) -> Result<(), RingError> {
        while let Some(chain) = rings.pop(queue)? {
            let mut frames = Vec::new();
            for frame in reported(&chain.writable) {
                if clear_page(rings.memory(), frame)? {
                    frames.push(frame);
                }
            }
            self.state.reported += frames.len() as u64;
            give(rings, frames);
            rings.complete(queue, chain.head, 0)?;
        }
        rings.arm(queue)
    }
}

/// The page numbers in an inflate or deflate request.
fn frames_of(memory: &GuestMemory, chain: &Chain) -> Result<Vec<u64>, RingError> {
    let bytes = gather(memory, &chain.readable, FRAMES_LIMIT * 4)?;
    let (entries, _) = bytes.as_chunks::<4>();
    Ok(entries.iter().map(|entry| u64::from(u32::from_le_bytes(*entry))).collect())
}

/// The whole pages in a report, up to the limit.
fn reported(buffers: &[Buffer]) -> impl Iterator<Item = u64> {
    let pages = buffers.iter().flat_map(|buffer| {
        let first = buffer.address.div_ceil(PAGE_SIZE);
        let end = buffer.address.saturating_add(u64::from(buffer.length)) / PAGE_SIZE;
        first..end
    });
    pages.take(to_usize(REPORT_LIMIT / PAGE_SIZE))
}

/// Makes a page read as zeroes; false when it is not RAM. A page that is clear is not written, so that memory that was
/// never used stays so.
fn clear_page(memory: &GuestMemory, frame: u64) -> Result<bool, RingError> {
    const PAGE: usize = 4096;
    let ring_error = |error: vm_memory::GuestMemoryError| RingError::Ring(error.to_string());
    let address = GuestAddress(frame.saturating_mul(PAGE_SIZE));
    if !GuestMemoryBackend::check_range(memory, address, PAGE) {
        return Ok(false);
    }
    let mut bytes = [0; PAGE];
    memory.read_slice(&mut bytes, address).map_err(ring_error)?;
    if bytes != [0; PAGE] {
        memory.write_slice(&[0; PAGE], address).map_err(ring_error)?;
    }
    Ok(true)
}

fn give(rings: &mut Rings<'_, '_>, frames: Vec<u64>) {
    if !frames.is_empty() {
        rings.cx.effects.push(Effect::Output(Output::BalloonInflate { frames }));
    }
}

impl VirtioDevice for Balloon {
    fn identity(&self) -> VirtioIdentity {
        VirtioIdentity { name: "virtio-balloon", device_type: VIRTIO_ID_BALLOON, class: 0x00_ff00 }
    }

    fn features(&self) -> u64 {
        feature(F_STATS_VQ) | feature(F_DEFLATE_ON_OOM) | feature(F_REPORTING)
    }

    fn accepts_features(&self, _accepted: u64) -> bool {
        // The balloon's features do not depend on one another.
        true
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![128, 128, 8, 32, 32]
    }

    fn config(&self) -> Vec<u8> {
        let mut bytes = self.state.target.to_le_bytes().to_vec();
        bytes.extend(self.state.actual.to_le_bytes());
        bytes
    }

    fn write_config(&mut self, _rings: &mut Rings<'_, '_>, offset: u64, data: &[u8]) -> Result<(), RingError> {
        if let (CONFIG_ACTUAL, Ok(bytes)) = (offset, <[u8; 4]>::try_from(data)) {
            self.state.actual = u32::from_le_bytes(bytes);
        }
        Ok(())
    }

    fn activate(&mut self, _rings: &mut Rings<'_, '_>) -> Result<(), RingError> {
        Ok(())
    }

    fn notify(&mut self, rings: &mut Rings<'_, '_>, queue: u16) -> Result<(), RingError> {
        match queue {
            INFLATE => self.inflate(rings),
            DEFLATE => self.deflate(rings),
            STATISTICS if rings.has(F_STATS_VQ) => self.take_statistics(rings),
            _ if rings.has(F_REPORTING) => self.report(rings, queue),
            _ => Ok(()),
        }
    }

    fn accepts(&self, input: &Input) -> bool {
        matches!(input, Input::BalloonTarget { .. })
    }

    fn deliver(&mut self, rings: &mut Rings<'_, '_>, input: &Input) -> Result<(), DeviceError> {
        if let Input::BalloonTarget { pages } = input {
            if self.state.target != *pages {
                self.state.target = *pages;
                rings.config_changed();
            }
            self.return_statistics(rings)?;
        }
        Ok(())
    }

    fn in_flight(&self) -> Vec<Output> {
        Vec::new()
    }

    /// The target stays: it belongs to the outside. A driver that starts again has an empty balloon.
    fn reset(&mut self) {
        self.state.actual = 0;
        self.state.statistics_head = None;
        self.state.statistics.clear();
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("target_pages", u64::from(self.state.target)),
            ("actual_pages", u64::from(self.state.actual)),
            ("inflated", self.state.inflated),
            ("deflated", self.state.deflated),
            ("reported", self.state.reported),
            ("bad_frames", self.state.bad_frames),
        ]
    }
}

impl Snapshot for Balloon {
    const KIND: &'static str = "virtio-balloon";
    const VERSION: u16 = 1;
    type State = BalloonState;

    fn save(&self) -> BalloonState {
        let Self { state } = self;
        state.clone()
    }

    fn restore(&mut self, state: BalloonState) -> Result<(), RestoreError> {
        if let Some(tag) = state.statistics.keys().find(|&&tag| tag >= TAGS) {
            let reason = format!("statistics have no tag {tag}");
            return Err(RestoreError::Invalid { kind: Self::KIND, reason });
        }
        self.state = state;
        Ok(())
    }
}
