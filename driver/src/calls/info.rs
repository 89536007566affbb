//! What a domain is like now.

use virtft_rpc::remote::{
    Opaque, VcpuInfo, domain_get_autostart, domain_get_control_info, domain_get_emulator_pin_info, domain_get_info,
    domain_get_job_info, domain_get_job_stats, domain_get_max_memory, domain_get_max_vcpus, domain_get_messages,
    domain_get_os_type, domain_get_security_label, domain_get_state, domain_get_vcpu_pin_info, domain_get_vcpus,
    domain_get_vcpus_flags, domain_has_managed_save_image, domain_is_active, domain_is_persistent, domain_is_updated,
};
use virtft_rpc::{CharList, DomainRef};

use super::{Context, existing, flag, group};
use crate::error::DriverError;
use crate::ft::issue;
use crate::host::Node;
use crate::vm::definition::Affects;
use crate::vm::entry::Entry;

group! {
    domain_get_state => get_state,
    domain_get_info => get_info,
    domain_get_os_type => get_os_type,
    domain_get_autostart => get_autostart,
    domain_is_active => is_active,
    domain_is_persistent => is_persistent,
    domain_is_updated => is_updated,
    domain_get_max_memory => get_max_memory,
    domain_get_max_vcpus => get_max_vcpus,
    domain_get_vcpus_flags => get_vcpus_flags,
    domain_get_vcpus => get_vcpus,
    domain_get_vcpu_pin_info => get_vcpu_pin_info,
    domain_get_emulator_pin_info => get_emulator_pin_info,
    domain_get_control_info => get_control_info,
    domain_get_job_info => get_job_info,
    domain_get_job_stats => get_job_stats,
    domain_get_messages => get_messages,
    domain_get_security_label => get_security_label,
    domain_has_managed_save_image => has_managed_save_image,
}

fn get_state(context: &Context<'_>, args: domain_get_state::Args) -> Result<domain_get_state::Reply, DriverError> {
    let (state, reason) = context.with(&args.dom, |entry| Ok(entry.state().numbers()))?;
    Ok(domain_get_state::Reply { state, reason })
}

fn get_info(context: &Context<'_>, args: domain_get_info::Args) -> Result<domain_get_info::Reply, DriverError> {
    context.with(&args.dom, |entry| {
        let domain = entry.current().ok_or_else(|| gone(&args.dom))?;
        let usage = entry.run.as_ref().map(|run| run.process.usage()).unwrap_or_default();
        Ok(domain_get_info::Reply {
            state: entry.state().numbers().0.unsigned_abs(),
            max_mem: domain.memory.max_kib,
            memory: domain.memory.current_kib,
            nr_virt_cpu: domain.vcpus.count,
            cpu_time: usage.user_ns + usage.system_ns,
        })
    })
}

fn gone(dom: &DomainRef) -> DriverError {
    DriverError::NoDomain(format!("'{}' has just ended", dom.name))
}

fn get_os_type(
    context: &Context<'_>,
    args: domain_get_os_type::Args,
) -> Result<domain_get_os_type::Reply, DriverError> {
    existing(context, &args.dom)?;
    Ok(domain_get_os_type::Reply { kind: "hvm".into() })
}

fn get_autostart(
    context: &Context<'_>,
    args: domain_get_autostart::Args,
) -> Result<domain_get_autostart::Reply, DriverError> {
    context.with(&args.dom, |entry| Ok(domain_get_autostart::Reply { autostart: flag(entry.autostart) }))
}

fn is_active(context: &Context<'_>, args: domain_is_active::Args) -> Result<domain_is_active::Reply, DriverError> {
    context.with(&args.dom, |entry| Ok(domain_is_active::Reply { active: flag(entry.run.is_some()) }))
}

fn is_persistent(
    context: &Context<'_>,
    args: domain_is_persistent::Args,
) -> Result<domain_is_persistent::Reply, DriverError> {
    context.with(&args.dom, |entry| Ok(domain_is_persistent::Reply { persistent: flag(entry.definition.is_some()) }))
}

fn is_updated(context: &Context<'_>, args: domain_is_updated::Args) -> Result<domain_is_updated::Reply, DriverError> {
    context.with(&args.dom, |entry| Ok(domain_is_updated::Reply { updated: flag(entry.is_updated) }))
}

fn get_max_memory(
    context: &Context<'_>,
    args: domain_get_max_memory::Args,
) -> Result<domain_get_max_memory::Reply, DriverError> {
    context.with(&args.dom, |entry| {
        let domain = entry.current().ok_or_else(|| gone(&args.dom))?;
        Ok(domain_get_max_memory::Reply { memory: domain.memory.max_kib })
    })
}

fn vcpus(entry: &Entry) -> i32 {
    entry.current().map_or(0, |domain| i32::try_from(domain.vcpus.count).unwrap_or(i32::MAX))
}

fn get_max_vcpus(
    context: &Context<'_>,
    args: domain_get_max_vcpus::Args,
) -> Result<domain_get_max_vcpus::Reply, DriverError> {
    context.with(&args.dom, |entry| {
        entry.running()?;
        Ok(domain_get_max_vcpus::Reply { num: vcpus(entry) })
    })
}

