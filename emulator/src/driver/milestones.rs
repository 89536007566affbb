//! What happens at given counts of a run: digests, snapshots, perturbations, the end.
//!
//! All files are opened before the run, by a thread that may; the vCPU thread only writes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use virtft_machine::io::InstructionCount;

use super::{DigestScope, DriverError, Guest, Perturbation, snapshot};
use crate::cli::SavePoint;

/// Memory is digested at every hundredth digest of the devices: it costs a walk over all pages.
const MEMORY_DIGEST_RATIO: u64 = 100;
/// Perturbations are this far apart on average.
const PERTURBATION_DISTANCE: u64 = 400_000;

#[derive(Debug)]
struct DigestLog {
    every: u64,
    file: File,
    path: PathBuf,
}

#[derive(Debug)]
struct Save {
    /// `None` for the end of the run.
    count: Option<u64>,
    path: PathBuf,
    /// Written beside the final name, so that a snapshot is whole or not there.
    unfinished: PathBuf,
    file: File,
    done: bool,
}

/// Disturbances at random counts, reproducible from a seed.
#[derive(Debug)]
pub struct Perturbations {
    random: u64,
    next: u64,
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Milestones {
    digests: Option<DigestLog>,
    saves: Vec<Save>,
    perturbations: Option<Perturbations>,
    max_count: Option<u64>,
    /// The last count that was handled.
    handled: Option<u64>,
}

impl Milestones {
    /// Ends the run at `count`.
    #[must_use]
    pub fn with_max_count(mut self, count: Option<u64>) -> Self {
        self.max_count = count;
        self
    }

    /// Writes digests to `path` at every multiple of `every`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn with_digests(mut self, every: u64, path: &Path) -> Result<Self, DriverError> {
        let file = File::create(path).map_err(|error| cannot_write(path, &error))?;
        self.digests = Some(DigestLog { every, file, path: path.to_owned() });
        Ok(self)
    }

    /// Saves the machine at a count.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn with_save(mut self, point: &SavePoint) -> Result<Self, DriverError> {
        let mut name = point.file.clone().into_os_string();
        name.push(".unfinished");
        let unfinished = PathBuf::from(name);
        let file = snapshot::create_private(&unfinished).map_err(|error| cannot_write(&unfinished, &error))?;
        self.saves.push(Save { count: point.count, path: point.file.clone(), unfinished, file, done: false });
        Ok(self)
    }

    /// Disturbs the machine at random counts drawn from `seed`, beginning after `start`.
    #[must_use]
    pub fn with_perturbations(mut self, seed: u64, start: InstructionCount) -> Self {
        self.perturbations = Some(Perturbations::new(seed, start));
        self
    }

    /// The first count after `count` at which something happens.
    #[must_use]
    pub fn next_after(&self, count: InstructionCount) -> Option<u64> {
        let digest = self.digests.as_ref().map(|log| (count.0 / log.every + 1).saturating_mul(log.every));
        let saves = self.saves.iter().filter(|save| !save.done);
        let saves = saves.filter_map(|save| save.count).filter(|at| *at > count.0);
        let perturbation = self.perturbations.as_ref().map(|random| random.next).filter(|next| *next > count.0);
        let end = self.max_count.filter(|end| *end > count.0);
        digest.into_iter().chain(saves).chain(perturbation).chain(end).min()
    }

    /// Whether the run ends at `count`.
    #[must_use]
    pub fn is_end(&self, count: InstructionCount) -> bool {
        self.max_count.is_some_and(|end| count.0 >= end)
    }

    /// Whether a snapshot is due at `count`: the caller brings pending inputs to [`reach`](Self::reach).
    #[must_use]
    pub fn saves_at(&self, count: InstructionCount) -> bool {
        self.saves.iter().any(|save| !save.done && save.count == Some(count.0))
    }

    /// Does what is due at the guest's present count, once. `pending` is stored with a snapshot.
    ///
    /// # Errors
    /// When a file cannot be written or the machine cannot be saved.
    pub fn reach(&mut self, guest: &mut dyn Guest, pending: &snapshot::Pending) -> Result<(), DriverError> {
        let count = guest.count();
        if self.handled == Some(count.0) {
            return Ok(());
        }
        self.handled = Some(count.0);
        if let Some(log) = &mut self.digests
            && count.0.is_multiple_of(log.every)
        {
            log.write(guest, count)?;
        }
        for save in self.saves.iter_mut().filter(|save| save.count == Some(count.0)) {
            save.write(guest, pending)?;
        }
        if let Some(random) = &mut self.perturbations
            && random.next == count.0
        {
            let (kind, details) = random.advance();
            guest.perturb(kind, details).map_err(DriverError::Snapshot)?;
        }
        Ok(())
    }

    /// Whether a snapshot is wanted where the run ends.
    #[must_use]
    pub fn saves_at_end(&self) -> bool {
        self.saves.iter().any(|save| !save.done && save.count.is_none())
    }

    /// Writes the snapshots of the end of the run.
    ///
    /// # Errors
    /// As [`reach`](Self::reach).
    pub fn save_at_end(&mut self, guest: &mut dyn Guest, pending: &snapshot::Pending) -> Result<(), DriverError> {
        self.saves.iter_mut().filter(|save| save.count.is_none()).try_for_each(|save| save.write(guest, pending))
    }

    /// Gives finished snapshots their names and removes the others. For the thread that may.
    ///
    /// # Errors
    /// When a finished snapshot cannot be renamed.
    pub fn finish(&mut self) -> Result<(), DriverError> {
        for save in self.saves.drain(..) {
            if save.done {
                std::fs::rename(&save.unfinished, &save.path).map_err(|error| cannot_write(&save.path, &error))?;
            } else {
                let place = save.count.map_or("the end of its script".into(), |count| format!("count {count}"));
                tracing::warn!("{}: not written, the run ended before {place}", save.path.display());
                let _ = std::fs::remove_file(&save.unfinished);
            }
        }
        Ok(())
    }
}

