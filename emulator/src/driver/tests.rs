//! The loops around a fake guest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use virtft_machine::io::{Input, InstructionCount};

use super::fake::{FakeGuest, FakeSink, Op};
use super::real::RealDriver;
use super::virtual_clock::VirtualDriver;
use super::*;
use crate::cli::SavePoint;
use crate::queue::InputQueue;
use crate::script::{Script, ScriptPlayer};

const MS: u64 = 1_000_000;

fn run_real(guest: &mut FakeGuest, queue: &Arc<InputQueue>, milestones: &mut Milestones) -> (RunEnd, String) {
    let mut sink = FakeSink::new(Arc::clone(queue), || 300);
    let driver = RealDriver::new(guest, &mut sink, Arc::clone(queue), milestones, Vec::new());
    (driver.run(), sink.printed)
}

/// Runs under the virtual clock; `seed` varies how long the disk takes.
fn run_virtual(
    guest: &mut FakeGuest,
    milestones: &mut Milestones,
    script: &str,
    seed: u64,
    restored: Option<snapshot::Pending>,
) -> (RunEnd, String) {
    let queue = Arc::new(InputQueue::default());
    let mut random = seed;
    let mut sink = FakeSink::new(Arc::clone(&queue), move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 40) % 400
    });
    let player = ScriptPlayer::new(Script::parse("s", script).unwrap(), guest.count());
    let is_new = restored.is_none();
    let mut driver = VirtualDriver::new(guest, &mut sink, queue, milestones, player, restored.unwrap_or_default());
    if is_new {
        driver.start_clock();
    }
    (driver.run(), sink.printed)
}

#[test]
fn a_guest_that_shuts_down_ends_cleanly() {
    let queue = Arc::new(InputQueue::default());
    let mut guest = FakeGuest::new(&[Op::Print("hello "), Op::Read, Op::Print("world"), Op::Shutdown]);
    let (end, printed) = run_real(&mut guest, &queue, &mut Milestones::default());
    assert_eq!(end, RunEnd::quiet(ExitStatus::Clean));
    assert_eq!(printed, "hello world");
}

#[test]
fn an_idle_guest_wakes_on_time_and_costs_nothing() {
    let queue = Arc::new(InputQueue::default());
    let mut guest = FakeGuest::new(&[[Op::Sleep(4 * MS)].repeat(100), vec![Op::Shutdown]].concat());
    let (started, cpu) = (Instant::now(), thread_cpu_ns());
    let (end, _) = run_real(&mut guest, &queue, &mut Milestones::default());
    let (elapsed, used) = (started.elapsed(), thread_cpu_ns() - cpu);
    assert_eq!(end.status, ExitStatus::Clean);
    assert!(elapsed >= Duration::from_millis(399), "{elapsed:?}");
    assert!(elapsed < Duration::from_millis(900), "{elapsed:?}");
    // 250 timers a second, as a guest with a periodic tick has. Below 2 % on a quiet host; the bound leaves
    // room for a busy one, where each wake-up also pays for cold caches.
    assert!(used * 10 < u64::try_from(elapsed.as_nanos()).unwrap(), "{used} ns of {elapsed:?}");
}

/// Processor time of the calling thread.
fn thread_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn guest_time_follows_the_host() {
    let queue = Arc::new(InputQueue::default());
    let work = [Op::Work(50_000), Op::Sleep(3 * MS), Op::Work(400_000), Op::Read];
    let mut guest = FakeGuest::new(&[work.repeat(30), vec![Op::Sleep(60 * MS), Op::Shutdown]].concat());
    guest.step_cost = Duration::from_nanos(20);
    let started = Instant::now();
    let (end, _) = run_real(&mut guest, &queue, &mut Milestones::default());
    let host = u64::try_from(started.elapsed().as_nanos()).unwrap();
    assert_eq!(end.status, ExitStatus::Clean);
    assert!(host.abs_diff(guest.time_ns()) < 10 * MS, "host {host} guest {}", guest.time_ns());
}

