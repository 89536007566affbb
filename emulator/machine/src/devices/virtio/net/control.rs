//! The control queue (virtio 1.2, 5.1.6.5): receive modes, addresses, announcements.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
    VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, VIRTIO_NET_CTRL_RX_ALLUNI,
    VIRTIO_NET_CTRL_RX_NOBCAST, VIRTIO_NET_CTRL_RX_NOMULTI, VIRTIO_NET_CTRL_RX_NOUNI, VIRTIO_NET_CTRL_RX_PROMISC,
    VIRTIO_NET_ERR, VIRTIO_NET_OK,
};

use super::device::Net;
use super::filter::parse_table;
use super::{CONTROL, ReceiveFilter};
use crate::devices::virtio::byte;
use crate::devices::virtio::queue::{RingError, Rings, gather, length_of, scatter};

/// Most bytes of a command that are looked at: two full address tables of Linux's largest sets.
const COMMAND_LIMIT: usize = 64 << 10;

impl Net {
    pub(super) fn serve_control(&mut self, rings: &mut Rings<'_, '_>) -> Result<(), RingError> {
        while let Some(chain) = rings.pop(CONTROL)? {
            if length_of(&chain.readable) < 2 || chain.writable.is_empty() {
                return Err(chain.protocol("a control command without room for its code or its answer"));
            }
            let command = gather(rings.memory(), &chain.readable, COMMAND_LIMIT)?;
            let done = self.command(&command).is_some();
            self.counters.control_errors += u64::from(!done);
            let code = if done { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
            let answer = [byte(code)];
            let written = scatter(rings.memory(), &chain.writable, &answer)?;
            rings.complete(CONTROL, chain.head, written)?;
        }
        rings.arm(CONTROL)
    }

    /// Carries out a command; `None` when it is malformed or not known.
    fn command(&mut self, command: &[u8]) -> Option<()> {
        let (&[class, code], data) = command.split_first_chunk::<2>()?;
        match (u32::from(class), u32::from(code)) {
            (VIRTIO_NET_CTRL_RX, code) => receive_mode(&mut self.filter, code, *data.first()? != 0)?,
            (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET) => self.mac = *data.first_chunk()?,
            (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET) => {
                let (unicast, rest) = parse_table(data)?;
                let (multicast, _) = parse_table(rest)?;
                self.filter.unicast = unicast;
                self.filter.multicast = multicast;
            }
            (VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK) => self.announce = false,
            _ => return None,
        }
        Some(())
    }
}

fn receive_mode(filter: &mut ReceiveFilter, code: u32, on: bool) -> Option<()> {
    let mode = match code {
        VIRTIO_NET_CTRL_RX_PROMISC => &mut filter.promiscuous,
        VIRTIO_NET_CTRL_RX_ALLMULTI => &mut filter.all_multicast,
        VIRTIO_NET_CTRL_RX_ALLUNI => &mut filter.all_unicast,
        VIRTIO_NET_CTRL_RX_NOMULTI => &mut filter.no_multicast,
        VIRTIO_NET_CTRL_RX_NOUNI => &mut filter.no_unicast,
        VIRTIO_NET_CTRL_RX_NOBCAST => &mut filter.no_broadcast,
        _ => return None,
    };
    *mode = on;
    Some(())
}
