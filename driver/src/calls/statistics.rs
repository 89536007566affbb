//! Figures about domains: what the host knows of the emulator, and what the emulator says of its disks and its protection.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use uuid::Uuid;
use virtft_domain::{Disk, DiskFormat, FaultTolerance};
use virtft_rpc::remote::{
    DomainStatistics, MemoryStatistic, connect_get_all_domain_stats, domain_get_block_info, domain_get_cpu_stats,
    domain_interface_stats, domain_memory_stats,
};
use virtft_rpc::{TypedParameter, TypedValue};

use super::{Context, control, count, group, lists};
use crate::error::DriverError;
use crate::ft::issue;
use crate::vm::entry::{Entry, Run};
use crate::vm::{image, reference};

group! {
    connect_get_all_domain_stats => get_all_domain_stats,
    domain_memory_stats => memory_stats,
    domain_get_block_info => get_block_info,
    domain_interface_stats => interface_stats,
    domain_get_cpu_stats => get_cpu_stats,
}

const STATS_STATE: u32 = 1 << 0;
const STATS_CPU: u32 = 1 << 1;
const STATS_BALLOON: u32 = 1 << 2;
const STATS_VCPU: u32 = 1 << 3;
const STATS_INTERFACE: u32 = 1 << 4;
const STATS_BLOCK: u32 = 1 << 5;
const STATS_KNOWN: u32 = STATS_STATE | STATS_CPU | STATS_BALLOON | STATS_VCPU | STATS_INTERFACE | STATS_BLOCK;
/// A figure that is asked for and not known is an error.
const ENFORCE: u32 = 1 << 31;

/// Collects figures of one domain.
#[derive(Default)]
struct Figures(Vec<TypedParameter>);

impl Figures {
    fn add(&mut self, field: impl Into<String>, value: TypedValue) {
        self.0.push(TypedParameter { field: field.into(), value });
    }

    fn number(&mut self, field: impl Into<String>, value: u64) {
        self.add(field, TypedValue::ULongLong(value));
    }

    fn count(&mut self, field: impl Into<String>, value: usize) {
        self.add(field, TypedValue::UInt(u32::try_from(value).unwrap_or(u32::MAX)));
    }

    fn text(&mut self, field: impl Into<String>, value: &str) {
        self.add(field, TypedValue::String(value.to_owned()));
    }
}

fn get_all_domain_stats(
    context: &Context<'_>,
    args: connect_get_all_domain_stats::Args,
) -> Result<connect_get_all_domain_stats::Reply, DriverError> {
    let unknown = args.stats & !STATS_KNOWN;
    if unknown != 0 && args.flags & ENFORCE != 0 {
        return Err(DriverError::Unsupported(format!("figures of the groups {unknown:#x}")));
    }
    let wanted = if args.stats == 0 { STATS_KNOWN } else { args.stats };
    let hypervisor = context.hypervisor();
    let running: Vec<Uuid> = {
        let registry = hypervisor.registry();
        let running = registry.all().filter(|entry| entry.run.is_some() && wanted & STATS_BLOCK != 0);
        running.map(Entry::uuid).collect()
    };
    // Emulators are asked before the lock is taken.
    let counters: BTreeMap<Uuid, _> =
        running.into_iter().map(|uuid| (uuid, control::counters(hypervisor, uuid))).collect();
    let registry = hypervisor.registry();
    let is_meant = |entry: &&Entry| {
        (args.doms.is_empty() || args.doms.iter().any(|dom| dom.uuid == entry.uuid()))
            && lists::passes(entry, args.flags)
    };
    let ret_stats = registry.all().filter(is_meant).map(|entry| {
        let mut figures = Figures::default();
        collect(entry, wanted, counters.get(&entry.uuid()), &mut figures);
        DomainStatistics { dom: reference(entry), params: figures.0 }
    });
    Ok(connect_get_all_domain_stats::Reply { ret_stats: ret_stats.collect() })
}

