//! The host.

use virtft_rpc::remote::{
    NodeStatistic, Opaque, node_get_cpu_map, node_get_cpu_stats, node_get_free_memory, node_get_info,
    node_get_memory_stats, node_get_security_model,
};
use virtft_rpc::{CharList, FixedChars};

use super::{Context, count, group};
use crate::error::DriverError;
use crate::host::{self, Node};

group! {
    node_get_info => get_info,
    node_get_free_memory => get_free_memory,
    node_get_cpu_stats => get_cpu_stats,
    node_get_memory_stats => get_memory_stats,
    node_get_cpu_map => get_cpu_map,
    node_get_security_model => get_security_model,
}

/// All processors or cells together.
const ALL: i32 = -1;

fn get_info(_: &Context<'_>, _: node_get_info::Args) -> Result<node_get_info::Reply, DriverError> {
    let node = Node::read();
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let (sockets, cores, threads) = node.topology;
    Ok(node_get_info::Reply {
        model: FixedChars::new("x86_64"),
        memory: node.memory_kib,
        cpus: number(node.count()),
        mhz: number(node.mhz),
        // Sockets are counted for each cell, of which the host is said to have one.
        nodes: 1,
        sockets: number(sockets),
        cores: number(cores),
        threads: number(threads),
    })
}

fn get_free_memory(_: &Context<'_>, _: node_get_free_memory::Args) -> Result<node_get_free_memory::Reply, DriverError> {
    let kib = host::memory_kib("MemFree").unwrap_or(0);
    Ok(node_get_free_memory::Reply { free_mem: kib.saturating_mul(1024) })
}

fn get_cpu_stats(_: &Context<'_>, args: node_get_cpu_stats::Args) -> Result<node_get_cpu_stats::Reply, DriverError> {
    let none = || DriverError::InvalidArgument(format!("there is no processor {}", args.cpu_num));
    let cpu = if args.cpu_num == ALL { None } else { Some(u32::try_from(args.cpu_num).map_err(|_| none())?) };
    let times = host::cpu_times(cpu).ok_or_else(none)?;
    let params: Vec<_> = times.map(|(field, value)| NodeStatistic { field: field.into(), value }).into();
    let nparams = count(params.len());
    Ok(node_get_cpu_stats::Reply { params: if args.nparams == 0 { Vec::new() } else { params }, nparams })
}

fn get_memory_stats(
    _: &Context<'_>,
    args: node_get_memory_stats::Args,
) -> Result<node_get_memory_stats::Reply, DriverError> {
    if ![ALL, 0].contains(&args.cell_num) {
        return Err(DriverError::InvalidArgument(format!("there is no cell {}", args.cell_num)));
    }
    let fields = [("total", "MemTotal"), ("free", "MemFree"), ("buffers", "Buffers"), ("cached", "Cached")];
    let known = fields
        .iter()
        .filter_map(|(field, name)| Some(NodeStatistic { field: (*field).into(), value: host::memory_kib(name)? }));
    let params: Vec<_> = known.collect();
    let nparams = count(params.len());
    Ok(node_get_memory_stats::Reply { params: if args.nparams == 0 { Vec::new() } else { params }, nparams })
}

fn get_cpu_map(_: &Context<'_>, args: node_get_cpu_map::Args) -> Result<node_get_cpu_map::Reply, DriverError> {
    let node = Node::read();
    let last = node.cpus.iter().max().copied().unwrap_or(0);
    let mut map = vec![0_u8; usize::try_from(last / 8 + 1).unwrap_or(1)];
    for cpu in &node.cpus {
        if let Some(byte) = map.get_mut(usize::try_from(cpu / 8).unwrap_or(usize::MAX)) {
            *byte |= 1 << (cpu % 8);
        }
    }
    Ok(node_get_cpu_map::Reply {
        cpumap: Opaque(if args.need_map == 0 { Vec::new() } else { map }),
        online: if args.need_online == 0 { 0 } else { node.count() },
        ret: i32::try_from(last + 1).unwrap_or(i32::MAX),
    })
}

/// There is none.
fn get_security_model(
    _: &Context<'_>,
    _: node_get_security_model::Args,
) -> Result<node_get_security_model::Reply, DriverError> {
    Ok(node_get_security_model::Reply { model: CharList::default(), doi: CharList::default() })
}
