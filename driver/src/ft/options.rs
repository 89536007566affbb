//! What a domain's ft element means on the emulator's command line.

use std::path::Path;

use virtft_domain::{Arbiter, DiskPolicy, FaultTolerance, Fence, OnBackupLost};

/// The text of `--ft`; `pki` is the folder with this host's certificates, when it is not where libvirt has it.
#[must_use]
pub fn text(wanted: &FaultTolerance, pki: Option<&Path>) -> String {
    let Arbiter::Directory(directory) = &wanted.arbiter;
    let mut options = vec![format!("arbiter=dir:{}", escaped(directory))];
    if wanted.disks == DiskPolicy::Shared {
        options.push("disks=shared".into());
        match &wanted.fence {
            Fence::None => options.push("fence=none".into()),
            Fence::Agent { path, options: file } => {
                options.push(format!("fence=exec:{}", escaped(path)));
                options.extend(file.as_ref().map(|file| format!("fence-options={}", escaped(file))));
            }
        }
    }
    if wanted.on_backup_lost == OnBackupLost::Pause {
        options.push("on-backup-lost=pause".into());
    }
    options.extend(wanted.timeout_ms.map(|value| format!("timeout={value}")));
    options.extend(wanted.lag_ms.map(|value| format!("lag={value}")));
    options.extend(pki.map(|folder| format!("pki={}", escaped(&folder.display().to_string()))));
    options.join(",")
}

/// A comma within a value is written twice.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_become_options() {
        let read = |inside: &str| {
            let text = format!("<fault-tolerance><peer uri='ft+tls://b/system'/>{inside}</fault-tolerance>");
            text_of(&FaultTolerance::parse(&text).unwrap())
        };
        let text_of_dir = read("<arbiter type='dir' path='/a,b'/>");
        assert_eq!(text_of_dir, "arbiter=dir:/a,,b,pki=/p");
        let full = read(
            "<arbiter type='dir' path='/x'/>\
             <disks policy='shared'><fence type='agent' path='/f' options='/o'/></disks>\
             <on-backup-lost action='pause'/><detection timeout='300'/><lag target='100'/>",
        );
        let expected = "arbiter=dir:/x,disks=shared,fence=exec:/f,fence-options=/o,on-backup-lost=pause,\
                        timeout=300,lag=100,pki=/p";
        assert_eq!(full, expected);
    }

    fn text_of(wanted: &FaultTolerance) -> String {
        text(wanted, Some(Path::new("/p")))
    }
}
