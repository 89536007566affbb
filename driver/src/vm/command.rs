//! The emulator's command line for a domain.

use std::ffi::OsString;
use std::path::Path;

use virtft_domain::{CharDevice, CharSource, ConsoleTarget, Disk, Domain, Interface, InterfaceSource};

use super::entry::is_alias_of_serial;

/// What an emulator is to do.
#[derive(Debug, Clone, Copy)]
pub enum Role<'a> {
    /// Run the machine; with the options of fault tolerance, where that is wanted.
    Run {
        /// Text of `--ft`.
        ft: Option<&'a str>,
        /// A saved state from which it goes on.
        state: Option<&'a Path>,
        /// It stands still before its first step.
        paused: bool,
    },
    /// Follow another host's.
    Backup {
        /// Where the primary comes.
        listen: &'a str,
        /// Text of `--ft`.
        ft: &'a str,
    },
}

/// With which arguments an emulator is started. `taps` has the interface of each network card that has one.
#[must_use]
pub fn arguments(domain: &Domain, taps: &[Option<String>], control: &Path, role: &Role<'_>) -> Vec<OsString> {
    let word = if matches!(role, Role::Run { .. }) { "run" } else { "backup" };
    let mut arguments: Vec<OsString> = vec![word.into()];
    if matches!(role, Role::Run { paused: true, .. }) {
        arguments.push("--paused".into());
    }
    let mut add = |name: &str, value: String| arguments.push(format!("--{name}={value}").into());
    let boot = [("kernel", &domain.os.kernel), ("initrd", &domain.os.initrd), ("append", &domain.os.cmdline)];
    match role {
        Role::Run { ft, state, .. } => {
            match state {
                Some(state) => add("snapshot", state.display().to_string()),
                None => boot.into_iter().for_each(|(name, value)| {
                    if let Some(value) = value {
                        add(name, value.clone());
                    }
                }),
            }

            add("memory", format!("{}M", domain.memory.max_kib / 1024));
            add("vcpus", domain.vcpus.count.to_string());
            if let Some(ft) = ft {
                add("ft", (*ft).to_owned());
            }
        }
        Role::Backup { listen, ft } => {
            add("listen", (*listen).to_owned());
            add("ft", (*ft).to_owned());
        }
    }
    add("name", domain.known_uuid().to_string());
    add("control", control.display().to_string());
    for disk in &domain.devices.disks {
        add("disk", disk_option(disk));
    }
    let taps = taps.iter().chain(std::iter::repeat(&None));
    for (interface, tap) in domain.devices.interfaces.iter().zip(taps) {
        add("net", net_option(interface, tap.as_deref()));
    }
    for device in serials(domain) {
        add("serial", char_option(device));
    }
    for device in consoles(domain) {
        add("console", char_option(device));
    }
    arguments
}

/// The emulator of a domain.
#[must_use]
pub fn program(domain: &Domain, default: &Path) -> OsString {
    domain.devices.emulator.as_ref().map_or_else(|| default.into(), OsString::from)
}

fn disk_option(disk: &Disk) -> String {
    let mut option = format!("file={}", escaped(disk.source.path()));
    if let Some(serial) = &disk.serial {
        option.push_str(&format!(",id={}", escaped(serial)));
    }
    if let Some(format) = disk.format {
        option.push_str(&format!(",format={format}"));
    }
    if disk.readonly {
        option.push_str(",readonly=on");
    }
    option
}

fn net_option(interface: &Interface, tap: Option<&str>) -> String {
    let mac = interface.mac.map(|mac| format!(",mac={mac}")).unwrap_or_default();
    match (&interface.source, tap) {
        (InterfaceSource::User { .. }, _) => format!("passt{mac}"),
        (_, Some(tap)) => format!("tap={}{mac}", escaped(tap)),
        (_, None) => format!("none{mac}"),
    }
}

fn char_option(device: &CharDevice) -> String {
    match &device.source {
        CharSource::Pty { .. } => "pty".into(),
        CharSource::Unix { path, listens: true } => format!("unix:{},server", escaped(path)),
        CharSource::Unix { path, listens: false } => format!("unix:{}", escaped(path)),
        CharSource::File { path } => format!("file:{path}"),
        CharSource::Null => "null".into(),
    }
}

/// Serial ports, in the order of the options.
pub fn serials(domain: &Domain) -> impl Iterator<Item = &CharDevice> {
    domain.devices.serials.iter()
}

