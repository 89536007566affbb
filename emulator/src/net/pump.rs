//! The thread of a network device.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtft_machine::io::{DeviceIndex, Input};

use super::{Shared, Transport};
use crate::queue::InputQueue;
use crate::sys::{self, Interest};

/// Time between attempts to get a lost peer back.
const RETRY_MS: u16 = 1000;
/// Time between looks at a full input queue.
const FULL_MS: u16 = 1;

/// Everything the thread has.
pub struct Pump {
    index: u8,
    transport: Transport,
    shared: Arc<Shared>,
    queue: Arc<InputQueue>,
    /// There is a peer.
    link_up: bool,
    /// What the guest was told: there is a peer and the cable is plugged in.
    told_up: bool,
    /// A packet that the transport had no room for.
    held: Option<Vec<u8>>,
}

impl Pump {
    /// `queue` receives frames and changes of the link.
    pub fn new(index: u8, transport: Transport, shared: Arc<Shared>, queue: Arc<InputQueue>) -> Self {
        let link_up = match &transport {
            Transport::Tap(_) => true,
            Transport::Stream(stream) => stream.is_connected(),
        };
        Self { index, transport, shared, queue, link_up, told_up: link_up, held: None }
    }

    /// Moves frames until the handle is dropped.
    pub fn run(mut self) {
        while !self.shared.stopping.load(Ordering::Relaxed) {
            if let Err(error) = self.wait() {
                tracing::error!("network device {}: {error}; its link is down from now on", self.index);
                self.set_link(false);
                return;
            }
            self.transmit();
            self.receive();
            self.update_link();
        }
        self.transmit();
    }

    fn wait(&mut self) -> io::Result<()> {
        let room = self.queue.frame_room(self.index);
        let (descriptor, wants_input, has_frame, waits_to_send) = match &self.transport {
            // What a tap has waits in the kernel.
            Transport::Tap(tap) => (Some(tap.as_fd()), room, !room, self.held.is_some()),
            Transport::Stream(stream) => {
                (stream.descriptor(), stream.wants_input(), stream.has_frame(), stream.has_pending())
            }
        };
        let timeout = match (has_frame, room) {
            (true, true) => Some(0),
            (true, false) => Some(FULL_MS),
            (false, _) if !self.link_up => Some(RETRY_MS),
            (false, _) => None,
        };
        let mut interests: Vec<Interest<'_>> = vec![(self.shared.waker.as_fd(), true, false)];
        if let Some(descriptor) = descriptor.filter(|_| wants_input || waits_to_send) {
            interests.push((descriptor, wants_input, waits_to_send));
        }
        let ready = sys::poll(&interests, timeout)?;
        if ready.first().is_some_and(|waker| waker.readable) {
            self.shared.waker.clear();
        }
        let readable = ready.get(1).is_some_and(|transport| transport.readable);
        if let (Transport::Stream(stream), true) = (&mut self.transport, readable && self.link_up) {
            stream.fill();
        }
        Ok(())
    }

    fn is_unplugged(&self) -> bool {
        self.shared.unplugged.load(Ordering::Relaxed)
    }

    fn transmit(&mut self) {
        if self.is_unplugged() {
            while self.shared.pop().is_some() {
                self.shared.count_drop();
            }
        }
        match &mut self.transport {
            Transport::Tap(tap) => {
                while let Some(packet) = self.held.take().or_else(|| self.shared.pop()) {
                    if !tap.send(&packet) {
                        self.held = Some(packet);
                        return;
                    }
                }
            }
            Transport::Stream(stream) => {
                loop {
                    while stream.has_room() {
                        let Some(packet) = self.shared.pop() else { break };
                        // Without a peer a frame is lost, as on a cable that is not plugged in.
                        if !stream.is_connected() || !stream.send(&packet) {
                            self.shared.count_drop();
                        }
                    }
                    if !stream.has_pending() || !stream.flush() || stream.has_pending() {
                        return;
                    }
                }
            }
        }
    }

    fn receive(&mut self) {
        while self.queue.frame_room(self.index) {
            let packet = match &mut self.transport {
                Transport::Tap(tap) => tap.receive(),
                Transport::Stream(stream) => stream.receive(),
            };
            let Some(packet) = packet else { return };
            if self.is_unplugged() {
                self.shared.count_drop();
                continue;
            }
            let input = Input::NetReceive { device: DeviceIndex(self.index), packet };
            if !self.queue.push_frame(self.index, input) {
                self.shared.count_drop();
            }
        }
    }

    fn update_link(&mut self) {
        let Transport::Stream(stream) = &mut self.transport else { return self.set_link(self.link_up) };
        if stream.is_connected() {
            self.set_link(true);
            return;
        }
        let up = stream.try_reconnect();
        // Another peer may be on a different network: the guest sees the cable go even when the next is there.
        self.set_link(false);
        self.set_link(up);
    }

    fn set_link(&mut self, up: bool) {
        self.link_up = up;
        let up = up && !self.is_unplugged();
        if self.told_up != up {
            self.told_up = up;
            self.queue.push(Input::NetLink { device: DeviceIndex(self.index), up });
        }
    }
}
