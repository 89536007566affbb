//! Comma-separated `key=value` options, as in `--disk file=a.qcow2,id=root`.
//!
//! A comma inside a value is written twice (`file=a,,b.img` names `a,b.img`), as in QEMU. The grammar knows
//! nothing of the keys: an option takes the ones it has and [`KeyValues::finish`] refuses the rest by name.

use thiserror::Error;

/// Why an option's value was refused. The text is one line that says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OptionError {
    /// A key that the option does not have.
    #[error("unknown key '{key}'; the keys are: {known}")]
    UnknownKey {
        /// The key given.
        key: String,
        /// What the option knows.
        known: &'static str,
    },
    /// A key given twice.
    #[error("'{key}' is given twice; give it once")]
    Duplicate {
        /// The key given.
        key: String,
    },
    /// A key that must be there is not.
    #[error("'{key}=' is missing; write for example {example}")]
    Missing {
        /// The key wanted.
        key: &'static str,
        /// A whole option that would be accepted.
        example: &'static str,
    },
    /// A value that does not fit its key.
    #[error("'{value}' is no {what}; {hint}")]
    BadValue {
        /// What the value should be.
        what: &'static str,
        /// What was given.
        value: String,
        /// What to write instead.
        hint: &'static str,
    },
    /// Settings that exclude each other.
    #[error("{0}")]
    Conflict(String),
}

/// The pairs of one option, in the order given.
#[derive(Debug, Clone, Default)]
pub struct KeyValues {
    pairs: Vec<(String, Option<String>)>,
}

impl KeyValues {
    /// Splits `text` at single commas.
    ///
    /// # Errors
    /// When a key is given twice.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut pairs: Vec<(String, Option<String>)> = Vec::new();
        for part in split_commas(text) {
            if part.is_empty() {
                continue;
            }
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (part, None),
            };
            if pairs.iter().any(|(known, _)| *known == key) {
                return Err(OptionError::Duplicate { key });
            }
            pairs.push((key, value));
        }
        Ok(Self { pairs })
    }

    /// Removes a `key=value` pair and returns its value.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let index = self.pairs.iter().position(|(k, v)| k == key && v.is_some())?;
        self.pairs.remove(index).1
    }

    /// Whether a key is there and nobody took it.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.pairs.iter().any(|(k, _)| k == key)
    }

    /// Removes a bare word, such as `server`; also accepts `server=on` and `server=off`.
    ///
    /// # Errors
    /// When the word has a value other than `on` and `off`.
    pub fn take_flag(&mut self, key: &str) -> Result<Option<bool>, OptionError> {
        let Some(index) = self.pairs.iter().position(|(k, _)| k == key) else {
            return Ok(None);
        };
        match self.pairs.remove(index).1.as_deref() {
            None | Some("on") => Ok(Some(true)),
            Some("off") => Ok(Some(false)),
            Some(other) => {
                Err(OptionError::BadValue { what: "switch", value: other.to_owned(), hint: "write on or off" })
            }
        }
    }

    /// The first word when it has no value, such as `passt` in `passt,mac=...`.
    pub fn take_first_word(&mut self) -> Option<String> {
        match self.pairs.first() {
            Some((_, None)) => Some(self.pairs.remove(0).0),
            _ => None,
        }
    }

    /// Ends the option.
    ///
    /// # Errors
    /// When a pair is left that nobody took; `known` lists the keys for the message.
    pub fn finish(self, known: &'static str) -> Result<(), OptionError> {
        match self.pairs.into_iter().next() {
            None => Ok(()),
            Some((key, _)) => Err(OptionError::UnknownKey { key, known }),
        }
    }
}

/// Splits at commas; a doubled comma stands for one inside the part.
fn split_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.peek() == Some(&',') {
            chars.next();
            push_char(&mut parts, ',');
        } else if c == ',' {
            parts.push(String::new());
        } else {
            push_char(&mut parts, c);
        }
    }
    parts
}

fn push_char(parts: &mut [String], c: char) {
    if let Some(last) = parts.last_mut() {
        last.push(c);
    }
}

/// Parses a size in bytes with an optional suffix K, M, G or T (powers of 1024).
///
/// # Errors
/// When the text is no number, has another suffix, or does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, OptionError> {
    let bad = || OptionError::BadValue {
        what: "size",
        value: text.to_owned(),
        hint: "write a number of bytes or a number with K, M, G or T, for example 512M",
    };
    let upper = text.trim().to_ascii_uppercase();
    let trimmed = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
    let (digits, shift) = match trimmed.chars().last() {
        Some('K') => (&trimmed[..trimmed.len() - 1], 10),
        Some('M') => (&trimmed[..trimmed.len() - 1], 20),
        Some('G') => (&trimmed[..trimmed.len() - 1], 30),
        Some('T') => (&trimmed[..trimmed.len() - 1], 40),
        _ => (trimmed, 0),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// Parses a step count: a number with optional `_` separators and a suffix k, M or G (powers of 1000).
///
/// # Errors
/// When the text is no number, has another suffix, or does not fit 64 bits.
pub fn parse_count(text: &str) -> Result<u64, OptionError> {
    let bad = || OptionError::BadValue {
        what: "step count",
        value: text.to_owned(),
        hint: "write a number of steps, with k, M or G for thousands, millions or billions, for example 100M",
    };
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    let (digits, factor) = match plain.chars().last() {
        Some('k' | 'K') => (&plain[..plain.len() - 1], 1_000),
        Some('m' | 'M') => (&plain[..plain.len() - 1], 1_000_000),
        Some('g' | 'G') => (&plain[..plain.len() - 1], 1_000_000_000),
        _ => (plain.as_str(), 1),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(factor).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_commas_stay_in_the_value() {
        let mut pairs = KeyValues::parse("file=a,,b.img,readonly,id=x").unwrap();
        assert_eq!(pairs.take("file").as_deref(), Some("a,b.img"));
        assert_eq!(pairs.take_flag("readonly"), Ok(Some(true)));
        assert_eq!(pairs.take_first_word(), None);
        assert_eq!(pairs.take("id").as_deref(), Some("x"));
        assert_eq!(pairs.finish("file"), Ok(()));
    }

    #[test]
    fn duplicates_and_unknown_keys_are_named() {
        assert_eq!(KeyValues::parse("a=1,a=2").unwrap_err(), OptionError::Duplicate { key: "a".into() });
        let left = KeyValues::parse("colour=red").unwrap().finish("file, id").unwrap_err();
        assert_eq!(left.to_string(), "unknown key 'colour'; the keys are: file, id");
    }

    #[test]
    fn sizes_and_counts() {
        assert_eq!(parse_size("1G"), Ok(1 << 30));
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert!(parse_size("").is_err());
        assert!(parse_size("-1").is_err());
        assert!(parse_size("99999999999G").is_err());
        assert!(parse_size("é").is_err());
        assert_eq!(parse_count("100M"), Ok(100_000_000));
        assert_eq!(parse_count("1_000"), Ok(1000));
        assert!(parse_count("3x").is_err());
        assert!(parse_count("").is_err());
    }
}
