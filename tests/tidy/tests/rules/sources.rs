//! Rules for source files: size, file docs, nothing of the machine they were written on.

use anyhow::Result;
use tidy::{SourceFile, files, root};

use super::assert_none;

/// Lines, in-file tests aside, that a file may have without anyone asking.
const USUAL_LINES: usize = 500;
/// Lines above which a file must be cut.
const MOST_LINES: usize = 800;

/// Files that may be longer, and why.
const TABLES: &[(&str, &str)] = &[("Cargo.lock", "generated")];

fn is_source(file: &SourceFile) -> bool {
    ["rs", "py", "c", "h", "sh"].iter().any(|extension| file.has_extension(extension)) || is_script(file)
}

fn is_script(file: &SourceFile) -> bool {
    file.text.as_deref().is_some_and(|text| text.starts_with("#!"))
}

#[test]
fn files_are_short() -> Result<()> {
    let mut findings = Vec::new();
    for file in files()?.iter().filter(|file| is_source(file)) {
        if TABLES.iter().any(|(path, _)| *path == file.path) {
            continue;
        }
        let lines = file.lines_without_tests();
        if lines > MOST_LINES {
            findings.push(format!("{}: {lines} lines; cut it, or list it as a table", file.path));
        } else if lines > USUAL_LINES {
            println!("warning: {}: {lines} lines", file.path);
        }
    }
    assert_none("a file has at most 800 lines without tests", &findings);
    Ok(())
}

#[test]
fn exempt_files_exist() {
    let findings: Vec<String> =
        TABLES.iter().filter(|(path, _)| !root().join(path).exists()).map(|(path, _)| (*path).to_owned()).collect();
    assert_none("a listed exception must exist", &findings);
}

#[test]
fn rust_files_open_with_a_doc() -> Result<()> {
    let findings: Vec<String> = files()?
        .iter()
        .filter(|file| file.has_extension("rs"))
        .filter(|file| !file.text.as_deref().unwrap_or_default().starts_with("//!"))
        .map(|file| file.path.clone())
        .collect();
    assert_none("a Rust file opens with `//!`", &findings);
    Ok(())
}

#[test]
fn nothing_of_a_private_machine() -> Result<()> {
    // Assembled, so that this file does not find itself.
    let private = ["work", "home", "Users", "tmp/target"].map(|name| format!("/{name}/"));
    let mut findings = Vec::new();
    for file in files()? {
        for (number, line) in file.text.as_deref().unwrap_or_default().lines().enumerate() {
            if private.iter().any(|path| mentions_path(line, path)) {
                findings.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    assert_none("no absolute path of somebody's machine", &findings);
    Ok(())
}

/// True when the path begins in the line, rather than being the tail of a longer or relative one.
fn mentions_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !(c.is_alphanumeric() || "._-$}*".contains(c)))
    })
}

#[test]
fn scripts_can_be_started() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut findings = Vec::new();
    for file in files()?.iter().filter(|file| is_script(file)) {
        let mode = std::fs::metadata(root().join(&file.path))?.permissions().mode();
        // A guest's init gets its mode when the initramfs is made.
        if mode & 0o111 == 0 && !file.path.ends_with("-init") {
            findings.push(file.path.clone());
        }
    }
    assert_none("a file with `#!` is executable", &findings);
    Ok(())
}

#[test]
fn path_finder_tells_private_from_relative() {
    assert!(mentions_path("see /somewhere/x", "/somewhere/"));
    assert!(mentions_path("\"/somewhere/x\"", "/somewhere/"));
    assert!(!mentions_path("target/somewhere/x", "/somewhere/"));
    assert!(!mentions_path("${root}/somewhere/x", "/somewhere/"));
}