fn get_vcpus_flags(
    context: &Context<'_>,
    args: domain_get_vcpus_flags::Args,
) -> Result<domain_get_vcpus_flags::Reply, DriverError> {
    context.with(&args.dom, |entry| {
        // The number at most is the number now.
        let affects = Affects::new(args.flags, entry.run.is_some());
        let domain = if affects.live { &entry.running()?.base } else { entry.persistent()? };
        Ok(domain_get_vcpus_flags::Reply { num: i32::try_from(domain.vcpus.count).unwrap_or(i32::MAX) })
    })
}

/// All vCPUs take turns on one thread of the emulator, whose time is not known apart from the others': it is told of the
/// first vCPU.
fn get_vcpus(context: &Context<'_>, args: domain_get_vcpus::Args) -> Result<domain_get_vcpus::Reply, DriverError> {
    context.with(&args.dom, |entry| {
        let usage = entry.running()?.process.usage();
        let limit = vcpus(entry).min(args.maxinfo.max(0)).unsigned_abs();
        let cpu_time = |number| if number == 0 { usage.user_ns + usage.system_ns } else { 0 };
        let info =
            (0..limit).map(|number| VcpuInfo { number, state: 1, cpu_time: cpu_time(number), cpu: -1 }).collect();
        Ok(domain_get_vcpus::Reply { info, cpumaps: all_processors(limit, args.maplen) })
    })
}

/// Maps in which every processor of the host is set: nothing is pinned.
fn all_processors(maps: u32, map_bytes: i32) -> Opaque {
    let bytes = usize::try_from(map_bytes).unwrap_or(0).min(4096);
    let online = Node::read().cpus;
    let mut map = vec![0_u8; bytes];
    for cpu in online {
        if let Some(byte) = map.get_mut(usize::try_from(cpu / 8).unwrap_or(usize::MAX)) {
            *byte |= 1 << (cpu % 8);
        }
    }
    Opaque(map.repeat(usize::try_from(maps).unwrap_or(0)))
}

fn get_vcpu_pin_info(
    context: &Context<'_>,
    args: domain_get_vcpu_pin_info::Args,
) -> Result<domain_get_vcpu_pin_info::Reply, DriverError> {
    context.with(&args.dom, |entry| {
        let limit = vcpus(entry).min(args.ncpumaps.max(0));
        let cpumaps = all_processors(limit.unsigned_abs(), args.maplen);
        Ok(domain_get_vcpu_pin_info::Reply { cpumaps, num: limit })
    })
}

fn get_emulator_pin_info(
    context: &Context<'_>,
    args: domain_get_emulator_pin_info::Args,
) -> Result<domain_get_emulator_pin_info::Reply, DriverError> {
    existing(context, &args.dom)?;
    Ok(domain_get_emulator_pin_info::Reply { cpumaps: all_processors(1, args.maplen), ret: 1 })
}

fn get_control_info(
    context: &Context<'_>,
    args: domain_get_control_info::Args,
) -> Result<domain_get_control_info::Reply, DriverError> {
    context.with(&args.dom, |entry| {
        entry.running()?;
        // 0 ok, 1 a job.
        Ok(domain_get_control_info::Reply { state: u32::from(entry.job.is_some()), details: 0, state_time: 0 })
    })
}

/// There are no jobs that take time yet.
fn get_job_info(
    context: &Context<'_>,
    args: domain_get_job_info::Args,
) -> Result<domain_get_job_info::Reply, DriverError> {
    context.with(&args.dom, |entry| entry.running().map(drop))?;
    Ok(domain_get_job_info::Reply {
        kind: 0,
        time_elapsed: 0,
        time_remaining: 0,
        data_total: 0,
        data_processed: 0,
        data_remaining: 0,
        mem_total: 0,
        mem_processed: 0,
        mem_remaining: 0,
        file_total: 0,
        file_processed: 0,
        file_remaining: 0,
    })
}

fn get_job_stats(
    context: &Context<'_>,
    args: domain_get_job_stats::Args,
) -> Result<domain_get_job_stats::Reply, DriverError> {
    context.with(&args.dom, |entry| entry.running().map(drop))?;
    Ok(domain_get_job_stats::Reply { kind: 0, params: Vec::new() })
}

/// What an administrator should know of the domain.
fn get_messages(
    context: &Context<'_>,
    args: domain_get_messages::Args,
) -> Result<domain_get_messages::Reply, DriverError> {
    let msgs = context.with(&args.dom, |entry| {
        let (Some(domain), Some(run)) = (entry.current(), &entry.run) else { return Ok(Vec::new()) };
        let issues = issue::all(domain, super::statistics::wanted(entry).as_ref(), &run.protection);
        Ok(issues.into_iter().map(|issue| format!("fault tolerance: {}: {}", issue.name, issue.text)).collect())
    })?;
    Ok(domain_get_messages::Reply { msgs })
}

/// There is no security model, so the label is empty.
fn get_security_label(
    context: &Context<'_>,
    args: domain_get_security_label::Args,
) -> Result<domain_get_security_label::Reply, DriverError> {
    existing(context, &args.dom)?;
    Ok(domain_get_security_label::Reply { label: CharList::default(), enforcing: 0 })
}

fn has_managed_save_image(
    context: &Context<'_>,
    args: domain_has_managed_save_image::Args,
) -> Result<domain_has_managed_save_image::Reply, DriverError> {
    let is_saved = context.with(&args.dom, |entry| Ok(entry.is_saved))?;
    Ok(domain_has_managed_save_image::Reply { result: flag(is_saved) })
}
