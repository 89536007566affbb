//! All backends of one machine: opened from the command line, started together, addressed by outputs.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;
use virtft_machine::io::{BlockOperation, CharPort, DeviceIndex, Input, Output, RequestId};

use crate::chardev::{CharDevice, CharError, CharHandle};
use crate::cli::{CharOption, ClockMode, RunArguments};
use crate::disk::{Completion, Disk, DiskError, DiskFacts, DiskHandle};
use crate::driver::{DriverError, OutputSink};
use crate::ft::COPY_BIT;
use crate::net::{Net, NetError, NetFacts, NetHandle};
use crate::queue::InputQueue;
use crate::seccomp::Confinement;

/// Why the host's side of a machine cannot be had.
#[derive(Debug, Error)]
pub enum HostError {
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A network device.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A serial port or console.
    #[error("{channel}: {source}")]
    Char {
        /// The option that named it.
        channel: &'static str,
        /// What is wrong.
        source: CharError,
    },
}

/// Opened backends whose threads are not running yet.
#[derive(Debug)]
pub struct Host {
    disks: Vec<Disk>,
    nets: Vec<Net>,
    chars: Vec<(CharPort, CharDevice)>,
}

impl Host {
    /// Opens everything that the command line names, or nothing.
    ///
    /// # Errors
    /// The first thing that cannot be opened.
    pub fn open(arguments: &RunArguments) -> Result<Self, HostError> {
        let disks = Self::open_disks(arguments)?;
        Ok(Self { disks, ..Self::open_without_disks(arguments)? })
    }

    /// Opens the disks of a command line, or none.
    ///
    /// # Errors
    /// The first that cannot be opened.
    pub fn open_disks(arguments: &RunArguments) -> Result<Vec<Disk>, HostError> {
        let disks = arguments.disk.iter().enumerate();
        Ok(disks.map(|(index, option)| Disk::open(option, index)).collect::<Result<_, _>>()?)
    }

    /// Facts of disks that another host uses now.
    ///
    /// # Errors
    /// The first that cannot be looked at.
    pub fn look_at_disks(arguments: &RunArguments) -> Result<Vec<DiskFacts>, HostError> {
        let disks = arguments.disk.iter().enumerate();
        Ok(disks.map(|(index, option)| Disk::look_at(option, index)).collect::<Result<_, _>>()?)
    }

    /// Opens everything but the disks.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_without_disks(arguments: &RunArguments) -> Result<Self, HostError> {
        let mut nets = Vec::new();
        for (option, index) in arguments.net.iter().zip(0_u8..) {
            nets.push(Net::open(option, index)?);
        }
        // Last, because it changes the terminal, on which errors are read.
        let with_input = arguments.clock == ClockMode::Real;
        let mut chars = Vec::new();
        let mut open = |channel, port, option: &CharOption| {
            let device = CharDevice::open(option, with_input && port != CharPort::DebugCon)
                .map_err(|source| HostError::Char { channel, source })?;
            if let Some(path) = &device.pty {
                eprintln!("{channel}: {}", path.display());
            }
            chars.push((port, device));
            Ok::<(), HostError>(())
        };
        for (option, index) in arguments.serial.iter().zip(0_u8..) {
            open("--serial", CharPort::Serial(index), option)?;
        }
        for (option, index) in arguments.console.iter().zip(0_u8..) {
            open("--console", CharPort::Console(index), option)?;
        }
        if let Some(option) = &arguments.debugcon {
            open("--debugcon", CharPort::DebugCon, &option.0)?;
        }
        Ok(Self { disks: Vec::new(), nets, chars })
    }

    /// Facts of the disks, in order.
    #[must_use]
    pub fn disk_facts(&self) -> Vec<DiskFacts> {
        self.disks.iter().map(|disk| disk.facts.clone()).collect()
    }

    /// XXH3-128 of the whole content of each disk, in order.
    ///
    /// # Errors
    /// One line that says which disk cannot be read.
    pub fn digest_disks(&self) -> Result<Vec<u128>, String> {
        self.disks.iter().map(Disk::digest).collect()
    }

    /// Facts of the network devices, in order.
    #[must_use]
    pub fn net_facts(&self) -> Vec<NetFacts> {
        self.nets.iter().map(|net| net.facts).collect()
    }

    /// MAC addresses of the network devices, in order.
    #[must_use]
    pub fn macs(&self) -> Vec<[u8; 6]> {
        self.nets.iter().map(|net| net.facts.mac.0).collect()
    }

    /// Takes the disks out: a backup uses them itself until it goes live.
    #[must_use]
    pub fn take_disks(&mut self) -> Vec<Disk> {
        std::mem::take(&mut self.disks)
    }

    /// Puts the disks back.
    pub fn put_disks(&mut self, disks: Vec<Disk>) {
        self.disks = disks;
    }

    /// Starts all threads; what they bring goes to `queue`, pieces of disks that were read for a copy to `copied`.
    ///
    /// # Errors
    /// When threads or descriptors have run out.
    pub fn start(
        self,
        confinement: &Confinement,
        queue: &Arc<InputQueue>,
        copied: Option<&CopySink>,
    ) -> Result<Backends, HostError> {
        let mut disks = Vec::new();
        for (disk, index) in self.disks.into_iter().zip(0_u8..) {
            let (queue, copied) = (Arc::clone(queue), copied.cloned());
            let complete = move |completion: Completion| {
                if completion.request.0 & COPY_BIT != 0 {
                    return copied.iter().for_each(|copied| copied(index, completion.clone()));
                }
                let Completion { request, status, data } = completion;
                queue.push(Input::BlockCompletion { device: DeviceIndex(index), request, status, data });
            };
            disks.push(disk.start(confinement, complete)?);
        }
        let mut nets = Vec::new();
        for (net, index) in self.nets.into_iter().zip(0_u8..) {
            nets.push(net.start(index, confinement, Arc::clone(queue))?);
        }
        let mut chars = BTreeMap::new();
        for (port, device) in self.chars {
            let handle = device
                .start(port, confinement, Arc::clone(queue))
                .map_err(|source| HostError::Char { channel: "character device", source })?;
            chars.insert(port, handle);
        }
        Ok(Backends { disks, nets, chars })
    }
}

