//! Procedures that this hypervisor has only the negative answer to, where clients need one that is about the domain: that it
//! has no snapshots is an empty list, that it cannot be saved is an error.

use virtft_rpc::DomainRef;
use virtft_rpc::remote::{
    domain_abort_job, domain_attach_device, domain_attach_device_flags, domain_detach_device,
    domain_detach_device_flags, domain_list_all_checkpoints, domain_list_all_snapshots, domain_managed_save_remove,
    domain_snapshot_num, domain_update_device_flags,
};

use super::{Context, existing, group};
use crate::error::DriverError;

group! {
    domain_snapshot_num => snapshot_num,
    domain_list_all_snapshots => list_snapshots,
    domain_list_all_checkpoints => list_checkpoints,
    domain_managed_save_remove => managed_save_remove,
    domain_abort_job => abort_job,
    domain_attach_device => |context, args: domain_attach_device::Args| {
        no_hotplug(context, &args.dom).map(|()| domain_attach_device::Reply {})
    },
    domain_detach_device => |context, args: domain_detach_device::Args| {
        no_hotplug(context, &args.dom).map(|()| domain_detach_device::Reply {})
    },
    domain_attach_device_flags => |context, args: domain_attach_device_flags::Args| {
        no_hotplug(context, &args.dom).map(|()| domain_attach_device_flags::Reply {})
    },
    domain_detach_device_flags => |context, args: domain_detach_device_flags::Args| {
        no_hotplug(context, &args.dom).map(|()| domain_detach_device_flags::Reply {})
    },
    domain_update_device_flags => |context, args: domain_update_device_flags::Args| {
        no_hotplug(context, &args.dom).map(|()| domain_update_device_flags::Reply {})
    },
}

fn snapshot_num(
    context: &Context<'_>,
    args: domain_snapshot_num::Args,
) -> Result<domain_snapshot_num::Reply, DriverError> {
    existing(context, &args.dom)?;
    Ok(domain_snapshot_num::Reply { num: 0 })
}

fn list_snapshots(
    context: &Context<'_>,
    args: domain_list_all_snapshots::Args,
) -> Result<domain_list_all_snapshots::Reply, DriverError> {
    existing(context, &args.dom)?;
    Ok(domain_list_all_snapshots::Reply { snapshots: Vec::new(), ret: 0 })
}

fn list_checkpoints(
    context: &Context<'_>,
    args: domain_list_all_checkpoints::Args,
) -> Result<domain_list_all_checkpoints::Reply, DriverError> {
    existing(context, &args.dom)?;
    Ok(domain_list_all_checkpoints::Reply { checkpoints: Vec::new(), ret: 0 })
}

fn managed_save_remove(
    context: &Context<'_>,
    args: domain_managed_save_remove::Args,
) -> Result<domain_managed_save_remove::Reply, DriverError> {
    // As elsewhere: what is not there is as good as removed.
    existing(context, &args.dom)?;
    Ok(domain_managed_save_remove::Reply {})
}

fn abort_job(context: &Context<'_>, args: domain_abort_job::Args) -> Result<domain_abort_job::Reply, DriverError> {
    context.with(&args.dom, |entry| {
        entry.running()?;
        Err(DriverError::Invalid(format!("the domain '{}' has no job that could be ended", entry.name())))
    })
}

fn no_hotplug(context: &Context<'_>, dom: &DomainRef) -> Result<(), DriverError> {
    existing(context, dom)?;
    Err(DriverError::Unsupported("devices are changed by defining the domain anew".into()))
}
