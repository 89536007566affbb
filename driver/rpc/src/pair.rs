//! The program by which two drivers make a pair, in the frames of libvirt's protocol, under a number of its own.
//!
//! Each call names the attempt by a token that the primary's driver made up; a call that comes twice does nothing more. What each side did is
//! in its files before it answers, so that a daemon which is killed and started again knows it.

use uuid::Uuid;

use crate::procedure::{Access, Procedure, ProcedureInfo, protocol};
#[cfg(any(test, feature = "fuzzing"))]
use crate::remote::{RoundTrip, again};
use crate::xdr::{Decoder, Encoder, Xdr, XdrError};

/// Number of the program: "ft" and a version of its meaning.
pub const PAIR_PROGRAM: u32 = 0x2000_6674;
/// Version; a daemon of another one is told so.
pub const PAIR_VERSION: u32 = 1;

/// Size of a disk in the order of the domain's XML.
pub type DiskSize = u64;

protocol! {
    procedures {
        // Who is there: the same identity on both ends means the same daemon. `emulator` is its version, which must be equal.
        1 hello Read () -> (host: Uuid, emulator: String);
        // A backup for a domain is to wait: where the primary reaches it. `xml` is the machine that runs, `definition` that of the next start.
        // With a token that is known it only says that these have changed.
        2 prepare Write (token: Uuid, host: Uuid, xml: String, definition: Option<String>, disk_sizes: Vec<DiskSize>, autostart: bool)
            -> (url: String);
        // The pair of this token protects the domain.
        3 commit Write (domain: Uuid, token: Uuid) -> ();
        // The backup of this token is not wanted any more. One that runs the domain by now stays.
        4 abort Write (domain: Uuid, token: Uuid) -> ();
        // What this host has of a domain: 0 nothing, 1 a definition, 2 a backup, 3 the running domain.
        5 holds Read (domain: Uuid) -> (what: u32);
    }
    events {}
}

/// The row of a procedure.
#[must_use]
pub fn find(number: i32) -> Option<&'static ProcedureInfo> {
    PROCEDURES.iter().find(|row| row.number == number)
}
