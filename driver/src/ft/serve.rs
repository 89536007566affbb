//! The pair's program as other daemons call it.

use virtft_rpc::pair::{abort, commit, find, hello, holds, prepare};
use virtft_rpc::{Access, Procedure, Xdr, from_bytes, to_bytes};

use super::prepare::EMULATOR_VERSION;
use crate::error::DriverError;
use crate::server::session::Session;

/// What [`holds`] answers.
mod held {
    pub const NOTHING: u32 = 0;
    pub const DEFINITION: u32 = 1;
    pub const BACKUP: u32 = 2;
    pub const RUNNING: u32 = 3;
}

/// Carries out a procedure; gives the encoded reply.
///
/// # Errors
/// Whatever the other daemon is to be told.
pub fn call(session: &Session, number: i32, payload: &[u8]) -> Result<Vec<u8>, DriverError> {
    let row = find(number).ok_or(DriverError::UnknownProcedure(number))?;
    let opened = session.opened().ok_or(DriverError::NotOpen(row.name))?;
    if row.access == Access::Write && opened.is_read_only {
        return Err(DriverError::ReadOnly(row.name));
    }
    match number {
        hello::Call::NUMBER => {
            let _: hello::Args = decode::<hello::Call>(payload)?;
            Ok(encode(&hello::Reply { host: session.hypervisor.host, emulator: EMULATOR_VERSION.into() }))
        }
        prepare::Call::NUMBER => {
            let url = session.hypervisor.prepare(&decode::<prepare::Call>(payload)?, session.local_address())?;
            Ok(encode(&prepare::Reply { url }))
        }
        commit::Call::NUMBER => {
            let args = decode::<commit::Call>(payload)?;
            session.hypervisor.note_committed(args.domain, args.token)?;
            Ok(encode(&commit::Reply {}))
        }
        abort::Call::NUMBER => {
            let args = decode::<abort::Call>(payload)?;
            session.hypervisor.abort_backup(args.domain, args.token);
            Ok(encode(&abort::Reply {}))
        }
        holds::Call::NUMBER => {
            let args = decode::<holds::Call>(payload)?;
            let what = session.hypervisor.with(args.domain, |entry| {
                Ok(match (&entry.run, &entry.definition) {
                    (Some(run), _) if run.protection.backup.is_some() => held::BACKUP,
                    (Some(_), _) => held::RUNNING,
                    (None, Some(_)) => held::DEFINITION,
                    (None, None) => held::NOTHING,
                })
            });
            Ok(encode(&holds::Reply { what: what.unwrap_or(held::NOTHING) }))
        }
        _ => Err(DriverError::UnknownProcedure(number)),
    }
}

/// Whether [`holds`] says that the domain runs there.
#[must_use]
pub fn is_running(what: u32) -> bool {
    what == held::RUNNING
}

fn decode<P: Procedure>(payload: &[u8]) -> Result<P::Args, DriverError> {
    from_bytes(payload).map_err(|source| DriverError::Message { procedure: P::NAME, source })
}

fn encode(reply: &impl Xdr) -> Vec<u8> {
    to_bytes(reply)
}

impl crate::vm::Hypervisor {
    /// The pair of this token protects the domain.
    fn note_committed(&self, domain: uuid::Uuid, token: uuid::Uuid) -> Result<(), DriverError> {
        let mut registry = self.registry();
        let entry = registry.get_mut(domain)?;
        let run = entry.running_mut()?;
        // One that has taken over meanwhile is more than committed.
        if let Some(backup) = &mut run.protection.backup {
            if backup.token != token {
                return Err(DriverError::Invalid("the backup is of another attempt".into()));
            }
            backup.committed = true;
        }
        self.save_status(entry);
        Ok(())
    }

    /// The backup of this token is not wanted any more.
    fn abort_backup(&self, domain: uuid::Uuid, token: uuid::Uuid) {
        let is_meant = self.with(domain, |entry| {
            let backup = entry.run.as_ref().and_then(|run| run.protection.backup.as_ref());
            Ok(backup.is_some_and(|backup| backup.token == token))
        });
        if is_meant.unwrap_or(false) {
            self.kill_backup(domain);
        }
    }
}
