//! Facts of the host, from `/proc` and `/sys`. None of them reaches a guest.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use uuid::Uuid;
use virtft_domain::{Cell, HostFacts};

/// Processors and memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Memory, in KiB.
    pub memory_kib: u64,
    /// Numbers of the processors that are online.
    pub cpus: Vec<u32>,
    /// Speed in MHz; 0 when not known.
    pub mhz: u32,
    /// Sockets, cores of each, threads of each core.
    pub topology: (u32, u32, u32),
}

impl Node {
    /// Looks at the host.
    #[must_use]
    pub fn read() -> Self {
        let cpus = parse_ranges(&read("/sys/devices/system/cpu/online"));
        let info = read("/proc/cpuinfo");
        let mhz = info.lines().find_map(|line| line.strip_prefix("cpu MHz")).and_then(|rest| rest.split(':').nth(1));
        let mhz = mhz.and_then(|text| text.trim().split('.').next()?.parse().ok());
        let topology = topology(&cpus);
        Self { memory_kib: memory_kib("MemTotal").unwrap_or(0), cpus, mhz: mhz.unwrap_or(0), topology }
    }

    /// How many processors are online.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.cpus.len()).unwrap_or(u32::MAX)
    }
}

/// Sockets, cores of each and threads of each core; one socket of single threads where that does not come out even.
fn topology(cpus: &[u32]) -> (u32, u32, u32) {
    let of = |cpu: u32, name: &str| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}");
        read(&path).trim().parse::<u32>().ok()
    };
    let sockets: BTreeSet<_> = cpus.iter().map(|cpu| of(*cpu, "physical_package_id")).collect();
    let cores: BTreeSet<_> = cpus.iter().map(|cpu| (of(*cpu, "physical_package_id"), of(*cpu, "core_id"))).collect();
    let count = |length: usize| u32::try_from(length).unwrap_or(1).max(1);
    let (total, sockets, cores) = (count(cpus.len()), count(sockets.len()), count(cores.len()));
    let (each, threads) = (cores / sockets, total / cores);
    if sockets * each * threads == total { (sockets, each, threads) } else { (1, total, 1) }
}

/// What the capabilities say.
#[must_use]
pub fn facts() -> HostFacts {
    let node = Node::read();
    let mut cells: Vec<Cell> = cell_ids()
        .into_iter()
        .map(|id| {
            let folder = format!("/sys/devices/system/node/node{id}");
            let meminfo = read(format!("{folder}/meminfo"));
            let total = meminfo.lines().find(|line| line.contains("MemTotal:"));
            let memory_kib = total.and_then(|line| line.split_whitespace().rev().nth(1)?.parse().ok()).unwrap_or(0);
            Cell { id, memory_kib, cpus: parse_ranges(&read(format!("{folder}/cpulist"))) }
        })
        .collect();
    if cells.is_empty() {
        cells.push(Cell { id: 0, memory_kib: node.memory_kib, cpus: node.cpus.clone() });
    }
    HostFacts { uuid: host_uuid(), topology: node.topology, cells }
}

fn cell_ids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/node") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let ids: BTreeSet<u32> = names.filter_map(|name| name.strip_prefix("node")?.parse().ok()).collect();
    ids.into_iter().collect()
}

/// The machine's id is not for strangers, so a UUID is derived from it.
fn host_uuid() -> Uuid {
    let id = Uuid::try_parse(read("/etc/machine-id").trim()).unwrap_or_default();
    let mut bytes = *id.as_bytes();
    for (byte, mask) in bytes.iter_mut().zip(*b"virtft-host-uuid") {
        *byte ^= mask;
    }
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// A line of `/proc/meminfo`, in KiB.
#[must_use]
pub fn memory_kib(name: &str) -> Option<u64> {
    let meminfo = read("/proc/meminfo");
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The host's name.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Identity of the host's present boot: process ids mean nothing in another.
#[must_use]
pub fn boot_id() -> String {
    read("/proc/sys/kernel/random/boot_id").trim().to_owned()
}

/// CPU time of a processor, or of all, by kind: kernel, user, idle, iowait; in nanoseconds.
#[must_use]
pub fn cpu_times(cpu: Option<u32>) -> Option<[(&'static str, u64); 4]> {
    let name = cpu.map_or_else(|| "cpu".to_owned(), |cpu| format!("cpu{cpu}"));
    let stat = read("/proc/stat");
    let line = stat.lines().find(|line| line.split_whitespace().next() == Some(&name))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, ..] = ticks[..] else { return None };
    let ns = |ticks: u64| ticks.saturating_mul(tick_ns());
    Some([
        ("kernel", ns(system + irq + softirq)),
        ("user", ns(user + nice)),
        ("idle", ns(idle)),
        ("iowait", ns(iowait)),
    ])
}

/// Length of a tick of the clock that processes' times are told in.
#[must_use]
pub fn tick_ns() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// `0-2,5` is 0, 1, 2, 5.
fn parse_ranges(text: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            // No host has more; the file is the kernel's, but costs nothing to distrust.
            numbers.extend((first..=last).take(65_536));
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_ranges("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(parse_ranges(""), Vec::<u32>::new());
    }

    #[test]
    fn this_host_has_something() {
        let node = Node::read();
        assert!(node.memory_kib > 0 && node.count() > 0);
        assert!(cpu_times(None).is_some() && cpu_times(Some(100_000)).is_none());
        assert!(!facts().cells.is_empty());
        assert!(!boot_id().is_empty());
    }
}
