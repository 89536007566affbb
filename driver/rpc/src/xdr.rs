//! External data representation, RFC 4506: big-endian, everything padded to four bytes.
//!
//! Two deviations that stock clients need. A C `char` in an array takes four bytes (see [`crate::FixedChars`]). The flag of
//! an optional value is true for any word but zero: go-libvirt sends `01 00 00 00`.

use thiserror::Error;
use uuid::Uuid;

/// Longest string that libvirt's clients and daemons accept.
pub const MAX_STRING_BYTES: usize = 4 << 20;

/// Why bytes are not what they should be. The text is shown to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum XdrError {
    /// The input ends before the value does.
    #[error("the message ends early, at byte {at}")]
    Truncated {
        /// Position in the input.
        at: usize,
    },
    /// Bytes are left behind the last value.
    #[error("the message has {count} bytes too many")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A list or string says that it is longer than the message, or than is allowed.
    #[error("a length of {length} at byte {at} is too large")]
    TooLong {
        /// The length given.
        length: u32,
        /// Position in the input.
        at: usize,
    },
    /// A string is not UTF-8, or has a NUL.
    #[error("the string at byte {at} is not UTF-8 without NUL")]
    BadString {
        /// Position in the input.
        at: usize,
    },
    /// A union's tag or an enumeration's value is not known.
    #[error("the value {value} at byte {at} has no meaning")]
    BadTag {
        /// The value.
        value: i32,
        /// Position in the input.
        at: usize,
    },
}

/// A value with a representation in XDR.
pub trait Xdr: Sized {
    /// Appends the value.
    fn encode(&self, out: &mut Encoder);

    /// Takes a value off the front.
    ///
    /// # Errors
    /// When the input has no such value there.
    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError>;
}

/// The value's bytes.
pub fn to_bytes<T: Xdr>(value: &T) -> Vec<u8> {
    let mut out = Encoder::default();
    value.encode(&mut out);
    out.into_bytes()
}

/// The value that these bytes are, all of them.
///
/// # Errors
/// When they are not exactly one value.
pub fn from_bytes<T: Xdr>(bytes: &[u8]) -> Result<T, XdrError> {
    let mut input = Decoder::new(bytes);
    let value = T::decode(&mut input)?;
    match input.remaining() {
        0 => Ok(value),
        count => Err(XdrError::TrailingBytes { count }),
    }
}

/// Collects encoded values.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// What was encoded.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Appends bytes and pads them to a multiple of four.
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Appends a count and the bytes, padded.
    pub fn variable(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.fixed(bytes);
    }

    /// Appends the count of a list. One that does not fit could not be sent anyway: it is over the size of a frame.
    pub fn length(&mut self, length: usize) {
        u32::try_from(length).unwrap_or(u32::MAX).encode(self);
    }
}

/// Takes values off the front of bytes.
#[derive(Debug)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    /// At the first of the bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes not yet taken.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Position in the input.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// Takes `count` bytes and their padding, whatever the padding holds.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn fixed(&mut self, count: usize) -> Result<&'a [u8], XdrError> {
        let padded = count.checked_next_multiple_of(4).filter(|padded| *padded <= self.remaining());
        let Some(padded) = padded else {
            return Err(XdrError::Truncated { at: self.bytes.len() });
        };
        let taken = &self.bytes[self.at..self.at + count];
        self.at += padded;
        Ok(taken)
    }

    /// Takes a count and as many bytes.
    ///
    /// # Errors
    /// When there are fewer, or the count is over `limit`.
    pub fn variable(&mut self, limit: usize) -> Result<&'a [u8], XdrError> {
        let count = self.length(1)?;
        if count > limit {
            return Err(XdrError::TooLong { length: u32::try_from(count).unwrap_or(u32::MAX), at: self.at - 4 });
        }
        self.fixed(count)
    }

    /// Takes the count of a list whose elements take at least `element_bytes` each, so that nothing is allocated for
    /// elements that cannot be there.
    ///
    /// # Errors
    /// When the rest of the input is too short for so many.
    pub fn length(&mut self, element_bytes: usize) -> Result<usize, XdrError> {
        let length = u32::decode(self)?;
        let count = usize::try_from(length).unwrap_or(usize::MAX);
        if count > self.remaining() / element_bytes.max(1) {
            return Err(XdrError::TooLong { length, at: self.at - 4 });
        }
        Ok(count)
    }

    fn word<const N: usize>(&mut self) -> Result<[u8; N], XdrError> {
        let bytes = self.fixed(N)?;
        bytes.try_into().map_err(|_| XdrError::Truncated { at: self.at })
    }
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Xdr for $type {
            fn encode(&self, out: &mut Encoder) {
                out.fixed(&self.to_be_bytes());
            }

            fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
                input.word().map(Self::from_be_bytes)
            }
        }
    )*};
}

