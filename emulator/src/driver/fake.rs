//! A guest without a processor, for tests of the loops around it: a list of things to do, one after the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use virtft_machine::io::{
    BlockOperation, BlockStatus, CharPort, ClockAnchor, DeviceIndex, Input, InstructionCount, Output, RequestId,
};

use super::{DigestScope, DriverError, Guest, OutputSink, Perturbation, Stop};
use crate::pacing::TimeLine;
use crate::queue::InputQueue;

/// One thing that the fake guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Executes steps.
    Work(u64),
    /// Writes to COM1.
    Print(&'static str),
    /// Halts for some guest time.
    Sleep(u64),
    /// Halts until typed text or the power button came.
    Wait,
    /// Submits a read of one sector and halts until it completes.
    Read,
    /// Submits a read and goes on.
    Submit,
    /// Begins again.
    Repeat,
    /// Switches the machine off.
    Shutdown,
    /// Ends in a triple fault.
    TripleFault,
    /// Writes to the debug exit port.
    DebugExit(u8),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    count: u64,
    anchored_at: u64,
    anchor: ClockAnchor,
    position: usize,
    /// Steps done of the present `Work`.
    worked: u64,
    deadline: Option<u64>,
    events: u64,
    completions: u64,
    requests: u64,
    /// Everything delivered so far, with counts and times.
    hash: u64,
}

/// See the module's description.
#[derive(Debug)]
pub struct FakeGuest {
    program: Vec<Op>,
    state: State,
    outputs: VecDeque<(InstructionCount, Output)>,
    /// Host time that a step takes.
    pub step_cost: Duration,
    /// Every input that was delivered, but anchors.
    pub inputs: Vec<Input>,
    pub perturbed: u64,
}

impl FakeGuest {
    pub fn new(program: &[Op]) -> Self {
        let anchor = ClockAnchor { time_ns: 0, rate: 1 };
        let state = State {
            count: 0,
            anchored_at: 0,
            anchor,
            position: 0,
            worked: 0,
            deadline: None,
            events: 0,
            completions: 0,
            requests: 0,
            hash: 0,
        };
        Self {
            program: program.to_vec(),
            state,
            outputs: VecDeque::new(),
            step_cost: Duration::ZERO,
            inputs: Vec::new(),
            perturbed: 0,
        }
    }

    pub fn restore(program: &[Op], bytes: &[u8]) -> Self {
        let mut guest = Self::new(program);
        guest.state = postcard::from_bytes(bytes).unwrap();
        guest
    }

    fn next(&mut self) {
        self.state.position += 1;
        self.state.worked = 0;
        self.state.deadline = None;
    }

    fn step(&mut self) {
        self.state.count += 1;
        self.next();
    }

    fn emit(&mut self, output: Output) -> Stop {
        self.state.count += 1;
        self.outputs.push_back((InstructionCount(self.state.count), output));
        Stop::Output
    }

    fn submit(&mut self) -> Stop {
        self.state.requests += 1;
        let operation = BlockOperation::Read { offset: 0, length: 512 };
        let request = RequestId(self.state.requests);
        self.emit(Output::Block { device: DeviceIndex(0), request, operation })
    }

