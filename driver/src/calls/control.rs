//! What the emulator of a running domain is asked: figures of its disks, a non-maskable interrupt, a planned switch to the backup.

use std::collections::BTreeMap;

use uuid::Uuid;
use virtft_rpc::remote::{Opaque, domain_block_stats, domain_inject_nmi, domain_migrate_perform3_params};

use super::{Context, group, only_flags};
use crate::error::DriverError;
use crate::ft::control;
use crate::vm::Hypervisor;

group! {
    domain_inject_nmi => inject_nmi,
    domain_block_stats => block_stats,
    domain_migrate_perform3_params => migrate,
}

fn inject_nmi(context: &Context<'_>, args: domain_inject_nmi::Args) -> Result<domain_inject_nmi::Reply, DriverError> {
    only_flags(args.flags, 0)?;
    context.with(&args.dom, |entry| {
        entry.check_own()?;
        entry.running().map(drop)
    })?;
    control::order(&context.hypervisor().paths.control(args.dom.uuid), "nmi").map_err(DriverError::Failed)?;
    Ok(domain_inject_nmi::Reply {})
}

/// Counters of a running domain's devices; none when its emulator does not answer, as that of a backup does not.
pub(super) fn counters(hypervisor: &Hypervisor, uuid: Uuid) -> BTreeMap<String, u64> {
    let request = serde_json::json!({ "command": "statistics" });
    let answer = control::ask(&hypervisor.paths.control(uuid), &request);
    let counters =
        answer.ok().and_then(|mut answer| serde_json::from_value(answer["statistics"]["counters"].take()).ok());
    counters.unwrap_or_default()
}

fn block_stats(
    context: &Context<'_>,
    args: domain_block_stats::Args,
) -> Result<domain_block_stats::Reply, DriverError> {
    let number = context.with(&args.dom, |entry| {
        let disks = &entry.running()?.base.devices.disks;
        let found = disks.iter().position(|disk| disk.target == args.path || disk.source.path() == args.path);
        found.ok_or_else(|| DriverError::InvalidArgument(format!("the domain has no disk '{}'", args.path)))
    })?;
    let counters = counters(context.hypervisor(), args.dom.uuid);
    let of = |name: &str| -> Result<i64, DriverError> {
        let value = counters.get(&format!("disk{number}.{name}"));
        let missing = || DriverError::Failed("the emulator does not say what its disks have done".into());
        value.and_then(|value| i64::try_from(*value).ok()).ok_or_else(missing)
    };
    Ok(domain_block_stats::Reply {
        rd_req: of("reads")?,
        rd_bytes: of("read_bytes")?,
        wr_req: of("writes")?,
        wr_bytes: of("written_bytes")?,
        errs: of("failures")?,
    })
}

/// Flags of a migration: it is live, the drivers do it among themselves, the definition goes with the domain and is removed here.
const LIVE: u32 = 1;
const PEER_TO_PEER: u32 = 2;
const PERSIST_THERE: u32 = 8;
const UNDEFINE_HERE: u32 = 16;
const CHANGE_PROTECTION: u32 = 256;

/// A planned switch: the backup takes over, as after a failure, but without one.
fn migrate(
    context: &Context<'_>,
    args: domain_migrate_perform3_params::Args,
) -> Result<domain_migrate_perform3_params::Reply, DriverError> {
    only_flags(args.flags, LIVE | PEER_TO_PEER | PERSIST_THERE | UNDEFINE_HERE | CHANGE_PROTECTION)?;
    if args.flags & (LIVE | PEER_TO_PEER) != LIVE | PEER_TO_PEER {
        let reason = "a domain moves while it runs, and its driver does it: give --live and --p2p";
        return Err(DriverError::Unsupported(reason.into()));
    }
    if let Some(parameter) = args.params.first() {
        return Err(DriverError::Unsupported(format!("the parameter {} of a migration", parameter.field)));
    }
    let uri = args.dconnuri.ok_or_else(|| DriverError::InvalidArgument("it is not said where to".into()))?;
    context.hypervisor().switch(args.dom.uuid, &uri)?;
    Ok(domain_migrate_perform3_params::Reply { cookie_out: Opaque(Vec::new()) })
}
