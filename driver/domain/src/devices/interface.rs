//! `<interface>`: a virtio network card.

use std::fmt;
use std::str::FromStr;

use super::{read_alias, write_alias};
use crate::error::DomainXmlError;
use crate::xml::{Element, Writer};

/// Longest name of a network interface: Linux counts the zero at the end into its 16.
const MAX_IFNAME_BYTES: usize = 15;

/// Names that the daemon gives to interfaces that it makes itself.
pub(crate) const TAP_PREFIX: &str = "vnet";

/// An Ethernet address of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// An address in the range that is used for virtual machines, from three bytes of chance.
    #[must_use]
    pub fn from_random(random: [u8; 3]) -> Self {
        let [a, b, c] = random;
        Self([0x52, 0x54, 0x00, a, b, c])
    }
}

impl FromStr for MacAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split(':');
        let mut address = [0; 6];
        for byte in &mut address {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len())).ok_or(())?;
            *byte = part
                .bytes()
                .all(|c| c.is_ascii_hexdigit())
                .then(|| u8::from_str_radix(part, 16).ok())
                .flatten()
                .ok_or(())?;
        }
        let is_unicast = address[0] & 1 == 0 && address != [0; 6];
        (parts.next().is_none() && is_unicast).then_some(Self(address)).ok_or(())
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What the card is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceSource {
    /// A virtual network of libvirt, by name.
    Network(String),
    /// A bridge of the host, by name.
    Bridge(String),
    /// A tap interface of its own; with `managed='no'` one that exists.
    Ethernet,
    /// The host's network, through passt.
    User {
        /// `<backend type='passt'/>` was written.
        names_passt: bool,
    },
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// What it is connected to.
    pub source: InterfaceSource,
    /// Address; chosen once, when the domain is defined, where it is not written.
    pub mac: Option<MacAddress>,
    /// The host's interface. The daemon's own names are given anew at each start.
    pub target: Option<String>,
    /// The host's interface exists and is left alone.
    pub is_unmanaged: bool,
    names_model: bool,
    names_link: bool,
    /// Name while it runs.
    pub alias: Option<String>,
}

impl Interface {
    pub(super) fn read(interface: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        let source = read_source(interface)?;
        let mac = interface.child("mac")?.map(read_mac).transpose()?;
        let (target, is_unmanaged) = match interface.child("target")? {
            Some(element) => read_target(element, &source)?,
            None => (None, false),
        };
        let names_model = match interface.child("model")? {
            Some(mut model) => {
                let kind = model.required("type")?;
                if !matches!(kind, "virtio" | "virtio-non-transitional") {
                    return Err(model.unsupported_value("type", kind, "network cards are virtio"));
                }
                model.finish()?;
                true
            }
            None => false,
        };
        let names_link = match interface.child("link")? {
            Some(mut link) => {
                link.only("state", &["up"], "the link cannot be taken down yet")?;
                link.finish()?;
                true
            }
            None => false,
        };
        let alias = read_alias(interface)?;
        Ok(Self { source, mac, target, is_unmanaged, names_model, names_link, alias })
    }

    pub(super) fn write(&self, w: &mut Writer) {
        let kind = match &self.source {
            InterfaceSource::Network(_) => "network",
            InterfaceSource::Bridge(_) => "bridge",
            InterfaceSource::Ethernet => "ethernet",
            InterfaceSource::User { .. } => "user",
        };
        w.tag("interface").attr("type", kind).content(|w| {
            if let Some(mac) = self.mac {
                w.tag("mac").attr("address", mac).end();
            }
            match &self.source {
                InterfaceSource::Network(name) => w.tag("source").attr("network", name).end(),
                InterfaceSource::Bridge(name) => w.tag("source").attr("bridge", name).end(),
                InterfaceSource::User { names_passt: true } => w.tag("backend").attr("type", "passt").end(),
                InterfaceSource::User { names_passt: false } | InterfaceSource::Ethernet => {}
            }
            if let Some(target) = &self.target {
                let managed = self.is_unmanaged.then_some("no");
                w.tag("target").attr("dev", target).attr_opt("managed", managed).end();
            }
            if self.names_model {
                w.tag("model").attr("type", "virtio").end();
            }
            if self.names_link {
                w.tag("link").attr("state", "up").end();
            }
            write_alias(w, self.alias.as_ref());
        });
    }

