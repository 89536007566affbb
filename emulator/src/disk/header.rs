//! Looks through a qcow2 image before it is opened for real, without writing to it.
//!
//! The image library trusts the metadata: it reads zeroes where a truncated file ends and clears feature bits
//! as soon as it opens an image for writing. So this module first checks that everything the tables point to
//! lies inside the file and that the library knows every feature in use. Layout: QEMU,
//! `docs/interop/qcow2.rst`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// `QFI\xfb`, the first four bytes of every qcow2 image.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

const V2_HEADER_BYTES: u64 = 72;
const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// Bits 9 to 55 of a table entry: the host offset.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// QEMU's limit: an L1 table of 32 MiB.
const MAX_L1_ENTRIES: u64 = 4 << 20;

/// What the caller needs of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2Header {
    /// Virtual size in bytes.
    pub size: u64,
    /// Name of the backing file as written in the image.
    pub backing_file: Option<String>,
    /// Format of the backing file as written in the image.
    pub backing_format: Option<String>,
    cluster_bits: u32,
    l1_entries: u64,
    l1_offset: u64,
    refcount_offset: u64,
    refcount_clusters: u64,
}

/// What is wrong with the image and what to do.
pub type Problem = String;

/// Reads the header and follows every table of the image in `file`.
///
/// # Errors
/// One line: what is broken, cut off or not supported.
pub fn check(file: &File) -> Result<Qcow2Header, Problem> {
    let header = read_header(file)?;
    let length = file.metadata().map_err(|error| unreadable(&error))?.len();
    check_tables(file, &header, length)?;
    Ok(header)
}

fn unreadable(error: &io::Error) -> Problem {
    format!("it cannot be read ({error})")
}

fn truncated(what: &str) -> Problem {
    format!("it is truncated: {what} lies beyond the end of the file; restore the image from a good copy")
}

fn corrupt(what: &str) -> Problem {
    format!("its qcow2 metadata is damaged ({what}); try 'qemu-img check -r all' on a copy")
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn read_header(file: &File) -> Result<Qcow2Header, Problem> {
    let mut raw = [0_u8; 112];
    let got = read_up_to(file, &mut raw, 0).map_err(|error| unreadable(&error))?;
    if got < 72 || raw[..4] != MAGIC {
        return Err("it is no qcow2 image; give the right format=, or restore it from a good copy".to_owned());
    }
    let version = be32(&raw, 4);
    if !(2..=3).contains(&version) {
        return Err(format!("qcow2 version {version} is not supported; convert it with 'qemu-img convert'"));
    }
    if version == 3 && got < 104 {
        return Err(truncated("the header"));
    }
    let cluster_bits = be32(&raw, 20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(corrupt("cluster size"));
    }
    if be32(&raw, 32) != 0 {
        return Err("it is encrypted, which is not supported; convert it with 'qemu-img convert'".to_owned());
    }
    if version == 3 {
        check_features(be64(&raw, 72))?;
    }
    let header_length = if version == 2 { V2_HEADER_BYTES } else { u64::from(be32(&raw, 100)) };
    let cluster = 1_u64 << cluster_bits;
    if !(V2_HEADER_BYTES..=cluster).contains(&header_length) {
        return Err(corrupt("header length"));
    }
    Ok(Qcow2Header {
        size: be64(&raw, 24),
        backing_file: backing_name(file, &raw, cluster)?,
        backing_format: backing_format(file, header_length, cluster)?,
        cluster_bits,
        l1_entries: u64::from(be32(&raw, 36)),
        l1_offset: be64(&raw, 40),
        refcount_offset: be64(&raw, 48),
        refcount_clusters: u64::from(be32(&raw, 56)),
    })
}

fn check_features(incompatible: u64) -> Result<(), Problem> {
    const KNOWN: [(u64, &str); 5] = [
        (1, "it was not closed cleanly; repair it with 'qemu-img check -r all'"),
        (2, "it is marked corrupt; repair it with 'qemu-img check -r all'"),
        (4, "it keeps its data in an external file, which is not supported; convert it with 'qemu-img convert'"),
        (8, "its compression type is not supported; convert it with 'qemu-img convert'"),
        (16, "it uses extended L2 entries, which are not supported; convert it with 'qemu-img convert'"),
    ];
    for (bit, text) in KNOWN {
        if incompatible & bit != 0 {
            return Err(text.to_owned());
        }
    }
    if incompatible != 0 {
        return Err(format!(
            "it uses features that are not known here ({incompatible:#x}); convert it with 'qemu-img convert'"
        ));
    }
    Ok(())
}

fn backing_name(file: &File, raw: &[u8], cluster: u64) -> Result<Option<String>, Problem> {
    let (offset, length) = (be64(raw, 8), be32(raw, 16));
    if offset == 0 {
        return Ok(None);
    }
    if length == 0 || length > 1023 || offset > cluster - u64::from(length) {
        return Err(corrupt("backing file name"));
    }
    let mut name = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut name, offset).map_err(|_| truncated("the backing file name"))?;
    String::from_utf8(name).map(Some).map_err(|_| corrupt("backing file name"))
}

