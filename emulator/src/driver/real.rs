//! The loop of a machine whose time follows the host's.

use std::fmt;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtft_machine::io::{Input, InstructionCount, Output};

use super::snapshot::{self, Pending};
use super::{DriverError, Guest, Look, Milestones, OutputSink, RunEnd, Stop, Task};
use crate::entropy;
use crate::exit::ExitStatus;
use crate::pacing::Pacer;
use crate::queue::InputQueue;
use crate::run::unix_ns;

/// The guest is interrupted about this often to look for inputs and at the clock.
const SLICE_NS: u64 = 1_000_000;
/// Bytes of received frames that are delivered at one position; one more frame may exceed it.
const FRAME_BYTES_PER_SLICE: usize = 48 << 10;
const MIN_SLICE: u64 = 5_000;
const MAX_SLICE: u64 = 2_000_000;
/// First guess of the guest's speed.
pub(crate) const START_NS_PER_STEP: f64 = 10.0;
/// The guest's random numbers get fresh entropy this often while it is busy.
const RESEED_NS: u64 = 60_000_000_000;
/// How long a snapshot waits for disk requests in flight.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// See the module's description.
pub struct RealDriver<'a> {
    guest: &'a mut dyn Guest,
    sink: &'a mut dyn OutputSink,
    queue: Arc<InputQueue>,
    milestones: &'a mut Milestones,
    pacer: Pacer,
    origin: Instant,
    /// Host time of the next fresh entropy.
    reseed_at: u64,
    /// An operator wants the machine to stand still.
    paused: bool,
    /// The machine ended while its disks were waited for.
    end: Option<RunEnd>,
}

impl fmt::Debug for RealDriver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RealDriver").field("count", &self.guest.count()).finish_non_exhaustive()
    }
}

impl<'a> RealDriver<'a> {
    /// Starts guest time now, with the guest's present time, and delivers `pending` (from a snapshot).
    pub fn new(
        guest: &'a mut dyn Guest,
        sink: &'a mut dyn OutputSink,
        queue: Arc<InputQueue>,
        milestones: &'a mut Milestones,
        pending: Pending,
    ) -> Self {
        let (pacer, anchor) = Pacer::start(0, guest.count(), guest.time_ns(), START_NS_PER_STEP);
        guest.deliver(Input::ClockAnchor(anchor));
        for (_, input) in pending {
            guest.deliver(input);
        }
        Self {
            guest,
            sink,
            queue,
            milestones,
            pacer,
            origin: Instant::now(),
            reseed_at: RESEED_NS,
            paused: false,
            end: None,
        }
    }

    /// The machine does not run before it is resumed.
    #[must_use]
    pub fn standing_still(mut self, paused: bool) -> Self {
        self.paused = paused;
        self.guest.stand_still(paused);
        self
    }

    /// Runs until the guest or the user ends it.
    pub fn run(mut self) -> RunEnd {
        let end = self.run_loop().unwrap_or_else(RunEnd::from);
        self.queue.close();
        tracing::debug!("{} steps, {} clock anchors", self.guest.count().0, self.pacer.anchors());
        end
    }

    fn run_loop(&mut self) -> Result<RunEnd, DriverError> {
        loop {
            if self.queue.is_pending() {
                self.do_tasks();
                if !self.paused {
                    self.deliver_inputs();
                }
                if let Some(end) = self.end.take() {
                    return Ok(end);
                }
                if let Some(status) = self.queue.stop_requested() {
                    return Ok(RunEnd::quiet(status));
                }
            }
            // Whoever stands between this and the machine has its turn also while the machine stands still.
            let until = if self.paused { self.guest.count() } else { self.next_stop() };
            let stop = self.guest.run(until);
            self.send_outputs()?;
            if let Some(end) = RunEnd::of(&stop) {
                return Ok(end);
            }
            self.reach_milestone()?;
            if self.milestones.is_end(self.guest.count()) {
                return Ok(RunEnd::quiet(ExitStatus::Clean));
            }
            match stop {
                _ if self.paused => self.queue.wait_standing_still(),
                Stop::Idle { deadline_ns } => self.idle(deadline_ns),
                _ => self.keep_pace()?,
            }
        }
    }

    fn do_tasks(&mut self) {
        while let Some(task) = self.queue.pop_task() {
            // Whoever asked may have gone.
            let _ = match task {
                Task::Pause(answer) => {
                    self.paused = true;
                    self.guest.stand_still(true);
                    answer.send(Ok(())).ok()
                }
                Task::Resume(answer) => {
                    self.resume();
                    answer.send(Ok(())).ok()
                }
                Task::Save(file, answer) => answer.send(self.save(file)).ok(),
                Task::Look(answer) => answer
                    .send(Look {
                        count: self.guest.count(),
                        time_ns: self.guest.time_ns(),
                        counters: self.guest.counters(),
                    })
                    .ok(),
            };
        }
    }

