//! Which domains there are.

use uuid::Uuid;
use virtft_rpc::DomainRef;
use virtft_rpc::remote::{
    connect_list_all_domains, connect_list_defined_domains, connect_list_domains, connect_num_of_defined_domains,
    connect_num_of_domains, domain_lookup_by_id, domain_lookup_by_name, domain_lookup_by_uuid,
};

use super::{Context, count, group};
use crate::error::DriverError;
use crate::vm::entry::{Entry, State};
use crate::vm::reference;

group! {
    connect_list_all_domains => list_all,
    connect_num_of_domains => num_of_domains,
    connect_list_domains => list_domains,
    connect_num_of_defined_domains => num_of_defined,
    connect_list_defined_domains => list_defined,
    domain_lookup_by_id => by_id,
    domain_lookup_by_name => by_name,
    domain_lookup_by_uuid => by_uuid,
}

/// A group of list flags: a domain passes that has one of those that are set, or when none is.
struct Filter {
    mask: u32,
    of: fn(&Entry) -> u32,
}

const ACTIVE: u32 = 1 << 0;
const INACTIVE: u32 = 1 << 1;
const PERSISTENT: u32 = 1 << 2;
const TRANSIENT: u32 = 1 << 3;
const RUNNING: u32 = 1 << 4;
const PAUSED: u32 = 1 << 5;
const SHUT_OFF: u32 = 1 << 6;
const OTHER: u32 = 1 << 7;
const MANAGED_SAVE: u32 = 1 << 8;
const NO_MANAGED_SAVE: u32 = 1 << 9;
const AUTOSTART: u32 = 1 << 10;
const NO_AUTOSTART: u32 = 1 << 11;
const SNAPSHOT: u32 = 1 << 12;
const NO_SNAPSHOT: u32 = 1 << 13;
const CHECKPOINT: u32 = 1 << 14;
const NO_CHECKPOINT: u32 = 1 << 15;

const FILTERS: [Filter; 7] = [
    Filter { mask: ACTIVE | INACTIVE, of: |entry| if entry.run.is_some() { ACTIVE } else { INACTIVE } },
    Filter {
        mask: PERSISTENT | TRANSIENT,
        of: |entry| if entry.definition.is_some() { PERSISTENT } else { TRANSIENT },
    },
    Filter { mask: RUNNING | PAUSED | SHUT_OFF | OTHER, of: state_flag },
    Filter {
        mask: MANAGED_SAVE | NO_MANAGED_SAVE,
        of: |entry| if entry.is_saved { MANAGED_SAVE } else { NO_MANAGED_SAVE },
    },
    Filter { mask: AUTOSTART | NO_AUTOSTART, of: |entry| if entry.autostart { AUTOSTART } else { NO_AUTOSTART } },
    Filter { mask: SNAPSHOT | NO_SNAPSHOT, of: |_| NO_SNAPSHOT },
    Filter { mask: CHECKPOINT | NO_CHECKPOINT, of: |_| NO_CHECKPOINT },
];

fn state_flag(entry: &Entry) -> u32 {
    match entry.state() {
        State::Running(_) => RUNNING,
        State::Paused | State::Following => PAUSED,
        State::Off(_) => SHUT_OFF,
        State::ShuttingDown => OTHER,
    }
}

/// True when the domain is among those that the flags ask for.
pub(super) fn passes(entry: &Entry, flags: u32) -> bool {
    FILTERS.iter().all(|filter| flags & filter.mask == 0 || flags & filter.mask & (filter.of)(entry) != 0)
}

fn all(context: &Context<'_>, flags: u32) -> Vec<DomainRef> {
    context.hypervisor().registry().all().filter(|entry| passes(entry, flags)).map(reference).collect()
}

fn list_all(
    context: &Context<'_>,
    args: connect_list_all_domains::Args,
) -> Result<connect_list_all_domains::Reply, DriverError> {
    let domains = all(context, args.flags);
    let ret = u32::try_from(domains.len()).unwrap_or(u32::MAX);
    Ok(connect_list_all_domains::Reply { domains: if args.need_results == 0 { Vec::new() } else { domains }, ret })
}

fn num_of_domains(
    context: &Context<'_>,
    _: connect_num_of_domains::Args,
) -> Result<connect_num_of_domains::Reply, DriverError> {
    Ok(connect_num_of_domains::Reply { num: count(all(context, ACTIVE).len()) })
}

fn list_domains(
    context: &Context<'_>,
    args: connect_list_domains::Args,
) -> Result<connect_list_domains::Reply, DriverError> {
    let ids = all(context, ACTIVE).into_iter().map(|dom| dom.id).take(at_most(args.maxids)).collect();
    Ok(connect_list_domains::Reply { ids })
}

fn num_of_defined(
    context: &Context<'_>,
    _: connect_num_of_defined_domains::Args,
) -> Result<connect_num_of_defined_domains::Reply, DriverError> {
    Ok(connect_num_of_defined_domains::Reply { num: count(all(context, INACTIVE).len()) })
}

fn list_defined(
    context: &Context<'_>,
    args: connect_list_defined_domains::Args,
) -> Result<connect_list_defined_domains::Reply, DriverError> {
    let names = all(context, INACTIVE).into_iter().map(|dom| dom.name).take(at_most(args.maxnames)).collect();
    Ok(connect_list_defined_domains::Reply { names })
}

fn at_most(limit: i32) -> usize {
    usize::try_from(limit).unwrap_or(0)
}

fn by_id(context: &Context<'_>, args: domain_lookup_by_id::Args) -> Result<domain_lookup_by_id::Reply, DriverError> {
    let dom = reference(context.hypervisor().registry().by_id(args.id)?);
    Ok(domain_lookup_by_id::Reply { dom })
}

fn by_name(
    context: &Context<'_>,
    args: domain_lookup_by_name::Args,
) -> Result<domain_lookup_by_name::Reply, DriverError> {
    let dom = reference(context.hypervisor().registry().by_name(&args.name)?);
    Ok(domain_lookup_by_name::Reply { dom })
}

fn by_uuid(
    context: &Context<'_>,
    args: domain_lookup_by_uuid::Args,
) -> Result<domain_lookup_by_uuid::Reply, DriverError> {
    let uuid: Uuid = args.uuid;
    Ok(domain_lookup_by_uuid::Reply { dom: reference(context.hypervisor().registry().get(uuid)?) })
}
