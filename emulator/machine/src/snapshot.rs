//! Saving and restoring state.
//!
//! Every part of the machine implements [`Snapshot`]; there are no default methods, so a part that forgets
//! its state does not compile. State types are plain data apart from the live types, encode canonically
//! (ordered maps, fixed-width integers; `postcard`), and so equal state gives equal bytes and equal digests.
//! `save` destructures `self` in full, so that a new field stops the build until it is saved or listed as rebuilt.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// State that does not fit the machine it is restored into.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RestoreError {
    /// The state is of another kind or version.
    #[error("the saved state is {found_kind} version {found_version}, this machine has {kind} version {version}")]
    Version {
        /// Kind expected.
        kind: &'static str,
        /// Version expected.
        version: u16,
        /// Kind found.
        found_kind: String,
        /// Version found.
        found_version: u16,
    },
    /// A value is impossible for the part.
    #[error("saved state of {kind}: {reason}")]
    Invalid {
        /// Which part.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// A part of the machine whose state can be saved, restored and digested.
pub trait Snapshot {
    /// Name of the part in snapshots and error messages.
    const KIND: &'static str;
    /// Version of [`Snapshot::State`]; raised with every change of its meaning or layout.
    const VERSION: u16;
    /// The state as plain data.
    type State: Serialize + DeserializeOwned + PartialEq + Debug;

    /// All state that the guest could observe now or later.
    fn save(&self) -> Self::State;

    /// Replaces all state; everything derived is rebuilt. On an error the part is unchanged.
    ///
    /// # Errors
    /// When a value is impossible for this part (states come from files and from the network).
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError>;
}
