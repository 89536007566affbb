//! The few operating-system calls that have no safe wrapper, and the event counter that wakes I/O threads.
//!
//! This is the only module of the crate with unsafe code.
#![expect(unsafe_code, reason = "ioctl requests of the tun driver have no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes a thread that polls [`Waker::as_fd`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A new event counter.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    /// Makes the descriptor readable.
    pub fn wake(&self) {
        // Only a counter at its maximum refuses, and then the thread is awake already.
        let _ = self.0.write(1);
    }

    /// Makes the descriptor unreadable again.
    pub fn clear(&self) {
        // An empty counter refuses: nothing to clear.
        let _ = self.0.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a poll found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// Bytes, a connection, the end of the stream or an error can be read.
    pub readable: bool,
    /// There is room, or an error to be met by writing.
    pub writable: bool,
}

/// A descriptor to poll: whether for reading, whether for writing.
pub type Interest<'a> = (BorrowedFd<'a>, bool, bool);

/// Waits until one of `interests` is ready or `timeout_ms` has passed; `None` waits for ever. A signal makes
/// it return early with nothing ready.
///
/// # Errors
/// When the system refuses the poll.
pub fn poll(interests: &[Interest<'_>], timeout_ms: Option<u16>) -> io::Result<Vec<Readiness>> {
    let mut fds: Vec<PollFd<'_>> = interests
        .iter()
        .map(|(fd, read, write)| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, *read);
            flags.set(PollFlags::POLLOUT, *write);
            PollFd::new(*fd, flags)
        })
        .collect();
    let timeout = timeout_ms.map_or(PollTimeout::NONE, PollTimeout::from);
    match nix::poll::poll(&mut fds, timeout) {
        Ok(_) => {}
        Err(nix::Error::EINTR) => return Ok(vec![Readiness::default(); fds.len()]),
        Err(error) => return Err(error.into()),
    }
    let broken = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    Ok(fds
        .iter()
        .zip(interests)
        .map(|(fd, (_, read, write))| {
            let events = fd.revents().unwrap_or(PollFlags::empty());
            Readiness {
                readable: *read && events.intersects(PollFlags::POLLIN | broken),
                writable: *write && events.intersects(PollFlags::POLLOUT | broken),
            }
        })
        .collect())
}

/// Attaches an open `/dev/net/tun` to the tap interface `name`, with `virtio_net_hdr_v1` headers.
///
/// # Errors
/// As the driver says: `EPERM` without permission, `EBUSY` when someone else is attached.
pub fn attach_tap(tun: &File, name: &str) -> io::Result<()> {
    // SAFETY: an ifreq is plain data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero: the name is terminated.
    for (target, source) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *target = i8::from_ne_bytes([source]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the driver reads and writes one ifreq, which lives until the call returns.
    check(unsafe { libc::ioctl(raw(tun), libc::TUNSETIFF, &raw mut request) })?;
    let header_bytes: libc::c_int = 12;
    // SAFETY: the driver reads one int, which lives until the call returns.
    check(unsafe { libc::ioctl(raw(tun), libc::TUNSETVNETHDRSZ, &raw const header_bytes) })
}

/// Says which unfinished packets the tap may hand to us: `TUN_F_*` bits.
///
/// # Errors
/// When the driver does not know one of the bits.
pub fn set_tap_offload(tun: &File, bits: u32) -> io::Result<()> {
    // SAFETY: the driver takes the bits by value.
    check(unsafe { libc::ioctl(raw(tun), libc::TUNSETOFFLOAD, libc::c_ulong::from(bits)) })
}

fn raw(file: &File) -> RawFd {
    file.as_fd().as_raw_fd()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the host's memory behind a page of guest memory back, if the page is all zero: it reads as zero afterwards
/// too, so the guest cannot tell.
pub fn release_zero_page(page: *const u8) {
    // SAFETY: the caller passes a page of live guest memory, and the machine is not running.
    let bytes = unsafe { &*page.cast::<[u8; 4096]>() };
    if !page.addr().is_multiple_of(4096) || bytes.iter().any(|&byte| byte != 0) {
        return;
    }
    // SAFETY: the page is private anonymous memory that holds zeroes, as it will when it is touched again. A refusal
    // leaves it as it is.
    unsafe { libc::madvise(page.cast_mut().cast(), 4096, libc::MADV_DONTNEED) };
}
