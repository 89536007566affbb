//! The disks of a backup: its own copies, written as the primary's are.
//!
//! The state transfer overwrites them; from then on the replayed machine's own requests keep them identical. Requests are executed
//! on the replaying thread, at the position at which the machine makes them: those that overlap are never in flight together,
//! so that when the primary's were done makes no difference.

use std::collections::BTreeMap;

use virtft_machine::io::{BlockOperation, BlockStatus, DeviceIndex, Output, RequestId};
use virtft_replay::snapshot::DiskPart;

use super::pieces::{self, Pieces};
use crate::disk::Disk;

/// See the module's description.
#[derive(Debug)]
pub struct ReplicaDisks {
    disks: Vec<Disk>,
    /// What was read for requests whose completions were not replayed yet.
    read: BTreeMap<(DeviceIndex, RequestId), Vec<u8>>,
    /// Number of the next request of a transfer.
    transfers: u64,
}

impl ReplicaDisks {
    /// Disks whose content may be overwritten.
    #[must_use]
    pub fn new(disks: Vec<Disk>) -> Self {
        Self { disks, read: BTreeMap::new(), transfers: 0 }
    }

    /// Executes a request of the machine.
    ///
    /// # Errors
    /// One line when this side's disk fails: it can be no replica then.
    pub fn carry_out(&mut self, output: Output) -> Result<(), String> {
        let Output::Block { device, request, operation } = output else { return Ok(()) };
        let reads = matches!(operation, BlockOperation::Read { .. });
        let disk = self.disks.get_mut(usize::from(device.0)).ok_or_else(|| format!("there is no disk {}", device.0))?;
        let completion = disk.execute(request, operation);
        // A primary whose own disk fails says so in its completion; one that fails here alone makes the copies differ.
        if completion.status != BlockStatus::Ok {
            return Err(format!("disk {}: a request failed on this host: {:?}", device.0, completion.status));
        }
        if reads {
            self.read.insert((device, request), completion.data);
        }
        Ok(())
    }

    /// The data of a read.
    pub fn take(&mut self, device: DeviceIndex, request: RequestId) -> Option<Vec<u8>> {
        self.read.remove(&(device, request))
    }

    /// What the copies hold now; nothing of those that are only read, which are not sent either.
    ///
    /// # Errors
    /// One line when one cannot be read.
    pub fn pieces(&mut self) -> Result<Pieces, String> {
        let of = |disk: &mut Disk| if disk.facts.readonly { Ok(Vec::new()) } else { pieces::read(disk) };
        self.disks.iter_mut().map(of).collect()
    }

    /// Writes a part of the primary's disk.
    ///
    /// # Errors
    /// One line when it cannot be written.
    pub fn transferred(&mut self, part: &DiskPart) -> Result<(), String> {
        let disk =
            self.disks.get_mut(usize::from(part.device)).ok_or_else(|| format!("there is no disk {}", part.device))?;
        let end = part.offset.checked_add(part.length.into()).filter(|end| *end <= disk.facts.size);
        if end.is_none() {
            return Err(format!("disk {}: the primary's is larger than this one", part.device));
        }
        let operation = if part.data.is_empty() {
            BlockOperation::WriteZeroes { offset: part.offset, length: part.length.into(), unmap: true }
        } else {
            BlockOperation::Write { offset: part.offset, data: part.data.clone() }
        };
        self.transfers += 1;
        match disk.execute(RequestId(self.transfers), operation).status {
            BlockStatus::Ok => Ok(()),
            status => Err(format!("disk {}: the transferred content cannot be written: {status:?}", part.device)),
        }
    }

    /// The disks, to be used directly.
    #[must_use]
    pub fn into_disks(self) -> Vec<Disk> {
        self.disks
    }
}
