//! What the rules under `tests/rules` look at: the repository's files and Cargo's view of the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

mod packages;

pub use packages::{Packages, workspace_packages};

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    // Cargo tells a test where its package is; what was there at compile time may be another work tree by now.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    // tests/tidy is two levels below the root.
    Path::new(&package).ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default()
}

/// A file under version control, or about to be.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Relative to the root, with `/`.
    pub path: String,
    /// Its text; `None` for files that are not UTF-8.
    pub text: Option<String>,
}

impl SourceFile {
    /// True when the name ends in `.extension`.
    #[must_use]
    pub fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found == extension)
    }

    /// Lines, without an in-file `mod tests`.
    #[must_use]
    pub fn lines_without_tests(&self) -> usize {
        let text = self.text.as_deref().unwrap_or_default();
        text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().count()
    }
}

/// All files that git knows or would add, in order.
///
/// # Errors
/// When git cannot be run here.
pub fn files() -> Result<Vec<SourceFile>> {
    let listing = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("cannot run git")?;
    ensure!(listing.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listing.stderr));
    let names = String::from_utf8(listing.stdout)?;
    let mut files: Vec<SourceFile> = names
        .lines()
        .filter_map(|name| {
            let bytes = std::fs::read(root().join(name)).ok()?;
            Some(SourceFile { path: name.to_owned(), text: String::from_utf8(bytes).ok() })
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    Ok(files)
}

/// The text of one file.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| format!("cannot read {path}"))
}
