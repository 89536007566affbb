//! Opens an image and the chain of its backing files.
//!
//! Every file is opened by this module, locked (see [`lock`](super::lock)) and checked (see
//! [`header`](super::header)) before the image library sees it, and the library is forbidden to open files by
//! itself. So a name inside an image reaches only what is listed here: plain paths, read-only.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use imago::file::File as ImageFile;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, StorageOpenOptions};

use super::error::DiskError;
use super::header::{self, Qcow2Header};
use super::lock::{Access, LockFailure, lock_image};
use crate::cli::{DiskOption, ImageFormat};

/// The longest chain of backing files.
const MAX_CHAIN: usize = 64;

/// An opened image, ready for requests.
pub type Image = FormatAccess<ImageFile>;

/// One file of the chain, locked and checked.
struct Layer {
    path: PathBuf,
    file: File,
    format: ImageFormat,
    header: Option<Qcow2Header>,
}

/// Opens the image of `option` with all its backing files.
///
/// # Errors
/// See [`DiskError`]; nothing was changed then.
pub fn open_image(option: &DiskOption) -> Result<Image, DiskError> {
    open_layers(option, open_chain(option, true)?)
}

/// Opens the image of `option` to be looked at, while another host may be writing it: no lock is taken, and nothing may be read from it but
/// its size.
///
/// # Errors
/// See [`DiskError`].
pub fn look_at_image(option: &DiskOption) -> Result<Image, DiskError> {
    let option = DiskOption { readonly: true, ..option.clone() };
    open_layers(&option, open_chain(&option, false)?)
}

fn open_layers(option: &DiskOption, chain: Vec<Layer>) -> Result<Image, DiskError> {
    let mut below: Option<Image> = None;
    for (depth, layer) in chain.into_iter().enumerate().rev() {
        let writable = depth == 0 && !option.readonly;
        below = Some(open_layer(layer, writable, below)?);
    }
    let image = below.ok_or_else(|| DiskError::TooDeep { path: option.file.clone(), limit: 0 })?;
    match image.size() {
        size if size == 0 || size % 512 != 0 => Err(DiskError::Size { path: option.file.clone(), size }),
        _ => Ok(image),
    }
}

fn open_chain(option: &DiskOption, with_locks: bool) -> Result<Vec<Layer>, DiskError> {
    let mut chain: Vec<Layer> = Vec::new();
    let mut seen: Vec<(u64, u64)> = Vec::new();
    let access = if option.readonly { Access::Read } else { Access::Write };
    let file = open_file(&option.file, access).map_err(|error| describe_open(&option.file, access, &error))?;
    let mut next = Some((option.file.clone(), file, option.format));
    while let Some((path, file, given_format)) = next.take() {
        if chain.len() >= MAX_CHAIN {
            return Err(DiskError::TooDeep { path: option.file.clone(), limit: MAX_CHAIN });
        }
        let identity = identity(&path, &file)?;
        if seen.contains(&identity) {
            return Err(DiskError::Loop { path: option.file.clone(), backing: path });
        }
        seen.push(identity);
        if with_locks {
            lock(&path, &file, if chain.is_empty() { access } else { Access::Read })?;
        }
        let layer = check_layer(path, file, given_format)?;
        next = open_backing(&layer)?;
        chain.push(layer);
    }
    Ok(chain)
}

fn open_file(path: &Path, access: Access) -> io::Result<File> {
    let file = File::options().read(true).write(access == Access::Write).open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    Ok(file)
}

fn describe_open(path: &Path, access: Access, error: &io::Error) -> DiskError {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file; make one with 'qemu-img create'".to_owned(),
        io::ErrorKind::PermissionDenied if access == Access::Write => {
            "no permission to write it; change its mode or owner, or use readonly=on".to_owned()
        }
        io::ErrorKind::ReadOnlyFilesystem => "its file system is read-only; use readonly=on".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory; name an image file".to_owned(),
        _ => format!("it cannot be opened ({error})"),
    };
    DiskError::Open { path: path.to_owned(), reason }
}

