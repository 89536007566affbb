//! Addresses of peers: `tls://HOST:PORT`, or `tcp://HOST:PORT` on the loopback interface.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use crate::cli::OptionError;

/// Where a backup listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerUrl {
    /// TLS 1.3 with certificates on both sides; plain TCP otherwise.
    pub tls: bool,
    /// Name or address, which the certificate must have.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl PeerUrl {
    /// The first socket address of the host.
    ///
    /// # Errors
    /// One line: a name that does not resolve, or plain TCP to another host.
    pub fn resolve(&self) -> Result<SocketAddr, String> {
        let address = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|error| format!("{self}: the name cannot be resolved ({error})"))?
            .next()
            .ok_or_else(|| format!("{self}: the name has no address"))?;
        if !self.tls && !address.ip().is_loopback() {
            return Err(format!("{self}: plain TCP would show the guest's memory to the network; use tls://"));
        }
        Ok(address)
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "tls" } else { "tcp" };
        if self.host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for PeerUrl {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let bad = || OptionError::BadValue {
            what: "address of a peer",
            value: text.to_owned(),
            hint: "write tls://HOST:PORT, or tcp://HOST:PORT for the loopback interface",
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        let tls = match scheme {
            "tls" => true,
            "tcp" => false,
            _ => return Err(bad()),
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(bad)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        if host.is_empty() { Err(bad()) } else { Ok(Self { tls, host: host.to_owned(), port }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_and_put_together() {
        for text in ["tls://hostb:7788", "tcp://127.0.0.1:1", "tls://[fd00::1]:7788"] {
            assert_eq!(text.parse::<PeerUrl>().unwrap().to_string(), text);
        }
        for text in ["hostb:7788", "tls://hostb", "tls://:1", "tls://hostb:0", "http://hostb:80", "tls://hostb:70000"] {
            assert!(text.parse::<PeerUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn plain_connections_stay_on_the_host() {
        let error = "tcp://192.0.2.1:7788".parse::<PeerUrl>().unwrap().resolve().unwrap_err();
        assert!(error.contains("use tls://"), "{error}");
        assert!("tcp://127.0.0.1:7788".parse::<PeerUrl>().unwrap().resolve().is_ok());
    }
}
