//! The loop of a machine without host time: two runs are the same to the last bit.
//!
//! - Guest time is the count times a fixed rate. An idle guest skips to its next timer.
//! - Inputs come from a script alone; disk requests are carried out by the host in its own time, but
//!   complete [`BLOCK_STEPS`] after they were submitted, or when the guest idles before that.
//! - Every decision depends on counts of outputs and on the guest's state, never on how the run is cut into
//!   slices; so digests, snapshots and perturbations at any count change nothing.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use virtft_machine::io::{ClockAnchor, DeviceIndex, Input, InstructionCount, Output, RequestId};

use super::snapshot::Pending;
use super::{DriverError, Guest, Milestones, OutputSink, RunEnd, Stop};
use crate::exit::ExitStatus;
use crate::queue::InputQueue;
use crate::script::{REACTION_STEPS, ScriptEvent, ScriptPlayer};

/// Guest nanoseconds per step, fixed-point with 32 fraction bits: 10 ns, a processor of 100 million steps a
/// second.
pub const VIRTUAL_RATE: u64 = 10 << 32;
/// Steps from the submission of a disk request to its completion: a millisecond of guest time.
pub const BLOCK_STEPS: u64 = 100_000;
/// Outputs are noticed at multiples of this; no reaction to an output may be due sooner.
const SLICE: u64 = 100_000;

const _: () = assert!(BLOCK_STEPS >= SLICE && REACTION_STEPS >= SLICE, "a reaction must not be late");

/// A disk request on its way.
enum Flight {
    /// The host works on it.
    Submitted(DeviceIndex, RequestId),
    /// An input from a snapshot.
    Restored(Input),
}

/// See the module's description.
pub struct VirtualDriver<'a> {
    guest: &'a mut dyn Guest,
    sink: &'a mut dyn OutputSink,
    queue: Arc<InputQueue>,
    milestones: &'a mut Milestones,
    script: ScriptPlayer,
    /// By the count at which they are due.
    flights: VecDeque<(u64, Flight)>,
    /// Completions that the host has brought before they were due.
    landed: BTreeMap<(DeviceIndex, RequestId), Input>,
    /// The guest has ended the run itself.
    guest_is_off: bool,
}

impl fmt::Debug for VirtualDriver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualDriver").field("count", &self.guest.count()).finish_non_exhaustive()
    }
}

impl<'a> VirtualDriver<'a> {
    /// `pending` comes from a snapshot. The first clock anchor is delivered by
    /// [`start_clock`](Self::start_clock).
    pub fn new(
        guest: &'a mut dyn Guest,
        sink: &'a mut dyn OutputSink,
        queue: Arc<InputQueue>,
        milestones: &'a mut Milestones,
        script: ScriptPlayer,
        pending: Pending,
    ) -> Self {
        let flights = pending.into_iter().map(|(due, input)| (due, Flight::Restored(input))).collect();
        Self { guest, sink, queue, milestones, script, flights, landed: BTreeMap::new(), guest_is_off: false }
    }

    /// Delivers the first anchor. Not after a restore: the machine goes on with the time it has.
    pub fn start_clock(&mut self) {
        let anchor = ClockAnchor { time_ns: self.guest.time_ns(), rate: VIRTUAL_RATE };
        self.guest.deliver(Input::ClockAnchor(anchor));
    }

    /// Runs until the guest, the script or the user ends it.
    pub fn run(mut self) -> RunEnd {
        let end = self.run_loop().and_then(|end| self.save_at_end(end)).unwrap_or_else(RunEnd::from);
        self.queue.close();
        end
    }

    /// A snapshot where the run was ended while the guest could have gone on.
    fn save_at_end(&mut self, end: RunEnd) -> Result<RunEnd, DriverError> {
        if end == RunEnd::quiet(ExitStatus::Clean) && !self.guest_is_off && self.milestones.saves_at_end() {
            let pending = self.settle()?;
            self.milestones.save_at_end(self.guest, &pending)?;
        }
        Ok(end)
    }

    fn run_loop(&mut self) -> Result<RunEnd, DriverError> {
        loop {
            if let Some(end) = self.deliver_due()? {
                return Ok(end);
            }
            if self.queue.is_pending()
                && let Some(status) = self.user_stop()
            {
                return Ok(RunEnd::quiet(status));
            }
            let stop = self.guest.run(self.next_stop());
            self.send_outputs()?;
            if let Some(end) = RunEnd::of(&stop) {
                self.guest_is_off = true;
                return Ok(end);
            }
            self.reach_milestone()?;
            if self.milestones.is_end(self.guest.count()) {
                return Ok(self.end_of_run());
            }
            if let Stop::Idle { deadline_ns } = stop
                && let Some(end) = self.idle(deadline_ns)?
            {
                return Ok(end);
            }
        }
    }

    fn next_stop(&self) -> InstructionCount {
        let count = self.guest.count();
        let slice_end = (count.0 / SLICE + 1).saturating_mul(SLICE);
        let flight = self.flights.front().map(|(due, _)| *due);
        let candidates = [self.script.due(), flight, self.milestones.next_after(count)];
        let next = candidates.into_iter().flatten().fold(slice_end, u64::min);
        InstructionCount(next.max(count.0 + 1))
    }

