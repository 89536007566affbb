//! Definitions as XML.

use virtft_rpc::DomainRef;
use virtft_rpc::remote::{
    domain_define_xml, domain_define_xml_flags, domain_get_xml_desc, domain_rename, domain_undefine,
    domain_undefine_flags,
};

use super::{Context, group, only_flags};
use crate::error::DriverError;

group! {
    domain_get_xml_desc => get_xml_desc,
    domain_define_xml => define_xml,
    domain_define_xml_flags => define_xml_flags,
    domain_undefine => undefine,
    domain_undefine_flags => undefine_flags,
    domain_rename => rename,
}

/// With passwords, of which there are none; but who may only look is refused all the same, as by any hypervisor.
const XML_SECURE: u32 = 1;
/// The next start's definition.
const XML_INACTIVE: u32 = 2;
/// With the host's processor, which never shows; and for another host, which is the same.
const XML_OTHER: u32 = 4 | 8;

/// What there is not cannot be kept or removed: snapshots, checkpoints, firmware variables.
const UNDEFINE_KNOWN: u32 = UNDEFINE_SAVED | 2 | 4 | 8 | 16;
/// With its saved state.
const UNDEFINE_SAVED: u32 = 1;

/// Checked anyhow.
const DEFINE_VALIDATE: u32 = 1;

fn get_xml_desc(
    context: &Context<'_>,
    args: domain_get_xml_desc::Args,
) -> Result<domain_get_xml_desc::Reply, DriverError> {
    only_flags(args.flags, XML_SECURE | XML_INACTIVE | XML_OTHER)?;
    if args.flags & XML_SECURE != 0 && context.session.opened().is_none_or(|opened| opened.is_read_only) {
        return Err(DriverError::ReadOnly("domain_get_xml_desc with secrets"));
    }
    context.with(&args.dom, |entry| {
        let wants_next = args.flags & XML_INACTIVE != 0;
        let xml = match (&entry.run, &entry.definition) {
            (Some(run), Some(next)) if wants_next => {
                tracing::trace!("domain {} of run {}", next.name, run.id);
                next.to_xml(None)
            }
            (Some(run), None) if wants_next => run.base.to_xml(None),
            (Some(run), _) => run.live().to_xml(Some(run.id)),
            (None, _) => entry.persistent()?.to_xml(None),
        };
        Ok(domain_get_xml_desc::Reply { xml })
    })
}

fn define_xml(context: &Context<'_>, args: domain_define_xml::Args) -> Result<domain_define_xml::Reply, DriverError> {
    Ok(domain_define_xml::Reply { dom: context.hypervisor().define(&args.xml)? })
}

fn define_xml_flags(
    context: &Context<'_>,
    args: domain_define_xml_flags::Args,
) -> Result<domain_define_xml_flags::Reply, DriverError> {
    only_flags(args.flags, DEFINE_VALIDATE)?;
    Ok(domain_define_xml_flags::Reply { dom: context.hypervisor().define(&args.xml)? })
}

fn undefine(context: &Context<'_>, args: domain_undefine::Args) -> Result<domain_undefine::Reply, DriverError> {
    context.hypervisor().undefine(args.dom.uuid)?;
    Ok(domain_undefine::Reply {})
}

fn undefine_flags(
    context: &Context<'_>,
    args: domain_undefine_flags::Args,
) -> Result<domain_undefine_flags::Reply, DriverError> {
    only_flags(args.flags, UNDEFINE_KNOWN)?;
    if args.flags & UNDEFINE_SAVED != 0 {
        context.hypervisor().remove_saved(args.dom.uuid)?;
    }
    context.hypervisor().undefine(args.dom.uuid)?;
    Ok(domain_undefine_flags::Reply {})
}

fn rename(context: &Context<'_>, args: domain_rename::Args) -> Result<domain_rename::Reply, DriverError> {
    only_flags(args.flags, 0)?;
    let DomainRef { uuid, .. } = args.dom;
    let name = args.new_name.ok_or_else(|| DriverError::InvalidArgument("no new name is given".into()))?;
    context.hypervisor().rename(uuid, &name)?;
    Ok(domain_rename::Reply { retcode: 0 })
}
