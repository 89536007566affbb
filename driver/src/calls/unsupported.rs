//! Procedures that this hypervisor has only the negative answer to, where clients need one that is about the domain: that it
//! has no snapshots is an empty list, that it cannot be saved is an error.

use virtft_rpc::remote::{
    domain_abort_job, domain_get_disk_errors, domain_get_iothread_info, domain_list_all_checkpoints,
    domain_list_all_snapshots, domain_snapshot_num,
};

use super::{Context, existing, group};
use crate::error::DriverError;

group! {
    domain_snapshot_num => snapshot_num,
    domain_list_all_snapshots => list_snapshots,
    domain_list_all_checkpoints => list_checkpoints,
    domain_abort_job => abort_job,
    domain_get_iothread_info => iothreads,
    domain_get_disk_errors => disk_errors,
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

fn abort_job(context: &Context<'_>, args: domain_abort_job::Args) -> Result<domain_abort_job::Reply, DriverError> {
    context.with(&args.dom, |entry| {
        entry.running()?;
        Err(DriverError::Invalid(format!("the domain '{}' has no job that could be ended", entry.name())))
    })
}

/// Disks are served by threads that nobody can choose.
fn iothreads(
    context: &Context<'_>,
    args: domain_get_iothread_info::Args,
) -> Result<domain_get_iothread_info::Reply, DriverError> {
    existing(context, &args.dom)?;
    Ok(domain_get_iothread_info::Reply { info: Vec::new(), ret: 0 })
}

/// Errors are reported to the guest, and none of them stops it.
fn disk_errors(
    context: &Context<'_>,
    args: domain_get_disk_errors::Args,
) -> Result<domain_get_disk_errors::Reply, DriverError> {
    context.with(&args.dom, |entry| entry.running().map(drop))?;
    Ok(domain_get_disk_errors::Reply { errors: Vec::new(), nerrors: 0 })
}