/// Running backends. Dropping it lets the last output leave, completes and flushes the disks, and ends passt.
#[derive(Debug)]
pub struct Backends {
    disks: Vec<DiskHandle>,
    nets: Vec<NetHandle>,
    chars: BTreeMap<CharPort, CharHandle>,
}

/// Takes pieces of disks that were read for a copy, on the disk's thread.
pub type CopySink = Arc<dyn Fn(u8, Completion) + Send + Sync>;

impl Backends {
    /// Reads a piece of a disk for a copy, behind all requests submitted before; false when the disk's thread has died.
    #[must_use]
    pub fn copy_read(&self, device: u8, request: RequestId, offset: u64, length: u32) -> bool {
        let operation = BlockOperation::Read { offset, length };
        self.disks.get(usize::from(device)).is_some_and(|disk| disk.submit(request, operation))
    }

    /// Plugs the cable of a network device in, or pulls it out; false when there is no such device.
    #[must_use]
    pub fn plug(&self, device: u8, up: bool) -> bool {
        self.nets.get(usize::from(device)).map(|net| net.plug(up)).is_some()
    }

    /// What the disks have done on this host, by name.
    #[must_use]
    pub fn disk_counters(&self) -> Vec<(String, u64)> {
        let named = |(index, disk): (usize, &DiskHandle)| {
            disk.counters().map(|(name, value)| (format!("disk{index}.{name}"), value))
        };
        self.disks.iter().enumerate().flat_map(named).collect()
    }

    /// Makes the disks complete a change only when it is on the medium, or not; and what they completed before is brought there by
    /// requests of these numbers. False when the thread of a disk has died.
    #[must_use]
    pub fn set_durable(&self, durable: bool, flush: Option<RequestId>) -> bool {
        self.disks.iter().all(|disk| {
            disk.set_durable(durable);
            flush.is_none_or(|request| disk.submit(request, BlockOperation::Flush))
        })
    }

    /// What was lost on the way, for the log at the end.
    pub fn log_losses(&self) {
        for (index, net) in self.nets.iter().enumerate() {
            if net.dropped() > 0 {
                tracing::info!("network device {index}: {} packets were dropped", net.dropped());
            }
        }
        for (port, handle) in &self.chars {
            if handle.dropped() > 0 {
                tracing::info!("{port:?}: {} bytes were not read in time", handle.dropped());
            }
        }
    }
}

impl OutputSink for Backends {
    fn send(&mut self, output: Output) -> Result<(), DriverError> {
        let missing = |what: String| Err(DriverError::NoSuchDevice(what));
        match output {
            Output::NetTransmit { device, packet } => match self.nets.get(usize::from(device.0)) {
                Some(net) => net.transmit(packet),
                None => return missing(format!("network device {}", device.0)),
            },
            Output::Block { device, request, operation } => match self.disks.get(usize::from(device.0)) {
                Some(disk) if disk.submit(request, operation) => {}
                Some(_) => return Err(DriverError::DiskThread(device.0)),
                None => return missing(format!("disk {}", device.0)),
            },
            // The second serial port exists even when nothing is connected to it.
            Output::CharTransmit { port, data } => {
                if let Some(handle) = self.chars.get(&port) {
                    handle.transmit(&data);
                }
            }
            // The driver gave the memory back already: it belongs to the machine.
            Output::BalloonInflate { .. } => {}
        }
        Ok(())
    }
}
