//! Why a domain's XML was not taken.

use thiserror::Error;

/// See the module's description. The text is a finished sentence for the person who wrote the XML.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DomainXmlError {
    /// Not well-formed.
    #[error("XML error at line {line}, column {column}: {reason}")]
    Malformed {
        /// From 1.
        line: u32,
        /// From 1.
        column: u32,
        /// What the parser says.
        reason: String,
    },
    /// Something that must be there is not, or a value has no meaning.
    #[error("XML error: {reason}{}", at_line(*line))]
    Invalid {
        /// What is wrong.
        reason: String,
        /// From 1; 0 when it concerns no single element.
        line: u32,
    },
    /// Understood, or at least named, but not to be had.
    #[error("unsupported configuration: {what}{}{}", at_line(*line), because(reason))]
    Unsupported {
        /// The element or attribute, with its value where that is what matters.
        what: String,
        /// From 1; 0 when it concerns no single element.
        line: u32,
        /// Why, or what to write instead; may be empty.
        reason: String,
    },
}

impl DomainXmlError {
    /// Something wrong with the whole.
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into(), line: 0 }
    }

    /// Something that is not to be had, as a whole.
    pub(crate) fn unsupported(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), line: 0, reason: reason.into() }
    }
}

fn at_line(line: u32) -> String {
    if line == 0 { String::new() } else { format!(" (line {line})") }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}
