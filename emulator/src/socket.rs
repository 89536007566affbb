//! Listening unix sockets: made with care for what is at the path already, removed at the end.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The file of a listening socket; removed when dropped, by a thread that may.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Left over, it would only be replaced by the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens at `path`, for this user only, without blocking. A socket that nobody listens at is replaced.
///
/// # Errors
/// The rest of a line that begins with the path: what is wrong and what to do.
pub fn listen(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err("exists and is no socket; remove it or choose another path".to_owned());
        }
        if UnixStream::connect(path).is_ok() {
            return Err("another program listens there; stop it or choose another path".to_owned());
        }
        std::fs::remove_file(path).map_err(|error| format!("is a stale socket that cannot be removed ({error})"))?;
    }
    let failed =
        |error: io::Error| format!("cannot be listened at ({error}); choose a path in a directory that you may write");
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = SocketFile(path.to_owned());
    // What listens here is a console or a wire of the guest.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((listener, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_sockets_are_replaced_and_live_ones_respected() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (_listener, file) = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listen(&path).unwrap_err().contains("another program"));
        drop(file);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(listen(&path).unwrap_err().contains("no socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
