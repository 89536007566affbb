//! Which received frames the guest wants (virtio 1.2, 5.1.6.5.1 and 5.1.6.5.2).

use serde::{Deserialize, Serialize};

/// Most addresses in each table; with more the whole class is let through.
pub const TABLE_LIMIT: usize = 64;

/// A list of Ethernet addresses; none when there are too many to check.
pub type AddressTable = Option<Vec<[u8; 6]>>;

/// The receive mode and the address tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveFilter {
    /// Everything is wanted. True until the driver says otherwise.
    pub promiscuous: bool,
    /// All multicast frames are wanted.
    pub all_multicast: bool,
    /// All unicast frames are wanted.
    pub all_unicast: bool,
    /// No multicast frames are wanted.
    pub no_multicast: bool,
    /// No unicast frames are wanted.
    pub no_unicast: bool,
    /// No broadcast frames are wanted.
    pub no_broadcast: bool,
    /// Unicast addresses beside the device's own; none when there are too many to check.
    pub unicast: AddressTable,
    /// Multicast addresses; none when there are too many to check.
    pub multicast: AddressTable,
}

impl Default for ReceiveFilter {
    fn default() -> Self {
        Self {
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            unicast: Some(Vec::new()),
            multicast: Some(Vec::new()),
        }
    }
}

impl ReceiveFilter {
    /// True when a frame for `destination` is to be handed to a guest whose own address is `own`.
    #[must_use]
    pub fn admits(&self, own: [u8; 6], destination: [u8; 6]) -> bool {
        let listed = |table: &AddressTable| table.as_ref().is_none_or(|list| list.contains(&destination));
        if self.promiscuous {
            true
        } else if destination == [0xff; 6] {
            !self.no_broadcast
        } else if destination[0] & 1 != 0 {
            !self.no_multicast && (self.all_multicast || listed(&self.multicast))
        } else {
            !self.no_unicast && (self.all_unicast || destination == own || listed(&self.unicast))
        }
    }
}

/// Parses a table of the control queue: a 32-bit count and that many addresses. Returns the table (none when it
/// has more entries than are kept) and what follows it.
pub(super) fn parse_table(bytes: &[u8]) -> Option<(AddressTable, &[u8])> {
    let (count, rest) = bytes.split_first_chunk::<4>()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let (table, rest) = rest.split_at_checked(count.checked_mul(6)?)?;
    let (entries, _) = table.as_chunks::<6>();
    let table = (count <= TABLE_LIMIT).then(|| entries.to_vec());
    Some((table, rest))
}
