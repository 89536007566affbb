//! Why a domain is not protected, or not as well as it could be: names for programs, sentences for people.

use virtft_domain::{Domain, FaultTolerance, Fence, InterfaceSource, Mode};

use super::Protection;

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Its name, which never changes: `peer-unreachable` and so on.
    pub name: &'static str,
    /// One sentence.
    pub text: String,
}

impl Issue {
    /// A reason.
    #[must_use]
    pub fn new(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, text: text.into() }
    }
}

/// Where protection stands, in one word.
#[must_use]
pub fn state(wanted: Option<&FaultTolerance>, protection: &Protection) -> &'static str {
    let status = protection.status.as_ref();
    match (protection.backup.is_some(), status.map(|status| (status.role.as_str(), status.state.as_str()))) {
        (true, Some((_, "protecting"))) => "protecting",
        (true, Some((_, "waiting for the arbiter"))) => "deciding",
        (true, _) => "preparing",
        (false, Some(("primary", "protected"))) => "protected",
        (false, Some(("primary", "waiting for the arbiter"))) => "deciding",
        (false, Some(("primary", "handing over"))) => "switching",
        (false, Some(("primary", _))) => "transferring",
        (false, _) if wanted.is_some_and(|wanted| wanted.mode == Mode::Replay) => "unprotected",
        (false, _) => "not-wanted",
    }
}

/// Everything that an operator should know.
#[must_use]
pub fn all(domain: &Domain, wanted: Option<&FaultTolerance>, protection: &Protection) -> Vec<Issue> {
    let Some(wanted) = wanted.filter(|wanted| wanted.mode == Mode::Replay) else { return Vec::new() };
    let mut issues = Vec::new();
    let is_protected = protection.status.as_ref().is_some_and(super::control::Status::is_protected);
    if protection.backup.is_none() && !is_protected {
        let waiting = || Issue::new("no-backup", "a backup is being made");
        issues.push(protection.issue.clone().unwrap_or_else(waiting));
    }
    for interface in &domain.devices.interfaces {
        if matches!(interface.source, InterfaceSource::User { .. } | InterfaceSource::Network { .. }) {
            let mac = interface.mac.map_or_else(|| "without an address".into(), |mac| mac.to_string());
            issues.push(Issue::new(
                "network-not-shared",
                format!("the network card {mac} is on a network of this host alone: its connections end with the host"),
            ));
        }
    }
    if wanted.disks == virtft_domain::DiskPolicy::Shared && wanted.fence == Fence::None {
        issues.push(Issue::new("fence-none", "only the locks on the images keep a lost host from the shared disks"));
    }
    issues
}
