//! What happens when an emulator has ended: the machine is off, or starts again.

use std::io;
use std::sync::Arc;

use rustix::process::Signal;
use tokio::net::unix::pipe::Receiver;
use uuid::Uuid;
use virtft_domain::{Action, Domain};

use super::entry::{Entry, OffReason, Run, RunningReason, Wish};
use super::events::{Happening, Lifecycle};
use super::launch::{Launched, clean_up};
use super::lifecycle::Start;
use super::process::{End, Process};
use super::{Hypervisor, reference, status};
use crate::ft::Protection;

/// The emulator's exit status after a triple fault.
const TRIPLE_FAULT: i32 = 4;
/// The emulator's exit status when another host runs the machine, or needs no backup any more.
const RUNS_ELSEWHERE: i32 = 9;

/// What a process's end means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The machine starts again.
    Restart,
    /// It is off.
    Off(OffReason),
}

impl Hypervisor {
    /// Deals with the process's end when it comes.
    pub fn watch(self: &Arc<Self>, uuid: Uuid, process: Process) {
        let hypervisor = Arc::clone(self);
        self.runtime.spawn(async move {
            if let Err(error) = wait_for_end(&process).await {
                tracing::error!("process {} cannot be watched: {error}", process.pid());
                return;
            }
            // What follows waits for disks and processes. If the daemon itself is ending, the next one deals with it.
            let _ = tokio::task::spawn_blocking(move || hypervisor.process_ended(uuid, &process)).await;
        });
    }

    /// Called once the process has ended.
    fn process_ended(self: &Arc<Self>, uuid: Uuid, process: &Process) {
        let end = process.try_end().unwrap_or(End::Unknown);
        let (meaning, base) = {
            let registry = self.registry();
            let Some(run) = registry.get(uuid).ok().and_then(|entry| entry.run.as_ref()) else { return };
            if run.process.pid() != process.pid() {
                return;
            }
            (meaning_of(run, end), Arc::clone(&run.base))
        };
        tracing::info!("domain '{}': process {} ended: {end:?}, {meaning:?}", base.name, process.pid());
        match meaning {
            Meaning::Restart => self.start_again(uuid, &base),
            Meaning::Off(reason) => self.turn_off(uuid, reason),
        }
    }

    /// Starts a machine again, with the number that it had.
    fn start_again(self: &Arc<Self>, uuid: Uuid, base: &Arc<Domain>) {
        {
            let mut registry = self.registry();
            let Ok(run) = registry.get_mut(uuid).and_then(Entry::running_mut) else { return };
            clean_up(&std::mem::take(&mut run.names));
        }
        let launched = self.launch_own(base, &Start::default());
        let mut registry = self.registry();
        let Ok(entry) = registry.get_mut(uuid) else { return };
        let Some(run) = &mut entry.run else { return };
        let Launched { process, names } = match launched {
            Ok(launched) => launched,
            Err(error) => {
                tracing::error!("{error}");
                drop(registry);
                return self.turn_off(uuid, OffReason::Failed);
            }
        };
        if run.wish == Some(Wish::Destroy) {
            // Somebody has destroyed it meanwhile, and waits for that.
            process.signal(Signal::KILL);
        } else {
            run.wish = None;
        }
        run.names = names;
        run.process = process.clone();
        (run.power_pressed, run.restarts, run.reason) = (false, false, RunningReason::Booted);
        run.protection = Protection::default();
        self.save_status(entry);
        let dom = reference(entry);
        drop(registry);
        self.changed.notify_all();
        self.events.tell(&dom, &Happening::Reboot);
        let pid = process.pid();
        self.watch(uuid, process);
        self.follow(uuid, pid);
    }

    fn turn_off(&self, uuid: Uuid, reason: OffReason) {
        let mut registry = self.registry();
        let Ok(entry) = registry.get_mut(uuid) else { return };
        let running = reference(entry);
        let Some(run) = entry.run.take() else { return };
        clean_up(&run.names);
        entry.off = reason;
        let moved = reason == OffReason::Migrated && run.protection.backup.is_none();
        if moved && entry.definition.take().is_some() {
            // The definition is where the domain runs.
            entry.autostart = false;
            if let Err(error) = self.store.remove(entry.name()) {
                tracing::error!("{error}");
            }
        }
        let stopped = reference(entry);
        status::remove(&self.paths.run, uuid);
        registry.forget_if_gone(uuid);
        drop(registry);
        let change = match reason {
            OffReason::Shutdown | OffReason::Unknown => {
                self.tell(&running, Lifecycle::ShutdownByGuest);
                Lifecycle::StoppedByGuest
            }
            OffReason::Destroyed => Lifecycle::StoppedDestroyed,
            OffReason::Crashed => Lifecycle::StoppedCrashed,
            OffReason::Failed => Lifecycle::StoppedFailed,
            OffReason::Migrated => Lifecycle::StoppedMigrated,
            OffReason::Saved => Lifecycle::StoppedSaved,
        };
        self.tell(&stopped, change);
        if moved {
            self.tell(&stopped, Lifecycle::Undefined);
        }
        self.changed.notify_all();
    }
}

async fn wait_for_end(process: &Process) -> io::Result<()> {
    // It is no pipe, but is waited for like one.
    Receiver::from_owned_fd_unchecked(process.end_descriptor()?)?.readable().await
}

fn meaning_of(run: &Run, end: End) -> Meaning {
    let restarts = |action: Action, reason: OffReason| match action {
        Action::Restart => Meaning::Restart,
        Action::Destroy => Meaning::Off(reason),
    };
    match (run.wish, end) {
        // A backup is gone, whatever ended it: its domain runs elsewhere, or has ended there.
        _ if run.protection.backup.is_some() => Meaning::Off(OffReason::Migrated),
        (None | Some(Wish::Switch), End::Status(RUNS_ELSEWHERE)) => Meaning::Off(OffReason::Migrated),
        (Some(Wish::Destroy), _) => Meaning::Off(OffReason::Destroyed),
        (Some(Wish::Reset), _) => Meaning::Restart,
        (Some(Wish::Save), _) => Meaning::Off(OffReason::Saved),
        (Some(Wish::Switch), End::Status(0)) => Meaning::Off(OffReason::Migrated),
        (None, End::Status(0) | End::Unknown) if run.restarts => Meaning::Restart,
        (None, End::Status(0)) => restarts(run.base.on_poweroff, OffReason::Shutdown),
        (None, End::Status(TRIPLE_FAULT)) => restarts(run.base.on_crash, OffReason::Crashed),
        // A daemon that has found the machine running cannot know how it ended: most end by powering off.
        (None, End::Unknown) => restarts(run.base.on_poweroff, OffReason::Unknown),
        (None, End::Status(_) | End::Signal(_)) | (Some(Wish::Switch), _) => Meaning::Off(OffReason::Failed),
    }
}
