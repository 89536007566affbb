//! The network device itself.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
    VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_LINK_UP,
};

use super::packet::{Admission, NUM_BUFFERS, admit_from_guest, admit_to_guest};
use super::segment::segments;
use super::{
    CONTROL, CONTROL_QUEUE_SIZE, FRAME_LIMIT, FRAME_MINIMUM, HEADER_SIZE, NetConfig, OFFLOAD_FEATURES, QUEUE_SIZE,
    RECEIVE, ReceiveFilter, TRANSMIT,
};
use crate::context::Effect;
use crate::devices::pci::DeliverError;
use crate::devices::virtio::queue::{Chain, RingError, Rings, gather, length_of, scatter};
use crate::devices::virtio::{DeviceError, VirtioDevice, VirtioIdentity, feature, to_usize};
use crate::io::{DeviceIndex, Input, Output};
use crate::snapshot::{RestoreError, Snapshot};

/// Packets since power-on, by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetCounters {
    /// Packets sent.
    pub transmitted: u64,
    /// Bytes sent, without headers.
    pub transmitted_bytes: u64,
    /// Packets of the guest that were dropped: malformed, or the link was down.
    pub transmit_drops: u64,
    /// Packets handed to the guest.
    pub received: u64,
    /// Bytes handed to the guest, without headers.
    pub received_bytes: u64,
    /// Received packets that found no buffers, or whose buffers were too small.
    pub receive_no_buffers: u64,
    /// Received packets that the guest does not want.
    pub receive_filtered: u64,
    /// Received packets that the guest cannot take: link down, driver not ready, unfit size or offload.
    pub receive_drops: u64,
    /// Control commands that were refused.
    pub control_errors: u64,
}

/// A virtio network device.
#[derive(Debug)]
pub struct Net {
    config: NetConfig,
    /// The address in use; the driver may change it.
    pub(super) mac: [u8; 6],
    pub(super) filter: ReceiveFilter,
    link_up: bool,
    /// The driver is asked to announce its addresses.
    pub(super) announce: bool,
    pub(super) counters: NetCounters,
}

/// Saved state of a [`Net`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    /// The device, so that a state cannot be put into another one.
    pub index: DeviceIndex,
    /// The address that was configured.
    pub configured_mac: [u8; 6],
    /// The address in use.
    pub mac: [u8; 6],
    /// Which frames the guest wants.
    pub filter: ReceiveFilter,
    /// The carrier is present.
    pub link_up: bool,
    /// The driver is asked to announce its addresses.
    pub announce: bool,
    /// Counted since power-on.
    pub counters: NetCounters,
}

impl Net {
    /// A network device with its link up.
    #[must_use]
    pub fn new(config: NetConfig) -> Self {
        let mac = config.mac;
        Self {
            config,
            mac,
            filter: ReceiveFilter::default(),
            link_up: true,
            announce: false,
            counters: NetCounters::default(),
        }
    }

    /// Packets since power-on.
    #[must_use]
    pub fn counters(&self) -> NetCounters {
        self.counters
    }

    fn transmit(&mut self, rings: &mut Rings<'_, '_>) -> Result<(), RingError> {
        while let Some(chain) = rings.pop(TRANSMIT)? {
            let length = to_usize(length_of(&chain.readable));
            if length < HEADER_SIZE {
                return Err(chain.protocol("a packet without its header"));
            }
            let mut packet = gather(rings.memory(), &chain.readable, HEADER_SIZE + FRAME_LIMIT)?;
            let fits = (HEADER_SIZE + FRAME_MINIMUM..=HEADER_SIZE + FRAME_LIMIT).contains(&length);
            if fits && self.link_up && admit_from_guest(&mut packet, |number| rings.has(number)) {
                self.counters.transmitted += 1;
                self.counters.transmitted_bytes += (packet.len() - HEADER_SIZE) as u64;
                let output = Output::NetTransmit { device: self.config.index, packet };
                rings.cx.effects.push(Effect::Output(output));
            } else {
                self.counters.transmit_drops += 1;
            }
            rings.complete(TRANSMIT, chain.head, 0)?;
        }
        rings.arm(TRANSMIT)
    }

