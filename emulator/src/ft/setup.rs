//! From the command line to a running ft thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};

use super::arbiter::{ArbiterOption, ArbiterThread, Directory, check_name};
use super::engine::{BackupLink, Engine, EngineHandle, EngineParts, Membership, Protection, begin};
use super::generation::Marks;
use super::{Link, Security, SharedBackends};
use crate::cli::FtArguments;
use crate::control::{Control, Machine, Reach, SharedStatus};
use crate::disk::{Completion, DiskFacts};
use crate::entropy;
use crate::host::CopySink;
use crate::queue::InputQueue;

/// What of the machine the ft thread must know.
#[derive(Debug)]
pub struct Fittings {
    /// Wakes the vCPU thread.
    pub queue: Arc<InputQueue>,
    /// Where outputs go.
    pub backends: SharedBackends,
    /// Facts of the disks.
    pub disks: Vec<DiskFacts>,
    /// MAC addresses of the network devices.
    pub macs: Vec<[u8; 6]>,
    /// The images that can be written.
    pub images: Vec<PathBuf>,
    /// Memory in bytes; 0 in a backup.
    pub memory_bytes: u64,
    /// The machine stands still before its first step.
    pub paused: bool,
}

/// What is needed to ask an arbiter, from the command line.
#[derive(Debug)]
struct Founding {
    option: ArbiterOption,
    directory: Directory,
    security: Option<Security>,
    force_disks: bool,
}

/// Everything that could be refused is opened; nothing runs yet.
pub struct Setup {
    vm: String,
    protection: Protection,
    founding: Option<Founding>,
    control: Option<Control>,
    token: [u8; 16],
    /// To the vCPU thread.
    pub link: Arc<Link>,
    /// For pieces of disks that are read for a copy.
    pub copies: CopySink,
    copied: Receiver<(u8, Completion)>,
    /// Memory in bytes, as the control socket knows it.
    pub memory_bytes: Arc<AtomicU64>,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("vm", &self.vm).field("protection", &self.protection).finish_non_exhaustive()
    }
}

impl Setup {
    /// Opens what the command line names.
    ///
    /// # Errors
    /// One line.
    pub fn new(arguments: &FtArguments) -> Result<Self, String> {
        let vm = arguments.name.clone().ok_or("--ft and --control need --name, the name of the VM")?;
        check_name(&vm)?;
        let seed = entropy::fresh_seed().map_err(|error| error.to_string())?;
        let mut token = [0; 16];
        token.copy_from_slice(&seed[..16]);
        let founding = match &arguments.ft {
            None => None,
            Some(option) => {
                let needs_tls =
                    option.peer.iter().chain(&option.spares).any(|peer| peer.tls) || arguments.listens_with_tls();
                let security = match (needs_tls, &option.pki) {
                    (false, None) => None,
                    (_, folder) => Some(Security::load(folder.as_deref())?),
                };
                let directory = Directory::new(&option.arbiter, token);
                let (option, force_disks) = (option.arbiter.clone(), option.force_disks);
                Some(Founding { option, directory, security, force_disks })
            }
        };
        let protection = arguments.ft.as_ref().map(Protection::of).unwrap_or_default();
        let control = arguments.control.as_deref().map(Control::bind).transpose()?;
        let link = Arc::new(Link::new().map_err(|error| error.to_string())?);
        let (sender, copied) = channel();
        let waker = Arc::clone(&link);
        let copies: CopySink = Arc::new(move |disk, completion| {
            // Without a receiver the process is ending.
            let _ = sender.send((disk, completion));
            waker.wake();
        });
        Ok(Self { vm, protection, founding, control, token, link, copies, copied, memory_bytes: Arc::default() })
    }

    /// Starts the ft thread of a machine that runs here: in a new incarnation, when it has an arbiter.
    ///
    /// # Errors
    /// One line.
    pub fn start(self, fittings: Fittings) -> Result<EngineHandle, String> {
        let marks = Marks::under(self.protection.disks, fittings.images.clone());
        let incarnation = match &self.founding {
            None => 0,
            Some(founding) => begin(&self.vm, &marks, &founding.directory, founding.force_disks)?,
        };
        let parts = self.parts(fittings, incarnation)?;
        Engine::new(parts).start().map_err(|error| error.to_string())
    }

    /// Starts the ft thread of a backup.
    ///
    /// # Errors
    /// One line.
    pub fn start_backup(
        self,
        fittings: Fittings,
        listener: std::net::TcpListener,
        link: Arc<BackupLink>,
    ) -> Result<EngineHandle, String> {
        let parts = self.parts(fittings, 0)?;
        Engine::backup(parts, listener, link).start().map_err(|error| error.to_string())
    }

    fn parts(self, fittings: Fittings, incarnation: u64) -> Result<EngineParts, String> {
        let status = SharedStatus::default();
        status.update(|status| status.paused = fittings.paused);
        let (sender, commands) = channel();
        self.memory_bytes.store(fittings.memory_bytes, Ordering::Relaxed);
        let machine = Machine {
            queue: Arc::clone(&fittings.queue),
            backends: fittings.backends.clone(),
            memory_bytes: self.memory_bytes,
        };
        let reach = Reach { status: status.clone(), machine, commands: sender, link: Arc::clone(&self.link) };
        let served = self.control.map(|control| control.serve(reach)).transpose();
        let control = served.map_err(|error| format!("the control thread cannot be started ({error})"))?;
        let membership = match self.founding {
            None => None,
            Some(Founding { option, directory, security, .. }) => {
                let waker = Arc::clone(&self.link);
                let arbiter = ArbiterThread::start(directory, move || waker.wake())
                    .map_err(|error| format!("the arbiter's thread cannot be started ({error})"))?;
                Some(Membership { option, arbiter, security })
            }
        };
        let disks = self.protection.disks;
        Ok(EngineParts {
            vm: self.vm,
            incarnation,
            protection: self.protection,
            membership,
            link: self.link,
            queue: fittings.queue,
            backends: fittings.backends,
            token: self.token,
            disks: fittings.disks,
            macs: fittings.macs,
            marks: Marks::under(disks, fittings.images),
            status,
            commands,
            copied: self.copied,
            control,
        })
    }
}
