//! `<domain>`: a virtual machine as a whole.

use uuid::Uuid;

use crate::cpu::Cpu;
use crate::devices::Devices;
use crate::error::DomainXmlError;
use crate::metadata::Metadata;
use crate::platform::{Action, Clock, Features, Os, read_action};
use crate::size::size_child;
use crate::xml::{self, Element, Writer, is_xml_text};

/// Longest name of a domain: files are called after it.
const MAX_NAME_BYTES: usize = 200;

/// Memory, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What the machine has.
    pub max_kib: u64,
    /// What the guest may use of it.
    pub current_kib: u64,
}

/// Virtual processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vcpus {
    /// How many.
    pub count: u32,
    names_placement: bool,
}

/// A virtual machine's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Name, unique on a host.
    pub name: String,
    /// UUID, unique anywhere; `None` only before [`Domain::complete`].
    pub uuid: Option<Uuid>,
    /// One line for people.
    pub title: Option<String>,
    /// Text for people.
    pub description: Option<String>,
    /// Elements of other programs.
    pub metadata: Metadata,
    /// Memory.
    pub memory: Memory,
    /// Virtual processors.
    pub vcpus: Vcpus,
    /// `<resource><partition>`.
    pub partition: Option<String>,
    /// What is started.
    pub os: Os,
    /// Features of the board.
    pub features: Features,
    /// The processor, where something is said of it.
    pub cpu: Option<Cpu>,
    /// Clock and timers.
    pub clock: Clock,
    /// After the guest powered off.
    pub on_poweroff: Action,
    /// After the guest reset: always restarted.
    pub on_reboot: Action,
    /// After the guest crashed.
    pub on_crash: Action,
    /// Devices.
    pub devices: Devices,
    /// `<seclabel type='none'/>` is written.
    pub seclabel_none: bool,
}

impl Domain {
    /// Reads a `<domain>`.
    ///
    /// # Errors
    /// When it is malformed or has anything that this hypervisor lacks.
    pub fn parse(text: &str) -> Result<Self, DomainXmlError> {
        xml::parse(text, "domain", Self::read)
    }

    fn read(domain: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        read_type(domain)?;
        // Of a running domain; it gets another one next time.
        domain.attribute("id");
        let name = domain.text_child("name")?.ok_or_else(|| domain.invalid("<domain> lacks <name>"))?;
        check_name(&name)?;
        let uuid = domain.text_child("uuid")?.map(|text| read_uuid(&text)).transpose()?;
        let title = domain.text_child("title")?;
        title.as_deref().map(check_title).transpose()?;
        let description = domain.text_child("description")?;
        let metadata = section(domain, "metadata", Metadata::read)?.unwrap_or_default();
        let memory = read_memory(domain)?;
        let vcpus = section(domain, "vcpu", Vcpus::read)?.unwrap_or(Vcpus { count: 1, names_placement: false });
        let partition = section(domain, "resource", read_partition)?;
        let os = section(domain, "os", Os::read)?.ok_or_else(|| domain.invalid("<domain> lacks <os>"))?;
        let features = section(domain, "features", Features::read)?.unwrap_or_default();
        let cpu = section(domain, "cpu", Cpu::read)?;
        let clock = section(domain, "clock", Clock::read)?.unwrap_or_default();
        let both = [Action::Destroy, Action::Restart];
        let on_poweroff = read_action(domain, "on_poweroff", &both, "write destroy or restart")?;
        let on_reboot =
            read_action(domain, "on_reboot", &[Action::Restart], "a guest that resets is always started again")?;
        let on_crash = read_action(domain, "on_crash", &both, "write destroy or restart")?;
        let devices = section(domain, "devices", Devices::read)?.unwrap_or_default();
        let seclabel_none = read_seclabels(domain)?;
        Ok(Self {
            name,
            uuid,
            title,
            description,
            metadata,
            memory,
            vcpus,
            partition,
            os,
            features,
            cpu,
            clock,
            on_poweroff: on_poweroff.unwrap_or(Action::Destroy),
            on_reboot: on_reboot.unwrap_or(Action::Restart),
            on_crash: on_crash.unwrap_or(Action::Destroy),
            devices,
            seclabel_none,
        })
    }

    /// Writes the domain; with the number `id` where it describes a running one.
    #[must_use]
    pub fn to_xml(&self, id: Option<i32>) -> String {
        let mut w = Writer::default();
        w.tag("domain").attr("type", "qemu").attr_opt("id", id).content(|w| {
            w.tag("name").text(&self.name);
            if let Some(uuid) = self.uuid {
                w.tag("uuid").text(uuid.hyphenated());
            }
            for (name, text) in [("title", &self.title), ("description", &self.description)] {
                if let Some(text) = text {
                    w.tag(name).text(text);
                }
            }
            self.metadata.write(w);
            w.tag("memory").attr("unit", "KiB").text(self.memory.max_kib);
            w.tag("currentMemory").attr("unit", "KiB").text(self.memory.current_kib);
            let placement = self.vcpus.names_placement.then_some("static");
            w.tag("vcpu").attr_opt("placement", placement).text(self.vcpus.count);
            if let Some(partition) = &self.partition {
                w.tag("resource").content(|w| w.tag("partition").text(partition));
            }
            self.os.write(w);
            self.features.write(w);
            if let Some(cpu) = &self.cpu {
                cpu.write(w);
            }
            self.clock.write(w);
            let actions =
                [("on_poweroff", self.on_poweroff), ("on_reboot", self.on_reboot), ("on_crash", self.on_crash)];
            for (name, action) in actions {
                w.tag(name).text(action);
            }
            self.devices.write(w);
            if self.seclabel_none {
                w.tag("seclabel").attr("type", "none").end();
            }
        });
        w.into_string()
    }