#[test]
fn inputs_arrive_while_idle_and_while_busy() {
    let queue = Arc::new(InputQueue::default());
    let pusher = {
        let queue = Arc::clone(&queue);
        std::thread::spawn(move || {
            for _ in 0..2 {
                std::thread::sleep(Duration::from_millis(20));
                queue.push(Input::PowerButton);
            }
        })
    };
    let mut guest = FakeGuest::new(&[Op::Wait, Op::Work(2_000_000), Op::Wait, Op::Shutdown]);
    guest.step_cost = Duration::from_nanos(20);
    let (end, _) = run_real(&mut guest, &queue, &mut Milestones::default());
    pusher.join().unwrap();
    assert_eq!(end.status, ExitStatus::Clean);
    assert_eq!(guest.inputs, [Input::PowerButton, Input::PowerButton]);
}

#[test]
fn a_stop_request_ends_a_busy_and_an_idle_guest() {
    for program in [vec![Op::Work(1000), Op::Repeat], vec![Op::Wait]] {
        let queue = Arc::new(InputQueue::default());
        let stopper = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                queue.request_stop(ExitStatus::Stopped);
            })
        };
        let (end, _) = run_real(&mut FakeGuest::new(&program), &queue, &mut Milestones::default());
        stopper.join().unwrap();
        assert_eq!(end.status, ExitStatus::Stopped);
    }
}

#[test]
fn a_live_snapshot_waits_for_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("snapshot");
    let queue = Arc::new(InputQueue::default());
    let mut milestones = Milestones::default()
        .with_save(&SavePoint { count: Some(5000), file: file.clone() })
        .unwrap()
        .with_max_count(Some(6000));
    let mut guest = FakeGuest::new(&[Op::Submit, Op::Submit, Op::Work(100), Op::Work(1_000_000), Op::Shutdown]);
    let (end, _) = run_real(&mut guest, &queue, &mut milestones);
    assert_eq!(end.status, ExitStatus::Clean);
    assert_eq!(guest.count().0, 6000);
    assert!(!file.exists(), "named when it is whole");
    milestones.finish().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let (pending, state) = snapshot::parse(&bytes).unwrap();
    assert!(pending.is_empty());
    let restored = FakeGuest::restore(&[Op::Shutdown], state);
    assert_eq!(restored.count().0, 5000);
    assert!(snapshot::parse(&bytes[..10]).is_err() && snapshot::parse(b"VFTSNAP0").is_err());
}

const SCRIPT: &str = "expect \"login: \"\nsend \"root\\n\"\n+200k serial 0 \"ls\\n\"\n9M power\n";

fn session() -> Vec<Op> {
    let start = [Op::Work(30_000), Op::Read, Op::Sleep(5 * MS), Op::Print("login"), Op::Work(123_457), Op::Print(": ")];
    let middle = [Op::Submit, Op::Work(70_000), Op::Submit, Op::Wait, Op::Work(10_001), Op::Wait, Op::Print("files")];
    let busy = [Op::Submit, Op::Work(600_000), Op::Sleep(MS), Op::Read].repeat(12);
    [start.to_vec(), middle.to_vec(), busy, vec![Op::Wait, Op::Shutdown]].concat()
}

/// Digest log of a run of `session`.
fn digests(seed: u64, more: impl FnOnce(Milestones) -> Milestones) -> (String, u64) {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut milestones = more(Milestones::default().with_digests(50_000, &log).unwrap());
    let mut guest = FakeGuest::new(&session());
    let (end, printed) = run_virtual(&mut guest, &mut milestones, SCRIPT, seed, None);
    assert_eq!(end, RunEnd::quiet(ExitStatus::Clean));
    assert_eq!(printed, "login: files");
    (std::fs::read_to_string(log).unwrap(), guest.perturbed)
}

#[test]
fn virtual_runs_are_equal_however_slow_the_disk_and_whatever_disturbs_them() {
    let (first, _) = digests(1, |milestones| milestones);
    assert!(first.lines().count() > 100, "{first}");
    assert!(first.contains(" memory "));
    for seed in 2..6 {
        let (again, perturbed) = digests(seed, |milestones| milestones.with_perturbations(seed, InstructionCount(0)));
        assert_eq!(again, first);
        assert!(perturbed > 5);
    }
}

