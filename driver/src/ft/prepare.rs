//! The backup's side of a new pair: disks, a place to listen, an emulator that waits.

use std::fs::File;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use virtft_domain::{DiskFormat, DiskPolicy, Domain, FaultTolerance};
use virtft_rpc::pair::prepare;

use super::{BackupOf, Protection, options};
use crate::error::DriverError;
use crate::vm::command::Role;
use crate::vm::definition::complete;
use crate::vm::entry::{Entry, OffReason, Run, RunningReason};
use crate::vm::events::Lifecycle;
use crate::vm::launch::{Launched, launch};
use crate::vm::{Hypervisor, image, reference};

/// Emulators of one version make a pair. It is that of this daemon: both are built together.
pub const EMULATOR_VERSION: &str = env!("CARGO_PKG_VERSION");

impl Hypervisor {
    /// Starts a backup, and says where its primary reaches it. `local` is this host's address as the caller sees it.
    ///
    /// # Errors
    /// When the domain is here already otherwise than as an old home, its disks cannot be had, or the emulator does not start.
    pub fn prepare(self: &Arc<Self>, args: &prepare::Args, local: Option<IpAddr>) -> Result<String, DriverError> {
        if args.host == self.host {
            return Err(DriverError::InvalidArgument("a host cannot keep the backup of its own domain".into()));
        }
        let domain = Arc::new(complete(&args.xml)?);
        let uuid = domain.known_uuid();
        let wanted = FaultTolerance::of(&domain)?;
        let wanted = wanted.ok_or_else(|| DriverError::InvalidArgument("the domain has no fault tolerance".into()))?;
        // The entry must be there for its job.
        self.registry().claim(&domain)?;
        let prepared = self.begin_job(uuid).and_then(|_job| {
            if let Some(url) = self.make_way(&domain, args)? {
                return Ok(url);
            }
            make_disks(&domain, &args.disk_sizes, wanted.disks)?;
            self.start_backup(&domain, &wanted, args, local)
        });
        if prepared.is_err() {
            self.registry().forget_if_gone(uuid);
        }
        prepared
    }

    /// Checks that the domain may have its backup here. The URL of this very attempt, when it was made before: then its description may be new.
    fn make_way(&self, domain: &Arc<Domain>, args: &prepare::Args) -> Result<Option<String>, DriverError> {
        let mut registry = self.registry();
        let entry = registry.get_mut(domain.known_uuid())?;
        if let Some(url) = update(entry, domain, args) {
            self.save_status(entry);
            return Ok(Some(url));
        }
        let refused = |reason: &str| Err(DriverError::Invalid(format!("the domain '{}' {reason}", domain.name)));
        match (&entry.run, &entry.definition) {
            (Some(run), _) => match &run.protection.backup {
                None => refused("runs on this host"),
                Some(_)
                    if run.protection.status.as_ref().is_some_and(|status| status.state == "waiting for a primary") =>
                {
                    // An attempt that was given up.
                    run.process.signal(rustix::process::Signal::KILL);
                    refused("has a backup here that is being ended; try again")
                }
                Some(_) => refused("has its backup on this host already"),
            },
            (None, Some(definition)) if FaultTolerance::of(definition)?.is_none() => {
                refused("is defined on this host on its own, without fault tolerance; undefine it first")
            }
            // It lived here before.
            (None, _) => Ok(None),
        }
    }

