//! Images made by `qemu-img`, broken by hand.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;

use virtft_machine::io::{BlockOperation, BlockStatus, RequestId};

use super::*;
use crate::cli::ImageFormat;

fn qemu_img(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").current_dir(directory).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments:?}: {text}");
    text
}

fn option(file: PathBuf) -> DiskOption {
    DiskOption { file, id: None, format: None, readonly: false }
}

fn open(path: &Path) -> Result<Executor, String> {
    Disk::open(&option(path.to_owned()), 0).map(Disk::into_executor).map_err(|error| error.to_string())
}

fn perform(executor: &mut Executor, operation: BlockOperation) -> Vec<u8> {
    let completion = executor.execute(RequestId(1), operation);
    assert_eq!(completion.status, BlockStatus::Ok);
    completion.data
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i % 251).unwrap().wrapping_mul(seed) ^ seed).collect()
}

/// Writes, zeroes, discards, flushes, and compares with a model; returns the model.
fn exercise(executor: &mut Executor, size: usize) -> Vec<u8> {
    let mut model = perform(executor, BlockOperation::Read { offset: 0, length: u32::try_from(size).unwrap() });
    for (index, (offset, length)) in [(0, 4096), (65536 - 512, 1024), (1 << 20, 300 * 512)].into_iter().enumerate() {
        let data = pattern(length, u8::try_from(index).unwrap() + 3);
        model[offset..offset + length].copy_from_slice(&data);
        perform(executor, BlockOperation::Write { offset: offset as u64, data });
    }
    let ranges = [(512, 1024, true), (1 << 20, 131_072, false), (65536, 512, true)];
    for (offset, length, unmap) in ranges {
        model[offset..offset + length].fill(0);
        let (offset, length) = (offset as u64, length as u64);
        perform(executor, BlockOperation::WriteZeroes { offset, length, unmap });
    }
    model[2048..4096].fill(0);
    perform(executor, BlockOperation::Discard { offset: 2048, length: 2048 });
    perform(executor, BlockOperation::Flush);
    let all = perform(executor, BlockOperation::Read { offset: 0, length: u32::try_from(size).unwrap() });
    assert!(all == model, "the image differs from the model");
    model
}

#[test]
fn raw_and_qcow2_keep_what_qemu_reads_back() {
    let directory = tempfile::tempdir().unwrap();
    let size = 4 << 20;
    let base = pattern(size, 7);
    std::fs::write(directory.path().join("base.raw"), &base).unwrap();
    qemu_img(directory.path(), &["create", "-q", "-f", "raw", "a.raw", "4M"]);
    qemu_img(directory.path(), &["create", "-q", "-f", "qcow2", "b.qcow2", "4M"]);
    qemu_img(directory.path(), &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "c.qcow2"]);
    qemu_img(directory.path(), &["create", "-q", "-f", "qcow2", "-b", "c.qcow2", "-F", "qcow2", "d.qcow2"]);
    qemu_img(directory.path(), &["convert", "-q", "-c", "-f", "raw", "-O", "qcow2", "base.raw", "e.qcow2"]);
    qemu_img(directory.path(), &["create", "-q", "-f", "qcow2", "-o", "compat=0.10", "f.qcow2", "4M"]);
    for name in ["a.raw", "b.qcow2", "d.qcow2", "c.qcow2", "e.qcow2", "f.qcow2"] {
        let path = directory.path().join(name);
        let mut executor = open(&path).unwrap();
        let model = exercise(&mut executor, size);
        drop(executor);
        let format = name.rsplit('.').next().unwrap();
        if format == "qcow2" {
            qemu_img(directory.path(), &["check", "-q", name]);
        }
        qemu_img(directory.path(), &["convert", "-q", "-f", format, "-O", "raw", name, "out.raw"]);
        assert!(std::fs::read(directory.path().join("out.raw")).unwrap() == model, "{name}");
        // The overlay on this one would change with it.
        let reopened = open(&path).unwrap();
        drop(reopened);
    }
    assert!(std::fs::read(directory.path().join("base.raw")).unwrap() == base, "a backing file is never written");
}

