//! What clients ask before they make a domain: capabilities of the host and of domains.
//!
//! Both tell the truth, and so lead virt-install and virt-manager to what the machine has: virtio, no display, no firmware.

use uuid::Uuid;

use crate::check::MAX_VCPUS;
use crate::cpu::CPU_MODEL;
use crate::platform::{MACHINE, MACHINE_NAMES};
use crate::xml::Writer;

/// A NUMA cell of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    /// Number.
    pub id: u32,
    /// Memory, in KiB.
    pub memory_kib: u64,
    /// Numbers of its processors.
    pub cpus: Vec<u32>,
}

/// What the capabilities say of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The host's UUID.
    pub uuid: Uuid,
    /// Sockets, cores of each, threads of each core.
    pub topology: (u32, u32, u32),
    /// Cells.
    pub cells: Vec<Cell>,
}

/// `<capabilities>` of a host whose default emulator is the given file.
#[must_use]
pub fn capabilities(host: &HostFacts, emulator: &str) -> String {
    let mut w = Writer::default();
    w.tag("capabilities").content(|w| {
        w.tag("host").content(|w| write_host(w, host));
        w.tag("guest").content(|w| {
            w.tag("os_type").text("hvm");
            w.tag("arch").attr("name", "x86_64").content(|w| {
                w.tag("wordsize").text(64);
                w.tag("emulator").text(emulator);
                w.tag("machine").attr("maxCpus", MAX_VCPUS).text(MACHINE);
                w.tag("domain").attr("type", "qemu").end();
            });
            w.tag("features").content(|w| {
                w.tag("acpi").attr("default", "on").attr("toggle", "no").end();
                w.tag("apic").attr("default", "on").attr("toggle", "no").end();
                w.tag("disksnapshot").attr("default", "off").attr("toggle", "no").end();
            });
        });
    });
    w.into_string()
}

fn write_host(w: &mut Writer, host: &HostFacts) {
    w.tag("uuid").text(host.uuid.hyphenated());
    let (sockets, cores, threads) = host.topology;
    w.tag("cpu").content(|w| {
        w.tag("arch").text("x86_64");
        let tag = w.tag("topology").attr("sockets", sockets).attr("dies", 1);
        tag.attr("cores", cores).attr("threads", threads).end();
        w.tag("pages").attr("unit", "KiB").attr("size", 4).end();
    });
    w.tag("iommu").attr("support", "no").end();
    w.tag("topology").content(|w| {
        w.tag("cells").attr("num", host.cells.len()).content(|w| {
            for cell in &host.cells {
                w.tag("cell").attr("id", cell.id).content(|w| write_cell(w, cell));
            }
        });
    });
    w.tag("secmodel").content(|w| {
        w.tag("model").text("none");
        w.tag("doi").text(0);
    });
}

fn write_cell(w: &mut Writer, cell: &Cell) {
    w.tag("memory").attr("unit", "KiB").text(cell.memory_kib);
    w.tag("pages").attr("unit", "KiB").attr("size", 4).text(cell.memory_kib / 4);
    w.tag("cpus").attr("num", cell.cpus.len()).content(|w| {
        for cpu in &cell.cpus {
            w.tag("cpu").attr("id", cpu).end();
        }
    });
}

/// `<domainCapabilities>`; absent arguments mean the defaults.
///
/// # Errors
/// One sentence when there are no such domains here.
pub fn domain_capabilities(
    emulator: &str,
    arch: Option<&str>,
    machine: Option<&str>,
    kind: Option<&str>,
) -> Result<String, String> {
    if let Some(arch) = arch.filter(|arch| *arch != "x86_64") {
        return Err(format!("there are no domains of the architecture '{arch}': x86_64 is possible"));
    }
    if let Some(kind) = kind.filter(|kind| *kind != "qemu") {
        return Err(format!("there are no domains of the type '{kind}': qemu is possible"));
    }
    if let Some(machine) = machine.filter(|machine| !MACHINE_NAMES.contains(machine)) {
        return Err(format!("there is no machine '{machine}': {MACHINE} is possible"));
    }
    let mut w = Writer::default();
    w.tag("domainCapabilities").content(|w| {
        w.tag("path").text(emulator);
        w.tag("domain").text("qemu");
        w.tag("machine").text(MACHINE);
        w.tag("arch").text("x86_64");
        w.tag("vcpu").attr("max", MAX_VCPUS).end();
        w.tag("iothreads").attr("supported", "no").end();
        w.tag("os").attr("supported", "yes").content(|w| {
            w.tag("enum").attr("name", "firmware").end();
            w.tag("loader").attr("supported", "no").end();
        });
        w.tag("cpu").content(write_cpu_modes);
        w.tag("memoryBacking").attr("supported", "no").end();
        w.tag("devices").content(write_devices);
        w.tag("features").content(|w| {
            for name in ["gic", "vmcoreinfo", "genid", "backingStoreInput", "backup", "sev"] {
                w.tag(name).attr("supported", "no").end();
            }
        });
    });
    Ok(w.into_string())
}

fn write_cpu_modes(w: &mut Writer) {
    w.tag("mode").attr("name", "host-passthrough").attr("supported", "no").end();
    w.tag("mode").attr("name", "maximum").attr("supported", "yes").content(|w| {
        write_enum(w, "maximumMigratable", &["on"]);
    });
    w.tag("mode").attr("name", "host-model").attr("supported", "no").end();
    w.tag("mode").attr("name", "custom").attr("supported", "yes").content(|w| {
        w.tag("model").attr("usable", "yes").attr("vendor", "Intel").text(CPU_MODEL);
    });
}

fn write_devices(w: &mut Writer) {
    let yes = |w: &mut Writer, name, enums: &[(&str, &[&str])]| {
        w.tag(name)
            .attr("supported", "yes")
            .content(|w| enums.iter().for_each(|(name, values)| write_enum(w, name, values)));
    };
    let no = |w: &mut Writer, name| w.tag(name).attr("supported", "no").end();
    yes(
        w,
        "disk",
        &[("diskDevice", &["disk"]), ("bus", &["virtio"]), ("model", &["virtio", "virtio-non-transitional"])],
    );
    no(w, "graphics");
    yes(w, "video", &[("modelType", &["none"])]);
    no(w, "hostdev");
    yes(w, "rng", &[("model", &["virtio"]), ("backendModel", &["random", "builtin"])]);
    for name in ["filesystem", "tpm", "redirdev", "channel"] {
        no(w, name);
    }
}

fn write_enum(w: &mut Writer, name: &str, values: &[&str]) {
    w.tag("enum").attr("name", name).content(|w| values.iter().for_each(|value| w.tag("value").text(value)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_documents() {
        let cell = Cell { id: 0, memory_kib: 1 << 20, cpus: vec![0, 1] };
        let host = HostFacts { uuid: Uuid::from_u128(1), topology: (1, 2, 1), cells: vec![cell] };
        let text = capabilities(&host, "/usr/bin/virtft-emulator");
        assert_eq!(roxmltree::Document::parse(&text).unwrap().root_element().tag_name().name(), "capabilities");
        let text = domain_capabilities("/e", None, Some("q35"), Some("qemu")).unwrap();
        assert!(roxmltree::Document::parse(&text).is_ok());
        assert!(domain_capabilities("/e", Some("aarch64"), None, None).is_err());
        assert!(domain_capabilities("/e", None, None, Some("kvm")).is_err());
        assert!(domain_capabilities("/e", None, Some("virt"), None).is_err());
    }
}
