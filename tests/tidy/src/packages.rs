//! The workspace's packages and what they depend on, from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::root;

/// Dependencies as Cargo resolved them, without those of tests and build scripts.
#[derive(Debug)]
pub struct Packages {
    names: BTreeMap<String, String>,
    direct: BTreeMap<String, BTreeSet<String>>,
    macros: BTreeSet<String>,
    manifests: BTreeMap<String, PathBuf>,
}

impl Packages {
    /// Asks Cargo, for the lock file as it is.
    ///
    /// # Errors
    /// When Cargo cannot be run or prints something unexpected.
    pub fn load() -> Result<Self> {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(root())
            .output()
            .context("cannot run cargo")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        Self::from_metadata(&serde_json::from_slice(&output.stdout)?)
    }

    fn from_metadata(metadata: &Value) -> Result<Self> {
        let members: BTreeSet<&str> = array(&metadata["workspace_members"])?.iter().filter_map(Value::as_str).collect();
        let mut packages = Self {
            names: BTreeMap::new(),
            direct: BTreeMap::new(),
            macros: BTreeSet::new(),
            manifests: BTreeMap::new(),
        };
        for package in array(&metadata["packages"])? {
            let (id, name) = (text(&package["id"])?, text(&package["name"])?);
            packages.names.insert(id.clone(), name.clone());
            let is_macro = array(&package["targets"])?
                .iter()
                .any(|target| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == "proc-macro")));
            if is_macro {
                packages.macros.insert(id.clone());
            }
            if members.contains(id.as_str()) {
                packages.manifests.insert(name, text(&package["manifest_path"])?.into());
            }
        }
        for node in array(&metadata["resolve"]["nodes"])? {
            let mut needs = BTreeSet::new();
            for dependency in array(&node["deps"])? {
                if array(&dependency["dep_kinds"])?.iter().any(|kind| kind["kind"].is_null()) {
                    needs.insert(text(&dependency["pkg"])?);
                }
            }
            packages.direct.insert(text(&node["id"])?, needs);
        }
        Ok(packages)
    }

    /// Manifest of each package of the workspace, by name.
    #[must_use]
    pub fn manifests(&self) -> &BTreeMap<String, PathBuf> {
        &self.manifests
    }

    /// Names of the workspace's packages that the named one depends on directly.
    #[must_use]
    pub fn workspace_dependencies(&self, package: &str) -> BTreeSet<String> {
        let direct = self.id_of(package).and_then(|id| self.direct.get(id)).into_iter().flatten();
        direct.filter_map(|id| self.names.get(id)).filter(|name| self.manifests.contains_key(*name)).cloned().collect()
    }

    /// Names of everything linked into the named package: its dependencies, theirs, and so on. Procedural macros run
    /// in the compiler and are left out with all they need.
    #[must_use]
    pub fn linked_into(&self, package: &str) -> BTreeSet<String> {
        let mut todo: Vec<&String> = self.id_of(package).into_iter().collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = todo.pop() {
            for next in self.direct.get(id).into_iter().flatten() {
                if !self.macros.contains(next) && seen.insert(next) {
                    todo.push(next);
                }
            }
        }
        seen.into_iter().filter_map(|id| self.names.get(id)).cloned().collect()
    }

    fn id_of(&self, package: &str) -> Option<&String> {
        // A package of the workspace and one from outside may share a name: the workspace's has a path in its id.
        let mut ids = self.names.iter().filter(|(_, name)| *name == package).map(|(id, _)| id);
        ids.find(|id| id.starts_with("path+"))
    }
}

/// The packages of this workspace, loaded once per test.
///
/// # Errors
/// As [`Packages::load`].
pub fn workspace_packages() -> Result<Packages> {
    Packages::load()
}

fn array(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().context("cargo metadata: an array is missing")
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().context("cargo metadata: a string is missing")?.to_owned())
}
