//! What the board is: how it boots, its features, its clock, and what happens when it ends.

use crate::choice::choice;
use crate::error::DomainXmlError;
use crate::xml::{Element, Writer};

/// The machine type, in full.
pub const MACHINE: &str = "virtft-1";
/// What may be written for it: people and tools know no other names. Told of a machine with "q35" in its name, virt-install
/// adds root ports, which this one lacks; so that name is not among the capabilities.
pub(crate) const MACHINE_NAMES: [&str; 3] = [MACHINE, "q35", "pc"];

/// `<os>`: the kernel is started directly, for there is no firmware.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Os {
    /// The kernel's file on the host.
    pub kernel: Option<String>,
    /// The initial RAM disk's file on the host.
    pub initrd: Option<String>,
    /// The kernel's command line.
    pub cmdline: Option<String>,
    /// Order of boot devices, which a directly started kernel does not need; kept as written.
    pub boot: Vec<String>,
}

impl Os {
    pub(crate) fn read(os: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        os.only("firmware", &[], "there is no firmware; give <kernel>")?;
        let mut kind = os.child("type")?.ok_or_else(|| os.invalid("<os> lacks <type>"))?;
        kind.only("arch", &["x86_64"], "the guest's processors are x86_64")?;
        kind.only("machine", &MACHINE_NAMES, &format!("the machine is '{MACHINE}'"))?;
        match kind.text().trim() {
            "hvm" => kind.finish()?,
            other => return Err(kind.unsupported(format!("operating system type '{other}'"), "write hvm")),
        }
        let mut boot = Vec::new();
        for mut device in os.children("boot") {
            let name = device.required("dev")?;
            if !["hd", "network", "cdrom", "fd"].contains(&name) {
                return Err(device.invalid(format!("'{name}' is no boot device")));
            }
            boot.push(name.to_owned());
            device.finish()?;
        }
        let (kernel, initrd, cmdline) = (os.text_child("kernel")?, os.text_child("initrd")?, os.text_child("cmdline")?);
        Ok(Self { kernel, initrd, cmdline, boot })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.tag("os").content(|w| {
            w.tag("type").attr("arch", "x86_64").attr("machine", MACHINE).text("hvm");
            for (name, value) in [("kernel", &self.kernel), ("initrd", &self.initrd), ("cmdline", &self.cmdline)] {
                if let Some(value) = value {
                    w.tag(name).text(value);
                }
            }
            for device in &self.boot {
                w.tag("boot").attr("dev", device).end();
            }
        });
    }
}

/// `<features>`. ACPI and APIC are always there, and completed where they are not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Power button, tables.
    pub acpi: bool,
    /// Local APICs and an IO-APIC.
    pub apic: bool,
    /// Physical addresses above 4 GiB; always there too, shown as written.
    pub pae: bool,
    /// VMware's port is named, as off.
    pub vmport_off: bool,
    /// System management mode is named, as off.
    pub smm_off: bool,
}

impl Features {
    pub(crate) fn read(features: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        let (acpi, apic, pae) = (features.flag("acpi")?, features.flag("apic")?, features.flag("pae")?);
        let mut is_off = |name: &str, reason: &str| {
            let Some(mut feature) = features.child(name)? else { return Ok(false) };
            feature.only("state", &["off"], reason)?;
            feature.finish().map(|()| true)
        };
        let vmport_off = is_off("vmport", "there is no VMware port")?;
        let smm_off = is_off("smm", "there is no system management mode")?;
        Ok(Self { acpi, apic, pae, vmport_off, smm_off })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.tag("features").content(|w| {
            for (name, is_there) in [("acpi", self.acpi), ("apic", self.apic), ("pae", self.pae)] {
                if is_there {
                    w.tag(name).end();
                }
            }
            for (name, is_there) in [("vmport", self.vmport_off), ("smm", self.smm_off)] {
                if is_there {
                    w.tag(name).attr("state", "off").end();
                }
            }
        });
    }
}

/// `<clock>`: UTC. Timers may be named as far as they say what the machine does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clock {
    /// Timers with their attributes, in order.
    timers: Vec<Timer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Timer {
    name: String,
    tick_policy: Option<String>,
    present: Option<String>,
}

impl Clock {
    pub(crate) fn read(clock: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        clock.only("offset", &["utc"], "the real-time clock runs in UTC")?;
        let timers = clock.children("timer").into_iter().map(Timer::read).collect::<Result<_, _>>()?;
        Ok(Self { timers })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.tag("clock").attr("offset", "utc").content(|w| {
            for timer in &self.timers {
                let tag = w.tag("timer").attr("name", &timer.name);
                tag.attr_opt("tickpolicy", timer.tick_policy.as_ref())
                    .attr_opt("present", timer.present.as_ref())
                    .end();
            }
        });
    }
}

impl Timer {
    fn read(mut timer: Element<'_>) -> Result<Self, DomainXmlError> {
        let name = timer.required("name")?;
        // Ticks that a guest missed become one.
        let policies: &[&str] = if matches!(name, "rtc" | "pit") { &["merge"] } else { &[] };
        let policy = timer.only("tickpolicy", policies, "missed ticks of rtc and pit are merged")?;
        let present = match name {
            "rtc" | "pit" | "tsc" => timer.only("present", &["yes"], "this timer is always there")?,
            "hpet" | "kvmclock" | "hypervclock" | "platform" => {
                let reason = "there is no such timer; write present='no'";
                match timer.only("present", &["no"], reason)? {
                    None => return Err(timer.unsupported_value("name", name, reason)),
                    present => present,
                }
            }
            other => return Err(timer.invalid(format!("'{other}' is no timer"))),
        };
        timer.finish()?;
        Ok(Self { name: name.into(), tick_policy: policy.map(Into::into), present: present.map(Into::into) })
    }
}

choice! {
    /// What is done when a guest ends in some way.
    Action {
        /// The domain is off.
        Destroy = "destroy",
        /// It is started again.
        Restart = "restart",
    }
}

/// Takes `<on_...>`; `allowed` with the reason for what else there could be.
pub(crate) fn read_action(
    domain: &mut Element<'_>,
    name: &str,
    allowed: &[Action],
    reason: &str,
) -> Result<Option<Action>, DomainXmlError> {
    let Some(element) = domain.child(name)? else { return Ok(None) };
    let word = element.text();
    let action = Action::parse(word.trim()).filter(|action| allowed.contains(action));
    let action = action.ok_or_else(|| element.unsupported(format!("'{}' in <{name}>", word.trim()), reason))?;
    element.finish()?;
    Ok(Some(action))
}
