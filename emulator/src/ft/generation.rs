//! Which life of a VM a disk copy belongs to: a small file beside each image.
//!
//! With replicated disks, two copies exist, and after a failover one of them is outdated. A protected VM that starts must not start
//! from that one: the mark beside the image is compared with what the arbiter knows. A backup's copy lags behind what its primary's
//! clients have seen, so it starts only by force, too.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::arbiter::Directory;
use crate::cli::DiskPolicy;

/// What a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Copy {
    /// The VM ran from it in this life.
    Primary,
    /// It follows a primary's.
    Replica,
    /// It is being overwritten by a primary's content.
    Incomplete,
}

/// The content of a mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Name of the VM.
    pub vm: String,
    /// Incarnation of the VM.
    pub incarnation: u64,
    /// Epoch.
    pub epoch: u64,
    /// What the copy is.
    pub copy: Copy,
}

/// The images that can be written.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    images: Vec<PathBuf>,
}

fn place(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".virtft");
    name.into()
}

impl Marks {
    /// Marks for these images.
    #[must_use]
    pub fn of(images: Vec<PathBuf>) -> Self {
        Self { images }
    }

    /// Marks for these images under a policy: there is only one copy of a shared image, which the lock on it guards.
    #[must_use]
    pub fn under(policy: DiskPolicy, images: Vec<PathBuf>) -> Self {
        match policy {
            DiskPolicy::Replicated => Self::of(images),
            DiskPolicy::Shared => Self::default(),
        }
    }

    /// Whether every image has been some VM's copy before.
    #[must_use]
    pub fn are_there(&self) -> bool {
        !self.images.is_empty() && self.images.iter().all(|image| place(image).exists())
    }

    /// Checks that every image is the newest copy that the arbiter knows of.
    ///
    /// # Errors
    /// One line that names the image and says what to do.
    pub fn check(&self, vm: &str, arbiter: &Directory) -> Result<(), String> {
        let Some((incarnation, epoch)) = arbiter.latest(vm)? else { return Ok(()) };
        for image in &self.images {
            let refuse = |what: String| {
                Err(format!(
                    "{}: {what}; start '{vm}' where its newest copy is, or add force-disks to --ft to run from this one all the same",
                    image.display()
                ))
            };
            let mark = match read(image) {
                Ok(Some(mark)) => mark,
                Ok(None) => {
                    return refuse(format!(
                        "nothing says which life of '{vm}' this copy is from, and '{vm}' has run before"
                    ));
                }
                Err(error) => return refuse(format!("its mark {} cannot be read ({error})", place(image).display())),
            };
            if mark.vm != vm {
                return refuse(format!("it belongs to the VM '{}'", mark.vm));
            }
            if (mark.incarnation, mark.epoch) < (incarnation, epoch) {
                return refuse(format!(
                    "this copy is outdated: it is from incarnation {}, epoch {}, and the VM has since come to {incarnation}, {epoch}",
                    mark.incarnation, mark.epoch
                ));
            }
            match mark.copy {
                Copy::Primary => {}
                Copy::Replica => return refuse("this is the copy of a backup, which was behind its primary".into()),
                Copy::Incomplete => return refuse("this copy was not complete when its primary was lost".into()),
            }
        }
        Ok(())
    }

    /// Marks every image, durably.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn set(&self, vm: &str, incarnation: u64, epoch: u64, copy: Copy) -> Result<(), String> {
        let mark = Mark { vm: vm.into(), incarnation, epoch, copy };
        for image in &self.images {
            write(&place(image), &mark).map_err(|error| {
                format!("{}: it cannot be written ({error}); it marks the copy beside it", place(image).display())
            })?;
        }
        Ok(())
    }
}

fn read(image: &Path) -> io::Result<Option<Mark>> {
    match fs::read(place(image)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The old mark or the new one is there after a crash, never half of one.
fn write(path: &Path, mark: &Mark) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(mark).map_err(io::Error::other)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use virtft_ft::EpochKey;

    use super::super::arbiter::ArbiterOption;
    use super::*;

    #[test]
    fn only_the_newest_copy_may_start() {
        let folder = tempfile::tempdir().unwrap();
        let arbiter = Directory::new(&ArbiterOption(folder.path().to_owned()), [1; 16]);
        let other = Directory::new(&ArbiterOption(folder.path().to_owned()), [2; 16]);
        let copies = ["a.raw", "b.raw"].map(|name| Marks::of(vec![folder.path().join(name)]));
        let [a, b] = &copies;
        assert_eq!(a.check("web", &arbiter), Ok(()), "a VM that never ran may start from anything");
        assert_eq!(arbiter.begin("web"), Ok(1));
        a.set("web", 1, 1, Copy::Primary).unwrap();
        b.set("web", 1, 1, Copy::Replica).unwrap();
        // Both hosts were lost at once.
        assert_eq!(a.check("web", &arbiter), Ok(()));
        assert!(b.check("web", &arbiter).unwrap_err().contains("copy of a backup"));
        // The backup had taken over.
        let key = EpochKey { vm: "web".into(), incarnation: 1, epoch: 1 };
        assert_eq!(other.test_and_set(&key), virtft_ft::Answer::Won);
        b.set("web", 1, 2, Copy::Primary).unwrap();
        let error = a.check("web", &arbiter).unwrap_err();
        assert!(error.contains("outdated") && error.contains("a.raw") && error.contains("force-disks"), "{error}");
        assert_eq!(b.check("web", &arbiter), Ok(()));
        // A copy without a mark, one of another VM, a damaged mark.
        let fresh = Marks::of(vec![folder.path().join("c.raw")]);
        assert!(fresh.check("web", &arbiter).unwrap_err().contains("nothing says"));
        fresh.set("mail", 9, 9, Copy::Primary).unwrap();
        assert!(fresh.check("web", &arbiter).unwrap_err().contains("'mail'"));
        fs::write(folder.path().join("c.raw.virtft"), b"{").unwrap();
        assert!(fresh.check("web", &arbiter).unwrap_err().contains("cannot be read"));
    }
}
