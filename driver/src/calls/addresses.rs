//! Addresses of guests, as far as the host knows them.

use std::fs;
use std::net::Ipv4Addr;

use virtft_domain::{Interface, InterfaceSource};
use virtft_rpc::remote::{Address, InterfaceAddresses, domain_interface_addresses};

use super::{Context, group, only_flags};
use crate::error::DriverError;
use crate::upstream::leases_of_network;

group! {
    domain_interface_addresses => interface_addresses,
}

/// What a virtual network has lent.
const LEASE: u32 = 0;
/// What the host has seen.
const ARP: u32 = 2;

const IPV4: i32 = 0;

fn interface_addresses(
    context: &Context<'_>,
    args: domain_interface_addresses::Args,
) -> Result<domain_interface_addresses::Reply, DriverError> {
    only_flags(args.flags, 0)?;
    if ![LEASE, ARP].contains(&args.source) {
        return Err(DriverError::Unsupported("addresses are known from leases and from arp".into()));
    }
    let cards: Vec<(String, Interface)> = context.with(&args.dom, |entry| {
        let run = entry.running()?;
        let cards = run.names.taps.iter().zip(&run.base.devices.interfaces);
        Ok(cards.filter_map(|(tap, interface)| Some((tap.clone()?, interface.clone()))).collect())
    })?;
    let mut ifaces = Vec::new();
    for (name, interface) in cards {
        let Some(mac) = interface.mac.map(|mac| mac.to_string()) else { continue };
        let addrs = match (args.source, &interface.source) {
            (ARP, _) => seen(&mac),
            (_, InterfaceSource::Network(network)) => leases_of_network(&context.hypervisor().paths, network, &mac)?,
            _ => Vec::new(),
        };
        if !addrs.is_empty() {
            ifaces.push(InterfaceAddresses { name, hwaddr: Some(mac), addrs });
        }
    }
    Ok(domain_interface_addresses::Reply { ifaces })
}

/// Lines of the kernel's table: address, type, flags, MAC address, mask, interface.
fn seen(mac: &str) -> Vec<Address> {
    let table = fs::read_to_string("/proc/net/arp").unwrap_or_default();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_it = rows.filter(|row| row.get(3) == Some(&mac)).filter_map(|row| row.first()?.parse::<Ipv4Addr>().ok());
    of_it.map(|address| Address { kind: IPV4, addr: address.to_string(), prefix: 0 }).collect()
}
