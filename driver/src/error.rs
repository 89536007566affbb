//! Why a call failed, and how libvirt's clients are told.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use virtft_domain::DomainXmlError;
use virtft_rpc::{ErrorCode, ErrorDomain, RemoteError, XdrError};

/// Why a call failed. The text is the finished sentence that the client prints.
#[derive(Debug, Error)]
pub enum DriverError {
    /// The domain's XML.
    #[error(transparent)]
    Xml(#[from] DomainXmlError),
    /// The call's bytes.
    #[error("the arguments of {procedure} cannot be understood: {source}")]
    Message {
        /// The procedure.
        procedure: &'static str,
        /// What is wrong with them.
        source: XdrError,
    },
    /// Not in the table, or not in this daemon. Clients look for the first two words, and for the code: their library makes
    /// of it what they expect of a hypervisor that lacks something, and they go on without.
    #[error("unknown procedure: {0} (this function is not supported by the connection driver)")]
    UnknownProcedure(i32),
    /// Nothing can be called yet.
    #[error("{0} cannot be called before the connection is opened")]
    NotOpen(&'static str),
    /// No such hypervisor here.
    #[error("no connection driver available for {0}: this is the driver of ft:///system")]
    NoConnect(String),
    /// On a read-only connection.
    #[error("operation forbidden: {0} may not be called on a read-only connection")]
    ReadOnly(&'static str),
    /// Who is connected may not.
    #[error("authentication failed: {0}")]
    Authentication(String),
    /// An argument.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// A domain that is not there.
    #[error("domain not found: {0}")]
    NoDomain(String),
    /// The domain's state.
    #[error("requested operation is not valid: {0}")]
    Invalid(String),
    /// A name or UUID is taken, or something was tried and did not work.
    #[error("operation failed: {0}")]
    Failed(String),
    /// Known, but not to be had from this hypervisor.
    #[error("this function is not supported by the connection driver: {0}")]
    Unsupported(String),
    /// Another operation on the domain has not come to its end.
    #[error("timed out: the domain '{0}' is busy with another operation")]
    Timeout(String),
    /// An error of one of libvirt's own daemons, passed on as it is.
    #[error("{}", .0.message.as_deref().unwrap_or("libvirt's daemon gives no reason"))]
    Upstream(Box<RemoteError>),
    /// There is no such metadata.
    #[error("metadata not found: {0}")]
    NoMetadata(String),
    /// The emulator ended while it was being started.
    #[error("internal error: the emulator of the domain '{name}' did not start: {reason}")]
    Start {
        /// The domain.
        name: String,
        /// Its last words.
        reason: String,
    },
    /// The operating system.
    #[error("{what} {path}: {source}", path = path.display())]
    System {
        /// What was done, such as "cannot write".
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DriverError {
    /// For `map_err` of what is done to a file.
    pub fn system(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::System { what, path, source }
    }

    /// The error as it is sent.
    #[must_use]
    pub fn to_remote(&self) -> RemoteError {
        if let Self::Upstream(error) = self {
            return (**error).clone();
        }
        let (code, domain) = self.numbers();
        RemoteError::new(code, domain, self.to_string())
    }

    /// Code and domain, as clients expect them for such a failure.
    fn numbers(&self) -> (ErrorCode, ErrorDomain) {
        let code = match self {
            Self::Xml(DomainXmlError::Malformed { .. } | DomainXmlError::Invalid { .. }) => ErrorCode::XmlError,
            Self::Xml(DomainXmlError::Unsupported { .. }) => ErrorCode::ConfigUnsupported,
            Self::Message { .. } | Self::UnknownProcedure(_) | Self::NotOpen(_) => {
                return (ErrorCode::Rpc, ErrorDomain::Rpc);
            }
            Self::Authentication(_) => return (ErrorCode::AuthFailed, ErrorDomain::Auth),
            Self::NoConnect(_) => return (ErrorCode::NoConnect, ErrorDomain::None),
            Self::ReadOnly(_) => ErrorCode::OperationDenied,
            Self::InvalidArgument(_) => ErrorCode::InvalidArgument,
            Self::NoDomain(_) => ErrorCode::NoDomain,
            Self::Invalid(_) => ErrorCode::OperationInvalid,
            Self::Failed(_) => ErrorCode::OperationFailed,
            Self::Unsupported(_) => ErrorCode::NoSupport,
            Self::Timeout(_) => ErrorCode::OperationTimeout,
            Self::NoMetadata(_) => ErrorCode::NoDomainMetadata,
            Self::Start { .. } | Self::Upstream(_) => ErrorCode::InternalError,
            Self::System { .. } => ErrorCode::SystemError,
        };
        (code, ErrorDomain::Domain)
    }
}