#[test]
fn requests_out_of_range_or_on_a_readonly_disk_fail() {
    let directory = tempfile::tempdir().unwrap();
    qemu_img(directory.path(), &["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
    let mut given = option(directory.path().join("a.qcow2"));
    given.readonly = true;
    let mut executor = Disk::open(&given, 0).unwrap().into_executor();
    let write = BlockOperation::Write { offset: 0, data: vec![1; 512] };
    assert_ne!(executor.execute(RequestId(1), write).status, BlockStatus::Ok);
    for operation in [
        BlockOperation::Read { offset: 1 << 20, length: 512 },
        BlockOperation::Read { offset: u64::MAX - 511, length: 512 },
        BlockOperation::Discard { offset: 512, length: u64::MAX - 511 },
    ] {
        let completion = executor.execute(RequestId(2), operation);
        assert_eq!((completion.status, completion.data.len()), (BlockStatus::IoError, 0));
    }
}

#[test]
fn a_worker_completes_in_order_and_flushes_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    qemu_img(directory.path(), &["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
    let path = directory.path().join("a.qcow2");
    let (sender, receiver) = channel();
    let disk = Disk::open(&option(path.clone()), 0).unwrap();
    assert_eq!(disk.facts, DiskFacts { size: 1 << 20, readonly: false, id: "disk0".into() });
    let handle = disk
        .start(&Confinement::disabled(), move |completion: Completion| sender.send(completion.request).unwrap())
        .unwrap();
    for number in 0..50 {
        let data = vec![u8::try_from(number).unwrap(); 512];
        assert!(handle.submit(RequestId(number), BlockOperation::Write { offset: 512 * number, data }));
    }
    drop(handle);
    assert_eq!(receiver.iter().map(|request| request.0).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    qemu_img(directory.path(), &["check", "-q", "a.qcow2"]);
    let mut executor = open(&path).unwrap();
    assert_eq!(perform(&mut executor, BlockOperation::Read { offset: 49 * 512, length: 512 }), vec![49; 512]);
}

#[test]
fn an_image_in_use_is_refused_in_both_directions() {
    let directory = tempfile::tempdir().unwrap();
    qemu_img(directory.path(), &["create", "-q", "-f", "qcow2", "base.qcow2", "1M"]);
    qemu_img(directory.path(), &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"]);
    let top = directory.path().join("top.qcow2");
    let base = directory.path().join("base.qcow2");
    let first = open(&top).unwrap();
    assert!(open(&top).unwrap_err().contains("is in use by another program"));
    assert!(open(&base).unwrap_err().contains("is in use by another program"), "backing files may not be written");
    let mut readonly = option(base);
    readonly.readonly = true;
    let reader = Disk::open(&readonly, 0).unwrap();
    let output = Command::new("qemu-img").current_dir(directory.path()).args(["info", "top.qcow2"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("lock"), "qemu-img must see our lock");
    drop((first, reader));
    qemu_img(directory.path(), &["info", "top.qcow2"]);
}

#[test]
fn broken_images_are_refused_in_one_line_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let path = |name: &str| dir.join(name);
    std::fs::write(path("full.raw"), pattern(1 << 20, 5)).unwrap();
    qemu_img(dir, &["convert", "-q", "-f", "raw", "-O", "qcow2", "full.raw", "full.qcow2"]);
    let full = std::fs::read(path("full.qcow2")).unwrap();
    for (name, length) in
        [("cut-data", full.len() - 131_072), ("cut-l2", 262_144), ("cut-l1", 196_608), ("cut-head", 80)]
    {
        std::fs::write(path(name), &full[..length]).unwrap();
    }
    std::fs::write(path("odd.raw"), vec![0; 1000]).unwrap();
    std::fs::write(path("empty.raw"), []).unwrap();
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "loop-a", "1M"]);
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "-b", "loop-a", "-F", "qcow2", "loop-b"]);
    qemu_img(dir, &["rebase", "-u", "-f", "qcow2", "-b", "loop-b", "-F", "qcow2", "loop-a"]);
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "gone", "1M"]);
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "-b", "gone", "-F", "qcow2", "orphan"]);
    std::fs::remove_file(path("gone")).unwrap();
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "extended", "1M"]);
    let patch = |name: &str, offset: u64, bytes: &[u8]| {
        std::fs::write(path(name), &full).unwrap();
        OpenOptions::new().write(true).open(path(name)).unwrap().write_all_at(bytes, offset).unwrap();
    };
    patch("dirty", 79, &[1]);
    patch("future", 72, &[0x80]);
    patch("version", 7, &[9]);
    patch("wild-l1", 40, &0xffff_ffff_ffff_0000_u64.to_be_bytes());
    patch("huge-l1", 36, &u32::MAX.to_be_bytes());
    let cases = [
        ("cut-data", "truncated"),
        ("cut-l2", "truncated"),
        ("cut-l1", "truncated"),
        ("cut-head", "truncated"),
        ("odd.raw", "not a multiple of 512"),
        ("empty.raw", "not a multiple of 512"),
        ("loop-a", "loops back"),
        ("orphan", "backing file"),
        ("extended", "extended L2"),
        ("dirty", "qemu-img check -r all"),
        ("future", "not known here"),
        ("version", "version 9"),
        ("wild-l1", "truncated"),
        ("huge-l1", "damaged"),
        ("absent", "no such file"),
        (".", "directory"),
    ];
    for (name, expected) in cases {
        let before = std::fs::read(path(name)).ok();
        let message = open(&path(name)).unwrap_err();
        assert!(message.contains(expected) && !message.contains('\n'), "{name}: {message}");
        assert!(std::fs::read(path(name)).ok() == before, "{name} was changed");
    }
    let mut given = option(path("full.raw"));
    given.format = Some(ImageFormat::Qcow2);
    assert!(Disk::open(&given, 0).unwrap_err().to_string().contains("no qcow2 image"));
}