    /// Names the model, which is always virtio.
    pub(crate) fn complete(&mut self) {
        self.names_model = true;
    }
}

fn read_source(interface: &mut Element<'_>) -> Result<InterfaceSource, DomainXmlError> {
    let kind = interface.required("type")?;
    let mut source = interface.child("source")?;
    let mut name_of = |attribute: &str| {
        let lacks = || format!("<interface type='{kind}'> lacks <source {attribute}='...'>");
        let element = source.as_mut().ok_or_else(|| DomainXmlError::invalid(lacks()))?;
        Ok::<String, DomainXmlError>(element.required(attribute)?.to_owned())
    };
    let result = match kind {
        "network" => InterfaceSource::Network(name_of("network")?),
        "bridge" => InterfaceSource::Bridge(name_of("bridge")?),
        "ethernet" => InterfaceSource::Ethernet,
        "user" => {
            let backend = interface.child("backend")?;
            let names_passt = backend.is_some();
            if let Some(mut backend) = backend {
                backend.only("type", &["passt"], "the host's network is reached through passt")?;
                backend.finish()?;
            }
            InterfaceSource::User { names_passt }
        }
        other => {
            let reason = "interfaces are of type network, bridge, ethernet or user";
            return Err(interface.unsupported_value("type", other, reason));
        }
    };
    if let Some(source) = source {
        source.finish()?;
    }
    Ok(result)
}

fn read_mac(mut element: Element<'_>) -> Result<MacAddress, DomainXmlError> {
    let text = element.required("address")?;
    let mac = text.parse().map_err(|()| {
        element.invalid(format!("'{text}' is no MAC address of one device; write for example 52:54:00:00:00:01"))
    })?;
    element.finish()?;
    Ok(mac)
}

/// The host's interface and whether it is left alone.
fn read_target(mut element: Element<'_>, source: &InterfaceSource) -> Result<(Option<String>, bool), DomainXmlError> {
    let name = element.required("dev")?.to_owned();
    let is_unmanaged = element.only("managed", &["yes", "no"], "write yes or no")? == Some("no");
    if is_unmanaged && *source != InterfaceSource::Ethernet {
        return Err(element.unsupported_value("managed", "no", "only interfaces of type ethernet can be left alone"));
    }
    if matches!(source, InterfaceSource::User { .. }) {
        return Err(element.unsupported("<target>", "an interface of type user is none of the host's"));
    }
    let is_name = |c: char| c.is_ascii_graphic() && !"/:%".contains(c);
    if name.is_empty() || name.len() > MAX_IFNAME_BYTES || !name.chars().all(is_name) || name.starts_with('.') {
        return Err(element.invalid(format!("'{name}' cannot be the name of an interface")));
    }
    element.finish()?;
    let is_ours = name.strip_prefix(TAP_PREFIX).is_some_and(|rest| rest.bytes().all(|c| c.is_ascii_digit()));
    Ok(((is_unmanaged || !is_ours).then_some(name), is_unmanaged))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parsed = |text: &str| text.parse::<MacAddress>().map(|mac| mac.to_string());
        assert_eq!(parsed("52:54:0:0:0:FF"), Ok("52:54:00:00:00:ff".into()));
        for bad in ["", "52:54:00:00:00", "52:54:00:00:00:00:00", "01:00:00:00:00:00", "0:0:0:0:0:0", "+1:2:3:4:5:6"] {
            assert_eq!(parsed(bad), Err(()), "{bad}");
        }
    }
}