#[test]
fn a_restored_virtual_run_goes_on_as_if_nothing_had_been() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let (whole, _) = digests(1, |milestones| milestones);
    // In the middle of disk requests; the script has been played by then.
    for count in [2_000_003, 5_000_000, 6_700_001] {
        let file = directory.path().join("snapshot");
        let (_, _) = digests(9, |milestones| {
            milestones.with_save(&SavePoint { count: Some(count), file: file.clone() }).unwrap()
        });
        // `digests` does not finish its milestones: the file still has its first name.
        let bytes = std::fs::read(directory.path().join("snapshot.unfinished")).unwrap();
        let (pending, state) = snapshot::parse(&bytes).unwrap();
        let mut guest = FakeGuest::restore(&session(), state);
        let mut milestones = Milestones::default().with_digests(50_000, &log).unwrap();
        let (end, _) = run_virtual(&mut guest, &mut milestones, "9M power\n", 3, Some(pending));
        assert_eq!(end.status, ExitStatus::Clean);
        let rest = std::fs::read_to_string(&log).unwrap();
        assert!(rest.lines().count() > 3);
        assert!(whole.ends_with(&rest), "from {count}:\n{rest}\n{whole}");
    }
}

#[test]
fn a_script_that_waits_in_vain_fails_the_run() {
    let mut guest = FakeGuest::new(&[Op::Print("hi"), Op::Wait]);
    let (end, _) = run_virtual(&mut guest, &mut Milestones::default(), "expect \"login\"", 1, None);
    assert_eq!(end.status, ExitStatus::ScriptFailed);
    assert!(end.report.unwrap().contains("line 1 for \"login\""));

    let mut guest = FakeGuest::new(&[Op::Work(1000), Op::Repeat]);
    let mut milestones = Milestones::default().with_max_count(Some(300_000));
    let (end, _) = run_virtual(&mut guest, &mut milestones, "expect \"login\"", 1, None);
    assert_eq!((end.status, guest.count().0), (ExitStatus::ScriptFailed, 300_000));

    let mut guest = FakeGuest::new(&[Op::Work(1000), Op::Repeat]);
    let (end, _) = run_virtual(&mut guest, &mut Milestones::default(), "1M end", 1, None);
    assert_eq!((end.status, guest.count().0), (ExitStatus::Clean, 1_000_000));
}

#[test]
fn virtual_sleep_takes_no_host_time() {
    let mut guest = FakeGuest::new(&[Op::Sleep(3600 * 1000 * MS), Op::Shutdown]);
    let started = Instant::now();
    let (end, _) = run_virtual(&mut guest, &mut Milestones::default(), "", 1, None);
    assert_eq!(end.status, ExitStatus::Clean);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn tasks_are_done_between_slices_and_a_paused_guest_stands_still() {
    use std::sync::mpsc::channel;
    let queue = Arc::new(InputQueue::default());
    let operator = {
        let queue = Arc::clone(&queue);
        std::thread::spawn(move || {
            let look = || {
                let (answer, answered) = channel();
                queue.push_task(Task::Look(answer));
                answered.recv().unwrap()
            };
            let (answer, answered) = channel();
            queue.push_task(Task::Pause(answer));
            answered.recv().unwrap().unwrap();
            let stood = look();
            queue.push(Input::PowerButton);
            assert_eq!(look(), stood, "nothing is executed");
            let folder = tempfile::tempdir().unwrap();
            let (answer, answered) = channel();
            queue.push_task(Task::Save(std::fs::File::create(folder.path().join("s")).unwrap(), answer));
            answered.recv().unwrap().unwrap();
            let bytes = std::fs::read(folder.path().join("s")).unwrap();
            let (pending, state) = snapshot::parse(&bytes).unwrap();
            assert!(pending.is_empty() && !state.is_empty());
            let (answer, answered) = channel();
            queue.push_task(Task::Resume(answer));
            answered.recv().unwrap().unwrap();
            stood
        })
    };
    let mut guest = FakeGuest::new(&[[Op::Sleep(4 * MS), Op::Read].repeat(100), vec![Op::Shutdown]].concat());
    let (end, _) = run_real(&mut guest, &queue, &mut Milestones::default());
    assert_eq!(end, RunEnd::quiet(ExitStatus::Clean));
    assert!(guest.count() > operator.join().unwrap().count);
    // Whoever asks too late is not kept waiting.
    let (answer, answered) = channel();
    queue.push_task(Task::Pause(answer));
    assert!(answered.recv().is_err());
}
