//! The unfinished requests of a disk, and which of them may be outside together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{IN_FLIGHT_BYTES, IN_FLIGHT_LIMIT};
use crate::devices::virtio::queue::Buffer;
use crate::io::BlockOperation;

/// Where the answer of a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Queue that the chain came from.
    pub queue: u16,
    /// First descriptor of the chain.
    pub head: u16,
    /// Buffers for data read.
    pub data: Vec<Buffer>,
    /// Guest physical address of the status byte.
    pub status: u64,
}

/// An unfinished request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What is to be done outside.
    pub operation: BlockOperation,
    /// Handed out; otherwise it waits for an earlier one.
    pub issued: bool,
    /// The guest's chain; none when the driver reset the device meanwhile.
    pub reply: Option<Reply>,
}

/// Unfinished requests by identifier, which is the order of their submission.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InFlight {
    /// The requests.
    pub requests: BTreeMap<u64, Request>,
    /// Identifier of the next request.
    pub next_id: u64,
}

impl InFlight {
    /// True when another request may be taken from a ring.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let bytes: u64 = self.requests.values().map(|request| data_bytes(&request.operation)).sum();
        self.requests.len() < IN_FLIGHT_LIMIT && bytes < IN_FLIGHT_BYTES
    }

    /// Adds a request behind all others; it starts as not handed out.
    pub fn add(&mut self, operation: BlockOperation, reply: Option<Reply>) {
        let request = Request { operation, issued: false, reply };
        self.requests.insert(self.next_id, request);
        self.next_id += 1;
    }

    /// Marks as handed out every request that no earlier one holds back, and returns them in order.
    pub fn issue(&mut self) -> Vec<(u64, BlockOperation)> {
        let free = |(id, request): (&u64, &Request)| {
            let blocked =
                || self.requests.range(..*id).any(|(_, earlier)| conflict(&earlier.operation, &request.operation));
            (!request.issued && !blocked()).then_some(*id)
        };
        let ready: Vec<u64> = self.requests.iter().filter_map(free).collect();
        let mut issued = Vec::with_capacity(ready.len());
        for id in ready {
            if let Some(request) = self.requests.get_mut(&id) {
                request.issued = true;
                issued.push((id, request.operation.clone()));
            }
        }
        issued
    }

    /// The device was reset: what waits is dropped, what is outside loses its reply.
    pub fn abandon(&mut self) {
        self.requests.retain(|_, request| request.issued);
        self.requests.values_mut().for_each(|request| request.reply = None);
    }
}

/// Bytes of payload or of room for data that a request stands for.
fn data_bytes(operation: &BlockOperation) -> u64 {
    match operation {
        BlockOperation::Read { length, .. } => u64::from(*length),
        BlockOperation::Write { data, .. } => data.len() as u64,
        BlockOperation::Flush | BlockOperation::Discard { .. } | BlockOperation::WriteZeroes { .. } => 0,
    }
}

/// Offset, length, and whether the range is changed.
fn range(operation: &BlockOperation) -> Option<(u64, u64, bool)> {
    match operation {
        BlockOperation::Read { offset, length } => Some((*offset, u64::from(*length), false)),
        BlockOperation::Write { offset, data } => Some((*offset, data.len() as u64, true)),
        BlockOperation::Discard { offset, length } | BlockOperation::WriteZeroes { offset, length, .. } => {
            Some((*offset, *length, true))
        }
        BlockOperation::Flush => None,
    }
}

fn conflict(a: &BlockOperation, b: &BlockOperation) -> bool {
    let (Some((a, a_length, a_changes)), Some((b, b_length, b_changes))) = (range(a), range(b)) else {
        return false;
    };
    let overlap = a < b.saturating_add(b_length) && b < a.saturating_add(a_length);
    overlap && (a_changes || b_changes)
}
