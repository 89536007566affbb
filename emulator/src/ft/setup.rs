//! From the command line to a running ft thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use super::arbiter::{Directory, check_name};
use super::control::Control;
use super::engine::{BackupLink, Engine, EngineHandle, EngineParts, Protection};
use super::generation::{Copy, Marks};
use super::status::SharedStatus;
use super::{ArbiterThread, Link, Security, SharedBackends};
use crate::cli::FtArguments;
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
}

/// Everything that could be refused is opened; nothing runs yet.
pub struct Setup {
    vm: String,
    protection: Protection,
    security: Option<Security>,
    control: Option<(PathBuf, Control)>,
    directory: Directory,
    force_disks: bool,
    /// To the vCPU thread.
    pub link: Arc<Link>,
    /// For pieces of disks that are read for a copy.
    pub copies: CopySink,
    copied: Receiver<(u8, Completion)>,
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
        let vm = arguments.name.clone().ok_or("--ft needs --name, the name of the VM")?;
        check_name(&vm)?;
        let option = arguments.ft.clone().ok_or("--ft is missing: name at least an arbiter")?;
        let needs_tls = option.peer.iter().chain(&option.spares).any(|peer| peer.tls) || arguments.listens_with_tls();
        let security = match (needs_tls, &option.pki) {
            (false, None) => None,
            (_, folder) => Some(Security::load(folder.as_deref())?),
        };
        let seed = entropy::fresh_seed().map_err(|error| error.to_string())?;
        let mut token = [0; 16];
        token.copy_from_slice(&seed[..16]);
        let directory = Directory::new(&option.arbiter, token);
        let control =
            arguments.control.as_ref().map(|path| Ok::<_, String>((path.clone(), Control::bind(path)?))).transpose()?;
        let link = Arc::new(Link::new().map_err(|error| error.to_string())?);
        let (sender, copied) = channel();
        let waker = Arc::clone(&link);
        let copies: CopySink = Arc::new(move |disk, completion| {
            // Without a receiver the process is ending.
            let _ = sender.send((disk, completion));
            waker.wake();
        });
        let protection = Protection {
            spares: option.peer.iter().chain(&option.spares).cloned().collect(),
            pause_alone: option.pause_alone,
            timing: option.timing(),
        };
        let force_disks = option.force_disks;
        Ok(Self { vm, protection, security, control, directory, force_disks, link, copies, copied })
    }

    /// Starts the ft thread of a machine that runs here, in a new incarnation.
    ///
    /// # Errors
    /// One line.
    pub fn start(self, fittings: Fittings) -> Result<EngineHandle, String> {
        let marks = Marks::of(fittings.images.clone());
        if self.force_disks {
            tracing::warn!("{}: the disks are used as they are, by force", self.vm);
        } else {
            marks.check(&self.vm, &self.directory)?;
        }
        self.directory.close_last(&self.vm)?;
        let incarnation = self.directory.begin(&self.vm)?;
        marks.set(&self.vm, incarnation, 1, Copy::Primary)?;
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
        let (sender, commands) = channel();
        let mut path = None;
        if let Some((place, control)) = self.control {
            control
                .serve(Arc::clone(&status), sender, Arc::clone(&self.link))
                .map_err(|error| format!("the control thread cannot be started ({error})"))?;
            path = Some(place);
        }
        let waker = Arc::clone(&self.link);
        let token = self.directory.token();
        let arbiter = ArbiterThread::start(self.directory, move || waker.wake())
            .map_err(|error| format!("the arbiter's thread cannot be started ({error})"))?;
        Ok(EngineParts {
            vm: self.vm,
            incarnation,
            protection: self.protection,
            link: self.link,
            queue: fittings.queue,
            backends: fittings.backends,
            token,
            arbiter,
            security: self.security,
            disks: fittings.disks,
            macs: fittings.macs,
            marks: Marks::of(fittings.images),
            status,
            commands,
            copied: self.copied,
            control: path,
        })
    }
}