    /// Guest time goes on from where it stood; the RTC tells the host's time again.
    fn resume(&mut self) {
        if !std::mem::replace(&mut self.paused, false) {
            return;
        }
        self.guest.stand_still(false);
        let anchor = self.pacer.resume(self.now_ns(), self.guest.count());
        self.guest.deliver(Input::ClockAnchor(anchor));
        self.guest.deliver(Input::RtcOrigin { unix_ns: unix_ns().saturating_sub(self.guest.time_ns()) });
    }

    /// Writes a snapshot, as `--snapshot` continues it.
    fn save(&mut self, mut file: File) -> Result<(), String> {
        self.drain_disks().map_err(|error| error.to_string())?;
        if self.end.is_some() {
            return Err("the machine is ending".to_owned());
        }
        let state = self.guest.save()?;
        snapshot::write(&mut file, &Pending::new(), &state)
            .and_then(|()| file.sync_all())
            .map_err(|error| format!("the snapshot cannot be written ({error})"))
    }

    fn keep_pace(&mut self) -> Result<(), DriverError> {
        let now_ns = self.now_ns();
        let pace = self.pacer.busy(now_ns, self.guest.count());
        if let Some(anchor) = pace.anchor {
            self.guest.deliver(Input::ClockAnchor(anchor));
        }
        if pace.hold_ns > 0 {
            let since_ns = self.now_ns();
            std::thread::sleep(Duration::from_nanos(pace.hold_ns));
            self.pacer.released(since_ns, self.now_ns());
        }
        if now_ns >= self.reseed_at {
            self.reseed_at = now_ns + RESEED_NS;
            self.guest.deliver(Input::EntropySeed(entropy::fresh_seed()?));
        }
        Ok(())
    }

    fn next_stop(&self) -> InstructionCount {
        let count = self.guest.count();
        let slice = self.pacer.steps_in(SLICE_NS).clamp(MIN_SLICE, MAX_SLICE);
        let end = count.0.saturating_add(slice);
        InstructionCount(self.milestones.next_after(count).map_or(end, |next| next.min(end)))
    }

    /// Delivers what waits. Frames come in portions, or a burst would find the guest's receive ring full and be dropped;
    /// the rest stays in the queue, which makes the backend wait.
    fn deliver_inputs(&mut self) {
        let mut frame_bytes = 0;
        while frame_bytes < FRAME_BYTES_PER_SLICE
            && let Some(input) = self.queue.pop()
        {
            if let Input::NetReceive { packet, .. } = &input {
                frame_bytes += packet.len();
            }
            self.guest.deliver(input);
        }
    }

    fn send_outputs(&mut self) -> Result<(), DriverError> {
        for (_, output) in self.guest.take_outputs() {
            match output {
                Output::BalloonInflate { frames } => self.guest.release_frames(&frames),
                output => self.sink.send(output)?,
            }
        }
        Ok(())
    }

    /// Blocks until an input comes or the guest's next timer is due.
    fn idle(&mut self, deadline_ns: Option<u64>) {
        let wake_at = deadline_ns.map(|deadline| {
            let host_ns = self.pacer.host_time_of(deadline);
            // A deadline beyond what the host's clock can tell is as good as none.
            self.origin.checked_add(Duration::from_nanos(host_ns)).unwrap_or_else(|| self.far_future())
        });
        self.queue.wait(wake_at);
        let anchor = self.pacer.wake(self.now_ns(), self.guest.count(), deadline_ns);
        if let Some(anchor) = anchor {
            self.guest.deliver(Input::ClockAnchor(anchor));
        }
    }

    fn far_future(&self) -> Instant {
        Instant::now() + Duration::from_secs(1 << 30)
    }

    fn reach_milestone(&mut self) -> Result<(), DriverError> {
        if self.milestones.saves_at(self.guest.count()) {
            self.drain_disks()?;
            if self.end.is_some() {
                return Ok(());
            }
        }
        self.milestones.reach(self.guest, &Pending::new())
    }

    /// Before a snapshot: completions of what is in flight are delivered, so that they are part of it.
    fn drain_disks(&mut self) -> Result<(), DriverError> {
        let deadline = Instant::now() + DRAIN_LIMIT;
        loop {
            self.deliver_inputs();
            // A completion may let a request go that waited for it.
            let stop = self.guest.run(self.guest.count());
            self.send_outputs()?;
            self.end = RunEnd::of(&stop);
            if self.guest.requests_in_flight() == 0 || self.end.is_some() {
                return Ok(());
            }
            if !self.queue.wait(Some(deadline)) || self.queue.stop_requested().is_some() {
                return Err(DriverError::Snapshot("disk requests in flight did not complete".to_owned()));
            }
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
