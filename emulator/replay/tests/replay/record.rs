//! Records a run with inputs at counts drawn from a seed.

use virtft_machine::io::{CharPort, ClockAnchor, Input, InstructionCount, Output};
use virtft_machine::{Machine, StopReason};
use virtft_replay::header::{BootFiles, DiskData, FORMAT_VERSION, LOG_MAGIC, LogHeader, StartState};
use virtft_replay::reader::FileId;
use virtft_replay::recorder::RecorderOptions;
use virtft_replay::{EndReason, Recorder};

use crate::guest;

/// Steps after which the guest is told to power off.
const LENGTH: u64 = 400_000;

/// A recorded run.
pub struct Recording {
    /// The log as a file would hold it.
    pub log: Vec<u8>,
    /// What the guest printed.
    pub text: Vec<u8>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

struct Run {
    machine: Machine,
    recorder: Recorder,
    log: Vec<u8>,
    text: Vec<u8>,
    random: Random,
}

/// Records the guest with inputs from `seed`; with a snapshot now and then if asked for.
pub fn record(seed: u64, options: RecorderOptions, snapshots: bool) -> Recording {
    let machine = Machine::new(guest::config()).unwrap();
    let header = LogHeader::new(&machine, StartState::Boot, DiskData::InLog, BootFiles::InLog);
    let mut log = [LOG_MAGIC.as_slice(), &FORMAT_VERSION.to_le_bytes()].concat();
    let kernel = machine.config().boot.kernel.clone();
    for frame in Recorder::opening(&header, &[(FileId::Kernel, &kernel)]) {
        log.extend(frame.to_bytes(false));
    }
    let recorder = Recorder::new(options, machine.count());
    let mut run = Run { machine, recorder, log, text: Vec::new(), random: Random(seed.wrapping_mul(2) + 1) };
    run.deliver(Input::EntropySeed([seed.to_le_bytes()[0]; 32]));
    run.deliver(Input::RtcOrigin { unix_ns: 1 << 60 });
    run.deliver(Input::ClockAnchor(ClockAnchor { time_ns: 0, rate: 10 << 32 }));
    run.play(snapshots);
    Recording { log: run.log, text: run.text }
}

impl Run {
    fn play(&mut self, snapshots: bool) {
        let mut asked_to_end = false;
        loop {
            let until = self.machine.count().0 + 1 + self.random.below(9_000);
            let stop = self.machine.run(InstructionCount(until).min(self.recorder.next_stop()));
            self.take_outputs();
            self.recorder.reached(&mut self.machine);
            match stop {
                StopReason::Off { status } => return self.end(EndReason::Off { status }),
                StopReason::Idle { next_deadline_ns } => self.wake(next_deadline_ns.expect("the timer runs")),
                _ => {}
            }
            if self.machine.count().0 > LENGTH && !asked_to_end {
                asked_to_end = true;
                self.deliver(Input::CharReceive { port: CharPort::Serial(0), data: b"q".to_vec() });
            }
            self.inject();
            if snapshots && self.random.below(20) == 0 {
                let Self { machine, recorder, log, .. } = self;
                recorder.snapshot(machine, &mut |frame| log.extend(frame.to_bytes(true)));
            }
            if let Some(frame) = self.recorder.full_frame() {
                self.log.extend(frame.to_bytes(true));
            }
        }
    }

    fn end(&mut self, reason: EndReason) {
        let frame = self.recorder.end(&mut self.machine, reason).expect("the end is an entry");
        self.log.extend(frame.to_bytes(true));
    }

    /// Several inputs may meet at one count.
    fn inject(&mut self) {
        while self.random.below(3) == 0 {
            match self.random.below(4) {
                0 => {
                    let key = b'a' + self.random.below(16).to_le_bytes()[0];
                    self.deliver(Input::CharReceive { port: CharPort::Serial(0), data: vec![key] });
                }
                1 => {
                    let rate = (5 << 32) + (self.random.below(10) << 32) + self.random.below(1 << 32);
                    let time_ns = self.machine.now_ns();
                    self.deliver(Input::ClockAnchor(ClockAnchor { time_ns, rate }));
                }
                2 => {
                    let seed = [self.random.below(256).to_le_bytes()[0]; 32];
                    self.deliver(Input::EntropySeed(seed));
                }
                _ => self.deliver(Input::Keyboard { scancodes: vec![0x1e, 0x9e] }),
            }
        }
    }

    /// Time steps forward to the timer, or not as far, or farther.
    fn wake(&mut self, deadline_ns: u64) {
        let now_ns = self.machine.now_ns();
        let time_ns = now_ns + (deadline_ns - now_ns) * (1 + self.random.below(4)) / 2;
        self.deliver(Input::ClockAnchor(ClockAnchor { time_ns, rate: 10 << 32 }));
    }

    fn deliver(&mut self, input: Input) {
        self.recorder.before_input(&self.machine);
        self.machine.deliver(&input).unwrap();
        self.recorder.input(self.machine.count(), input);
    }

    fn take_outputs(&mut self) {
        let outputs = self.machine.take_outputs();
        self.recorder.outputs(self.machine.count(), &outputs);
        for output in outputs {
            if let Output::CharTransmit { port: CharPort::Serial(0), data } = output {
                self.text.extend(data);
            }
        }
    }
}
