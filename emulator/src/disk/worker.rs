//! Executes the requests of one disk on a thread of its own, one after the other.
//!
//! The machine never has overlapping requests in flight, so the order of execution does not show; one thread
//! keeps a flush after the writes that it covers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use virtft_machine::io::{BlockOperation, BlockStatus, RequestId};

use super::open::Image;

/// Reads longer than this are refused: a guest's ring cannot describe more in one request.
const MAX_READ_BYTES: u32 = 1 << 30;

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The request.
    pub request: RequestId,
    /// How it ended.
    pub status: BlockStatus,
    /// Bytes read; empty for every other operation and on failure.
    pub data: Vec<u8>,
}

/// What a disk has done on this host since it was opened, and how it does it.
#[derive(Debug, Default)]
pub struct DiskCounters {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    flushes: AtomicU64,
    discards: AtomicU64,
    failures: AtomicU64,
    busy_ns: AtomicU64,
    /// Whether a change is durable before it is completed.
    durable: AtomicBool,
}

impl DiskCounters {
    fn count(&self, operation: &BlockOperation) {
        let (requests, bytes) = match operation {
            BlockOperation::Read { length, .. } => (&self.reads, Some((&self.read_bytes, u64::from(*length)))),
            BlockOperation::Write { data, .. } => (&self.writes, Some((&self.written_bytes, data.len() as u64))),
            BlockOperation::Flush => (&self.flushes, None),
            BlockOperation::Discard { .. } | BlockOperation::WriteZeroes { .. } => (&self.discards, None),
        };
        requests.fetch_add(1, Ordering::Relaxed);
        if let Some((total, bytes)) = bytes {
            total.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// From now on a change is on the medium, with the image's metadata, before it is completed; or not. What was completed before is only
    /// after a flush.
    pub fn set_durable(&self, durable: bool) {
        self.durable.store(durable, Ordering::Release);
    }

    /// The counters by name.
    #[must_use]
    pub fn read(&self) -> [(&'static str, u64); 8] {
        [
            ("reads", &self.reads),
            ("read_bytes", &self.read_bytes),
            ("writes", &self.writes),
            ("written_bytes", &self.written_bytes),
            ("flushes", &self.flushes),
            ("discards", &self.discards),
            ("failures", &self.failures),
            ("busy_ns", &self.busy_ns),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}

/// The image and what went wrong with it so far.
#[derive(Debug)]
pub struct Executor {
    image: Image,
    name: String,
    counters: Arc<DiskCounters>,
}

impl Executor {
    /// `name` is for messages.
    #[must_use]
    pub fn new(image: Image, name: String) -> Self {
        Self { image, name, counters: Arc::default() }
    }

    /// Where it counts.
    #[must_use]
    pub fn counters(&self) -> Arc<DiskCounters> {
        Arc::clone(&self.counters)
    }

    /// Does one operation to its end.
    pub fn execute(&mut self, request: RequestId, operation: BlockOperation) -> Completion {
        self.counters.count(&operation);
        let start = Instant::now();
        let result = self.perform(operation);
        let passed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters.busy_ns.fetch_add(passed, Ordering::Relaxed);
        match result {
            Ok(data) => Completion { request, status: BlockStatus::Ok, data },
            Err(error) => Completion { request, status: self.note_failure(&error), data: Vec::new() },
        }
    }

    /// Does operations in their order. Where changes must be durable, one flush serves all of them, and nothing behind the first change is
    /// completed before it.
    pub fn execute_all(
        &mut self,
        operations: impl Iterator<Item = (RequestId, BlockOperation)>,
        complete: impl Fn(Completion),
    ) {
        let durable = self.counters.durable.load(Ordering::Acquire);
        let mut waiting = Vec::new();
        for (request, operation) in operations {
            let reads = matches!(operation, BlockOperation::Read { .. });
            let completion = self.execute(request, operation);
            if durable && !(reads && waiting.is_empty()) {
                waiting.push((reads, completion));
            } else {
                complete(completion);
            }
        }
        if waiting.is_empty() {
            return;
        }
        let failure = self.flush().err().map(|error| self.note_failure(&error));
        for (reads, mut completion) in waiting {
            if let Some(status) = failure.filter(|_| !reads && completion.status == BlockStatus::Ok) {
                completion.status = status;
            }
            complete(completion);
        }
    }

    /// XXH3-128 of the whole content of the disk.
    ///
    /// # Errors
    /// When a part of it cannot be read.
    pub fn digest(&self) -> io::Result<u128> {
        const CHUNK: u64 = 1 << 20;
        let (mut hasher, mut offset) = (xxhash_rust::xxh3::Xxh3::new(), 0);
        while offset < self.image.size() {
            let length = CHUNK.min(self.image.size() - offset);
            hasher.update(&self.read(offset, u32::try_from(length).map_err(io::Error::other)?)?);
            offset += length;
        }
        Ok(hasher.digest128())
    }

    fn perform(&mut self, operation: BlockOperation) -> io::Result<Vec<u8>> {
        match operation {
            BlockOperation::Read { offset, length } => self.read(offset, length),
            BlockOperation::Write { offset, data } => {
                self.check_range(offset, data.len() as u64)?;
                self.image.write(data.as_slice(), offset)?;
                Ok(Vec::new())
            }
            BlockOperation::Flush => self.flush().map(|()| Vec::new()),
            // Discarded ranges read as zeroes, always: replicas of one disk must not differ in them.
            BlockOperation::Discard { offset, length }
            | BlockOperation::WriteZeroes { offset, length, unmap: true } => {
                self.check_range(offset, length)?;
                self.zero(offset, length, true)?;
                Ok(Vec::new())
            }
            BlockOperation::WriteZeroes { offset, length, unmap: false } => {
                self.check_range(offset, length)?;
                self.zero(offset, length, false)?;
                Ok(Vec::new())
            }
        }
    }

    fn read(&self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        self.check_range(offset, u64::from(length))?;
        if length > MAX_READ_BYTES {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let mut data = Vec::new();
        let bytes = usize::try_from(length).map_err(io::Error::other)?;
        data.try_reserve_exact(bytes).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        data.resize(bytes, 0);
        self.image.read(data.as_mut_slice(), offset)?;
        Ok(data)
    }

    /// Makes completed writes durable: first cached metadata into the file, then the file onto the medium.
    fn flush(&self) -> io::Result<()> {
        self.image.flush()?;
        self.image.sync()
    }

    fn zero(&mut self, offset: u64, length: u64, discard: bool) -> io::Result<()> {
        let result =
            if discard { self.image.discard_to_zero(offset, length) } else { self.image.write_zeroes(offset, length) };
        match result {
            // Old qcow2 versions and some file systems cannot punch holes.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.write_zero_bytes(offset, length),
            other => other,
        }
    }

    fn write_zero_bytes(&self, offset: u64, length: u64) -> io::Result<()> {
        const CHUNK: u64 = 1 << 20;
        let zeroes = vec![0; 1 << 20];
        let mut done = 0;
        while done < length {
            let part = (length - done).min(CHUNK);
            let bytes = usize::try_from(part).map_err(io::Error::other)?;
            self.image.write(&zeroes[..bytes], offset + done)?;
            done += part;
        }
        Ok(())
    }

    fn check_range(&self, offset: u64, length: u64) -> io::Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.image.size() => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        }
    }

    /// Logs the first failures and every thousandth; a full host disk would otherwise fill the log too.
    fn note_failure(&self, error: &io::Error) -> BlockStatus {
        let failures = self.counters.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures <= 10 || failures.is_multiple_of(1000) {
            tracing::error!("disk {}: request failed ({error}); failures so far: {failures}", self.name);
        }
        match error.kind() {
            io::ErrorKind::Unsupported => BlockStatus::Unsupported,
            _ => BlockStatus::IoError,
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::error!("disk {}: the last flush failed ({error})", self.name);
        }
    }
}
