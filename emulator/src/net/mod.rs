//! Network backends: tap, unix stream, passt.
//!
//! Each device has one thread that polls its descriptor and the queue of frames to send. Frames to send wait in
//! a bounded queue; more are dropped and counted, as a real card's ring does. Received frames wait in the
//! kernel while the guest's input queue is full.

mod header;
mod passt;
mod pump;
mod segment;
mod stream;
mod tap;
#[cfg(test)]
mod tests;
mod window;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use thiserror::Error;

use crate::cli::{MacAddress, NetKind, NetLike, NetOption};
use crate::queue::InputQueue;
use crate::seccomp::Confinement;
use crate::socket::SocketFile;
use crate::sys::Waker;
use crate::threads::{self, ThreadClass};

/// The largest frame: 64 KiB of IP, an Ethernet header and a VLAN tag.
pub const MAX_FRAME_BYTES: usize = 65_553;
/// A frame with its header.
pub const MAX_PACKET_BYTES: usize = MAX_FRAME_BYTES + header::HEADER_BYTES;
/// Packets waiting to be sent per device.
pub const TRANSMIT_LIMIT: usize = 1024;

/// Why a network device has no backend: one line with the way out.
#[derive(Debug, Error)]
pub enum NetError {
    /// A tap interface cannot be used.
    #[error("tap {name}: {reason}")]
    Tap {
        /// The interface.
        name: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A stream socket cannot be used.
    #[error("network stream {path}: {reason}", path = path.display())]
    Stream {
        /// The socket.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// passt cannot be used.
    #[error("passt: {0}")]
    Passt(String),
    /// Threads or descriptors ran out.
    #[error("network thread: {0}")]
    System(#[from] io::Error),
}

/// What a backend finishes for the guest, or accepts unfinished from the host. The machine offers the matching
/// features of virtio-net and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The guest may leave checksums open (`VIRTIO_NET_F_CSUM`).
    pub checksum: bool,
    /// The guest may send TCP packets larger than its MTU (`VIRTIO_NET_F_HOST_TSO4`, `_TSO6`).
    pub segmentation: bool,
    /// Received frames may have open or verified checksums (`VIRTIO_NET_F_GUEST_CSUM`).
    pub receive_checksum: bool,
    /// Received TCP packets may be larger than the MTU (`VIRTIO_NET_F_GUEST_TSO4`, `_TSO6`).
    pub receive_segmentation: bool,
}

impl Offload {
    /// What a kind of backend finishes, if the host has it all.
    #[must_use]
    pub fn of(kind: NetLike) -> Self {
        let receive_segmentation = kind == NetLike::Tap;
        Self { checksum: true, segmentation: true, receive_checksum: true, receive_segmentation }
    }
}

/// What the machine's configuration needs to know of a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetFacts {
    /// The device's address.
    pub mac: MacAddress,
    /// What the backend finishes.
    pub offload: Offload,
    /// There is a peer. Later changes come as `Input::NetLink`.
    pub link_up: bool,
}

/// Where frames go.
#[derive(Debug)]
enum Transport {
    Tap(tap::Tap),
    Stream(stream::Stream),
}

/// An opened backend whose thread is not running yet.
#[derive(Debug)]
pub struct Net {
    /// For the machine's configuration.
    pub facts: NetFacts,
    transport: Option<Transport>,
    passt: Option<passt::Passt>,
    socket: Option<SocketFile>,
}

impl Net {
    /// Opens the backend of the network device number `index`.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn open(option: &NetOption, index: u8) -> Result<Self, NetError> {
        let (mut passt, mut socket) = (None, None);
        let (transport, offload) = match &option.kind {
            NetKind::None { like } => (None, like.map_or_else(Offload::default, Offload::of)),
            NetKind::Tap(name) => {
                let (tap, offload) = tap::Tap::open(name)?;
                (Some(Transport::Tap(tap)), offload)
            }
            NetKind::Stream { path, server, small_windows } => {
                let (stream, file) = stream::Stream::open(path.clone(), *server)?;
                socket = file;
                (Some(Transport::Stream(stream.with_small_windows(*small_windows))), Offload::of(NetLike::Stream))
            }
            NetKind::Passt => {
                let (process, connection) = passt::Passt::start()?;
                passt = Some(process);
                let stream = stream::Stream::connected(connection)?.with_small_windows(true);
                (Some(Transport::Stream(stream)), Offload::of(NetLike::Stream))
            }
        };
        let link_up = match &transport {
            None => false,
            Some(Transport::Tap(_)) => true,
            Some(Transport::Stream(stream)) => stream.is_connected(),
        };
        let mac = option.mac.unwrap_or_else(|| MacAddress::default_for(index));
        Ok(Self { facts: NetFacts { mac, offload, link_up }, transport, passt, socket })
    }

    /// Starts the device's thread, which brings received frames to `queue`.
    ///
    /// # Errors
    /// When threads or descriptors have run out.
    pub fn start(self, index: u8, confinement: &Confinement, queue: Arc<InputQueue>) -> Result<NetHandle, NetError> {
        let shared = Arc::new(Shared::new()?);
        let mut passt = self.passt;
        if let Some(passt) = &mut passt {
            passt.log_output(confinement)?;
        }
        let thread = match self.transport {
            None => None,
            Some(transport) => {
                let pump = pump::Pump::new(index, transport, Arc::clone(&shared), queue);
                Some(threads::spawn(&format!("net-{index}"), ThreadClass::Io, confinement, move || pump.run())?)
            }
        };
        Ok(NetHandle { shared, thread, _passt: passt, _socket: self.socket })
    }
}

/// What the vCPU thread and the device's thread share.
#[derive(Debug)]
struct Shared {
    transmit: Mutex<VecDeque<Vec<u8>>>,
    waker: Waker,
    stopping: AtomicBool,
    /// Somebody pulled the cable out.
    unplugged: AtomicBool,
    dropped: AtomicU64,
}

impl Shared {
    fn new() -> io::Result<Self> {
        Ok(Self {
            transmit: Mutex::default(),
            waker: Waker::new()?,
            stopping: AtomicBool::new(false),
            unplugged: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        })
    }

    fn pop(&self) -> Option<Vec<u8>> {
        self.transmit.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn count_drop(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends frames by way of a device's thread. Dropping it ends the thread, after what can still be sent, and
/// then passt.
#[derive(Debug)]
pub struct NetHandle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Dropped last: it ends when the thread's connection is closed.
    _passt: Option<passt::Passt>,
    _socket: Option<SocketFile>,
}

impl NetHandle {
    /// Queues a packet: 12 bytes of header and the frame. Never waits; drops and counts when the queue is full.
    pub fn transmit(&self, packet: Vec<u8>) {
        if self.thread.is_none() {
            self.shared.count_drop();
            return;
        }
        let was_empty = {
            let mut queue = self.shared.transmit.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.len() >= TRANSMIT_LIMIT {
                drop(queue);
                self.shared.count_drop();
                return;
            }
            queue.push_back(packet);
            queue.len() == 1
        };
        if was_empty {
            self.shared.waker.wake();
        }
    }

    /// Plugs the cable in, or pulls it out: the guest sees its link change, and no frame passes.
    pub fn plug(&self, up: bool) {
        self.shared.unplugged.store(!up, Ordering::Relaxed);
        self.shared.waker.wake();
    }

    /// Packets dropped so far, in both directions.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for NetHandle {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.waker.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a network thread panicked");
        }
    }
}
