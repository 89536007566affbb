//! The ft element: what a user wants of a domain's fault tolerance.
//!
//! It is in exactly one place, `<metadata><ft:fault-tolerance xmlns:ft='urn:virtft:domain:1.0'>`, so that stock tools keep it. Its schema is
//! `xml-schemas/fault-tolerance.rng`, its description for users `docs/ft-element.md`. Everything in it is taken or refused by name.

use crate::choice::choice;
use crate::domain::Domain;
use crate::error::DomainXmlError;
use crate::xml::{Element, parse};

/// Namespace of the element.
pub const FT_NAMESPACE: &str = "urn:virtft:domain:1.0";
const ELEMENT: &str = "fault-tolerance";
/// Detection timeouts and target lags that make sense, in milliseconds.
const MILLISECONDS: std::ops::RangeInclusive<u32> = 100..=60_000;

choice! {
    /// How the machine is repeated elsewhere.
    Mode {
        /// Its inputs are logged and replayed.
        Replay = "replay",
        /// Not at all: the element is kept for later.
        Off = "off",
    }
}

choice! {
    /// Where the disks are.
    DiskPolicy {
        /// Each host has its own copy, at the same path.
        Replicated = "replicated",
        /// Hosts reach the same images.
        Shared = "shared",
    }
}

choice! {
    /// What happens when the backup is lost.
    OnBackupLost {
        /// The machine goes on unprotected.
        Continue = "continue",
        /// It stands still until it is protected again.
        Pause = "pause",
    }
}

/// Who decides which host may go on alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arbiter {
    /// A directory that all hosts reach.
    Directory(String),
}

/// What keeps a lost host from shared disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fence {
    /// Only the lock on the images.
    None,
    /// A program with the interface of fence-agents.
    Agent {
        /// The program.
        path: String,
        /// File with its options.
        options: Option<String>,
    },
}

/// See the module's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultTolerance {
    /// How.
    pub mode: Mode,
    /// URIs of the drivers that may keep the backup: the peer, then the spares. That of the host itself may be among them.
    pub hosts: Vec<String>,
    /// Who decides.
    pub arbiter: Arbiter,
    /// Where the disks are.
    pub disks: DiskPolicy,
    /// How shared ones are kept to one host.
    pub fence: Fence,
    /// What happens without a backup.
    pub on_backup_lost: OnBackupLost,
    /// Milliseconds of silence after which a peer is taken for dead.
    pub timeout_ms: Option<u32>,
    /// Milliseconds that a backup may be behind before the machine is slowed.
    pub lag_ms: Option<u32>,
}

impl FaultTolerance {
    /// The element of a domain, if it has one.
    ///
    /// # Errors
    /// When something in it is unknown, contradictory or missing.
    pub fn of(domain: &Domain) -> Result<Option<Self>, DomainXmlError> {
        domain.metadata.get(FT_NAMESPACE).map(|text| Self::parse(&text)).transpose()
    }

    /// Reads the element, without its namespace.
    ///
    /// # Errors
    /// As [`FaultTolerance::of`].
    pub fn parse(text: &str) -> Result<Self, DomainXmlError> {
        parse(text, ELEMENT, Self::read)
    }