    fn start_backup(
        self: &Arc<Self>,
        domain: &Arc<Domain>,
        wanted: &FaultTolerance,
        args: &prepare::Args,
        local: Option<IpAddr>,
    ) -> Result<String, DriverError> {
        let uuid = domain.known_uuid();
        let address = self.paths.ft_address.or(local).unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let scheme = if address.is_loopback() { "tcp" } else { "tls" };
        let port = free_port(address, self.paths.ft_ports)?;
        let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        let url = format!("{scheme}://{host}:{port}");
        let pki = self.paths.pki.folder.as_deref().filter(|_| scheme == "tls");
        let ft = options::text(wanted, pki);
        let Launched { process, names } = launch(domain, &self.paths, &Role::Backup { listen: &url, ft: &ft })?;
        let backup = BackupOf {
            token: args.token,
            host: args.host,
            url: url.clone(),
            committed: false,
            autostart: args.autostart,
            definition: args.definition.clone(),
        };
        let mut registry = self.registry();
        let id = registry.next_id();
        let entry = registry.get_mut(uuid)?;
        // The definition is where the domain runs.
        if entry.definition.take().is_some() {
            entry.autostart = false;
            self.store.remove(entry.name())?;
        }
        entry.off = OffReason::Migrated;
        let pid = process.pid();
        let run = Run {
            base: Arc::clone(domain),
            names,
            process: process.clone(),
            reason: RunningReason::Migrated,
            protection: Protection::found(None, Some(backup)),
            ..Run::new(id, domain, process.clone())
        };
        entry.run = Some(run);
        self.save_status(entry);
        let dom = reference(entry);
        drop(registry);
        tracing::info!("a backup of domain '{}' waits at {url} as process {pid}", dom.name);
        self.tell(&dom, Lifecycle::PausedMigrated);
        self.watch(uuid, process);
        self.follow(uuid, pid);
        Ok(url)
    }
}

/// What the primary's daemon says anew of a backup that it knows by its token.
fn update(entry: &mut Entry, domain: &Arc<Domain>, args: &prepare::Args) -> Option<String> {
    let run = entry.run.as_mut()?;
    let backup = run.protection.backup.as_mut().filter(|backup| backup.token == args.token)?;
    backup.autostart = args.autostart;
    backup.definition.clone_from(&args.definition);
    run.base = Arc::clone(domain);
    Some(backup.url.clone())
}

/// A port that nobody uses now. The emulator says so when somebody was faster.
fn free_port(address: IpAddr, (first, last): (u16, u16)) -> Result<u16, DriverError> {
    (first..=last).find(|port| TcpListener::bind((address, *port)).is_ok()).ok_or_else(|| {
        DriverError::Failed(format!(
            "no port from {first} to {last} is free at {address}; choose others with --ft-ports"
        ))
    })
}

/// Each writable disk must be there and as large as the primary's; one that is not there is made.
fn make_disks(domain: &Domain, sizes: &[u64], policy: DiskPolicy) -> Result<(), DriverError> {
    if sizes.len() != domain.devices.disks.len() {
        return Err(DriverError::InvalidArgument("there must be a size for each disk".into()));
    }
    for (disk, size) in domain.devices.disks.iter().zip(sizes) {
        let path = Path::new(disk.source.path());
        let format = disk.format.unwrap_or(DiskFormat::Raw);
        if !path.exists() && policy == DiskPolicy::Replicated && !disk.readonly {
            make_image(path, format, *size)?;
        }
        let found =
            image::sizes(disk.source.path(), format).map_err(DriverError::system("cannot use the disk", path))?;
        if found.capacity < *size {
            let (path, has) = (path.display(), found.capacity);
            return Err(DriverError::Failed(format!(
                "the disk {path} has {has} bytes here, and {size} where the domain runs"
            )));
        }
    }
    Ok(())
}

fn make_image(path: &Path, format: DiskFormat, size: u64) -> Result<(), DriverError> {
    let failed = DriverError::system("cannot make the disk", path);
    match format {
        DiskFormat::Raw => File::create_new(path).and_then(|file| file.set_len(size)).map_err(failed),
        DiskFormat::Qcow2 => {
            let mut command = Command::new("qemu-img");
            command.args(["create", "-q", "-f", "qcow2"]).arg(path).arg(size.to_string());
            match command.output() {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) => {
                    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                    Err(DriverError::Failed(format!("cannot make the disk {}: {said}", path.display())))
                }
                Err(error) => Err(failed(error)),
            }
        }
    }
}
