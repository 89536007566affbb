//! The replaying side's own copies of disks, for logs that do not carry what was read.
//!
//! A copy is only read. What the replayed guest writes goes to an unnamed temporary file at the same offsets, and a map
//! says which sectors are there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use virtft_machine::io::{BlockOperation, BlockStatus, DeviceIndex, Output, RequestId};

use crate::cli::DiskOption;
use crate::disk::{Disk, Executor};

const SECTOR: u64 = 512;
/// Sectors in one word of the map.
const GROUP: u64 = 64;

/// One disk: what it was, and what was written since.
#[derive(Debug)]
struct OwnDisk {
    base: Executor,
    changes: File,
    /// Bits of the sectors that are in `changes`, by group of 64.
    changed: BTreeMap<u64, u64>,
    /// Last request, for the executor's completions.
    requests: u64,
}

/// All disks of a replayed machine, and the data of reads whose completions were not replayed yet.
#[derive(Debug, Default)]
pub struct OwnDisks {
    disks: Vec<OwnDisk>,
    read: BTreeMap<(DeviceIndex, RequestId), Vec<u8>>,
}

impl OwnDisks {
    /// Opens the copies and checks that they have the digests of the recorded run.
    ///
    /// # Errors
    /// One line that says which copy cannot be used.
    pub fn open(options: &[DiskOption], digests: &[u128]) -> Result<Self, String> {
        if options.len() != digests.len() {
            return Err(format!(
                "the log was recorded with --disk-data own: give its {} disks with --disk, as they were when recording began",
                digests.len()
            ));
        }
        let mut disks = Vec::new();
        for (index, (option, expected)) in options.iter().zip(digests).enumerate() {
            let option = DiskOption { readonly: true, ..option.clone() };
            let disk = Disk::open(&option, index).map_err(|error| error.to_string())?;
            let found = disk.digest()?;
            if found != *expected {
                return Err(format!(
                    "{}: this is not the disk as it was when recording began: its digest is {found:032x}, in the log it is {expected:032x}",
                    option.file.display()
                ));
            }
            let changes = tempfile::tempfile().map_err(|error| format!("no temporary file can be made ({error})"))?;
            disks.push(OwnDisk { base: disk.into_executor(), changes, changed: BTreeMap::new(), requests: 0 });
        }
        Ok(Self { disks, read: BTreeMap::new() })
    }

    /// Carries out a block request at once. Requests that overlap are never in flight together, so that when it is done
    /// makes no difference.
    ///
    /// # Errors
    /// One line when the copy cannot be read or the changes not be written.
    pub fn carry_out(&mut self, output: Output) -> Result<(), String> {
        let Output::Block { device, request, operation } = output else { return Ok(()) };
        // A log that carries the data is replayed without disks.
        let Some(disk) = self.disks.get_mut(usize::from(device.0)) else { return Ok(()) };
        let data = disk.perform(operation).map_err(|error| format!("disk {}: {error}", device.0))?;
        if let Some(data) = data {
            self.read.insert((device, request), data);
        }
        Ok(())
    }

    /// The data of a read.
    pub fn take(&mut self, device: DeviceIndex, request: RequestId) -> Option<Vec<u8>> {
        self.read.remove(&(device, request))
    }
}

impl OwnDisk {
    /// Returns the data of a read.
    fn perform(&mut self, operation: BlockOperation) -> io::Result<Option<Vec<u8>>> {
        match operation {
            BlockOperation::Read { offset, length } => self.read(offset, length).map(Some),
            BlockOperation::Write { offset, data } => self.write(offset, &data).map(|()| None),
            BlockOperation::Flush => Ok(None),
            BlockOperation::Discard { offset, length } | BlockOperation::WriteZeroes { offset, length, .. } => {
                self.zero(offset, length).map(|()| None)
            }
        }
    }

    fn read(&mut self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        self.requests += 1;
        let completion = self.base.execute(RequestId(self.requests), BlockOperation::Read { offset, length });
        if completion.status != BlockStatus::Ok {
            return Err(io::Error::other(format!("{length} bytes at {offset} cannot be read")));
        }
        let mut data = completion.data;
        for (sector, bytes) in (offset / SECTOR..).zip(data.chunks_mut(512)) {
            let bits = self.changed.get(&(sector / GROUP)).copied().unwrap_or(0);
            if bits >> (sector % GROUP) & 1 != 0 {
                self.changes.read_exact_at(bytes, sector * SECTOR)?;
            }
        }
        Ok(data)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.changes.write_all_at(data, offset)?;
        for sector in offset / SECTOR..(offset + data.len() as u64).div_ceil(SECTOR) {
            *self.changed.entry(sector / GROUP).or_default() |= 1 << (sector % GROUP);
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        const CHUNK: usize = 1 << 20;
        let zeroes = vec![0; CHUNK];
        let mut done = 0;
        while done < length {
            let part = zeroes.len().min(usize::try_from(length - done).unwrap_or(CHUNK));
            self.write(offset + done, &zeroes[..part])?;
            done += part as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(request: u64, operation: BlockOperation) -> Output {
        Output::Block { device: DeviceIndex(0), request: RequestId(request), operation }
    }

    fn option(file: &std::path::Path) -> DiskOption {
        format!("file={},format=raw", file.display()).parse().unwrap()
    }

    #[test]
    fn writes_are_seen_by_reads_and_change_no_file() {
        let image = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(image.path(), [7; 4096]).unwrap();
        let digest = xxhash_rust::xxh3::xxh3_128(&[7; 4096]);
        let mut disks = OwnDisks::open(&[option(image.path())], &[digest]).unwrap();
        disks.carry_out(block(1, BlockOperation::Write { offset: 1024, data: vec![9; 512] })).unwrap();
        disks.carry_out(block(2, BlockOperation::Discard { offset: 2048, length: 512 })).unwrap();
        disks.carry_out(block(3, BlockOperation::Read { offset: 512, length: 2048 })).unwrap();
        let data = disks.take(DeviceIndex(0), RequestId(3)).unwrap();
        assert_eq!(data, [[7; 512], [9; 512], [7; 512], [0; 512]].concat());
        assert_eq!(disks.take(DeviceIndex(0), RequestId(3)), None);
        assert_eq!(std::fs::read(image.path()).unwrap(), [7; 4096]);
    }

    #[test]
    fn another_disk_is_refused_by_name() {
        let image = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(image.path(), [7; 4096]).unwrap();
        let error = OwnDisks::open(&[option(image.path())], &[1]).unwrap_err();
        assert!(error.contains("not the disk as it was"), "{error}");
        let error = OwnDisks::open(&[], &[1]).unwrap_err();
        assert!(error.contains("give its 1 disks"), "{error}");
    }
}