number!(i32, u32, i64, u64, f64);

impl Xdr for bool {
    fn encode(&self, out: &mut Encoder) {
        u32::from(*self).encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        Ok(u32::decode(input)? != 0)
    }
}

impl Xdr for String {
    fn encode(&self, out: &mut Encoder) {
        out.variable(self.as_bytes());
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        let at = input.position();
        let bytes = input.variable(MAX_STRING_BYTES)?;
        let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
        text.map(str::to_owned).ok_or(XdrError::BadString { at })
    }
}

/// Sixteen bytes without a count.
impl Xdr for Uuid {
    fn encode(&self, out: &mut Encoder) {
        out.fixed(self.as_bytes());
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        input.word().map(Self::from_bytes)
    }
}

impl<T: Xdr> Xdr for Option<T> {
    fn encode(&self, out: &mut Encoder) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        bool::decode(input)?.then(|| T::decode(input)).transpose()
    }
}

/// A counted list. Bytes are no list: they are packed, see [`Encoder::variable`].
impl<T: Xdr> Xdr for Vec<T> {
    fn encode(&self, out: &mut Encoder) {
        out.length(self.len());
        self.iter().for_each(|value| value.encode(out));
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        // No value takes less than a word.
        let count = input.length(4)?;
        (0..count).map(|_| T::decode(input)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_padded() {
        assert_eq!(to_bytes(&"abcde".to_owned()), b"\0\0\0\x05abcde\0\0\0");
        assert_eq!(from_bytes::<String>(b"\0\0\0\x01a\0\0\0"), Ok("a".to_owned()));
        assert_eq!(from_bytes::<String>(b"\0\0\0\x02a\0\0\0"), Err(XdrError::BadString { at: 0 }));
        assert_eq!(from_bytes::<String>(b"\0\0\0\x01\xff\0\0\0"), Err(XdrError::BadString { at: 0 }));
    }

    #[test]
    fn any_flag_but_zero_means_present() {
        assert_eq!(from_bytes::<Option<u32>>(b"\x01\0\0\0\0\0\0\x07"), Ok(Some(7)));
        assert_eq!(from_bytes::<Option<u32>>(b"\0\0\0\0"), Ok(None));
    }

    #[test]
    fn lengths_are_bounded_by_the_input() {
        assert_eq!(from_bytes::<Vec<u32>>(b"\xff\xff\xff\xff"), Err(XdrError::TooLong { length: u32::MAX, at: 0 }));
        assert_eq!(from_bytes::<String>(b"\0\0\0\x09abcd"), Err(XdrError::TooLong { length: 9, at: 0 }));
        assert_eq!(from_bytes::<String>(b"\0\0\0\x05abcde"), Err(XdrError::Truncated { at: 9 }));
    }

    #[test]
    fn nothing_may_be_left() {
        assert_eq!(from_bytes::<i32>(&[0; 8]), Err(XdrError::TrailingBytes { count: 4 }));
        assert_eq!(from_bytes::<i64>(&[0; 4]), Err(XdrError::Truncated { at: 4 }));
    }
}
