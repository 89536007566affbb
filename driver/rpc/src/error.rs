//! Errors as clients see them: libvirt's numbers, and the payload of a reply whose status is an error.
//!
//! Clients look at the code, print the message, and hardly ever look at the domain.

use crate::types::{DomainRef, NetworkRef};
use crate::xdr::{Decoder, Encoder, Xdr, XdrError};

macro_rules! numbers {
    ($(#[$meta:meta])* $name:ident { $($(#[$value_meta:meta])* $value:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(i32)]
        pub enum $name {
            $($(#[$value_meta])* $value = $number,)*
        }

        impl $name {
            /// The number on the wire.
            #[must_use]
            pub fn number(self) -> i32 {
                match self {
                    $(Self::$value => $number,)*
                }
            }
        }
    };
}

numbers! {
    /// What went wrong. Only the codes that this project sends.
    ErrorCode {
        /// A defect, or something of the host that cannot be named better.
        InternalError = 1,
        /// Known, but not to be had from this hypervisor, or not for this domain.
        NoSupport = 3,
        /// No driver for such a URI.
        NoConnect = 5,
        /// An argument has no meaning.
        InvalidArgument = 8,
        /// It was tried and did not work, or a name is taken.
        OperationFailed = 9,
        /// XML that is malformed, or that lacks what must be there.
        XmlError = 27,
        /// Refused on a read-only connection.
        OperationDenied = 29,
        /// A call of the operating system.
        SystemError = 38,
        /// The message could not be understood, or the procedure is unknown.
        Rpc = 39,
        /// No such domain.
        NoDomain = 42,
        /// No such network.
        NoNetwork = 43,
        /// Authentication.
        AuthFailed = 45,
        /// The domain's state does not allow it.
        OperationInvalid = 55,
        /// The XML asks for what this hypervisor does not have.
        ConfigUnsupported = 67,
        /// It took too long.
        OperationTimeout = 68,
        /// No such metadata.
        NoDomainMetadata = 80,
        /// Something else uses it.
        ResourceBusy = 87,
    }
}

numbers! {
    /// Where it went wrong.
    ErrorDomain {
        /// Nowhere in particular.
        None = 0,
        /// The message layer.
        Rpc = 7,
        /// Networks.
        Network = 19,
        /// Domains.
        Domain = 20,
        /// Streams.
        Streams = 38,
        /// Authentication.
        Auth = 60,
    }
}

numbers! {
    /// How bad it is.
    ErrorLevel {
        /// It was done, but.
        Warning = 1,
        /// It was not done.
        Error = 2,
    }
}

/// The payload of an answer with status error.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteError {
    /// A number of [`ErrorCode`].
    pub code: i32,
    /// A number of [`ErrorDomain`].
    pub domain: i32,
    /// The finished sentence that clients print.
    pub message: Option<String>,
    /// A number of [`ErrorLevel`].
    pub level: i32,
    /// Left empty.
    pub dom: Option<DomainRef>,
    /// Left empty, as the next two.
    pub str1: Option<String>,
    /// See `str1`.
    pub str2: Option<String>,
    /// See `str1`.
    pub str3: Option<String>,
    /// Left -1, as the next.
    pub int1: i32,
    /// See `int1`.
    pub int2: i32,
    /// Left empty.
    pub net: Option<NetworkRef>,
}

impl RemoteError {
    /// An error with a finished sentence.
    #[must_use]
    pub fn new(code: ErrorCode, domain: ErrorDomain, message: String) -> Self {
        Self {
            code: code.number(),
            domain: domain.number(),
            message: Some(message),
            level: ErrorLevel::Error.number(),
            dom: None,
            str1: None,
            str2: None,
            str3: None,
            int1: -1,
            int2: -1,
            net: None,
        }
    }
}

impl Xdr for RemoteError {
    fn encode(&self, out: &mut Encoder) {
        self.code.encode(out);
        self.domain.encode(out);
        self.message.encode(out);
        self.level.encode(out);
        self.dom.encode(out);
        self.str1.encode(out);
        self.str2.encode(out);
        self.str3.encode(out);
        self.int1.encode(out);
        self.int2.encode(out);
        self.net.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        Ok(Self {
            code: Xdr::decode(input)?,
            domain: Xdr::decode(input)?,
            message: Xdr::decode(input)?,
            level: Xdr::decode(input)?,
            dom: Xdr::decode(input)?,
            str1: Xdr::decode(input)?,
            str2: Xdr::decode(input)?,
            str3: Xdr::decode(input)?,
            int1: Xdr::decode(input)?,
            int2: Xdr::decode(input)?,
            net: Xdr::decode(input)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdr::{from_bytes, to_bytes};

    #[test]
    fn an_error_is_as_libvirt_sends_it() {
        let error = RemoteError::new(ErrorCode::NoDomain, ErrorDomain::Domain, "no".into());
        let bytes = to_bytes(&error);
        let expected: &[i32] = &[42, 20, 1, 2, 0x6e6f_0000, 2, 0, 0, 0, 0, -1, -1, 0];
        let expected: Vec<u8> = expected.iter().flat_map(|word| word.to_be_bytes()).collect();
        assert_eq!(bytes, expected);
        assert_eq!(from_bytes(&bytes), Ok(error));
    }
}
