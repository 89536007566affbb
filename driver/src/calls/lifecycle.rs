//! Starting and ending domains.

use virtft_rpc::remote::{
    domain_create, domain_create_with_flags, domain_create_xml, domain_destroy, domain_destroy_flags,
    domain_managed_save, domain_managed_save_remove, domain_reboot, domain_reset, domain_resume, domain_set_autostart,
    domain_shutdown, domain_shutdown_flags, domain_suspend,
};

use super::{Context, group, only_flags};
use crate::error::DriverError;
use crate::vm::lifecycle::Start;

group! {
    domain_create => create,
    domain_create_with_flags => create_with_flags,
    domain_create_xml => create_xml,
    domain_shutdown => shutdown,
    domain_shutdown_flags => shutdown_flags,
    domain_reboot => reboot,
    domain_destroy => destroy,
    domain_destroy_flags => destroy_flags,
    domain_reset => reset,
    domain_suspend => suspend,
    domain_resume => resume,
    domain_set_autostart => set_autostart,
    domain_managed_save => managed_save,
    domain_managed_save_remove => managed_save_remove,
}

const START_PAUSED: u32 = 1;
/// The domain ends with the connection.
const START_AUTODESTROY: u32 = 2;
/// A saved state is passed over.
const START_FORCE_BOOT: u32 = 8;
/// The XML is checked anyhow.
const START_VALIDATE: u32 = 16;

/// Only by an orderly end of the emulator. It is killed when that takes too long, so that the disks cannot be said to be
/// intact; a client that insists is told so.
const DESTROY_GRACEFUL: u32 = 1;

/// The power button, by default or by name; the other ways need an agent or an interface that guests here do not have.
const SHUTDOWN_POWER_BUTTON: u32 = 1;

/// How a domain is to be started, from the flags.
fn start_of(context: &Context<'_>, flags: u32) -> Result<Start, DriverError> {
    only_flags(flags, START_PAUSED | START_AUTODESTROY | START_FORCE_BOOT | START_VALIDATE)?;
    Ok(Start {
        owner: (flags & START_AUTODESTROY != 0).then_some(context.session.id),
        paused: flags & START_PAUSED != 0,
        forgets_saved: flags & START_FORCE_BOOT != 0,
        state: None,
    })
}

fn create(context: &Context<'_>, args: domain_create::Args) -> Result<domain_create::Reply, DriverError> {
    context.hypervisor().start(args.dom.uuid, Start::default())?;
    Ok(domain_create::Reply {})
}

fn create_with_flags(
    context: &Context<'_>,
    args: domain_create_with_flags::Args,
) -> Result<domain_create_with_flags::Reply, DriverError> {
    let start = start_of(context, args.flags)?;
    Ok(domain_create_with_flags::Reply { dom: context.hypervisor().start(args.dom.uuid, start)? })
}

fn create_xml(context: &Context<'_>, args: domain_create_xml::Args) -> Result<domain_create_xml::Reply, DriverError> {
    let start = start_of(context, args.flags)?;
    Ok(domain_create_xml::Reply { dom: context.hypervisor().create_xml(&args.xml_desc, &start)? })
}

/// Flags of saving: the cache is passed by, which changes nothing here; it runs after the next start, as it would.
const SAVE_KNOWN: u32 = 1 | 2;

fn managed_save(
    context: &Context<'_>,
    args: domain_managed_save::Args,
) -> Result<domain_managed_save::Reply, DriverError> {
    only_flags(args.flags, SAVE_KNOWN)?;
    context.hypervisor().managed_save(args.dom.uuid)?;
    Ok(domain_managed_save::Reply {})
}

fn managed_save_remove(
    context: &Context<'_>,
    args: domain_managed_save_remove::Args,
) -> Result<domain_managed_save_remove::Reply, DriverError> {
    only_flags(args.flags, 0)?;
    context.hypervisor().remove_saved(args.dom.uuid)?;
    Ok(domain_managed_save_remove::Reply {})
}

fn check_ways(flags: u32) -> Result<(), DriverError> {
    if flags == 0 || flags & SHUTDOWN_POWER_BUTTON != 0 {
        return Ok(());
    }
    Err(DriverError::Unsupported("guests are shut down by the power button (acpi) only".into()))
}

fn shutdown(context: &Context<'_>, args: domain_shutdown::Args) -> Result<domain_shutdown::Reply, DriverError> {
    context.hypervisor().shutdown(args.dom.uuid)?;
    Ok(domain_shutdown::Reply {})
}

fn shutdown_flags(
    context: &Context<'_>,
    args: domain_shutdown_flags::Args,
) -> Result<domain_shutdown_flags::Reply, DriverError> {
    check_ways(args.flags)?;
    context.hypervisor().shutdown(args.dom.uuid)?;
    Ok(domain_shutdown_flags::Reply {})
}

fn reboot(context: &Context<'_>, args: domain_reboot::Args) -> Result<domain_reboot::Reply, DriverError> {
    check_ways(args.flags)?;
    context.hypervisor().reboot(args.dom.uuid)?;
    Ok(domain_reboot::Reply {})
}

fn destroy(context: &Context<'_>, args: domain_destroy::Args) -> Result<domain_destroy::Reply, DriverError> {
    context.hypervisor().destroy(args.dom.uuid)?;
    Ok(domain_destroy::Reply {})
}

fn destroy_flags(
    context: &Context<'_>,
    args: domain_destroy_flags::Args,
) -> Result<domain_destroy_flags::Reply, DriverError> {
    only_flags(args.flags, DESTROY_GRACEFUL)?;
    context.hypervisor().destroy(args.dom.uuid)?;
    Ok(domain_destroy_flags::Reply {})
}

fn reset(context: &Context<'_>, args: domain_reset::Args) -> Result<domain_reset::Reply, DriverError> {
    only_flags(args.flags, 0)?;
    context.hypervisor().reset(args.dom.uuid)?;
    Ok(domain_reset::Reply {})
}

fn suspend(context: &Context<'_>, args: domain_suspend::Args) -> Result<domain_suspend::Reply, DriverError> {
    context.hypervisor().suspend(args.dom.uuid)?;
    Ok(domain_suspend::Reply {})
}

fn resume(context: &Context<'_>, args: domain_resume::Args) -> Result<domain_resume::Reply, DriverError> {
    context.hypervisor().resume(args.dom.uuid)?;
    Ok(domain_resume::Reply {})
}

fn set_autostart(
    context: &Context<'_>,
    args: domain_set_autostart::Args,
) -> Result<domain_set_autostart::Reply, DriverError> {
    context.hypervisor().set_autostart(args.dom.uuid, args.autostart != 0)?;
    Ok(domain_set_autostart::Reply {})
}