    /// Delivers what is due at the present count: completions first, then the script.
    fn deliver_due(&mut self) -> Result<Option<RunEnd>, DriverError> {
        let count = self.guest.count();
        while self.flights.front().is_some_and(|(due, _)| *due <= count.0) {
            if !self.land()? {
                return Ok(Some(RunEnd::quiet(self.user_stop().unwrap_or(ExitStatus::Stopped))));
            }
        }
        while let Some(event) = self.script.take(count, false) {
            match event {
                ScriptEvent::Input(input) => self.guest.deliver(input),
                ScriptEvent::End => return Ok(Some(RunEnd::quiet(ExitStatus::Clean))),
            }
        }
        Ok(None)
    }

    /// Completes the first disk request, waiting for the host if need be. False when the user stops the run.
    fn land(&mut self) -> Result<bool, DriverError> {
        let Some((_, flight)) = self.flights.pop_front() else { return Ok(true) };
        let input = match flight {
            Flight::Restored(input) => Some(input),
            Flight::Submitted(device, request) => self.await_completion(device, request),
        };
        let Some(input) = input else { return Ok(false) };
        self.guest.deliver(input);
        Ok(true)
    }

    fn await_completion(&mut self, device: DeviceIndex, request: RequestId) -> Option<Input> {
        loop {
            if let Some(input) = self.landed.remove(&(device, request)) {
                return Some(input);
            }
            self.queue.wait(None);
            if self.user_stop().is_some() {
                return None;
            }
        }
    }

    /// Empties the queue: completions are kept until due. A power button can only come from a signal, which
    /// has no position: it ends the run.
    fn user_stop(&mut self) -> Option<ExitStatus> {
        while let Some(input) = self.queue.pop() {
            match input {
                Input::BlockCompletion { device, request, .. } => {
                    self.landed.insert((device, request), input);
                }
                Input::PowerButton => self.queue.request_stop(ExitStatus::Stopped),
                other => tracing::warn!("an input without a position is dropped: {other:?}"),
            }
        }
        self.queue.stop_requested()
    }

    fn send_outputs(&mut self) -> Result<(), DriverError> {
        for (at, output) in self.guest.take_outputs() {
            self.script.observe(at, &output);
            match output {
                Output::BalloonInflate { frames } => self.guest.release_frames(&frames),
                output => {
                    if let Output::Block { device, request, .. } = &output {
                        let due = at.0.saturating_add(BLOCK_STEPS);
                        self.flights.push_back((due, Flight::Submitted(*device, *request)));
                    }
                    self.sink.send(output)?;
                }
            }
        }
        Ok(())
    }

    /// Every vCPU is halted: the next thing that can happen happens now.
    fn idle(&mut self, deadline_ns: Option<u64>) -> Result<Option<RunEnd>, DriverError> {
        if !self.flights.is_empty() {
            let landed = self.land()?;
            return Ok((!landed).then(|| RunEnd::quiet(self.user_stop().unwrap_or(ExitStatus::Stopped))));
        }
        if let Some(time_ns) = deadline_ns {
            self.guest.deliver(Input::ClockAnchor(ClockAnchor { time_ns, rate: VIRTUAL_RATE }));
            return Ok(None);
        }
        match self.script.take(self.guest.count(), true) {
            Some(ScriptEvent::Input(input)) => {
                self.guest.deliver(input);
                Ok(None)
            }
            Some(ScriptEvent::End) => Ok(Some(RunEnd::quiet(ExitStatus::Clean))),
            None => Ok(Some(self.stuck())),
        }
    }

    fn stuck(&self) -> RunEnd {
        let reason = match self.script.waiting_for() {
            Some((line, text)) => format!("the input script waits in line {line} for {text:?}, but"),
            None => "the input script has ended, and".to_owned(),
        };
        RunEnd::with_report(ExitStatus::ScriptFailed, format!("{reason} the guest waits for an input for ever"))
    }

    /// The end at `--max-count`.
    fn end_of_run(&self) -> RunEnd {
        match self.script.waiting_for() {
            None => RunEnd::quiet(ExitStatus::Clean),
            Some((line, text)) => RunEnd::with_report(
                ExitStatus::ScriptFailed,
                format!("--max-count was reached while the input script waited in line {line} for {text:?}"),
            ),
        }
    }

    fn reach_milestone(&mut self) -> Result<(), DriverError> {
        let pending = if self.milestones.saves_at(self.guest.count()) { self.settle()? } else { Pending::new() };
        self.milestones.reach(self.guest, &pending)
    }

    /// Before a snapshot: waits for the host's work and keeps the completions with their counts.
    fn settle(&mut self) -> Result<Pending, DriverError> {
        let mut pending = Pending::new();
        for (due, flight) in std::mem::take(&mut self.flights) {
            let input = match flight {
                Flight::Restored(input) => Some(input),
                Flight::Submitted(device, request) => self.await_completion(device, request),
            };
            let input = input.ok_or_else(|| DriverError::Snapshot("stopped while waiting for a disk".to_owned()))?;
            pending.push((due, input.clone()));
            self.flights.push_back((due, Flight::Restored(input)));
        }
        Ok(pending)
    }
}
