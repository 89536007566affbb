//! One function a procedure: arguments in, reply or error out.
//!
//! Each group of procedures has a table of its own in its file. A procedure that no group has is answered as unknown, from
//! which clients conclude that this hypervisor does not have it.

mod addresses;
mod connect;
mod console;
mod control;
mod devices;
mod events;
mod info;
mod lifecycle;
mod lists;
mod metadata;
mod node;
mod statistics;
mod unsupported;
mod xml;

use std::sync::{Arc, Mutex};

use uuid::Uuid;
use virtft_rpc::{Access, DomainRef, Header, Procedure, from_bytes, remote, to_bytes};

use crate::error::DriverError;
use crate::server::console::Terminal;
use crate::server::session::Session;
use crate::vm::Hypervisor;
use crate::vm::entry::Entry;

/// A call being carried out.
#[derive(Debug)]
pub struct Context<'a> {
    /// Whose it is.
    pub session: &'a Arc<Session>,
    /// Its header.
    pub header: Header,
    /// What begins when the reply is on its way.
    opened: Mutex<Option<Terminal>>,
}

impl<'a> Context<'a> {
    /// For a call with this header.
    #[must_use]
    pub fn new(session: &'a Arc<Session>, header: Header) -> Self {
        Self { session, header, opened: Mutex::new(None) }
    }

    /// Domains.
    #[must_use]
    pub fn hypervisor(&self) -> &'a Arc<Hypervisor> {
        &self.session.hypervisor
    }

    /// Looks at the domain that a call names.
    fn with<T>(&self, dom: &DomainRef, look: impl FnOnce(&Entry) -> Result<T, DriverError>) -> Result<T, DriverError> {
        self.hypervisor().with(dom.uuid, look)
    }

    /// The stream begins when the reply is queued.
    fn stream(&self, terminal: Terminal) {
        *self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(terminal);
    }

    /// Begins what was to wait for the reply.
    pub fn reply_is_sent(self) {
        let opened = self.opened.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(terminal) = opened {
            self.session.hypervisor.pump(terminal);
        }
    }
}

/// Carries out a procedure of the main program; gives the encoded reply.
///
/// # Errors
/// Whatever the client is to be told.
pub fn call(context: &Context<'_>, number: i32, payload: &[u8]) -> Result<Vec<u8>, DriverError> {
    let row = remote::find(number).ok_or(DriverError::UnknownProcedure(number))?;
    let is_opening = number == <remote::connect_open::Call as Procedure>::NUMBER;
    if row.access != Access::Anyone && !is_opening {
        let opened = context.session.opened().ok_or(DriverError::NotOpen(row.name))?;
        if row.access == Access::Write && opened.is_read_only {
            return Err(DriverError::ReadOnly(row.name));
        }
    }
    let groups: [Group; 14] = [
        connect::call,
        lists::call,
        info::call,
        lifecycle::call,
        xml::call,
        metadata::call,
        events::call,
        statistics::call,
        node::call,
        console::call,
        devices::call,
        addresses::call,
        control::call,
        unsupported::call,
    ];
    groups
        .iter()
        .find_map(|group| group(context, number, payload))
        .unwrap_or(Err(DriverError::UnknownProcedure(number)))
}

/// A group of procedures: `None` for those that are not in it.
type Group = fn(&Context<'_>, i32, &[u8]) -> Option<Result<Vec<u8>, DriverError>>;

/// Decodes, calls, encodes.
fn run<P: Procedure>(
    payload: &[u8],
    function: impl FnOnce(P::Args) -> Result<P::Reply, DriverError>,
) -> Result<Vec<u8>, DriverError> {
    let args = from_bytes(payload).map_err(|source| DriverError::Message { procedure: P::NAME, source })?;
    function(args).map(|reply| to_bytes(&reply))
}

/// Makes a group's table: `procedure => function`.
macro_rules! group {
    ($($procedure:ident => $function:expr,)*) => {
        /// Carries out a procedure, if it is of this group.
        pub(super) fn call(
            context: &super::Context<'_>,
            number: i32,
            payload: &[u8],
        ) -> Option<Result<Vec<u8>, crate::error::DriverError>> {
            use virtft_rpc::Procedure;
            match number {
                $(<virtft_rpc::remote::$procedure::Call as Procedure>::NUMBER => Some(
                    super::run::<virtft_rpc::remote::$procedure::Call>(payload, |args| $function(context, args))
                ),)*
                _ => None,
            }
        }
    };
}

use group;

/// A client's flag as libvirt sends it.
fn flag(value: bool) -> i32 {
    i32::from(value)
}

/// A count as libvirt sends it.
fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// The UUID of a domain, which must exist.
fn existing(context: &Context<'_>, dom: &DomainRef) -> Result<Uuid, DriverError> {
    context.with(dom, |entry| Ok(entry.uuid()))
}

/// Refuses flags that mean nothing here: to ignore one could do harm.
fn only_flags(flags: u32, known: u32) -> Result<(), DriverError> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(DriverError::InvalidArgument(format!("the flags {unknown:#x} are not supported"))),
    }
}
