//! Changes to the next start's machine: devices, memory, processors. A machine that runs is as it is, but for the memory that its balloon has.

use virtft_domain::{Device, Domain};
use virtft_rpc::DomainRef;
use virtft_rpc::remote::{
    domain_attach_device, domain_attach_device_flags, domain_detach_device, domain_detach_device_flags,
    domain_set_max_memory, domain_set_memory, domain_set_memory_flags, domain_set_vcpus, domain_set_vcpus_flags,
    domain_update_device_flags,
};

use super::{Context, group, only_flags};
use crate::error::DriverError;
use crate::ft::control;
use crate::vm::definition::Affects;

group! {
    domain_attach_device => |context, args: domain_attach_device::Args| {
        attach(context, &args.dom, &args.xml, LIVE).map(|()| domain_attach_device::Reply {})
    },
    domain_attach_device_flags => |context, args: domain_attach_device_flags::Args| {
        attach(context, &args.dom, &args.xml, args.flags).map(|()| domain_attach_device_flags::Reply {})
    },
    domain_detach_device => |context, args: domain_detach_device::Args| {
        detach(context, &args.dom, &args.xml, LIVE).map(|()| domain_detach_device::Reply {})
    },
    domain_detach_device_flags => |context, args: domain_detach_device_flags::Args| {
        detach(context, &args.dom, &args.xml, args.flags).map(|()| domain_detach_device_flags::Reply {})
    },
    domain_update_device_flags => update,
    domain_set_max_memory => |context, args: domain_set_max_memory::Args| {
        set_memory(context, &args.dom, args.memory, MAXIMUM).map(|()| domain_set_max_memory::Reply {})
    },
    domain_set_memory => |context, args: domain_set_memory::Args| {
        set_memory(context, &args.dom, args.memory, LIVE).map(|()| domain_set_memory::Reply {})
    },
    domain_set_memory_flags => |context, args: domain_set_memory_flags::Args| {
        set_memory(context, &args.dom, args.memory, args.flags).map(|()| domain_set_memory_flags::Reply {})
    },
    domain_set_vcpus => |context, args: domain_set_vcpus::Args| {
        set_vcpus(context, &args.dom, args.nvcpus, LIVE).map(|()| domain_set_vcpus::Reply {})
    },
    domain_set_vcpus_flags => |context, args: domain_set_vcpus_flags::Args| {
        set_vcpus(context, &args.dom, args.nvcpus, args.flags).map(|()| domain_set_vcpus_flags::Reply {})
    },
}

const LIVE: u32 = 1;
const AFFECT: u32 = 3;
/// What there may be at most, instead of what there is; here the two are the same.
const MAXIMUM: u32 = 4;
/// Whatever a guest may think of it.
const FORCE: u32 = 4;

fn change(
    context: &Context<'_>,
    dom: &DomainRef,
    flags: u32,
    change: impl Fn(&mut Domain) -> Result<(), DriverError>,
) -> Result<(), DriverError> {
    context.hypervisor().change_next(dom.uuid, flags & AFFECT, change)
}

fn attach(context: &Context<'_>, dom: &DomainRef, xml: &str, flags: u32) -> Result<(), DriverError> {
    only_flags(flags, AFFECT)?;
    let device = Device::parse(xml)?;
    change(context, dom, flags, |domain| {
        domain.devices.attach(device.clone());
        Ok(())
    })
}

fn detach(context: &Context<'_>, dom: &DomainRef, xml: &str, flags: u32) -> Result<(), DriverError> {
    only_flags(flags, AFFECT)?;
    let device = Device::parse(xml)?;
    change(context, dom, flags, |domain| Ok(domain.devices.detach(&device)?))
}

fn update(
    context: &Context<'_>,
    args: domain_update_device_flags::Args,
) -> Result<domain_update_device_flags::Reply, DriverError> {
    only_flags(args.flags, AFFECT | FORCE)?;
    let device = Device::parse(&args.xml)?;
    change(context, &args.dom, args.flags, |domain| Ok(domain.devices.update(device.clone())?))?;
    Ok(domain_update_device_flags::Reply {})
}

fn set_memory(context: &Context<'_>, dom: &DomainRef, kib: u64, flags: u32) -> Result<(), DriverError> {
    only_flags(flags, AFFECT | MAXIMUM)?;
    let affects = Affects::new(flags, context.with(dom, |entry| Ok(entry.run.is_some()))?);
    if affects.live && flags & MAXIMUM == 0 {
        balloon(context, dom, kib)?;
        if !affects.config {
            return Ok(());
        }
    }
    let flags = if affects.live && affects.config && flags & MAXIMUM == 0 { flags & !LIVE } else { flags };
    change(context, dom, flags, |domain| {
        let is_less = kib < domain.memory.max_kib;
        domain.memory.current_kib = kib;
        if flags & MAXIMUM != 0 || !is_less {
            domain.memory.max_kib = kib;
        }
        Ok(())
    })
}

/// Asks the guest to give memory back, or gives it back to it.
fn balloon(context: &Context<'_>, dom: &DomainRef, kib: u64) -> Result<(), DriverError> {
    context.with(dom, |entry| {
        entry.check_own()?;
        let maximum = entry.running()?.base.memory.max_kib;
        if kib > maximum {
            let reason = format!("cannot set memory higher than max memory, which is {maximum} KiB");
            return Err(DriverError::InvalidArgument(reason));
        }
        Ok(())
    })?;
    let request = serde_json::json!({ "command": "balloon", "bytes": kib * 1024 });
    control::ask(&context.hypervisor().paths.control(dom.uuid), &request).map_err(DriverError::Failed)?;
    context.hypervisor().set_current_memory(dom.uuid, kib)
}

fn set_vcpus(context: &Context<'_>, dom: &DomainRef, count: u32, flags: u32) -> Result<(), DriverError> {
    only_flags(flags, AFFECT | MAXIMUM)?;
    change(context, dom, flags, |domain| {
        domain.vcpus.count = count;
        Ok(())
    })
}