    fn read(element: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        let mode = match element.attribute("mode") {
            None => Mode::Replay,
            Some(word) => {
                Mode::parse(word).ok_or_else(|| element.unsupported_value("mode", word, "write replay, or off"))?
            }
        };
        let mut hosts = Vec::new();
        for mut host in element.child("peer")?.into_iter().chain(element.children("spare")) {
            let uri = host.required("uri")?;
            check_uri(uri).map_err(|reason| host.invalid(reason))?;
            if hosts.iter().any(|other| other == uri) {
                return Err(host.invalid(format!("the host {uri} is named twice")));
            }
            hosts.push(uri.to_owned());
            host.finish()?;
        }
        if mode == Mode::Replay && hosts.is_empty() {
            return Err(
                element.invalid(format!("<{ELEMENT}> lacks <peer uri='...'/>, the driver of the host for the backup"))
            );
        }
        let arbiter = element.child("arbiter")?;
        let missing = || element.invalid(format!("<{ELEMENT}> lacks <arbiter>, which decides who may go on alone"));
        let arbiter = read_arbiter(arbiter.ok_or_else(missing)?)?;
        let (disks, fence) = match element.child("disks")? {
            None => (DiskPolicy::Replicated, Fence::None),
            Some(disks) => read_disks(disks)?,
        };
        let on_backup_lost = match element.child("on-backup-lost")? {
            None => OnBackupLost::Continue,
            Some(mut child) => {
                let word = child.required("action")?;
                let action = OnBackupLost::parse(word);
                let action =
                    action.ok_or_else(|| child.unsupported_value("action", word, "write continue or pause"))?;
                child.finish()?;
                action
            }
        };
        let timeout_ms = milliseconds(element, "detection", "timeout")?;
        let lag_ms = milliseconds(element, "lag", "target")?;
        Ok(Self { mode, hosts, arbiter, disks, fence, on_backup_lost, timeout_ms, lag_ms })
    }
}

fn read_arbiter(mut arbiter: Element<'_>) -> Result<Arbiter, DomainXmlError> {
    let read = match arbiter.required("type")? {
        "dir" => {
            let path = arbiter.required("path")?;
            if !path.starts_with('/') {
                return Err(arbiter.invalid(format!("path='{path}' of <arbiter> must begin with a slash")));
            }
            Arbiter::Directory(path.to_owned())
        }
        other => {
            return Err(arbiter.unsupported_value("type", other, "only a directory can be the arbiter: write dir"));
        }
    };
    arbiter.finish()?;
    Ok(read)
}

fn read_disks(mut disks: Element<'_>) -> Result<(DiskPolicy, Fence), DomainXmlError> {
    let word = disks.required("policy")?;
    let policy =
        DiskPolicy::parse(word).ok_or_else(|| disks.unsupported_value("policy", word, "write replicated or shared"))?;
    let fence = match disks.child("fence")? {
        None if policy == DiskPolicy::Shared => {
            let reason = "<disks policy='shared'> lacks <fence>: name an agent that cuts the lost host off, or write <fence type='none'/>";
            return Err(disks.invalid(reason));
        }
        None => Fence::None,
        Some(fence) if policy == DiskPolicy::Replicated => {
            return Err(fence.invalid("<fence> is for shared disks: a lost host cannot reach the copies of another"));
        }
        Some(fence) => read_fence(fence)?,
    };
    disks.finish()?;
    Ok((policy, fence))
}

fn read_fence(mut fence: Element<'_>) -> Result<Fence, DomainXmlError> {
    let read = match fence.required("type")? {
        "none" => Fence::None,
        "agent" => {
            let path = fence.required("path")?;
            if !path.starts_with('/') {
                return Err(fence.invalid(format!("path='{path}' of <fence> must begin with a slash")));
            }
            Fence::Agent { path: path.to_owned(), options: fence.attribute("options").map(str::to_owned) }
        }
        other => return Err(fence.unsupported_value("type", other, "write agent or none")),
    };
    fence.finish()?;
    Ok(read)
}

fn milliseconds(element: &mut Element<'_>, child: &str, attribute: &str) -> Result<Option<u32>, DomainXmlError> {
    let Some(mut child) = element.child(child)? else { return Ok(None) };
    let value = child.number::<u32>(attribute)?;
    let name = child.name();
    let value = value.ok_or_else(|| child.invalid(format!("<{name}> lacks the attribute '{attribute}'")))?;
    if !MILLISECONDS.contains(&value) {
        return Err(child.invalid(format!("{attribute}='{value}' of <{name}>: write milliseconds from 100 to 60000")));
    }
    child.finish()?;
    Ok(Some(value))
}

