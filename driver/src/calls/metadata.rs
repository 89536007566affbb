//! Title, description, and elements of other programs.

use virtft_domain::{Domain, FaultTolerance};
use virtft_rpc::remote::{domain_get_metadata, domain_set_metadata};

use super::{Context, group, only_flags};
use crate::error::DriverError;
use crate::vm::definition::Affects;
use crate::vm::events::Happening;

group! {
    domain_get_metadata => get_metadata,
    domain_set_metadata => set_metadata,
}

const DESCRIPTION: i32 = 0;
const TITLE: i32 = 1;
const ELEMENT: i32 = 2;

fn get_metadata(
    context: &Context<'_>,
    args: domain_get_metadata::Args,
) -> Result<domain_get_metadata::Reply, DriverError> {
    only_flags(args.flags, 3)?;
    context.with(&args.dom, |entry| {
        let affects = Affects::new(args.flags, entry.run.is_some());
        if affects.live && affects.config {
            return Err(DriverError::InvalidArgument("live and config cannot both be asked for".into()));
        }
        let domain = if affects.live { &entry.running()?.base } else { entry.persistent()? };
        let found = match args.kind {
            DESCRIPTION => domain.description.clone(),
            TITLE => domain.title.clone(),
            ELEMENT => domain.metadata.get(args.uri.as_deref().unwrap_or_default()),
            other => return Err(unknown_kind(other)),
        };
        let metadata = found.ok_or_else(|| missing(&args))?;
        Ok(domain_get_metadata::Reply { metadata })
    })
}

fn missing(args: &domain_get_metadata::Args) -> DriverError {
    let what = match args.kind {
        DESCRIPTION => "a description".to_owned(),
        TITLE => "a title".to_owned(),
        _ => format!("an element of the namespace '{}'", args.uri.as_deref().unwrap_or_default()),
    };
    DriverError::NoMetadata(format!("the domain '{}' does not have {what}", args.dom.name))
}

fn unknown_kind(kind: i32) -> DriverError {
    DriverError::InvalidArgument(format!("there is no metadata of the kind {kind}"))
}

fn set_metadata(
    context: &Context<'_>,
    args: domain_set_metadata::Args,
) -> Result<domain_set_metadata::Reply, DriverError> {
    only_flags(args.flags, 3)?;
    let uri = args.uri.filter(|_| args.kind == ELEMENT);
    let text = args.metadata.filter(|text| args.kind == ELEMENT || !text.is_empty());
    let change = |domain: &mut Domain| match args.kind {
        DESCRIPTION => Ok(domain.set_description(text.as_deref())?),
        TITLE => Ok(domain.set_title(text.as_deref())?),
        ELEMENT => {
            let (uri, key) = (uri.as_deref().unwrap_or_default(), args.key.as_deref().unwrap_or_default());
            domain.metadata.set(uri, key, text.as_deref())?;
            // What this driver would do with its own element is said now, not when it does it.
            FaultTolerance::of(domain)?;
            Ok(())
        }
        other => Err(unknown_kind(other)),
    };
    let happening = Happening::Metadata(args.kind, uri.clone());
    context.hypervisor().change(args.dom.uuid, args.flags, happening, change)?;
    Ok(domain_set_metadata::Reply {})
}