    fn receive(&mut self, rings: &mut Rings<'_, '_>, mut packet: Vec<u8>) -> Result<(), RingError> {
        let length = packet.len() - HEADER_SIZE;
        let fits = (FRAME_MINIMUM..=FRAME_LIMIT).contains(&length);
        if !fits || !self.link_up || !rings.is_live() {
            self.counters.receive_drops += 1;
            return Ok(());
        }
        let mut destination = [0; 6];
        destination.copy_from_slice(&packet[HEADER_SIZE..HEADER_SIZE + 6]);
        if !self.filter.admits(self.mac, destination) {
            self.counters.receive_filtered += 1;
            return Ok(());
        }
        let admission = admit_to_guest(&mut packet, |number| rings.has(number));
        let packets = match admission {
            Admission::Whole => Some(vec![packet]),
            Admission::InSegments => segments(&packet),
            Admission::Dropped => None,
        };
        self.counters.receive_drops += u64::from(packets.is_none());
        packets.unwrap_or_default().into_iter().try_for_each(|packet| self.hand_over(rings, packet))
    }

    /// Puts a packet into the driver's buffers, if there are enough.
    fn hand_over(&mut self, rings: &mut Rings<'_, '_>, mut packet: Vec<u8>) -> Result<(), RingError> {
        let chains = take_buffers(rings, packet.len() as u64)?;
        if chains.is_empty() {
            self.counters.receive_no_buffers += 1;
            return Ok(());
        }
        self.counters.received += 1;
        self.counters.received_bytes += (packet.len() - HEADER_SIZE) as u64;
        let count = u16::try_from(chains.len()).unwrap_or(u16::MAX);
        packet[NUM_BUFFERS..HEADER_SIZE].copy_from_slice(&count.to_le_bytes());
        let mut done = 0;
        for chain in chains {
            let written = scatter(rings.memory(), &chain.writable, &packet[done..])?;
            rings.complete(RECEIVE, chain.head, written)?;
            done += written;
        }
        Ok(())
    }

    fn set_link(&mut self, rings: &mut Rings<'_, '_>, up: bool) {
        let changed = self.link_up != up;
        self.link_up = up;
        let announce = up && rings.is_live() && rings.has(VIRTIO_NET_F_GUEST_ANNOUNCE);
        self.announce |= announce;
        if changed || announce {
            rings.config_changed();
        }
    }
}

/// Takes as many receive buffers as the packet needs; none, and the ring as it was, when they do not suffice.
fn take_buffers(rings: &mut Rings<'_, '_>, length: u64) -> Result<Vec<Chain>, RingError> {
    let start = rings.position(RECEIVE);
    let merge = rings.has(VIRTIO_NET_F_MRG_RXBUF);
    let mut chains = Vec::new();
    let mut room = 0;
    while room < length && (merge || chains.is_empty()) {
        let Some(chain) = rings.pop(RECEIVE)? else { break };
        let size = length_of(&chain.writable);
        if size < HEADER_SIZE as u64 {
            return Err(chain.protocol("a receive buffer that has no room for a header"));
        }
        room += size;
        chains.push(chain);
    }
    if room < length {
        rings.rewind(RECEIVE, start);
        chains.clear();
    }
    Ok(chains)
}

impl VirtioDevice for Net {
    fn identity(&self) -> VirtioIdentity {
        VirtioIdentity { name: "virtio-net", device_type: VIRTIO_ID_NET, class: 0x02_0000 }
    }

    fn features(&self) -> u64 {
        let mtu = if self.config.mtu.is_some() { feature(VIRTIO_NET_F_MTU) } else { 0 };
        let always = [
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_STATUS,
            VIRTIO_NET_F_CTRL_VQ,
            VIRTIO_NET_F_CTRL_RX,
            VIRTIO_NET_F_CTRL_RX_EXTRA,
            VIRTIO_NET_F_CTRL_MAC_ADDR,
            VIRTIO_NET_F_GUEST_ANNOUNCE,
        ];
        always.into_iter().fold(mtu | (self.config.offloads & OFFLOAD_FEATURES), |all, number| all | feature(number))
    }

