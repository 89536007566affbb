//! What the vCPU thread and the ft thread share: frames and outputs one way, orders the other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use virtft_machine::io::Output;
use virtft_replay::frame::Frame;

use crate::cli::DiskPolicy;

/// Payload bytes that may wait for the ft thread, or be unacknowledged: with more, the machine waits.
pub const LOG_LIMIT: usize = 64 << 20;

/// What the vCPU thread hands over, in order.
#[derive(Debug)]
pub enum Item {
    /// The log begins: its first bytes.
    Begin(Vec<u8>),
    /// The next frame of the log.
    Frame(Frame),
    /// An output that leads from the log so far.
    Output(Output),
    /// Guest time reached, in nanoseconds.
    Progress(u64),
    /// A write to a disk was submitted while the disk is copied: device, first byte, length.
    DiskWritten(u8, u64, u64),
    /// The machine stands still and waits until the disks are copied.
    NeedDisks,
    /// The snapshot is whole: milliseconds that the machine stood still for it.
    Transferred(u64),
    /// The machine stands still, as it was ordered.
    Paused,
    /// An operator makes the machine stand still, or go on.
    Standing(bool),
    /// A request to this disk failed on this host; the guest has not been told.
    DiskFailed(u8),
}

/// What the ft thread wants of the vCPU thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Begin a log with the machine's state; where its disks are.
    Protect(DiskPolicy),
    /// The log is not needed any more.
    Abandon,
    /// The disks are copied.
    DisksCopied,
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
    /// End: why, and whether an operator wished it.
    Stop(String, bool),
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    /// Bytes that the ft thread keeps because they are not acknowledged.
    unacknowledged: usize,
    orders: VecDeque<Order>,
    /// Outputs need not pass through the ft thread.
    direct: bool,
}

/// See the module's description.
#[derive(Debug)]
pub struct Link {
    state: Mutex<State>,
    /// Signalled when items are taken, bytes acknowledged or an order comes.
    changed: Condvar,
    ordered: AtomicBool,
    disks_ready: AtomicBool,
    throttle: AtomicU16,
    /// Why a machine that could run here does not run yet.
    obstacle: Mutex<Option<String>>,
    wake: EventFd,
}

impl Link {
    /// A link of an unprotected machine.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn new() -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            state: Mutex::new(State { direct: true, ..State::default() }),
            changed: Condvar::new(),
            ordered: AtomicBool::new(false),
            disks_ready: AtomicBool::new(false),
            throttle: AtomicU16::new(0),
            obstacle: Mutex::default(),
            wake,
        })
    }

    /// Hands something over and wakes the ft thread. Waits while too much is on its way.
    pub fn push(&self, item: Item) {
        let size = match &item {
            Item::Frame(frame) => frame.payload.len(),
            Item::Begin(bytes) => bytes.len(),
            _ => 0,
        };
        let mut state = self.lock();
        if size > 0 {
            // An order may be what ends the waiting.
            let full = |state: &mut State| state.bytes + state.unacknowledged > LOG_LIMIT && state.orders.is_empty();
            state = self.changed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        }
        state.bytes += size;
        state.items.push_back(item);
        drop(state);
        self.wake();
    }

    /// Hands an output over, or gives it back when it may leave at once.
    pub fn output(&self, output: Output) -> Option<Output> {
        let mut state = self.lock();
        if state.direct {
            return Some(output);
        }
        state.items.push_back(Item::Output(output));
        drop(state);
        self.wake();
        None
    }

    /// Whether there is room for more of a transfer without waiting.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let state = self.lock();
        state.bytes + state.unacknowledged < LOG_LIMIT / 4
    }

    /// Takes everything that was handed over.
    #[must_use]
    pub fn take(&self) -> VecDeque<Item> {
        let mut state = self.lock();
        state.bytes = 0;
        let items = std::mem::take(&mut state.items);
        drop(state);
        self.changed.notify_all();
        items
    }

    /// From now on outputs pass through the ft thread, or not. They may leave at once again only when nothing is left of those
    /// that passed through it: false when there is.
    pub fn set_direct(&self, direct: bool) -> bool {
        let mut state = self.lock();
        if direct && !state.items.is_empty() {
            return false;
        }
        state.direct = direct;
        true
    }

    /// How much the ft thread keeps.
    pub fn set_unacknowledged(&self, bytes: u64) {
        self.lock().unacknowledged = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.changed.notify_all();
    }

    /// Gives an order. The vCPU thread must be woken too, where it sleeps.
    pub fn order(&self, order: Order) {
        self.lock().orders.push_back(order);
        self.ordered.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// The next order. Cheap when there is none.
    #[must_use]
    pub fn next_order(&self) -> Option<Order> {
        if !self.ordered.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.lock();
        let order = state.orders.pop_front();
        self.ordered.store(!state.orders.is_empty(), Ordering::Release);
        order
    }

    /// The next order, waited for.
    #[must_use]
    pub fn wait_for_order(&self) -> Order {
        let none = |state: &mut State| state.orders.is_empty();
        let mut state = self.changed.wait_while(self.lock(), none).unwrap_or_else(PoisonError::into_inner);
        let order = state.orders.pop_front().expect("waited for");
        self.ordered.store(!state.orders.is_empty(), Ordering::Release);
        order
    }

    /// Whether so little of the disks is left to be copied that the machine may be stopped for it.
    #[must_use]
    pub fn disks_ready(&self) -> bool {
        self.disks_ready.load(Ordering::Acquire)
    }

    /// Sets it.
    pub fn set_disks_ready(&self, ready: bool) {
        self.disks_ready.store(ready, Ordering::Release);
    }

    /// Parts of 1000 of its time that the machine stands still.
    #[must_use]
    pub fn throttle(&self) -> u16 {
        self.throttle.load(Ordering::Relaxed)
    }

    /// Sets it.
    pub fn set_throttle(&self, throttle: u16) {
        self.throttle.store(throttle, Ordering::Relaxed);
    }

    /// Why a machine that could run here does not run yet.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        self.obstacle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says why; `None` when nothing is in its way any more.
    pub fn set_obstacle(&self, obstacle: Option<String>) {
        *self.obstacle.lock().unwrap_or_else(PoisonError::into_inner) = obstacle;
        self.wake();
    }

    /// Wakes the ft thread.
    pub fn wake(&self) {
        // The counter is far from full; a wake that is pending already is as good.
        let _ = self.wake.write(1);
    }

    /// Readable when the ft thread has something to do.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes it unreadable again.
    pub fn woken(&self) {
        let _ = self.wake.read();
    }

    /// Every update is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