fn identity(path: &Path, file: &File) -> Result<(u64, u64), DiskError> {
    let metadata = file.metadata().map_err(|error| describe_open(path, Access::Read, &error))?;
    Ok((metadata.dev(), metadata.ino()))
}

fn lock(path: &Path, file: &File, access: Access) -> Result<(), DiskError> {
    lock_image(file, access).map_err(|failure| match failure {
        LockFailure::InUse => DiskError::InUse { path: path.to_owned() },
        LockFailure::Os(source) => DiskError::Lock { path: path.to_owned(), source },
    })
}

fn check_layer(path: PathBuf, file: File, given_format: Option<ImageFormat>) -> Result<Layer, DiskError> {
    let format = match given_format {
        Some(format) => format,
        None => probe(&path, &file)?,
    };
    let header = match format {
        ImageFormat::Raw => None,
        ImageFormat::Qcow2 => {
            Some(header::check(&file).map_err(|reason| DiskError::Qcow2 { path: path.clone(), reason })?)
        }
    };
    Ok(Layer { path, file, format, header })
}

/// Tells qcow2 from raw by the first bytes; only for images whose format nobody named.
fn probe(path: &Path, file: &File) -> Result<ImageFormat, DiskError> {
    let mut magic = [0; 4];
    let got = header::read_up_to(file, &mut magic, 0).map_err(|error| describe_open(path, Access::Read, &error))?;
    if got == 4 && magic == header::MAGIC {
        return Ok(ImageFormat::Qcow2);
    }
    tracing::warn!(
        "disk image {}: no format given, taken as raw; give format=raw, or the guest could turn it into another \
         format by writing its first sector",
        path.display()
    );
    Ok(ImageFormat::Raw)
}

type Backing = (PathBuf, File, Option<ImageFormat>);

fn open_backing(layer: &Layer) -> Result<Option<Backing>, DiskError> {
    let Some(header) = &layer.header else { return Ok(None) };
    let Some(name) = &header.backing_file else { return Ok(None) };
    let plain = name.strip_prefix("file:").unwrap_or(name);
    if plain.starts_with("json:") || plain.contains("://") {
        let reason = format!("its backing file '{name}' is no plain path; use a local file with 'qemu-img rebase'");
        return Err(DiskError::Qcow2 { path: layer.path.clone(), reason });
    }
    let format = match header.backing_format.as_deref() {
        // QEMU writes these two for host block devices and old images.
        Some("file" | "host_device") => Some(ImageFormat::Raw),
        Some(format) => Some(format.parse().map_err(|source| DiskError::Format { path: layer.path.clone(), source })?),
        None => None,
    };
    let directory = layer.path.parent().unwrap_or(Path::new(""));
    let backing = directory.join(plain);
    let file = open_file(&backing, Access::Read).map_err(|source| DiskError::Backing {
        path: layer.path.clone(),
        backing: backing.clone(),
        source,
    })?;
    Ok(Some((backing, file, format)))
}

fn open_layer(layer: Layer, writable: bool, below: Option<Image>) -> Result<Image, DiskError> {
    let Layer { path, file, format, .. } = layer;
    let failed = |error: io::Error| DiskError::Qcow2 {
        path: path.clone(),
        reason: format!("it cannot be opened ({error}); check it with 'qemu-img check'"),
    };
    let options = StorageOpenOptions::new().filename(&path).write(writable);
    let storage = ImageFile::from_open_file(file, options).map_err(failed)?;
    let gate = DenyImplicitOpenGate::default();
    match format {
        ImageFormat::Raw => {
            let image = Raw::builder(storage).write(writable).open(gate).map_err(failed)?;
            Ok(Image::new(image))
        }
        ImageFormat::Qcow2 => {
            let builder = Qcow2::<ImageFile>::builder(storage).write(writable).backing(below).data_file(None);
            Ok(Image::new(builder.open(gate).map_err(failed)?))
        }
    }
}
