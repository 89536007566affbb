//! Body of the fuzz target, with what it checks; `cargo test` runs it on damaged examples.

use uuid::Uuid;

use crate::check::Surroundings;
use crate::devices::{DiskFormat, DiskSource};
use crate::domain::Domain;

/// Surroundings without chance and files.
#[derive(Debug, Default)]
pub struct Fixed {
    drawn: u8,
}

impl Surroundings for Fixed {
    fn new_uuid(&mut self) -> Uuid {
        Uuid::from_u128(1)
    }

    fn random_bytes(&mut self) -> [u8; 3] {
        self.drawn = self.drawn.wrapping_add(1);
        [0, 0, self.drawn]
    }

    fn probe_format(&mut self, source: &DiskSource) -> DiskFormat {
        if source.path().ends_with(".qcow2") { DiskFormat::Qcow2 } else { DiskFormat::Raw }
    }
}

/// A document of any content: a domain that is taken comes back unchanged from its own XML.
///
/// # Panics
/// When it does not: that is what the fuzzer looks for.
pub fn domain(text: &str) {
    let Ok(mut domain) = Domain::parse(text) else { return };
    assert_eq!(Domain::parse(&domain.to_xml(None)).as_ref(), Ok(&domain));
    if domain.complete(&mut Fixed::default()).is_err() {
        return;
    }
    let mut again = Domain::parse(&domain.to_xml(Some(7))).expect("what is written can be read");
    assert_eq!(again, domain);
    again.complete(&mut Fixed { drawn: 100 }).expect("what is complete stays so");
    assert_eq!(again, domain);
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLES: [&str; 2] =
        [include_str!("../tests/domains/smallest.xml"), include_str!("../tests/domains/everything.xml")];

    #[test]
    fn damaged_examples() {
        for example in EXAMPLES {
            domain(example);
            for at in (0..example.len()).filter(|at| example.is_char_boundary(*at)) {
                domain(&example[..at]);
                // A piece cut out, of a length that varies.
                let end = (at + at % 29).min(example.len());
                if example.is_char_boundary(end) {
                    domain(&format!("{}{}", &example[..at], &example[end..]));
                }
            }
        }
    }

    #[test]
    fn lines_left_out_and_doubled() {
        for example in EXAMPLES {
            let lines: Vec<&str> = example.lines().collect();
            for at in 0..lines.len() {
                let mut changed = lines.clone();
                changed.remove(at);
                domain(&changed.join("\n"));
                changed = lines.clone();
                changed.insert(at, lines[at]);
                domain(&changed.join("\n"));
            }
        }
    }
}
