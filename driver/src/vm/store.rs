//! Definitions on disk: `NAME.xml`, and `autostart/NAME.xml`, a link to it, for those that start with the daemon.
//!
//! A file is replaced by renaming a new one over it, after that is on the medium: whatever happens, there is the old one or
//! the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use virtft_domain::Domain;

use super::HostSurroundings;
use crate::error::DriverError;

/// The largest definition that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The directory of definitions.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
}

/// A definition as it was found.
#[derive(Debug)]
pub struct Loaded {
    /// The domain.
    pub domain: Domain,
    /// It starts with the daemon.
    pub autostart: bool,
}

impl Store {
    /// A store in this directory.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Reads all definitions. Those that cannot be used are logged by name, and left as they are.
    ///
    /// # Errors
    /// When the directory can be neither made nor read.
    pub fn load(&self) -> Result<Vec<Loaded>, DriverError> {
        let links = self.folder.join("autostart");
        fs::create_dir_all(&links).map_err(DriverError::system("cannot make", &links))?;
        let entries = fs::read_dir(&self.folder).map_err(DriverError::system("cannot read", &self.folder))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        let mut loaded = Vec::new();
        for path in paths {
            if path.extension().is_none_or(|extension| extension != "xml") {
                continue;
            }
            match read(&path) {
                Ok(domain) => {
                    let autostart = self.link(&domain.name).symlink_metadata().is_ok();
                    loaded.push(Loaded { domain, autostart });
                }
                Err(reason) => tracing::error!("the definition {} cannot be used: {reason}", path.display()),
            }
        }
        Ok(loaded)
    }

    /// Writes a definition.
    ///
    /// # Errors
    /// When it cannot be written; the old one is then still there.
    pub fn save(&self, domain: &Domain) -> Result<(), DriverError> {
        let path = self.file(&domain.name);
        write_atomically(&path, domain.to_xml(None).as_bytes()).map_err(DriverError::system("cannot write", path))
    }

    /// Removes a definition and its link.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), DriverError> {
        self.set_autostart(name, false)?;
        let path = self.file(name);
        let removed = fs::remove_file(&path).or_else(absent_is_fine).and_then(|()| sync(&self.folder));
        removed.map_err(DriverError::system("cannot remove", path))
    }

    /// Makes or removes the link.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn set_autostart(&self, name: &str, autostart: bool) -> Result<(), DriverError> {
        let link = self.link(name);
        let done = if autostart {
            symlink(self.file(name), &link).or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(error),
            })
        } else {
            fs::remove_file(&link).or_else(absent_is_fine)
        };
        done.map_err(DriverError::system("cannot change", link))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.xml"))
    }

    fn link(&self, name: &str) -> PathBuf {
        self.folder.join("autostart").join(format!("{name}.xml"))
    }
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn read(path: &Path) -> Result<Domain, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Err("it is no file of a definition's size".into());
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let mut domain = Domain::parse(&text).map_err(|error| error.to_string())?;
    domain.complete(&mut HostSurroundings).map_err(|error| error.to_string())?;
    let is_named = path.file_stem().is_some_and(|stem| *stem == *domain.name);
    if is_named { Ok(domain) } else { Err(format!("it defines '{}'; call the file so", domain.name)) }
}

/// Replaces a file, on the medium before it is returned.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    // Not ending in .xml or .json, so that nobody takes what a crash left for a definition.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync(folder)
    };
    write().inspect_err(|_| {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    })
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str) -> Domain {
        let name = name.replace('&', "&amp;");
        let text = format!(
            "<domain type='qemu'><name>{name}</name><memory>65536</memory>\
             <os><type>hvm</type><kernel>/k</kernel></os></domain>"
        );
        let mut domain = Domain::parse(&text).unwrap();
        domain.complete(&mut HostSurroundings).unwrap();
        domain
    }

    #[test]
    fn definitions_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("ft"));
        assert!(store.load().unwrap().is_empty());
        let (a, b) = (domain("a"), domain("b & c"));
        store.save(&a).unwrap();
        store.save(&b).unwrap();
        store.set_autostart("a", true).unwrap();
        store.set_autostart("a", true).unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(loaded.iter().map(|l| (&l.domain, l.autostart)).collect::<Vec<_>>(), [(&a, true), (&b, false)]);
        store.remove("a").unwrap();
        store.remove("a").unwrap();
        assert_eq!(store.load().unwrap().len(), 1);
    }

    #[test]
    fn damaged_files_do_not_hide_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        store.save(&domain("good")).unwrap();
        fs::write(folder.path().join("cut.xml"), "<domain type='qemu'><na").unwrap();
        fs::write(folder.path().join("other.xml"), domain("good").to_xml(None)).unwrap();
        fs::write(folder.path().join("bytes.xml"), [0xff; 10]).unwrap();
        fs::write(folder.path().join("good.xml.new"), "half").unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(loaded.iter().map(|l| l.domain.name.as_str()).collect::<Vec<_>>(), ["good"]);
    }
}
