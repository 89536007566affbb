//! Fault tolerance of domains: this daemon and that of another host as a pair.
//!
//! ```text
//!   primary's daemon                                      backup's daemon
//!     follower (a thread a running domain)                  serve: prepare, commit, abort
//!        | what the emulator says: its control socket          | starts `virtft-emulator backup`
//!        | wanted and unprotected: hello, prepare ------------->| answers where it listens
//!        | tells the emulator to protect                        | follower: the emulator has taken over?
//!        | protected: commit ---------------------------------->|    then the domain is this host's
//!        ` not wanted any more: unprotect, abort -------------->`
//! ```
//!
//! What a user wants is in the domain's XML (`virtft_domain::FaultTolerance`); what there is, in the emulators. The follower compares the
//! two again and again, so that nothing depends on a daemon having lived through a sequence of steps: one that is started again reads the status
//! files, asks the emulators, and goes on. Every attempt at a pair has a token of its own; a backup that nobody's token is for
//! ends by itself.

pub mod control;
pub mod follower;
pub mod issue;
pub mod options;
pub mod peer;
pub mod prepare;
pub mod serve;
pub mod tls;

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::DriverError;
use crate::vm::store::write_atomically;

/// This daemon's identity, made when it first runs: other daemons know by it whether they have reached themselves.
///
/// # Errors
/// When it can be neither read nor kept.
pub fn identity(config: &Path) -> Result<Uuid, DriverError> {
    let path = config.join("host-id");
    if let Ok(text) = fs::read_to_string(&path) {
        let bad = || DriverError::Failed(format!("{}: it holds no identity; remove it", path.display()));
        return text.trim().parse().map_err(|_| bad());
    }
    fs::create_dir_all(config).map_err(DriverError::system("cannot make", config))?;
    let identity = Uuid::new_v4();
    write_atomically(&path, identity.to_string().as_bytes()).map_err(DriverError::system("cannot write", path))?;
    Ok(identity)
}

/// What is known of the protection of a running domain.
#[derive(Debug, Clone, Default)]
pub struct Protection {
    /// What its emulator said last.
    pub status: Option<control::Status>,
    /// Why there is no backup although one is wanted, when that is known.
    pub issue: Option<issue::Issue>,
    /// The pair that protects it, or is being made.
    pub pair: Option<Pair>,
    /// This process is the backup of another host's.
    pub backup: Option<BackupOf>,
    /// When this process was started or found.
    pub since: Option<Instant>,
}

impl Protection {
    /// What a daemon finds in a status file.
    #[must_use]
    pub fn found(pair: Option<Pair>, backup: Option<BackupOf>) -> Self {
        Self { pair, backup, since: Some(Instant::now()), ..Self::default() }
    }
}

/// The other side, as the primary's daemon knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// URI of the backup's daemon.
    pub uri: String,
    /// Names the attempt.
    pub token: Uuid,
    /// The backup's daemon was told that the pair protects.
    pub committed: bool,
}

/// The other side, as the backup's daemon knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupOf {
    /// Names the attempt.
    pub token: Uuid,
    /// The primary's daemon.
    pub host: Uuid,
    /// Where the emulator waits for its primary.
    pub url: String,
    /// The pair protects, or did.
    pub committed: bool,
    /// The domain starts with its daemon.
    pub autostart: bool,
    /// What it is defined as for the next start, and will be here when it runs here; `None` when it is transient.
    pub definition: Option<String>,
}