/// Ports of the virtio console, in the order of the options.
pub fn consoles(domain: &Domain) -> impl Iterator<Item = &CharDevice> {
    domain.devices.consoles.iter().filter(|console| console.target == ConsoleTarget::Virtio)
}

/// Hands out the pseudo-terminals that the emulator told of, in the order of its options, to serial ports and consoles.
#[must_use]
pub fn distribute_terminals(domain: &Domain, told: &Terminals) -> (Vec<Option<String>>, Vec<Option<String>>) {
    let is_terminal = |device: &CharDevice| matches!(device.source, CharSource::Pty { .. });
    let mut left = told.serials.iter().cloned();
    let serials: Vec<_> = serials(domain).map(|device| is_terminal(device).then(|| left.next()).flatten()).collect();
    let mut left = told.consoles.iter().cloned();
    let consoles = domain.devices.consoles.iter().map(|device| {
        if is_alias_of_serial(device) {
            serials.first().cloned().flatten()
        } else {
            is_terminal(device).then(|| left.next()).flatten()
        }
    });
    let consoles = consoles.collect();
    (serials, consoles)
}

/// Paths that the emulator said on standard error.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Terminals {
    /// In the order of `--serial`.
    pub serials: Vec<String>,
    /// In the order of `--console`.
    pub consoles: Vec<String>,
}

impl Terminals {
    /// Finds them in what was said: `--serial: /dev/pts/3`.
    #[must_use]
    pub fn parse(said: &str) -> Self {
        let of = |option: &str| {
            let lines = said.lines().filter_map(|line| line.strip_prefix(option)?.strip_prefix(": "));
            lines.filter(|path| path.starts_with("/dev/")).map(str::to_owned).collect()
        };
        Self { serials: of("--serial"), consoles: of("--console") }
    }
}

/// A comma within a value is written twice.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_becomes_a_command_line() {
        let text = include_str!("../../domain/tests/domains/everything.xml");
        let mut domain = Domain::parse(text).unwrap();
        domain.complete(&mut super::super::HostSurroundings).unwrap();
        for interface in &mut domain.devices.interfaces {
            interface.mac = Some("52:54:00:00:00:01".parse().unwrap());
        }
        let taps = [Some("vnet0".to_owned()), Some("vnet1".to_owned()), Some("tap7".to_owned()), None];
        let words = |role: &Role<'_>| -> Vec<String> {
            let line = arguments(&domain, &taps, Path::new("/run/c"), role);
            line.into_iter().map(|word| word.into_string().unwrap()).collect()
        };
        let name = format!("--name={}", domain.known_uuid());
        let line = words(&Role::Run { ft: Some("arbiter=dir:/x"), state: None, paused: false });
        let expected = [
            "run",
            "--kernel=/boot/vmlinuz",
            "--initrd=/boot/initrd.img",
            "--append=console=ttyS0 root=/dev/vda1 a='b'",
            "--memory=1024M",
            "--vcpus=2",
            "--ft=arbiter=dir:/x",
            &name,
            "--control=/run/c",
            "--disk=file=/images/a,,b.qcow2,id=root-disk,format=raw",
            "--disk=file=/dev/vg/data,format=raw,readonly=on",
            "--net=tap=vnet0,mac=52:54:00:00:00:01",
            "--net=tap=vnet1,mac=52:54:00:00:00:01",
            "--net=tap=tap7,mac=52:54:00:00:00:01",
            "--net=passt,mac=52:54:00:00:00:01",
            "--serial=pty",
            "--serial=file:/var/log/com2",
            "--console=unix:/run/hvc1,server",
            "--console=null",
        ];
        assert_eq!(line, expected);
        let backup = words(&Role::Backup { listen: "tls://b:1", ft: "arbiter=dir:/x" });
        assert_eq!(backup[..5], ["backup", "--listen=tls://b:1", "--ft=arbiter=dir:/x", &name, "--control=/run/c"]);
        assert_eq!(backup[5..], line[9..]);

        let told = Terminals::parse("WARN x\n--serial: /dev/pts/4\n--console: nonsense\n");
        assert_eq!(told, Terminals { serials: vec!["/dev/pts/4".into()], consoles: vec![] });
        let (serials, consoles) = distribute_terminals(&domain, &told);
        assert_eq!(serials, [Some("/dev/pts/4".to_owned()), None]);
        assert_eq!(consoles, [Some("/dev/pts/4".to_owned()), None, None]);
    }
}
