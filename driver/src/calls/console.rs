//! Consoles as streams.

use virtft_rpc::remote::domain_open_console;

use super::{Context, group, only_flags};
use crate::error::DriverError;

group! {
    domain_open_console => open_console,
}

/// Another client's console is ended.
const FORCE: u32 = 1;
/// Only where two clients cannot get in each other's way, which holds for all consoles here.
const SAFE: u32 = 2;

fn open_console(
    context: &Context<'_>,
    args: domain_open_console::Args,
) -> Result<domain_open_console::Reply, DriverError> {
    only_flags(args.flags, FORCE | SAFE)?;
    let path = context.with(&args.dom, |entry| entry.running()?.terminal(args.dev_name.as_deref()))?;
    let session = context.session;
    let terminal = session.streams.open(context.header, session.outbox.clone(), &path);
    let terminal = terminal.map_err(DriverError::system("cannot open", &path))?;
    if let Err(error) = context.hypervisor().take_console(&path, &terminal, args.flags & FORCE != 0) {
        session.streams.forget(context.header.serial);
        return Err(error);
    }
    context.stream(terminal);
    Ok(domain_open_console::Reply {})
}
