//! Rules for crates: who may depend on whom, what the pure crates may link, lints, fuzz targets.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use tidy::{read, root, workspace_packages};

use super::assert_none;

/// Which packages of the workspace a package may depend on. The determinism border runs between `virtft-machine` and
/// `virtft-emulator`; tests and tools may depend on anything and are not listed.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("virtft-cpu", &[]),
    ("virtft-machine", &["virtft-cpu"]),
    ("virtft-replay", &["virtft-machine"]),
    ("virtft-ft", &["virtft-replay"]),
    ("virtft-emulator", &["virtft-cpu", "virtft-machine", "virtft-replay", "virtft-ft"]),
    ("virtft-rpc", &[]),
    ("virtft-domain", &[]),
    ("virtftd", &["virtft-domain", "virtft-rpc"]),
];

/// The crates that are pure functions of their inputs.
const PURE: &[&str] = &["virtft-cpu", "virtft-machine", "virtft-replay", "virtft-ft"];

/// Everything that may be linked into a pure crate, with what it is for. None of these reads a clock, starts a thread, or
/// opens a file or socket in what the pure crates call.
const LINKED: &[(&str, &str)] = &[
    ("acpi_tables", "ACPI tables as bytes"),
    ("bitflags", "register bits"),
    ("cobs", "part of postcard"),
    ("crc32c", "checksums of frames"),
    ("embedded-io", "named by optional features of postcard; not built"),
    ("iced-x86", "instruction decoder"),
    ("lazy_static", "the decoder's tables"),
    ("libc", "mmap of guest memory"),
    ("linux-loader", "headers and boot parameters of kernels"),
    ("log", "virtio-queue's messages"),
    ("lz4_flex", "compression of frames"),
    ("postcard", "canonical encoding of state"),
    ("ppv-lite86", "part of rand_chacha"),
    ("rand_chacha", "the generator behind RDRAND and virtio-rng"),
    ("rand_core", "interface of rand_chacha"),
    ("serde", "state types"),
    ("serde_core", "state types"),
    ("thiserror", "error types"),
    ("virtft-cpu", "ours"),
    ("virtft-machine", "ours"),
    ("virtio-bindings", "constants of virtio"),
    ("virtio-queue", "virtqueues"),
    ("vm-memory", "guest memory"),
    ("vmm-sys-util", "constants of virtio-queue's tests"),
    ("xxhash-rust", "digests"),
    ("zerocopy", "part of ppv-lite86"),
];

/// What the `clippy.toml` of a pure crate must refuse.
const REFUSED: &[&str] = &[
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "std::thread::spawn",
    "std::thread::sleep",
    "std::env::var",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::fs::File",
    "std::net::TcpStream",
    "std::net::UdpSocket",
];

#[test]
fn dependencies_go_one_way() -> Result<()> {
    let packages = workspace_packages()?;
    let mut findings = Vec::new();
    for (package, allowed) in MAY_DEPEND_ON {
        for needed in packages.workspace_dependencies(package) {
            if !allowed.contains(&needed.as_str()) {
                findings.push(format!("{package} depends on {needed}"));
            }
        }
    }
    let known: BTreeSet<&str> = MAY_DEPEND_ON.iter().map(|(name, _)| *name).collect();
    for name in packages.manifests().keys().filter(|name| name.starts_with("virtft")) {
        if !known.contains(name.as_str()) {
            findings.push(format!("{name} has no entry in MAY_DEPEND_ON"));
        }
    }
    assert_none("dependencies between our crates", &findings);
    Ok(())
}

#[test]
fn pure_crates_link_only_what_is_listed() -> Result<()> {
    let packages = workspace_packages()?;
    let mut findings = Vec::new();
    let mut linked = BTreeSet::new();
    for package in PURE {
        for name in packages.linked_into(package) {
            if !LINKED.iter().any(|(listed, _)| *listed == name) {
                findings.push(format!("{package} links {name}"));
            }
            linked.insert(name);
        }
    }
    let stale = LINKED.iter().filter(|(listed, _)| !linked.contains(*listed));
    findings.extend(stale.map(|(listed, _)| format!("{listed} is listed, but no longer linked")));
    assert_none("what pure crates may link", &findings);
    Ok(())
}

#[test]
fn every_crate_takes_the_workspace_lints() -> Result<()> {
    let mut findings = Vec::new();
    for (name, manifest) in workspace_packages()?.manifests() {
        let manifest: toml::Table = std::fs::read_to_string(manifest)?.parse()?;
        let workspace = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        if workspace.and_then(toml::Value::as_bool) != Some(true) {
            findings.push(name.clone());
        }
    }
    assert_none("a crate without `lints.workspace = true`", &findings);
    Ok(())
}

#[test]
fn pure_crates_refuse_what_is_not_deterministic() -> Result<()> {
    let shared: toml::Table = read("clippy.toml")?.parse()?;
    let packages = workspace_packages()?;
    let mut findings = Vec::new();
    for package in PURE {
        let manifest = packages.manifests().get(*package).with_context(|| format!("no package {package}"))?;
        let Ok(text) = std::fs::read_to_string(manifest.with_file_name("clippy.toml")) else {
            findings.push(format!("{package} has no clippy.toml"));
            continue;
        };
        let own: toml::Table = text.parse()?;
        // The nearest file replaces the root's, so the root's entries must be there too.
        let missing = shared.keys().filter(|key| own.get(*key) != shared.get(*key));
        findings.extend(missing.map(|key| format!("{package}: {key} is not the root's")));
        let refused = refused_paths(&own);
        let missing = REFUSED.iter().filter(|path| !refused.contains(**path));
        findings.extend(missing.map(|path| format!("{package}: {path} is not refused")));
    }
    assert_none("clippy.toml of the pure crates", &findings);
    Ok(())
}

/// Paths in the two lists that come with a reason.
fn refused_paths(table: &toml::Table) -> BTreeSet<&str> {
    let lists = ["disallowed-methods", "disallowed-types"].into_iter().filter_map(|key| table.get(key)?.as_array());
    let entries = lists.flatten().filter(|entry| entry.get("reason").is_some());
    entries.filter_map(|entry| entry.get("path")?.as_str()).collect()
}

#[test]
fn fuzz_targets_are_listed() -> Result<()> {
    // Each workspace of fuzz targets lies beside the crates that it feeds.
    let workspaces: Vec<&str> =
        ["emulator/fuzz", "driver/fuzz"].into_iter().filter(|path| root().join(path).exists()).collect();
    assert!(workspaces.contains(&"emulator/fuzz"), "the emulator's fuzz targets are gone");
    for workspace in workspaces {
        let mut on_disk = BTreeSet::new();
        for entry in std::fs::read_dir(root().join(workspace).join("fuzz_targets"))? {
            on_disk.extend(entry?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
        let manifest: toml::Table = read(&format!("{workspace}/Cargo.toml"))?.parse()?;
        let targets = manifest.get("bin").and_then(toml::Value::as_array).into_iter().flatten();
        let listed: BTreeSet<String> =
            targets.filter_map(|target| Some(target.get("name")?.as_str()?.to_owned())).collect();
        assert!(!listed.is_empty(), "{workspace} lists no target");
        assert_eq!(on_disk, listed, "files in {workspace}/fuzz_targets and [[bin]] entries of its Cargo.toml");
    }
    Ok(())
}
