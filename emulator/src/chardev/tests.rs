//! Channels over real descriptors.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use virtft_machine::io::Input;

use super::*;

fn start(option: &CharOption, queue: &Arc<InputQueue>) -> (CharHandle, Option<PathBuf>) {
    let device = CharDevice::open(option, true).unwrap();
    let pty = device.pty.clone();
    (device.start(CharPort::Serial(0), &Confinement::new().unwrap(), Arc::clone(queue)).unwrap(), pty)
}

fn typed(queue: &InputQueue, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        assert!(queue.wait(Some(Instant::now() + Duration::from_secs(10))), "nothing was typed");
        match queue.pop().unwrap() {
            Input::CharReceive { port: CharPort::Serial(0), data } => all.extend(data),
            other => panic!("{other:?}"),
        }
    }
    all
}

fn read_exactly(source: &mut impl Read, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    source.read_exact(&mut data).unwrap();
    data
}

#[test]
fn a_socket_server_keeps_output_for_the_next_client() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("serial");
    let queue = Arc::new(InputQueue::default());
    let (handle, _) = start(&CharOption::Unix { path: path.clone(), server: true }, &queue);
    handle.transmit(b"before anyone came\n");
    let mut first = UnixStream::connect(&path).unwrap();
    assert_eq!(read_exactly(&mut first, 19), b"before anyone came\n");
    first.write_all(b"hello").unwrap();
    assert_eq!(typed(&queue, 5), b"hello");
    drop(first);
    let mut second = UnixStream::connect(&path).unwrap();
    second.write_all(b"again").unwrap();
    assert_eq!(typed(&queue, 5), b"again");
    handle.transmit(b"welcome back");
    assert_eq!(read_exactly(&mut second, 12), b"welcome back");
    drop(handle);
    assert!(!path.exists());
    assert_eq!(second.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_client_connects_again_when_its_server_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("serial");
    let (listener, file) = crate::socket::listen(&path).unwrap();
    listener.set_nonblocking(false).unwrap();
    let queue = Arc::new(InputQueue::default());
    let (handle, _) = start(&CharOption::Unix { path: path.clone(), server: false }, &queue);
    let (mut peer, _) = listener.accept().unwrap();
    handle.transmit(b"one");
    assert_eq!(read_exactly(&mut peer, 3), b"one");
    drop((peer, listener, file));
    let (listener, _file) = crate::socket::listen(&path).unwrap();
    listener.set_nonblocking(false).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    handle.transmit(b"two");
    assert_eq!(read_exactly(&mut peer, 3), b"two");
}

#[test]
fn a_reader_that_sleeps_costs_bytes_not_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("serial");
    let queue = Arc::new(InputQueue::default());
    let (handle, _) = start(&CharOption::Unix { path: path.clone(), server: true }, &queue);
    let sleeper = UnixStream::connect(&path).unwrap();
    let started = Instant::now();
    for _ in 0..3000 {
        handle.transmit(&[b'x'; 1024]);
    }
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(handle.dropped() > 0);
    drop(sleeper);
}

#[test]
fn a_pty_works_both_ways() {
    let queue = Arc::new(InputQueue::default());
    let (handle, path) = start(&CharOption::Pty, &queue);
    let mut far = File::options().read(true).write(true).open(path.unwrap()).unwrap();
    handle.transmit(b"login: ");
    assert_eq!(read_exactly(&mut far, 7), b"login: ");
    far.write_all(b"root\n\x03").unwrap();
    assert_eq!(typed(&queue, 6), b"root\n\x03", "raw: nothing is interpreted on the way");
    drop(far);
    std::thread::sleep(Duration::from_millis(20));
    handle.transmit(b"still here");
}

#[test]
fn a_file_gets_everything_and_a_paste_arrives_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let queue = Arc::new(InputQueue::default());
    let (handle, _) = start(&CharOption::File(path.clone()), &queue);
    for number in 0..3000 {
        handle.transmit(format!("{number:1023}\n").as_bytes());
    }
    drop(handle);
    let log = std::fs::read_to_string(&path).unwrap();
    assert_eq!(log.lines().count(), 3000);
    assert_eq!(log.lines().last().unwrap().trim(), "2999");

    let socket = directory.path().join("serial");
    let (_handle, _) = start(&CharOption::Unix { path: socket.clone(), server: true }, &queue);
    let mut client = UnixStream::connect(&socket).unwrap();
    let paste: Vec<u8> = (0..3000_u32).map(|i| u8::try_from(i % 256).unwrap()).collect();
    client.write_all(&paste).unwrap();
    assert_eq!(typed(&queue, 3000), paste);
}

#[test]
fn null_and_refusals() {
    let queue = Arc::new(InputQueue::default());
    let (handle, _) = start(&CharOption::Null, &queue);
    handle.transmit(b"gone");
    drop(handle);
    let missing = CharOption::Unix { path: "/nonexistent/s".into(), server: false };
    assert!(CharDevice::open(&missing, true).unwrap_err().to_string().contains("start its server first"));
    let unwritable = CharOption::File("/nonexistent/log".into());
    assert!(CharDevice::open(&unwritable, true).unwrap_err().to_string().contains("may write"));
}

#[test]
fn an_idle_channel_sleeps() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Arc::new(InputQueue::default());
    let path = directory.path().join("serial");
    let log = CharOption::File(directory.path().join("log"));
    let options = [CharOption::Unix { path, server: true }, CharOption::Pty, log];
    let handles = options.map(|option| {
        let device = CharDevice::open(&option, true).unwrap();
        device.start(CharPort::Console(77), &Confinement::disabled(), Arc::clone(&queue)).unwrap()
    });
    std::thread::sleep(Duration::from_millis(50));
    let before = switches();
    std::thread::sleep(Duration::from_millis(300));
    let after = switches();
    assert!(after - before < 20, "{} wake-ups while nothing happens", after - before);
    drop(handles);
}

/// Voluntary context switches of the threads of `an_idle_channel_sleeps`.
fn switches() -> u64 {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        if name.starts_with("console-77") {
            let line = status.lines().find(|line| line.starts_with("voluntary")).unwrap_or_default();
            total += line.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or(0);
        }
    }
    total
}