fn collect(entry: &Entry, wanted: u32, counters: Option<&BTreeMap<String, u64>>, figures: &mut Figures) {
    let run = entry.run.as_ref();
    if wanted & STATS_STATE != 0 {
        let (state, reason) = entry.state().numbers();
        figures.add("state.state", TypedValue::Int(state));
        figures.add("state.reason", TypedValue::Int(reason));
        collect_protection(entry, figures);
    }
    if let Some(run) = run.filter(|_| wanted & STATS_CPU != 0) {
        let usage = run.process.usage();
        figures.number("cpu.time", usage.user_ns + usage.system_ns);
        figures.number("cpu.user", usage.user_ns);
        figures.number("cpu.system", usage.system_ns);
    }
    let Some(domain) = entry.current() else { return };
    if wanted & STATS_BALLOON != 0 {
        if let Some(run) = run {
            figures.number("balloon.current", domain.memory.current_kib);
            figures.number("balloon.maximum", domain.memory.max_kib);
            figures.number("balloon.rss", run.process.usage().resident_kib);
        } else {
            figures.number("balloon.maximum", domain.memory.max_kib);
        }
    }
    if wanted & STATS_VCPU != 0 {
        figures.add("vcpu.current", TypedValue::UInt(domain.vcpus.count));
        figures.add("vcpu.maximum", TypedValue::UInt(domain.vcpus.count));
    }
    if let Some(run) = run.filter(|_| wanted & STATS_INTERFACE != 0) {
        collect_interfaces(run, figures);
    }
    if wanted & STATS_BLOCK != 0 {
        figures.count("block.count", domain.devices.disks.len());
        for (disk, number) in domain.devices.disks.iter().zip(0_usize..) {
            collect_disk(disk, number, counters, figures);
        }
    }
}

/// Fault tolerance, of domains that have or want any.
fn collect_protection(entry: &Entry, figures: &mut Figures) {
    let (Some(domain), wanted) = (entry.current(), wanted(entry)) else { return };
    let Some(run) = entry.run.as_ref() else { return };
    let protection = &run.protection;
    if wanted.is_none() && protection.backup.is_none() {
        return;
    }
    let status = protection.status.clone().unwrap_or_default();
    figures.text("ft.state", issue::state(wanted.as_ref(), protection));
    figures.text("ft.role", if protection.backup.is_some() { "backup" } else { "primary" });
    figures.number("ft.epoch", status.epoch);
    figures.number("ft.failovers", status.failovers);
    if let Some(pair) = protection.pair.as_ref().filter(|_| status.role == "primary") {
        figures.text("ft.peer", &pair.uri);
        figures.number("ft.lag.ms", status.lag_ms);
        figures.number("ft.log.rate", status.log_bytes_per_s);
        figures.number("ft.outputs.held", status.outputs_held);
    }
    figures.number("ft.log.bytes", status.log_bytes);
    if let Some(pause) = status.transfer_pause_ms {
        figures.number("ft.transfer.pause.ms", pause);
    }
    if let Some(copied) = status.disks_copied {
        figures.number("ft.transfer.disks.permille", copied);
    }
    figures.text("ft.event", &status.last_event);
    let issues = issue::all(domain, wanted.as_ref(), protection);
    figures.count("ft.issue.count", issues.len());
    for (issue, number) in issues.iter().zip(0_usize..) {
        figures.text(format!("ft.issue.{number}.name"), issue.name);
        figures.text(format!("ft.issue.{number}.text"), &issue.text);
    }
}

/// What the user wants of a domain's fault tolerance. What was accepted can be read.
pub(super) fn wanted(entry: &Entry) -> Option<FaultTolerance> {
    FaultTolerance::of(entry.current()?).ok().flatten()
}

fn collect_interfaces(run: &Run, figures: &mut Figures) {
    let taps: Vec<&String> = run.names.taps.iter().flatten().collect();
    figures.count("net.count", taps.len());
    for (name, number) in taps.into_iter().zip(0_usize..) {
        figures.text(format!("net.{number}.name"), name);
        for (field, value) in InterfaceFigures::read(name).fields() {
            figures.number(format!("net.{number}.{field}"), value);
        }
    }
}

fn collect_disk(disk: &Disk, number: usize, counters: Option<&BTreeMap<String, u64>>, figures: &mut Figures) {
    figures.text(format!("block.{number}.name"), &disk.target);
    figures.text(format!("block.{number}.path"), disk.source.path());
    let names = [
        ("rd.reqs", "reads"),
        ("rd.bytes", "read_bytes"),
        ("wr.reqs", "writes"),
        ("wr.bytes", "written_bytes"),
        ("fl.reqs", "flushes"),
        ("errors", "failures"),
    ];
    for (field, counter) in names {
        if let Some(value) = counters.and_then(|counters| counters.get(&format!("disk{number}.{counter}"))) {
            figures.number(format!("block.{number}.{field}"), *value);
        }
    }
    if let Ok(sizes) = image::sizes(disk.source.path(), disk.format.unwrap_or(DiskFormat::Raw)) {
        figures.number(format!("block.{number}.allocation"), sizes.allocation);
        figures.number(format!("block.{number}.capacity"), sizes.capacity);
        figures.number(format!("block.{number}.physical"), sizes.physical);
    }
}

/// Counters of a host's interface, seen from the guest: what the host receives the guest has sent.
#[derive(Debug, Clone, Copy, Default)]
struct InterfaceFigures {
    received: [u64; 4],
    sent: [u64; 4],
}