/// What a driver's URI may be; the daemon connects to it.
fn check_uri(uri: &str) -> Result<(), String> {
    let known = ["ft+tls://", "ft+unix://", "ft:///"].iter().any(|scheme| uri.starts_with(scheme));
    if known && (uri.contains("/system") || uri.contains("/session")) {
        return Ok(());
    }
    Err(format!("'{uri}' is no driver's URI: write ft+tls://HOST/system"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = include_str!("../../../xml-schemas/examples/full.xml");
    const SMALL: &str = include_str!("../../../xml-schemas/examples/small.xml");

    fn read(text: &str) -> Result<FaultTolerance, DomainXmlError> {
        let mut metadata = crate::Metadata::default();
        metadata.set(FT_NAMESPACE, "ft", Some(text))?;
        FaultTolerance::parse(&metadata.get(FT_NAMESPACE).unwrap())
    }

    #[test]
    fn the_examples_mean_what_they_say() {
        let full = read(FULL).unwrap();
        assert_eq!(full.hosts, ["ft+tls://hostb/system", "ft+tls://hostc/system", "ft+tls://hosta/system"]);
        assert_eq!(full.arbiter, Arbiter::Directory("/shared/ft".into()));
        let agent = Fence::Agent { path: "/usr/sbin/fence_ipmilan".into(), options: Some("/etc/virtft/fence".into()) };
        assert_eq!((full.disks, full.fence), (DiskPolicy::Shared, agent));
        assert_eq!((full.timeout_ms, full.lag_ms, full.on_backup_lost), (Some(300), Some(100), OnBackupLost::Pause));
        let small = read(SMALL).unwrap();
        assert_eq!(small.hosts, ["ft+tls://hostb/system"]);
        assert_eq!(small.arbiter, Arbiter::Directory("/shared/ft".into()));
        assert_eq!((small.mode, small.disks, small.timeout_ms), (Mode::Replay, DiskPolicy::Replicated, None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let peer = "<peer uri='ft+tls://b/system'/>";
        let dir = "<arbiter type='dir' path='/x'/>";
        for (inside, word) in [
            (dir.to_owned(), "lacks <peer"),
            (peer.to_owned(), "lacks <arbiter>"),
            (format!("{peer}{dir}<colour/>"), "<colour>"),
            (format!("{peer}<arbiter type='oracle'/>"), "'oracle'"),
            (format!("{peer}<arbiter type='dir' path='x'/>"), "slash"),
            (format!("{peer}<arbiter type='etcd'/>"), "'etcd'"),
            (format!("<peer uri='qemu:///system'/>{dir}"), "ft+tls://HOST/system"),
            (format!("{peer}<spare uri='ft+tls://b/system'/>{dir}"), "twice"),
            (format!("{peer}{dir}<disks policy='shared'/>"), "<fence>"),
            (format!("{peer}{dir}<disks policy='replicated'><fence type='none'/></disks>"), "shared disks"),
            (format!("{peer}{dir}<disks policy='shared'><fence type='agent'/></disks>"), "'path'"),
            (format!("{peer}{dir}<detection timeout='5'/>"), "100 to 60000"),
            (format!("{peer}{dir}<lag/>"), "'target'"),
            (format!("{peer}{dir}<on-backup-lost action='panic'/>"), "continue or pause"),
            (format!("{peer}{dir}<lag target='100' colour='red'/>"), "'colour'"),
        ] {
            let text = format!("<fault-tolerance>{inside}</fault-tolerance>");
            let said = read(&text).expect_err(&text).to_string();
            assert!(said.contains(word), "{text}: {said}");
        }
        assert!(read("<fault-tolerance mode='lockstep'/>").unwrap_err().to_string().contains("'lockstep'"));
        assert!(read("<protection/>").is_err());
    }
}
