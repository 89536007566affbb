//! The simulated world.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use virtft_ft::primary::{Primary, PrimaryAction, PrimaryEvent, PrimaryState};
use virtft_ft::timing::{MS, Timing};
use virtft_ft::{Answer, Backup, BackupAction, BackupEvent, BackupState, EpochKey, Hello, Message};

/// A run lasts this long, in simulated time.
const RUN_NS: u64 = 12_000 * MS;
/// Faults happen in this part of it; afterwards all that lives can settle.
const FAULTS_NS: u64 = 8_000 * MS;
const STEP_NS: u64 = 5 * MS;
/// Bytes of log that rebuild the state.
const SNAPSHOT: u64 = 5_000;

/// A small generator: SplitMix64.
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn chance(&mut self, in_1000: u64) -> bool {
        self.below(1000) < in_1000
    }
}

/// A host: dead ones do nothing, frozen ones nothing for a while.
#[derive(Default)]
struct Host {
    dead: bool,
    frozen_until: u64,
}

impl Host {
    fn works(&self, now: u64) -> bool {
        !self.dead && now >= self.frozen_until
    }
}

/// One connection; messages of an older one are dropped.
#[derive(Default)]
struct Channel {
    number: u64,
    up: bool,
    partitioned_until: u64,
    to_backup: VecDeque<(u64, u64, u64, Message)>,
    to_primary: VecDeque<(u64, u64, u64, Message)>,
}

/// A question on its way to the arbiter or an answer on its way back.
enum Asked {
    Test(&'static str, EpochKey),
    Record(EpochKey),
    Confirm(EpochKey),
}

pub struct World {
    random: Random,
    now: u64,
    primary: Primary,
    backup: Backup,
    hosts: [Host; 2],
    channel: Channel,
    owners: BTreeMap<EpochKey, &'static str>,
    recorded: BTreeSet<EpochKey>,
    questions: VecDeque<(u64, bool, Asked)>,
    arbiter_away_until: u64,
    log_end: u64,
    /// Mark of each output so far: they are numbered by their place.
    marks: Vec<u64>,
    /// Outputs that have left the primary.
    released: u64,
    paused: bool,
    rebuilt: bool,
    /// The backup was armed, since it was started.
    armed: bool,
    /// Received when it went live.
    live_with: Option<u64>,
    /// First output that the live backup emits itself.
    retained_from: u64,
    alone: bool,
    stopped: [bool; 2],
    words: BTreeSet<&'static str>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let timing = Timing { transfer_timeout_ns: 2_000 * MS, ..Timing::default() };
        let hello = Hello {
            protocol: 0,
            vm: "guest".into(),
            incarnation: 1,
            epoch: 1,
            machine: "m".into(),
            session: [1; 16],
            token: [2; 16],
        };
        let (primary, actions) = Primary::new(hello, timing, 0);
        let mut world = Self {
            random: Random(seed),
            now: 0,
            primary,
            backup: Backup::new("guest", "m", timing),
            hosts: Default::default(),
            channel: Channel::default(),
            owners: BTreeMap::new(),
            recorded: BTreeSet::new(),
            questions: VecDeque::new(),
            arbiter_away_until: 0,
            log_end: 0,
            marks: Vec::new(),
            released: 0,
            paused: false,
            rebuilt: false,
            armed: false,
            live_with: None,
            retained_from: 0,
            alone: false,
            stopped: [false; 2],
            words: BTreeSet::new(),
        };
        world.do_primary(actions);
        world.primary_event(PrimaryEvent::Log(&[0; SNAPSHOT as usize]));
        world.log_end = SNAPSHOT;
        world
    }