impl Save {
    fn write(&mut self, guest: &mut dyn Guest, pending: &snapshot::Pending) -> Result<(), DriverError> {
        if self.done {
            return Ok(());
        }
        let state = guest.save().map_err(DriverError::Snapshot)?;
        let mut write = || {
            snapshot::write(&mut self.file, pending, &state)?;
            self.file.sync_all()
        };
        write().map_err(|error| cannot_write(&self.unfinished, &error))?;
        self.done = true;
        Ok(())
    }
}

impl DigestLog {
    fn write(&mut self, guest: &mut dyn Guest, count: InstructionCount) -> Result<(), DriverError> {
        let mut line = format!("{} devices {:016x}\n", count.0, guest.digest(DigestScope::Devices));
        if count.0.is_multiple_of(self.every.saturating_mul(MEMORY_DIGEST_RATIO)) {
            line += &format!("{} memory {:016x}\n", count.0, guest.digest(DigestScope::Memory));
        }
        self.file.write_all(line.as_bytes()).map_err(|error| cannot_write(&self.path, &error))
    }
}

impl Perturbations {
    /// A sequence that begins after `start`.
    #[must_use]
    pub fn new(seed: u64, start: InstructionCount) -> Self {
        let mut perturbations = Self { random: seed | 1, next: start.0 };
        perturbations.advance();
        perturbations
    }

    /// Count of the next one.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Draws the next position and returns what to do at the present one, with a random number for its details.
    pub fn advance(&mut self) -> (Perturbation, u64) {
        // xorshift: reproducible from the seed.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.next += 1 + (self.random >> 8) % (2 * PERTURBATION_DISTANCE);
        let kind = match self.random % 8 {
            0..=3 => Perturbation::FlushTlb,
            4..=6 => Perturbation::FlushCode,
            _ => Perturbation::SaveRestore,
        };
        (kind, self.random >> 3)
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> DriverError {
    DriverError::Write { file: path.display().to_string(), reason: error.to_string() }
}
