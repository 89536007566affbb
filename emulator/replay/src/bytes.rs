//! Reading and writing of variable-length integers and byte strings.
//!
//! Integers are LEB128: seven bits a byte, lowest first, the top bit set on all but the last. Signed differences are
//! folded first (0, -1, 1, -2, ... become 0, 1, 2, 3, ...). There is one encoding of each value: a longer one is refused.

/// Longest encoding of 64 bits.
const LONGEST: u32 = 10;

/// What is wrong with bytes that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BytesError {
    /// They end too early.
    #[error("the bytes end too early")]
    End,
    /// An integer has more than 64 bits or needless bytes.
    #[error("an integer is encoded wrongly")]
    Integer,
}

/// Appends an integer.
pub fn put_integer(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Appends a byte string with its length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_integer(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The folded difference `new - old`, modulo 2^64.
pub fn fold_difference(new: u64, old: u64) -> u64 {
    let difference = new.wrapping_sub(old).cast_signed();
    ((difference << 1) ^ (difference >> 63)).cast_unsigned()
}

/// The value whose folded difference to `old` is `folded`.
pub fn unfold_difference(folded: u64, old: u64) -> u64 {
    let difference = (folded >> 1) ^ (folded & 1).wrapping_neg();
    old.wrapping_add(difference)
}

/// Bytes that are read from the front.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn byte(&mut self) -> Result<u8, BytesError> {
        let (first, rest) = self.rest.split_first().ok_or(BytesError::End)?;
        self.rest = rest;
        Ok(*first)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], BytesError> {
        let (first, rest) = self.rest.split_first_chunk::<N>().ok_or(BytesError::End)?;
        self.rest = rest;
        Ok(*first)
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], BytesError> {
        let (first, rest) = self.rest.split_at_checked(length).ok_or(BytesError::End)?;
        self.rest = rest;
        Ok(first)
    }

    pub fn integer(&mut self) -> Result<u64, BytesError> {
        let mut value = 0u64;
        for index in 0..LONGEST {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte holds the last bit of 64.
            if index == LONGEST - 1 && bits > 1 || index > 0 && byte == 0 {
                return Err(BytesError::Integer);
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BytesError::Integer)
    }

    /// A byte string with its length.
    pub fn bytes(&mut self) -> Result<&'a [u8], BytesError> {
        let length = usize::try_from(self.integer()?).map_err(|_| BytesError::End)?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), 1 << 63, u64::MAX] {
            let mut out = Vec::new();
            put_integer(&mut out, value);
            let mut cursor = Cursor::new(&out);
            assert_eq!(cursor.integer(), Ok(value));
            assert!(cursor.is_empty());
        }
    }

    #[test]
    fn differences_are_short_in_both_directions() {
        for (new, old) in [(5, 7), (7, 5), (0, u64::MAX), (u64::MAX, 0), (1 << 63, 0), (3, 3)] {
            assert_eq!(unfold_difference(fold_difference(new, old), old), new);
        }
        assert_eq!(fold_difference(4, 5), 1);
        assert_eq!(fold_difference(5, 4), 2);
    }

    #[test]
    fn wrong_integers_are_refused() {
        assert_eq!(Cursor::new(&[0x80]).integer(), Err(BytesError::End));
        assert_eq!(Cursor::new(&[0x80, 0]).integer(), Err(BytesError::Integer), "a needless byte");
        assert_eq!(Cursor::new(&[0xff; 11]).integer(), Err(BytesError::Integer));
        let mut too_large = [0x80; 10];
        too_large[9] = 2;
        assert_eq!(Cursor::new(&too_large).integer(), Err(BytesError::Integer));
        assert_eq!(Cursor::new(&[5, 1, 2]).bytes(), Err(BytesError::End));
    }
}
