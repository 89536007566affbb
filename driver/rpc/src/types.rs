//! Values that many procedures share.

use uuid::Uuid;

use crate::xdr::{Decoder, Encoder, Xdr, XdrError};

/// Implements [`Xdr`] for a structure: its fields in order.
macro_rules! structure {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Xdr for $name {
            fn encode(&self, out: &mut Encoder) {
                $(self.$field.encode(out);)*
            }

            fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
                Ok(Self { $($field: Xdr::decode(input)?,)* })
            }
        }
    };
}

structure! {
    /// How calls and events name a domain. Only the UUID counts in a call: clients send names and ids that they remember.
    DomainRef {
        /// Name.
        name: String,
        /// UUID.
        uuid: Uuid,
        /// Number while it runs, -1 otherwise.
        id: i32,
    }
}

structure! {
    /// How calls and events name a virtual network.
    NetworkRef {
        /// Name.
        name: String,
        /// UUID.
        uuid: Uuid,
    }
}

structure! {
    /// A named value of one of seven types.
    TypedParameter {
        /// Name, such as `cpu.time`.
        field: String,
        /// Value.
        value: TypedValue,
    }
}

structure! {
    /// Statistics of one domain.
    DomainStatistics {
        /// The domain.
        dom: DomainRef,
        /// What was asked for, as far as there is anything.
        params: Vec<TypedParameter>,
    }
}

structure! {
    /// One figure about a domain's memory.
    MemoryStatistic {
        /// 4 unused, 5 available, 6 actual, 7 resident.
        tag: i32,
        /// KiB.
        value: u64,
    }
}

structure! {
    /// One figure about the host, such as `total`.
    NodeStatistic {
        /// Name.
        field: String,
        /// CPU time in ns, or memory in KiB.
        value: u64,
    }
}

structure! {
    /// One virtual processor.
    VcpuInfo {
        /// Number, from 0.
        number: u32,
        /// 0 offline, 1 running, 2 blocked.
        state: i32,
        /// Time used, in ns.
        cpu_time: u64,
        /// Host processor, or -1.
        cpu: i32,
    }
}

structure! {
    /// A disk that has failed.
    DiskError {
        /// Target.
        disk: String,
        /// 1 unspecified, 2 no space.
        error: i32,
    }
}

structure! {
    /// A thread for disks.
    IoThread {
        /// Number.
        id: u32,
        /// Processors that it may run on, a bit each.
        cpumap: Opaque,
    }
}

structure! {
    /// An address that a network has lent.
    DhcpLease {
        /// The network's interface.
        iface: String,
        /// Seconds since 1970.
        expiry_time: i64,
        /// 0 IPv4, 1 IPv6.
        kind: i32,
        /// To whom.
        mac: Option<String>,
        /// Identity of an association.
        iaid: Option<String>,
        /// The address.
        ip: String,
        /// Bits of the network's part.
        prefix: u32,
        /// Name of the machine.
        hostname: Option<String>,
        /// Identity that the machine gave.
        client_id: Option<String>,
    }
}

structure! {
    /// An address of a guest.
    Address {
        /// 0 IPv4, 1 IPv6.
        kind: i32,
        /// The address.
        addr: String,
        /// Bits of the network's part; 0 when not known.
        prefix: u32,
    }
}

structure! {
    /// A guest's network card with its addresses.
    InterfaceAddresses {
        /// The host's interface.
        name: String,
        /// MAC address.
        hwaddr: Option<String>,
        /// Addresses.
        addrs: Vec<Address>,
    }
}

/// The value of a [`TypedParameter`].
#[derive(Debug, Clone, PartialEq)]
pub enum TypedValue {
    /// Tag 1.
    Int(i32),
    /// Tag 2.
    UInt(u32),
    /// Tag 3.
    LongLong(i64),
    /// Tag 4.
    ULongLong(u64),
    /// Tag 5.
    Double(f64),
    /// Tag 6.
    Boolean(bool),
    /// Tag 7.
    String(String),
}