    /// Runs to the end, checking all the way; returns what happened.
    pub fn run(mut self) -> BTreeSet<&'static str> {
        let fault_rate = self.random.below(12);
        while self.now < RUN_NS {
            self.now += STEP_NS;
            if self.now < FAULTS_NS && self.random.chance(fault_rate) {
                self.fault();
            }
            self.deliver();
            self.answer();
            self.machine();
            if self.hosts[0].works(self.now) {
                self.primary_event(PrimaryEvent::Tick);
            }
            if self.hosts[1].works(self.now) {
                self.backup_event(BackupEvent::Tick);
            }
            self.check();
        }
        self.final_check();
        self.words
    }

    fn fault(&mut self) {
        let until = self.now + self.random.below(2_500) * MS;
        match self.random.below(10) {
            9 => {
                // A backup that is started again knows nothing of what it had.
                if self.hosts[1].works(self.now) && self.live_with.is_none() {
                    self.disconnect();
                    self.words.insert("backup started again");
                    let timing = Timing { transfer_timeout_ns: 2_000 * MS, ..Timing::default() };
                    self.backup = Backup::new("guest", "m", timing);
                    (self.rebuilt, self.stopped[1], self.retained_from, self.armed) = (false, false, 0, false);
                    self.questions
                        .retain(|(_, _, asked)| !matches!(asked, Asked::Test("backup", _) | Asked::Confirm(_)));
                }
            }
            0 => self.hosts[0].dead = true,
            1 => self.hosts[1].dead = true,
            2 => {
                self.hosts[0].frozen_until = until;
                self.words.insert("frozen");
            }
            3 => {
                self.hosts[1].frozen_until = until;
                self.words.insert("frozen");
            }
            4 => self.channel.partitioned_until = until,
            5 | 6 => self.disconnect(),
            7 => {
                self.arbiter_away_until = until;
                self.words.insert("arbiter away");
            }
            _ => {
                if self.primary.state() == PrimaryState::Protected && self.hosts[0].works(self.now) {
                    self.words.insert("planned");
                    self.primary_event(PrimaryEvent::Failover);
                }
            }
        }
    }

    fn disconnect(&mut self) {
        if self.channel.up {
            self.channel.up = false;
            self.channel.to_backup.clear();
            self.channel.to_primary.clear();
            self.primary_event(PrimaryEvent::Disconnected);
            self.backup_event(BackupEvent::Disconnected);
        }
    }

    fn deliver(&mut self) {
        if self.now < self.channel.partitioned_until {
            return;
        }
        while self.hosts[1].works(self.now)
            && self.channel.to_backup.front().is_some_and(|message| message.0 <= self.now)
            && let Some((_, number, epoch, message)) = self.channel.to_backup.pop_front()
        {
            if number == self.channel.number && self.channel.up {
                self.backup_event(BackupEvent::Message(epoch, message));
            }
        }
        while self.hosts[0].works(self.now)
            && self.channel.to_primary.front().is_some_and(|message| message.0 <= self.now)
            && let Some((_, number, epoch, message)) = self.channel.to_primary.pop_front()
        {
            if number == self.channel.number && self.channel.up {
                self.primary_event(PrimaryEvent::Message(epoch, message));
            }
        }
    }

    /// Questions arrive, are decided, and are answered or not.
    fn answer(&mut self) {
        let due: Vec<_> = {
            let (due, later) =
                std::mem::take(&mut self.questions).into_iter().partition(|question| question.0 <= self.now);
            self.questions = later;
            let due: VecDeque<_> = due;
            due.into_iter().collect()
        };
        for (_, lost, asked) in due {
            let away = self.now < self.arbiter_away_until;
            match asked {
                Asked::Test(who, key) => {
                    let owner = if away { None } else { Some(*self.owners.entry(key).or_insert(who)) };
                    // An answer may be lost after the arbiter has decided.
                    let answer = match owner.filter(|_| !lost) {
                        None => Answer::Unreachable,
                        Some(owner) if owner == who => Answer::Won,
                        Some(_) => Answer::Lost,
                    };
                    match who {
                        "primary" => self.primary_event(PrimaryEvent::Answered(answer)),
                        _ => self.backup_event(BackupEvent::Answered(answer)),
                    }
                }
                Asked::Record(key) => {
                    if !away {
                        self.recorded.insert(key);
                    }
                    self.primary_event(PrimaryEvent::Recorded(!away && !lost));
                }
                Asked::Confirm(key) => {
                    let found = (!away && !lost).then(|| self.recorded.contains(&key));
                    self.backup_event(BackupEvent::Confirmed(found));
                }
            }
        }
    }

    /// The primary's machine runs, and the backup's follows.
    fn machine(&mut self) {
        let runs = self.hosts[0].works(self.now) && !self.paused && !self.stopped[0];
        if runs {
            let bytes = vec![1; 1 + self.random.below(50) as usize];
            self.log_end += bytes.len() as u64;
            self.primary_event(PrimaryEvent::Log(&bytes));
            if self.random.chance(300) {
                let number = self.marks.len() as u64;
                self.marks.push(self.log_end);
                self.primary_event(PrimaryEvent::Output { number, mark: self.log_end });
            }
            self.primary_event(PrimaryEvent::Progress { guest_ns: self.now });
        }
        if self.hosts[1].works(self.now)
            && !self.rebuilt
            && self.backup.received() >= SNAPSHOT
            && self.random.chance(100)
        {
            self.rebuilt = true;
            self.backup_event(BackupEvent::Rebuilt);
        }
        if self.hosts[1].works(self.now) && self.rebuilt {
            self.backup_event(BackupEvent::Executed { guest_ns: self.now.saturating_sub(20 * MS) });
        }
    }

    fn primary_event(&mut self, event: PrimaryEvent<'_>) {
        if !self.hosts[0].dead {
            let actions = self.primary.handle(event, self.now);
            self.do_primary(actions);
        }
    }

    fn backup_event(&mut self, event: BackupEvent) {
        if !self.hosts[1].dead {
            let actions = self.backup.handle(event, self.now);
            self.do_backup(actions);
        }
    }

    fn do_primary(&mut self, actions: Vec<PrimaryAction>) {
        for action in actions {
            match action {
                PrimaryAction::Connect => self.connect(),
                PrimaryAction::Send(epoch, message) => {
                    let at = self.now + self.random.below(8) * MS;
                    // A stream keeps its order.
                    let at = self.channel.to_backup.back().map_or(at, |last| at.max(last.0));
                    self.channel.to_backup.push_back((at, self.channel.number, epoch, message));
                }
                PrimaryAction::Disconnect => self.disconnect(),
                PrimaryAction::Release(below) => self.released = self.released.max(below),
                PrimaryAction::Record(key) => self.ask(Asked::Record(key)),
                PrimaryAction::TestAndSet(key) => self.ask(Asked::Test("primary", key)),
                PrimaryAction::Pause => {
                    self.paused = true;
                    self.primary_event(PrimaryEvent::Paused);
                }
                PrimaryAction::Resume => self.paused = false,
                PrimaryAction::Throttle(_) => {}
                PrimaryAction::Protected => {
                    self.words.insert("protected");
                }
                PrimaryAction::Alone { .. } => {
                    self.alone = true;
                    self.words.insert("primary alone");
                }
                PrimaryAction::Stop { .. } => self.stopped[0] = true,
            }
        }
    }

    fn do_backup(&mut self, actions: Vec<BackupAction>) {
        for action in actions {
            match action {
                BackupAction::Send(epoch, message) => {
                    let at = self.now + self.random.below(8) * MS;
                    let at = self.channel.to_primary.back().map_or(at, |last| at.max(last.0));
                    self.channel.to_primary.push_back((at, self.channel.number, epoch, message));
                }
                BackupAction::Disconnect => self.disconnect(),
                BackupAction::Keep(_) => {}
                BackupAction::Forget(outputs) => {
                    assert!(outputs <= self.released, "told that {outputs} have left, {} have", self.released);
                    self.retained_from = self.retained_from.max(outputs);
                }
                BackupAction::Confirm(key, token) => {
                    assert_eq!(token, [2; 16]);
                    self.ask(Asked::Confirm(key));
                }
                BackupAction::TestAndSet(key) => self.ask(Asked::Test("backup", key)),
                BackupAction::GoLive { .. } => {
                    self.live_with = Some(self.backup.received());
                    self.words.insert("backup live");
                }
                BackupAction::Stop { .. } => self.stopped[1] = true,
            }
        }
    }

    fn ask(&mut self, asked: Asked) {
        let at = self.now + self.random.below(50) * MS;
        let lost = self.random.chance(100);
        self.questions.push_back((at, lost, asked));
    }

    fn connect(&mut self) {
        let reachable = !self.hosts[1].dead && self.now >= self.channel.partitioned_until && !self.stopped[1];
        self.disconnect();
        if !reachable {
            return self.primary_event(PrimaryEvent::Disconnected);
        }
        if self.channel.number > 0 {
            self.words.insert("reconnected");
        }
        self.channel.number += 1;
        self.channel.up = true;
        self.backup_event(BackupEvent::Connected);
        self.primary_event(PrimaryEvent::Connected);
    }

    /// What must hold at every moment.
    fn check(&mut self) {
        self.armed |= self.backup.state() == BackupState::Armed;
        assert!(!(self.alone && self.live_with.is_some()), "both run alone");
        if let Some(received) = self.live_with {
            let key = self.primary.key();
            assert!(self.recorded.contains(&key), "a backup went live that the arbiter does not know");
            assert_eq!(self.owners.get(&key), Some(&"backup"));
            // The output rule: all that has left, even after the backup went live, is in its history.
            for (number, mark) in self.marks.iter().enumerate().take(self.released as usize) {
                assert!(*mark <= received, "output {number} left with mark {mark}; the backup has {received}");
            }
            assert!(self.retained_from <= self.released, "an output that never left was forgotten");
        }
    }

    /// What must hold when everything has settled.
    fn final_check(&mut self) {
        let [primary, backup] = [&self.hosts[0], &self.hosts[1]];
        match (primary.dead, backup.dead) {
            (true, true) => {
                self.words.insert("both died");
            }
            (false, false) => {
                // A backup that had won and was started again before it could run takes the VM with it.
                let won_and_restarted = self.stopped[0]
                    && self.owners.get(&self.primary.key()) == Some(&"backup")
                    && self.words.contains("backup started again");
                let protected = self.primary.state() == PrimaryState::Protected;
                let running = self.alone || self.live_with.is_some() || protected || won_and_restarted;
                assert!(!protected || self.live_with.is_none(), "the primary does not know that the backup runs");
                assert!(running, "nobody runs: {:?} and {:?}", self.primary.state(), self.backup.state());
            }
            (false, true) => {
                let lost_to_the_dead = self.stopped[0] && self.live_with.is_some();
                // A backup that died after it had won, and before it could say so, takes the VM with it.
                let won_and_died = self.stopped[0] && self.owners.get(&self.primary.key()) == Some(&"backup");
                assert!(
                    self.alone || lost_to_the_dead || won_and_died,
                    "the primary hangs in {:?}",
                    self.primary.state()
                );
            }
            (true, false) => {
                let ended =
                    matches!(self.backup.state(), BackupState::Live | BackupState::Stopped | BackupState::Waiting);
                assert!(ended, "the backup hangs in {:?}", self.backup.state());
                // If it stopped although it was armed, the primary had won before it died.
                if self.backup.state() == BackupState::Stopped && self.armed {
                    assert_eq!(self.owners.get(&self.primary.key()), Some(&"primary"), "an armed backup gave up");
                }
            }
        }
        if self.alone || self.primary.state() == PrimaryState::Protected {
            assert!(
                self.released + 40 >= self.marks.len() as u64 || primary.dead,
                "outputs are stuck: {} of {}, {:?} and {:?}, {:?}",
                self.released,
                self.marks.len(),
                self.primary.state(),
                self.backup.state(),
                self.words
            );
        }
    }
}