    fn mix(&mut self, value: u64) {
        self.state.hash = (self.state.hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    /// Does one thing, or part of it; `None` when there is more to do.
    fn turn(&mut self, until: u64) -> Option<Stop> {
        match self.program[self.state.position] {
            Op::Work(steps) => {
                let part = (steps - self.state.worked).min(until - self.state.count);
                self.state.count += part;
                self.state.worked += part;
                spin(self.step_cost * u32::try_from(part).unwrap());
                if self.state.worked == steps {
                    self.next();
                }
                None
            }
            Op::Print(text) => {
                self.next();
                Some(self.emit(Output::CharTransmit { port: CharPort::Serial(0), data: text.into() }))
            }
            Op::Sleep(ns) => {
                let now = self.time_ns();
                let deadline = *self.state.deadline.get_or_insert(now + ns);
                if now < deadline {
                    return Some(Stop::Idle { deadline_ns: Some(deadline) });
                }
                self.step();
                None
            }
            Op::Wait if self.state.events == 0 => Some(Stop::Idle { deadline_ns: None }),
            Op::Wait => {
                self.state.events -= 1;
                self.step();
                None
            }
            Op::Read if self.state.requests == self.state.completions && self.state.worked == 0 => {
                self.state.worked = 1;
                Some(self.submit())
            }
            Op::Read if self.state.requests != self.state.completions => Some(Stop::Idle { deadline_ns: None }),
            Op::Read => {
                self.step();
                None
            }
            Op::Submit => {
                self.next();
                Some(self.submit())
            }
            Op::Repeat => {
                self.step();
                self.state.position = 0;
                None
            }
            Op::Shutdown => Some(Stop::Shutdown),
            Op::TripleFault => Some(Stop::TripleFault("RIP=0".to_owned())),
            Op::DebugExit(value) => Some(Stop::DebugExit(value)),
        }
    }
}

impl Guest for FakeGuest {
    fn count(&self) -> InstructionCount {
        InstructionCount(self.state.count)
    }

    fn time_ns(&self) -> u64 {
        TimeLine::new(InstructionCount(self.state.anchored_at), self.state.anchor).time_at(self.count())
    }

    fn run(&mut self, until: InstructionCount) -> Stop {
        while self.state.count < until.0 {
            if let Some(stop) = self.turn(until.0) {
                return stop;
            }
        }
        Stop::Limit
    }

    fn deliver(&mut self, input: Input) {
        let (count, time) = (self.state.count, self.time_ns());
        self.mix(count);
        match &input {
            Input::ClockAnchor(anchor) => {
                assert!(anchor.time_ns >= time, "time went backwards");
                self.state.anchor = *anchor;
                self.state.anchored_at = count;
                self.mix(anchor.time_ns);
                return;
            }
            Input::CharReceive { .. } | Input::PowerButton => self.state.events += 1,
            Input::BlockCompletion { status, .. } => {
                assert_eq!(*status, BlockStatus::Ok);
                self.state.completions += 1;
            }
            _ => {}
        }
        self.mix(self.state.completions << 32 | self.state.events);
        self.inputs.push(input);
    }

    fn take_outputs(&mut self) -> Vec<(InstructionCount, Output)> {
        self.outputs.drain(..).collect()
    }

    fn release_frames(&mut self, _frames: &[u64]) {}

    fn requests_in_flight(&self) -> usize {
        usize::try_from(self.state.requests - self.state.completions).unwrap()
    }

    fn counters(&self) -> Vec<(String, u64)> {
        vec![("completions".to_owned(), self.state.completions)]
    }

    fn digest(&mut self, scope: DigestScope) -> u64 {
        match scope {
            DigestScope::Devices => self.state.hash ^ self.state.count ^ self.time_ns(),
            DigestScope::Memory => self.state.requests,
        }
    }

    fn save(&mut self) -> Result<Vec<u8>, String> {
        postcard::to_stdvec(&self.state).map_err(|error| error.to_string())
    }

    fn perturb(&mut self, _kind: Perturbation, _random: u64) -> Result<(), String> {
        self.perturbed += 1;
        Ok(())
    }

    fn stand_still(&mut self, _paused: bool) {}

    fn finish(&mut self) -> Result<(), DriverError> {
        Ok(())
    }
}

fn spin(time: Duration) {
    let end = Instant::now() + time;
    while !time.is_zero() && Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// A disk that takes its time, on a thread; and the text that the guest printed.
pub struct FakeSink {
    requests: Sender<RequestId>,
    pub printed: String,
}

impl FakeSink {
    /// `delay_us` is called for each request.
    pub fn new(queue: Arc<InputQueue>, mut delay_us: impl FnMut() -> u64 + Send + 'static) -> Self {
        let (requests, receiver) = channel::<RequestId>();
        std::thread::spawn(move || {
            for request in receiver {
                std::thread::sleep(Duration::from_micros(delay_us()));
                let (status, data) = (BlockStatus::Ok, vec![0; 512]);
                queue.push(Input::BlockCompletion { device: DeviceIndex(0), request, status, data });
            }
        });
        Self { requests, printed: String::new() }
    }
}

impl OutputSink for FakeSink {
    fn send(&mut self, output: Output) -> Result<(), DriverError> {
        match output {
            Output::Block { request, .. } => self.requests.send(request).map_err(|_| DriverError::DiskThread(0)),
            Output::CharTransmit { data, .. } => {
                self.printed += &String::from_utf8_lossy(&data);
                Ok(())
            }
            other => panic!("{other:?}"),
        }
    }
}