impl Xdr for TypedValue {
    fn encode(&self, out: &mut Encoder) {
        match self {
            Self::Int(value) => (1, *value).encode(out),
            Self::UInt(value) => (2, *value).encode(out),
            Self::LongLong(value) => (3, *value).encode(out),
            Self::ULongLong(value) => (4, *value).encode(out),
            Self::Double(value) => (5, *value).encode(out),
            Self::Boolean(value) => (6, *value).encode(out),
            Self::String(value) => {
                7_i32.encode(out);
                value.encode(out);
            }
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        let at = input.position();
        match i32::decode(input)? {
            1 => Xdr::decode(input).map(Self::Int),
            2 => Xdr::decode(input).map(Self::UInt),
            3 => Xdr::decode(input).map(Self::LongLong),
            4 => Xdr::decode(input).map(Self::ULongLong),
            5 => Xdr::decode(input).map(Self::Double),
            6 => Xdr::decode(input).map(Self::Boolean),
            7 => Xdr::decode(input).map(Self::String),
            value => Err(XdrError::BadTag { value, at }),
        }
    }
}

/// A union: its tag and what belongs to it.
impl<T: Xdr> Xdr for (i32, T) {
    fn encode(&self, out: &mut Encoder) {
        self.0.encode(out);
        self.1.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        Ok((Xdr::decode(input)?, Xdr::decode(input)?))
    }
}

/// Text in an array of C `char` of fixed length: one word a character, filled up with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedChars<const N: usize>(pub [u8; N]);

impl<const N: usize> FixedChars<N> {
    /// The text, cut so that at least one zero follows.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut chars = [0; N];
        for (to, from) in chars.iter_mut().take(N.saturating_sub(1)).zip(text.bytes()) {
            *to = from;
        }
        Self(chars)
    }
}

impl<const N: usize> Xdr for FixedChars<N> {
    fn encode(&self, out: &mut Encoder) {
        self.0.iter().for_each(|byte| i32::from(*byte).encode(out));
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        let mut chars = [0; N];
        for byte in &mut chars {
            *byte = decode_char(input)?;
        }
        Ok(Self(chars))
    }
}

/// Text in a counted list of C `char`: one word a character.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CharList(pub Vec<u8>);

impl Xdr for CharList {
    fn encode(&self, out: &mut Encoder) {
        out.length(self.0.len());
        self.0.iter().for_each(|byte| i32::from(*byte).encode(out));
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        let count = input.length(4)?;
        (0..count).map(|_| decode_char(input)).collect::<Result<_, _>>().map(Self)
    }
}

/// Signed or not, a `char` is its low byte.
fn decode_char(input: &mut Decoder<'_>) -> Result<u8, XdrError> {
    Ok(input_byte(i32::decode(input)?))
}

fn input_byte(value: i32) -> u8 {
    value.to_be_bytes()[3]
}

/// Bytes with a count, packed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opaque(pub Vec<u8>);

impl Xdr for Opaque {
    fn encode(&self, out: &mut Encoder) {
        out.variable(&self.0);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        input.variable(crate::MAX_FRAME_BYTES).map(|bytes| Self(bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdr::{from_bytes, to_bytes};

    #[test]
    fn a_character_takes_a_word() {
        let model = FixedChars::<32>::new("x86_64");
        let bytes = to_bytes(&model);
        assert_eq!(bytes.len(), 128);
        assert_eq!(bytes[..8], *b"\0\0\0x\0\0\08");
        assert_eq!(from_bytes(&bytes), Ok(model));
        assert_eq!(FixedChars::<4>::new("long name").0, *b"lon\0");
    }

    #[test]
    fn typed_values_come_back() {
        let values = [
            TypedValue::Int(-1),
            TypedValue::UInt(u32::MAX),
            TypedValue::LongLong(i64::MIN),
            TypedValue::ULongLong(u64::MAX),
            TypedValue::Double(0.5),
            TypedValue::Boolean(true),
            TypedValue::String("x".into()),
        ];
        for value in values {
            let parameter = TypedParameter { field: "f".into(), value };
            assert_eq!(from_bytes(&to_bytes(&parameter)), Ok(parameter));
        }
        assert_eq!(from_bytes::<TypedValue>(&[0; 8]), Err(XdrError::BadTag { value: 0, at: 0 }));
    }
}