#[test]
fn a_given_raw_format_is_never_probed_into() {
    let directory = tempfile::tempdir().unwrap();
    qemu_img(directory.path(), &["create", "-q", "-f", "qcow2", "a.qcow2", "64M"]);
    let path = directory.path().join("a.qcow2");
    let length = 512 * 400;
    OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
    let given = DiskOption { file: path, id: None, format: Some(ImageFormat::Raw), readonly: true };
    assert_eq!(Disk::open(&given, 0).unwrap().facts.size, length);
}

#[test]
fn durable_changes_of_qcow2_are_in_the_file_when_they_are_completed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    qemu_img(folder.path(), &["create", "-q", "-f", "qcow2", "disk.qcow2", "1M"]);
    let mut executor = open(&path).unwrap();
    executor.counters().set_durable(true);
    let write =
        |number: u64| (RequestId(number), BlockOperation::Write { offset: number * 4096, data: pattern(4096, 3) });
    let read = (RequestId(9), BlockOperation::Read { offset: 4096, length: 4096 });
    let order = std::cell::RefCell::new(Vec::new());
    executor.execute_all([read.clone(), write(1), read, write(2)].into_iter(), |completion| {
        assert_eq!(completion.status, BlockStatus::Ok);
        // The first read waits for nothing; before anything else is completed, whoever opens the file finds the writes in it, metadata and all.
        if !order.borrow().is_empty() {
            let copy = folder.path().join("copy.qcow2");
            std::fs::copy(&path, &copy).unwrap();
            let found = perform(&mut open(&copy).unwrap(), BlockOperation::Read { offset: 4096, length: 8192 });
            assert_eq!(found, [pattern(4096, 3), pattern(4096, 3)].concat());
        }
        order.borrow_mut().push(completion.request.0);
    });
    assert_eq!(order.into_inner(), [9, 1, 9, 2]);
    // A disk of another host is looked at although it is locked.
    assert_eq!(Disk::look_at(&option(path), 0).unwrap().size, 1 << 20);
}
