//! TLS between daemons, and for stock clients: libvirt's certificates, on both sides.
//!
//! Libvirt's server says one byte, 1, when it has looked at the client's certificate and is content.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Where libvirt keeps its certificates.
const CA_FILE: &str = "/etc/pki/CA/cacert.pem";
const LIBVIRT_FOLDER: &str = "/etc/pki/libvirt";
/// What a server says to a client that it has accepted.
pub const ACCEPTED: u8 = 1;
/// The port of libvirt's daemons.
pub const PORT: u16 = 16514;

/// Where this host's certificates are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pki {
    /// One folder for all; `None` is libvirt's layout.
    pub folder: Option<PathBuf>,
}

impl Pki {
    fn file(&self, name: &str) -> PathBuf {
        match &self.folder {
            Some(folder) => folder.join(name),
            None if name == "cacert.pem" => PathBuf::from(CA_FILE),
            None if name.ends_with("key.pem") => Path::new(LIBVIRT_FOLDER).join("private").join(name),
            None => Path::new(LIBVIRT_FOLDER).join(name),
        }
    }

    /// Whether there are any.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.file("cacert.pem").exists() && self.file("servercert.pem").exists()
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, String> {
        let path = self.file("cacert.pem");
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&path)? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(Arc::new(roots))
    }

    /// For the listening side: clients must have a certificate of the same authority.
    ///
    /// # Errors
    /// One line that names the file and what is wrong with it.
    pub fn server(&self) -> Result<Arc<ServerConfig>, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, Arc::clone(&provider))
            .build()
            .map_err(|error| format!("{}: {error}", self.file("cacert.pem").display()))?;
        let path = self.file("servercert.pem");
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&path)?, key(&self.file("serverkey.pem"))?)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        // Libvirt's clients expect nothing before the byte that says that they are accepted.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For the connecting side.
    ///
    /// # Errors
    /// As [`Pki::server`].
    pub fn client(&self) -> Result<Arc<ClientConfig>, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let path = self.file("clientcert.pem");
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(certificates(&path)?, key(&self.file("clientkey.pem"))?)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("{}: it cannot be used as a certificate ({error})", path.display());
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?.collect();
    let found = found.map_err(|error| failed(&error))?;
    if found.is_empty() { Err(failed(&"there is none in it")) } else { Ok(found) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| format!("{}: it cannot be used as a private key ({error})", path.display()))
}