    /// Dependencies of virtio 1.2, 5.1.3.1.
    fn accepts_features(&self, accepted: u64) -> bool {
        let has = |number: u32| accepted & feature(number) != 0;
        let needs = |number: u32, others: &[u32]| !has(number) || others.iter().any(|&other| has(other));
        needs(VIRTIO_NET_F_GUEST_TSO4, &[VIRTIO_NET_F_GUEST_CSUM])
            && needs(VIRTIO_NET_F_GUEST_TSO6, &[VIRTIO_NET_F_GUEST_CSUM])
            && needs(VIRTIO_NET_F_GUEST_ECN, &[VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6])
            && needs(VIRTIO_NET_F_HOST_TSO4, &[VIRTIO_NET_F_CSUM])
            && needs(VIRTIO_NET_F_HOST_TSO6, &[VIRTIO_NET_F_CSUM])
            && needs(VIRTIO_NET_F_HOST_ECN, &[VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6])
            && needs(VIRTIO_NET_F_CTRL_RX, &[VIRTIO_NET_F_CTRL_VQ])
            && needs(VIRTIO_NET_F_CTRL_RX_EXTRA, &[VIRTIO_NET_F_CTRL_VQ])
            && needs(VIRTIO_NET_F_CTRL_MAC_ADDR, &[VIRTIO_NET_F_CTRL_VQ])
            && needs(VIRTIO_NET_F_GUEST_ANNOUNCE, &[VIRTIO_NET_F_CTRL_VQ])
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE, QUEUE_SIZE, CONTROL_QUEUE_SIZE]
    }

    fn config(&self) -> Vec<u8> {
        let link = if self.link_up { VIRTIO_NET_S_LINK_UP } else { 0 };
        let announce = if self.announce { VIRTIO_NET_S_ANNOUNCE } else { 0 };
        let status = u16::try_from(link | announce).unwrap_or(0);
        let mut bytes = self.mac.to_vec();
        bytes.extend(status.to_le_bytes());
        // Queue pairs.
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(self.config.mtu.unwrap_or(0).to_le_bytes());
        bytes
    }

    /// The structure is read-only: addresses change by the control queue.
    fn write_config(&mut self, _rings: &mut Rings<'_, '_>, _offset: u64, _data: &[u8]) -> Result<(), RingError> {
        Ok(())
    }

    fn activate(&mut self, _rings: &mut Rings<'_, '_>) -> Result<(), RingError> {
        Ok(())
    }

    fn notify(&mut self, rings: &mut Rings<'_, '_>, queue: u16) -> Result<(), RingError> {
        match queue {
            TRANSMIT => self.transmit(rings),
            CONTROL => self.serve_control(rings),
            // Receive buffers are looked for when a packet arrives.
            _ => Ok(()),
        }
    }

    fn accepts(&self, input: &Input) -> bool {
        match input {
            Input::NetReceive { device, .. } | Input::NetLink { device, .. } => *device == self.config.index,
            _ => false,
        }
    }

    fn deliver(&mut self, rings: &mut Rings<'_, '_>, input: &Input) -> Result<(), DeviceError> {
        match input {
            Input::NetReceive { device, packet } => {
                if packet.len() < HEADER_SIZE {
                    return Err(DeliverError::PacketHeader { device: *device, found: packet.len() }.into());
                }
                self.receive(rings, packet.clone())?;
            }
            Input::NetLink { up, .. } => self.set_link(rings, *up),
            _ => {}
        }
        Ok(())
    }

    fn in_flight(&self) -> Vec<Output> {
        Vec::new()
    }

    /// The link stays as it is: it belongs to the outside.
    fn reset(&mut self) {
        self.mac = self.config.mac;
        self.filter = ReceiveFilter::default();
        self.announce = false;
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let counters = self.counters;
        vec![
            ("transmitted", counters.transmitted),
            ("transmitted_bytes", counters.transmitted_bytes),
            ("transmit_drops", counters.transmit_drops),
            ("received", counters.received),
            ("received_bytes", counters.received_bytes),
            ("receive_no_buffers", counters.receive_no_buffers),
            ("receive_filtered", counters.receive_filtered),
            ("receive_drops", counters.receive_drops),
            ("control_errors", counters.control_errors),
        ]
    }
}

impl Snapshot for Net {
    const KIND: &'static str = "virtio-net";
    const VERSION: u16 = 1;
    type State = NetState;

    fn save(&self) -> NetState {
        let Self { config, mac, filter, link_up, announce, counters } = self;
        NetState {
            index: config.index,
            configured_mac: config.mac,
            mac: *mac,
            filter: filter.clone(),
            link_up: *link_up,
            announce: *announce,
            counters: *counters,
        }
    }

    fn restore(&mut self, state: NetState) -> Result<(), RestoreError> {
        let NetState { index, configured_mac, mac, filter, link_up, announce, counters } = state;
        if (index, configured_mac) != (self.config.index, self.config.mac) {
            let reason = format!("it is network device {} with address {configured_mac:02x?}", index.0);
            return Err(RestoreError::Invalid { kind: Self::KIND, reason });
        }
        (self.mac, self.filter, self.link_up) = (mac, filter, link_up);
        (self.announce, self.counters) = (announce, counters);
        Ok(())
    }
}
