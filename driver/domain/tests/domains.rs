//! Whole domains: examples come back as they were, and what the machine lacks is refused by name.

use uuid::Uuid;
use virtft_domain::{
    Action, CharSource, DiskFormat, DiskSource, Domain, DomainXmlError, InterfaceSource, Surroundings,
};

const SMALLEST: &str = include_str!("domains/smallest.xml");
const EVERYTHING: &str = include_str!("domains/everything.xml");

#[derive(Default)]
struct Fixed(u8);

impl Surroundings for Fixed {
    fn new_uuid(&mut self) -> Uuid {
        Uuid::from_u128(0x1234)
    }

    fn random_bytes(&mut self) -> [u8; 3] {
        self.0 += 1;
        [1, 2, self.0]
    }

    fn probe_format(&mut self, source: &DiskSource) -> DiskFormat {
        assert_eq!(source.path(), "/images/a,b.qcow2");
        DiskFormat::Qcow2
    }
}

fn complete(text: &str) -> Result<Domain, DomainXmlError> {
    let mut domain = Domain::parse(text)?;
    domain.complete(&mut Fixed::default())?;
    Ok(domain)
}

#[test]
fn what_is_left_open_is_written_down() {
    let domain = complete(SMALLEST).unwrap();
    let text = domain.to_xml(None);
    for line in [
        "<domain type='qemu'>",
        "<uuid>00000000-0000-0000-0000-000000001234</uuid>",
        "<memory unit='KiB'>65536</memory>",
        "<currentMemory unit='KiB'>65536</currentMemory>",
        "<vcpu>1</vcpu>",
        "<type arch='x86_64' machine='virtft-1'>hvm</type>",
        "<acpi/>",
        "<apic/>",
        "<clock offset='utc'/>",
        "<on_poweroff>destroy</on_poweroff>",
        "<memballoon model='virtio'/>",
        "<backend model='builtin'/>",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert_eq!(complete(&text), Ok(domain));
}

#[test]
fn everything_is_understood_and_comes_back() {
    let domain = complete(EVERYTHING).unwrap();
    assert_eq!(domain.name, "every & thing");
    assert_eq!(domain.on_crash, Action::Restart);
    assert_eq!(domain.memory.max_kib, 1 << 20);
    let targets: Vec<&str> = domain.devices.disks.iter().map(|disk| disk.target.as_str()).collect();
    assert_eq!(targets, ["vda", "vdb"], "disks are sorted by target");
    assert_eq!(domain.devices.disks[0].format, Some(DiskFormat::Qcow2), "probed");
    assert_eq!(domain.devices.disks[0].alias.as_deref(), Some("ua-root"));
    let interfaces = &domain.devices.interfaces;
    assert_eq!(interfaces[0].source, InterfaceSource::Network("default".into()));
    assert_eq!(interfaces[0].mac.unwrap().to_string(), "52:54:00:01:02:01");
    assert_eq!(interfaces[1].target, None, "names of the daemon's are not kept");
    assert!(interfaces[2].is_unmanaged && interfaces[2].target.as_deref() == Some("tap7"));
    assert_eq!(interfaces[3].alias, None);
    assert_eq!(domain.devices.serials[0].source, CharSource::Pty { path: None });
    assert_eq!(domain.devices.consoles.len(), 3);
    let note = "<app:note xmlns:app='urn:app' a = 'b'><!-- kept -->text</app:note>";
    assert_eq!(domain.metadata.get_verbatim("urn:app"), Some(note));
    let ft = domain.metadata.get_verbatim("urn:virtft:domain:1.0").unwrap();
    assert!(ft.starts_with("<ft:fault-tolerance xmlns:ft='urn:virtft:domain:1.0'>"), "{ft}");

    let text = domain.to_xml(None);
    assert_eq!(complete(&text), Ok(domain.clone()));
    assert_eq!(complete(&text).unwrap().to_xml(None), text);
    assert!(domain.to_xml(Some(3)).starts_with("<domain type='qemu' id='3'>"));
}

#[test]
fn a_running_domain_names_its_devices() {
    let mut domain = complete(EVERYTHING).unwrap();
    domain.devices.name_aliases();
    let text = domain.to_xml(Some(1));
    for alias in ["ua-root", "virtio-disk1", "net0", "net3", "serial0", "serial1", "console1", "console2"] {
        assert!(text.contains(&format!("<alias name='{alias}'/>")), "{alias} is not in\n{text}");
    }
}

/// The smallest domain with something put before its end, or in place of a part.
fn changed(from: &str, to: &str) -> Result<Domain, DomainXmlError> {
    assert!(SMALLEST.contains(from));
    complete(&SMALLEST.replacen(from, to, 1))
}

fn with_devices(inner: &str) -> Result<Domain, DomainXmlError> {
    changed("</domain>", &format!("<devices>{inner}</devices></domain>"))
}

#[test]
fn what_the_machine_lacks_is_refused_by_name() {
    let disk = |inner: &str| with_devices(&format!("<disk type='file'>{inner}</disk>"));
    let refused = [
        (changed("type='qemu'", "type='kvm'"), "type='kvm' of <domain>"),
        (changed("type='qemu'", "type='xen'"), "type='xen' of <domain>"),
        (changed("</os>", "<loader>/x</loader></os>"), "<loader> in <os>"),
        (changed("<type>", "<type arch='aarch64'>"), "arch='aarch64' of <type>"),
        (changed("<type>", "<type machine='virt'>"), "machine='virt' of <type>"),
        (changed("<kernel>/boot/vmlinuz</kernel>", ""), "<os> without <kernel>"),
        (changed("</domain>", "<cpu mode='host-passthrough'/></domain>"), "mode='host-passthrough' of <cpu>"),
        (changed("</domain>", "<clock offset='localtime'/></domain>"), "offset='localtime' of <clock>"),
        (changed("</domain>", "<on_reboot>destroy</on_reboot></domain>"), "'destroy' in <on_reboot>"),
        (changed("</domain>", "<features><hyperv/></features></domain>"), "<hyperv> in <features>"),
        (changed("</domain>", "<cputune/></domain>"), "<cputune> in <domain>"),
        (changed("</domain>", "<vcpu>9</vcpu></domain>"), "9 processors"),
        (changed("</domain>", "<vcpu current='1'>2</vcpu></domain>"), "current='1' of <vcpu>"),
        (changed(">64<", ">8<"), "8192 KiB of memory"),
        (changed("</domain>", "<currentMemory>1024</currentMemory></domain>"), "<currentMemory> below <memory>"),
        (changed("</domain>", "<seclabel type='dynamic'/></domain>"), "type='dynamic' of <seclabel>"),
        (changed("</domain>", "<seclabel/></domain>"), "type='dynamic' of <seclabel>"),
        (with_devices("<graphics type='vnc'/>"), "<graphics> in <devices>"),
        (with_devices("<hostdev/>"), "<hostdev> in <devices>"),
        (with_devices("<memballoon model='none'/>"), "model='none' of <memballoon>"),
        (with_devices("<rng model='virtio'><backend model='egd'/></rng>"), "model='egd' of <backend>"),
        (with_devices("<controller type='scsi'/>"), "type='scsi' of <controller>"),
        (with_devices("<video><model type='vga'/></video>"), "type='vga' of <model>"),
        (with_devices("<serial type='tcp'/>"), "type='tcp' of <serial>"),
        (with_devices("<console type='pty'/><console type='pty'/>"), "a second <console> of type serial"),
        (with_devices(&"<serial type='pty'/>".repeat(3)), "3 serial ports"),
        (with_devices("<disk type='network'/>"), "type='network' of <disk>"),
        (with_devices("<disk type='file' device='cdrom'/>"), "device='cdrom' of <disk>"),
        (disk("<source file='/a'/><target dev='sda'/>"), "dev='sda' of <target>"),
        (disk("<source file='/a'/><target dev='vda' bus='sata'/>"), "bus='sata' of <target>"),
        (disk("<driver type='vmdk'/><source file='/a'/><target dev='vda'/>"), "type='vmdk' of <driver>"),
        (disk("<driver cache='none'/><source file='/a'/><target dev='vda'/>"), "cache='none' of <driver>"),
        (disk("<source file='/a'/><target dev='vda'/><iotune/>"), "<iotune> in <disk>"),
        (with_devices("<interface type='direct'/>"), "type='direct' of <interface>"),
        (with_devices("<interface type='user'><model type='e1000'/></interface>"), "type='e1000' of <model>"),
        (with_devices("<interface type='user'><link state='down'/></interface>"), "state='down' of <link>"),
    ];
    for (result, what) in refused {
        let error = result.unwrap_err();
        assert!(matches!(error, DomainXmlError::Unsupported { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
}

#[test]
fn what_makes_no_sense_is_an_error_of_the_xml() {
    let refused = [
        (changed("<name>smallest</name>", ""), "lacks <name>"),
        (changed("smallest", "a/b"), "without '/'"),
        (changed("smallest", " "), "must not be empty"),
        (changed("<memory unit='MiB'>64</memory>", ""), "lacks <memory>"),
        (changed("MiB", "parsec"), "no unit of memory"),
        (changed("</domain>", "<uuid>1234</uuid></domain>"), "no UUID"),
        (changed("</domain>", "<vcpu>two</vcpu></domain>"), "'two' in <vcpu>"),
        (with_devices("<disk type='file'><target dev='vda'/></disk>"), "lacks <source>"),
        (with_devices("<interface type='bridge'/>"), "lacks <source bridge"),
        (with_devices("<interface type='user'><mac address='1'/></interface>"), "no MAC address"),
        (with_devices("<serial type='file'><source path='x'/></serial>"), "not an absolute path"),
    ];
    for (result, what) in refused {
        let error = result.unwrap_err();
        assert!(matches!(error, DomainXmlError::Invalid { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
    let twins = "<disk><source file='/a'/><target dev='vda'/></disk>".repeat(2);
    assert!(with_devices(&twins).unwrap_err().to_string().contains("two disks have the target 'vda'"));
    let malformed = complete("<domain type='qemu'>\n<name>x</nam></domain>").unwrap_err();
    assert!(matches!(malformed, DomainXmlError::Malformed { line: 2, .. }), "{malformed:?}");
}

#[test]
fn a_lone_console_brings_its_serial_port_and_the_other_way_round() {
    for inner in ["<console type='pty'/>", "<serial type='pty'/>"] {
        let domain = with_devices(inner).unwrap();
        assert_eq!((domain.devices.serials.len(), domain.devices.consoles.len()), (1, 1));
    }
    let domain = with_devices("<console type='pty'><target type='virtio'/></console>").unwrap();
    assert_eq!((domain.devices.serials.len(), domain.devices.consoles.len()), (0, 1));
}
