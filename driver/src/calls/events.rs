//! Wanting to be told.

use virtft_rpc::remote::{connect_domain_event_callback_deregister_any, connect_domain_event_callback_register_any};

use super::{Context, group};
use crate::error::DriverError;

group! {
    connect_domain_event_callback_register_any => register,
    connect_domain_event_callback_deregister_any => deregister,
}

fn register(
    context: &Context<'_>,
    args: connect_domain_event_callback_register_any::Args,
) -> Result<connect_domain_event_callback_register_any::Reply, DriverError> {
    let session = context.session;
    let domain = args.dom.map(|dom| dom.uuid);
    let outbox = session.outbox.clone();
    let callback_id = context.hypervisor().events.subscribe(session.id, args.event_id, domain, outbox)?;
    Ok(connect_domain_event_callback_register_any::Reply { callback_id })
}

fn deregister(
    context: &Context<'_>,
    args: connect_domain_event_callback_deregister_any::Args,
) -> Result<connect_domain_event_callback_deregister_any::Reply, DriverError> {
    context.hypervisor().events.unsubscribe(context.session.id, args.callback_id)?;
    Ok(connect_domain_event_callback_deregister_any::Reply {})
}
