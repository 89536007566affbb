//! `<cpu>`: there is one model, the same on every host.

use crate::error::DomainXmlError;
use crate::xml::{Element, Writer};

/// The name of the model.
pub const CPU_MODEL: &str = "virtft-v2";

/// `<cpu>`, as far as it says what the machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    mode: Option<String>,
    matching: Option<String>,
    check: Option<String>,
    migratable: Option<String>,
    /// `Some` when the model is named, with its `fallback`.
    model: Option<Option<String>>,
    topology: Option<Topology>,
}

/// One package of cores with one thread each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Topology {
    cores: u32,
    with_dies: bool,
}

impl Cpu {
    pub(crate) fn read(cpu: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        let reason = format!(
            "every guest has the processor '{CPU_MODEL}', whatever the host's; leave <cpu> out or write mode='maximum'"
        );
        let mode = cpu.only("mode", &["custom", "maximum"], &reason)?.map(str::to_owned);
        let matching = cpu.only("match", &["exact", "strict"], &reason)?.map(str::to_owned);
        let check = cpu.only("check", &["none", "partial", "full"], &reason)?.map(str::to_owned);
        let migratable = cpu.only("migratable", &["on"], "guests can always be moved")?.map(str::to_owned);
        let mut model = None;
        if let Some(mut element) = cpu.child("model")? {
            let name = element.text();
            if name.trim() != CPU_MODEL {
                return Err(element.unsupported(format!("processor model '{}'", name.trim()), reason));
            }
            model = Some(element.only("fallback", &["allow", "forbid"], "")?.map(str::to_owned));
            element.finish()?;
        }
        let topology = cpu.child("topology")?.map(Topology::read).transpose()?;
        Ok(Self { mode, matching, check, migratable, model, topology })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        let tag = w.tag("cpu").attr_opt("mode", self.mode.as_ref()).attr_opt("match", self.matching.as_ref());
        let tag = tag.attr_opt("check", self.check.as_ref()).attr_opt("migratable", self.migratable.as_ref());
        tag.content(|w| {
            if let Some(fallback) = &self.model {
                w.tag("model").attr_opt("fallback", fallback.as_ref()).text(CPU_MODEL);
            }
            if let Some(topology) = &self.topology {
                let tag = w.tag("topology").attr("sockets", 1).attr_opt("dies", topology.with_dies.then_some(1));
                tag.attr("cores", topology.cores).attr("threads", 1).end();
            }
        });
    }

    /// Number of processors that a topology speaks of.
    pub(crate) fn cores(&self) -> Option<u32> {
        self.topology.map(|topology| topology.cores)
    }
}

impl Topology {
    fn read(mut element: Element<'_>) -> Result<Self, DomainXmlError> {
        let reason = "all processors are cores, with one thread each, of one socket";
        element.only("sockets", &["1"], reason)?;
        let with_dies = element.only("dies", &["1"], reason)?.is_some();
        element.only("threads", &["1"], reason)?;
        let cores = element.number("cores")?.unwrap_or(1);
        element.finish()?;
        Ok(Self { cores, with_dies })
    }
}