/// Walks the header extensions for the name of the backing file's format.
fn backing_format(file: &File, header_length: u64, cluster: u64) -> Result<Option<String>, Problem> {
    let mut at = header_length.next_multiple_of(8);
    while at + 8 <= cluster {
        let mut head = [0; 8];
        if read_up_to(file, &mut head, at).map_err(|error| unreadable(&error))? < 8 {
            return Err(truncated("a header extension"));
        }
        let (kind, length) = (be32(&head, 0), u64::from(be32(&head, 4)));
        if kind == EXTENSION_END {
            break;
        }
        if length > cluster - at - 8 {
            return Err(corrupt("header extension"));
        }
        if kind == EXTENSION_BACKING_FORMAT && length < 64 {
            let mut name = vec![0; usize::try_from(length).unwrap_or(0)];
            file.read_exact_at(&mut name, at + 8).map_err(|_| truncated("a header extension"))?;
            return String::from_utf8(name).map(Some).map_err(|_| corrupt("backing format"));
        }
        at += 8 + length.next_multiple_of(8);
    }
    Ok(None)
}

fn check_tables(file: &File, header: &Qcow2Header, length: u64) -> Result<(), Problem> {
    let cluster = 1_u64 << header.cluster_bits;
    let inside = |offset: u64, bytes: u64| offset.checked_add(bytes).is_some_and(|end| end <= length);
    if !header.refcount_offset.is_multiple_of(cluster) || header.refcount_clusters == 0 {
        return Err(corrupt("refcount table"));
    }
    if !inside(header.refcount_offset, header.refcount_clusters.saturating_mul(cluster)) {
        return Err(truncated("the refcount table"));
    }
    let entries_per_l2 = cluster / 8;
    let covered = entries_per_l2 * cluster;
    if header.l1_entries > MAX_L1_ENTRIES || header.l1_entries < header.size.div_ceil(covered) {
        return Err(corrupt("L1 table size"));
    }
    if !header.l1_offset.is_multiple_of(cluster) {
        return Err(corrupt("L1 table offset"));
    }
    if !inside(header.l1_offset, header.l1_entries * 8) {
        return Err(truncated("the L1 table"));
    }
    let l1 = read_table(file, header.l1_offset, header.l1_entries * 8, "the L1 table")?;
    for entry in l1.chunks_exact(8).map(|entry| be64(entry, 0) & OFFSET_MASK) {
        if entry == 0 {
            continue;
        }
        if entry % cluster != 0 {
            return Err(corrupt("L2 table offset"));
        }
        if !inside(entry, cluster) {
            return Err(truncated("an L2 table"));
        }
        check_l2(&read_table(file, entry, cluster, "an L2 table")?, header.cluster_bits, length)?;
    }
    Ok(())
}

/// Checks that each mapped cluster begins inside the file: the last one may be cut short by design.
fn check_l2(table: &[u8], cluster_bits: u32, length: u64) -> Result<(), Problem> {
    let cluster = 1_u64 << cluster_bits;
    // Of a compressed entry, the low 62 - (cluster_bits - 8) bits are a byte offset.
    let compressed_mask = (1_u64 << (62 - (cluster_bits - 8))) - 1;
    for entry in table.chunks_exact(8).map(|entry| be64(entry, 0)) {
        let offset = if entry & COMPRESSED == 0 {
            let offset = entry & OFFSET_MASK;
            if !offset.is_multiple_of(cluster) {
                return Err(corrupt("cluster offset"));
            }
            offset
        } else {
            entry & compressed_mask
        };
        if offset >= length && offset != 0 {
            return Err(truncated("guest data"));
        }
    }
    Ok(())
}

fn read_table(file: &File, offset: u64, bytes: u64, what: &str) -> Result<Vec<u8>, Problem> {
    let mut table = vec![0; usize::try_from(bytes).map_err(|_| corrupt(what))?];
    file.read_exact_at(&mut table, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => truncated(what),
        _ => unreadable(&error),
    })?;
    Ok(table)
}

/// Reads as much of `buffer` as the file has at `offset`.
pub fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