impl InterfaceFigures {
    fn read(name: &str) -> Self {
        let folder = Path::new("/sys/class/net").join(name).join("statistics");
        let of = |direction: &str| {
            ["bytes", "packets", "errors", "dropped"].map(|what| {
                let text = fs::read_to_string(folder.join(format!("{direction}_{what}"))).unwrap_or_default();
                text.trim().parse().unwrap_or(0)
            })
        };
        Self { received: of("tx"), sent: of("rx") }
    }

    fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = ["rx.bytes", "rx.pkts", "rx.errs", "rx.drop", "tx.bytes", "tx.pkts", "tx.errs", "tx.drop"];
        names.into_iter().zip(self.received.into_iter().chain(self.sent))
    }
}

/// Tags of memory figures.
const MEMORY_ACTUAL: i32 = 6;
const MEMORY_RESIDENT: i32 = 7;

fn memory_stats(
    context: &Context<'_>,
    args: domain_memory_stats::Args,
) -> Result<domain_memory_stats::Reply, DriverError> {
    context.with(&args.dom, |entry| {
        let run = entry.running()?;
        let figures =
            [(MEMORY_ACTUAL, run.base.memory.current_kib), (MEMORY_RESIDENT, run.process.usage().resident_kib)];
        let limit = usize::try_from(args.max_stats).unwrap_or(usize::MAX);
        let stats = figures.into_iter().take(limit).map(|(tag, value)| MemoryStatistic { tag, value }).collect();
        Ok(domain_memory_stats::Reply { stats })
    })
}

fn get_block_info(
    context: &Context<'_>,
    args: domain_get_block_info::Args,
) -> Result<domain_get_block_info::Reply, DriverError> {
    let (path, format) = context.with(&args.dom, |entry| {
        let disks = entry.current().map(|domain| domain.devices.disks.as_slice()).unwrap_or_default();
        let disk = disks.iter().find(|disk| disk.target == args.path || disk.source.path() == args.path);
        let none = || DriverError::InvalidArgument(format!("the domain has no disk '{}'", args.path));
        let disk = disk.ok_or_else(none)?;
        Ok((disk.source.path().to_owned(), disk.format.unwrap_or(DiskFormat::Raw)))
    })?;
    let sizes = image::sizes(&path, format).map_err(DriverError::system("cannot look at", &path))?;
    let image::Sizes { allocation, capacity, physical } = sizes;
    Ok(domain_get_block_info::Reply { allocation, capacity, physical })
}

fn interface_stats(
    context: &Context<'_>,
    args: domain_interface_stats::Args,
) -> Result<domain_interface_stats::Reply, DriverError> {
    let name = context.with(&args.dom, |entry| {
        let run = entry.running()?;
        let macs = run.base.devices.interfaces.iter().map(|interface| interface.mac.map(|mac| mac.to_string()));
        let mut cards = run.names.taps.iter().zip(macs);
        let found = cards.find(|(tap, mac)| [tap, mac].into_iter().any(|name| name.as_deref() == Some(&*args.device)));
        let none = || DriverError::InvalidArgument(format!("the domain has no interface '{}'", args.device));
        found.and_then(|(tap, _)| tap.clone()).ok_or_else(none)
    })?;
    let figures = InterfaceFigures::read(&name);
    let signed = |values: [u64; 4]| values.map(|value| i64::try_from(value).unwrap_or(i64::MAX));
    let [rx_bytes, rx_packets, rx_errs, rx_drop] = signed(figures.received);
    let [tx_bytes, tx_packets, tx_errs, tx_drop] = signed(figures.sent);
    Ok(domain_interface_stats::Reply { rx_bytes, rx_packets, rx_errs, rx_drop, tx_bytes, tx_packets, tx_errs, tx_drop })
}

/// Times of all processors together; they are not known for each.
fn get_cpu_stats(
    context: &Context<'_>,
    args: domain_get_cpu_stats::Args,
) -> Result<domain_get_cpu_stats::Reply, DriverError> {
    if args.start_cpu != -1 {
        return Err(DriverError::Unsupported("times of single processors; ask for the total".into()));
    }
    let usage = context.with(&args.dom, |entry| Ok(entry.running()?.process.usage()))?;
    let mut figures = Figures::default();
    figures.number("cpu_time", usage.user_ns + usage.system_ns);
    figures.number("user_time", usage.user_ns);
    figures.number("system_time", usage.system_ns);
    let nparams = count(figures.0.len());
    Ok(domain_get_cpu_stats::Reply { params: if args.nparams == 0 { Vec::new() } else { figures.0 }, nparams })
}
