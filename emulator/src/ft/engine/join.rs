//! How a VM becomes one that can be protected: its arbiter is named, and it begins a new incarnation there.

use std::path::Path;
use std::sync::Arc;

use super::super::arbiter::{ArbiterThread, Directory};
use super::super::generation::{Copy, Marks};
use super::super::transport::Security;
use super::super::url::PeerUrl;
use super::{Engine, Membership, Protection};
use crate::cli::{DiskPolicy, FtOption};

impl Engine {
    /// Before a backup is made at `peer`: the options that a client sent with its wish. A VM that has an arbiter keeps it.
    pub(super) fn join(&mut self, options: Option<&str>, peer: &PeerUrl) -> Result<(), String> {
        let option = options.map(str::parse::<FtOption>).transpose().map_err(|error| error.to_string())?;
        let pki = option.as_ref().and_then(|option| option.pki.clone());
        match (&mut self.parts.membership, option) {
            (None, None) => {
                Err("the VM was started without --ft: name an arbiter, as in ft=arbiter=dir:/shared/ft".into())
            }
            (Some(member), None) => member.need_certificates(peer, None),
            (Some(member), Some(option)) => {
                if member.option != option.arbiter {
                    return Err("the VM has another arbiter; it keeps it for as long as it runs".into());
                }
                member.need_certificates(peer, pki.as_deref())?;
                if self.parts.protection.disks != option.disks {
                    return Err(
                        "the VM's disks are marked for another policy; it keeps disks= for as long as it runs".into()
                    );
                }
                self.parts.protection = Protection::of(&option);
                Ok(())
            }
            (None, Some(option)) => self.begin_incarnation(&option, peer),
        }
    }

    fn begin_incarnation(&mut self, option: &FtOption, peer: &PeerUrl) -> Result<(), String> {
        let needs_tls = peer.tls || option.spares.iter().any(|spare| spare.tls);
        let security = if needs_tls { Some(Security::load(option.pki.as_deref())?) } else { None };
        let directory = Directory::new(&option.arbiter, self.parts.token);
        if option.disks == DiskPolicy::Shared {
            self.parts.marks = Marks::default();
        }
        self.parts.incarnation = begin(&self.parts.vm, &self.parts.marks, &directory, option.force_disks)?;
        let waker = Arc::clone(&self.parts.link);
        let arbiter = ArbiterThread::start(directory, move || waker.wake())
            .map_err(|error| format!("the arbiter's thread cannot be started ({error})"))?;
        self.parts.membership = Some(Membership { option: option.arbiter.clone(), arbiter, security });
        self.parts.protection = Protection::of(option);
        Ok(())
    }
}

impl Membership {
    /// A process that was started without a peer under TLS has read no certificates yet.
    fn need_certificates(&mut self, peer: &PeerUrl, pki: Option<&Path>) -> Result<(), String> {
        if peer.tls && self.security.is_none() {
            self.security = Some(Security::load(pki)?);
        }
        Ok(())
    }
}

/// A VM begins a new incarnation from these images, and marks them so.
///
/// # Errors
/// One line when an image is not the newest copy, or the arbiter does not answer.
pub(crate) fn begin(vm: &str, marks: &Marks, directory: &Directory, force_disks: bool) -> Result<u64, String> {
    if force_disks {
        tracing::warn!("{vm}: the disks are used as they are, by force");
    } else {
        marks.check(vm, directory)?;
    }
    directory.close_last(vm)?;
    let incarnation = directory.begin(vm)?;
    marks.set(vm, incarnation, 1, Copy::Primary)?;
    Ok(incarnation)
}