    /// Sets or removes the title.
    ///
    /// # Errors
    /// When it has more than one line.
    pub fn set_title(&mut self, title: Option<&str>) -> Result<(), DomainXmlError> {
        title.map(check_title).transpose()?;
        self.title = title.map(str::to_owned);
        Ok(())
    }

    /// Sets or removes the description.
    ///
    /// # Errors
    /// When XML cannot carry it.
    pub fn set_description(&mut self, description: Option<&str>) -> Result<(), DomainXmlError> {
        description.map(check_text).transpose()?;
        self.description = description.map(str::to_owned);
        Ok(())
    }

    /// The UUID of a completed definition.
    #[must_use]
    pub fn known_uuid(&self) -> Uuid {
        self.uuid.unwrap_or_default()
    }
}

fn section<T>(
    domain: &mut Element<'_>,
    name: &str,
    read: fn(&mut Element<'_>) -> Result<T, DomainXmlError>,
) -> Result<Option<T>, DomainXmlError> {
    let Some(mut element) = domain.child(name)? else { return Ok(None) };
    let value = read(&mut element)?;
    element.finish()?;
    Ok(Some(value))
}

/// Checks a domain's name.
///
/// # Errors
/// When files could not be called so, or XML could not carry it.
pub fn check_name(name: &str) -> Result<(), DomainXmlError> {
    let reason = if name.trim().is_empty() {
        "the name of a domain must not be empty"
    } else if name.contains(['/', '\n']) || !is_xml_text(name) {
        "the name of a domain must be one line, without '/'"
    } else if name.len() > MAX_NAME_BYTES {
        "the name of a domain must have at most 200 bytes"
    } else if name.starts_with('.') {
        "the name of a domain must not begin with a dot"
    } else {
        return Ok(());
    };
    Err(DomainXmlError::invalid(reason))
}

fn check_title(title: &str) -> Result<(), DomainXmlError> {
    if title.contains('\n') {
        return Err(DomainXmlError::invalid("a title has one line"));
    }
    check_text(title)
}

fn check_text(text: &str) -> Result<(), DomainXmlError> {
    if is_xml_text(text) {
        Ok(())
    } else {
        Err(DomainXmlError::invalid("the text has characters that XML cannot carry"))
    }
}

fn read_type(domain: &mut Element<'_>) -> Result<(), DomainXmlError> {
    let reason = match domain.required("type")? {
        "qemu" => return Ok(()),
        "kvm" => "guests run on a deterministic interpreter, not on the host's processor: write type='qemu'",
        _ => "write type='qemu'",
    };
    let kind = domain.required("type")?;
    Err(domain.unsupported_value("type", kind, reason))
}

fn read_uuid(text: &str) -> Result<Uuid, DomainXmlError> {
    let text = text.trim();
    let uuid = Uuid::try_parse(text).ok().filter(|uuid| !uuid.is_nil() && !text.starts_with(['{', 'u']));
    uuid.ok_or_else(|| DomainXmlError::invalid(format!("'{text}' in <uuid> is no UUID")))
}

fn read_memory(domain: &mut Element<'_>) -> Result<Memory, DomainXmlError> {
    let max = size_child(domain, "memory")?.ok_or_else(|| domain.invalid("<domain> lacks <memory>"))?;
    // The machine's memory is a whole number of MiB; rounding up is what other hypervisors do.
    let max_kib = max.div_ceil(1024).saturating_mul(1024);
    let current = size_child(domain, "currentMemory")?.unwrap_or(max);
    let current_kib = current.div_ceil(1024).saturating_mul(1024);
    Ok(Memory { max_kib, current_kib })
}

fn read_partition(resource: &mut Element<'_>) -> Result<String, DomainXmlError> {
    let partition =
        resource.text_child("partition")?.ok_or_else(|| resource.invalid("<resource> lacks <partition>"))?;
    if partition != "/machine" {
        return Err(resource.unsupported(format!("'{partition}' in <partition>"), "the partition is /machine"));
    }
    Ok(partition)
}

fn read_seclabels(domain: &mut Element<'_>) -> Result<bool, DomainXmlError> {
    let labels = domain.children("seclabel");
    let is_there = !labels.is_empty();
    for mut label in labels {
        let kind = label.attribute("type").unwrap_or("dynamic");
        if kind != "none" {
            return Err(label.unsupported_value("type", kind, "there are no security labels: write type='none'"));
        }
        label.only("model", &["none"], "there are no security labels")?;
        label.finish()?;
    }
    Ok(is_there)
}

impl Vcpus {
    fn read(vcpu: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        let text = vcpu.text();
        let count: u32 =
            text.trim().parse().map_err(|_| vcpu.invalid(format!("'{}' in <vcpu> is no number", text.trim())))?;
        let names_placement = vcpu.only("placement", &["static"], "processors are not placed")?.is_some();
        if let Some(current) = vcpu.number::<u32>("current")?.filter(|current| *current != count) {
            let reason = "processors cannot be added later";
            return Err(vcpu.unsupported_value("current", &current.to_string(), reason));
        }
        Ok(Self { count, names_placement })
    }
}
