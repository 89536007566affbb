//! An element that remembers what was taken from it: what is left at the end is refused by name.

use roxmltree::{Attribute, Document, Node, ParsingOptions};

use crate::error::DomainXmlError;

/// More elements and attributes than any machine has.
const MAX_NODES: u32 = 100_000;

/// Why elements that people will try are not there. What is not listed is refused without a reason.
const REASONS: &[(&str, &str)] = &[
    ("graphics", "there is no display; use a serial console"),
    ("video", "there is no display; use a serial console"),
    ("sound", "there is no sound device"),
    ("audio", "there is no sound device"),
    ("channel", "there is no guest agent channel"),
    ("hostdev", "devices of the host cannot be passed through: the guest could not be repeated elsewhere"),
    ("redirdev", "there is no USB"),
    ("hub", "there is no USB"),
    ("tpm", "there is no TPM"),
    ("watchdog", "there is no watchdog"),
    ("panic", "there is no panic device"),
    ("filesystem", "there is no shared file system; use a disk"),
    ("loader", "there is no firmware; give <kernel>"),
    ("nvram", "there is no firmware; give <kernel>"),
    ("address", "devices get their addresses by their order"),
    ("bootmenu", "there is no firmware; give <kernel>"),
    ("bios", "there is no firmware; give <kernel>"),
    ("launchSecurity", "memory is not encrypted"),
    ("commandline", "options for another hypervisor"),
];

/// Parses a document and hands its root, which must have the given name, to `read`; all of it must be taken.
///
/// # Errors
/// When it is malformed, has another root, or `read` fails or leaves something.
pub fn parse<T>(
    text: &str,
    root: &str,
    read: impl FnOnce(&mut Element<'_>) -> Result<T, DomainXmlError>,
) -> Result<T, DomainXmlError> {
    parse_any(text, |element| {
        if !element.is_called(root) {
            return Err(element.invalid(format!("the root element is <{}>, not <{root}>", element.name())));
        }
        read(element)
    })
}

/// As [`parse`], whatever the root's name.
///
/// # Errors
/// When it is malformed, or `read` fails or leaves something.
pub fn parse_any<T>(
    text: &str,
    read: impl FnOnce(&mut Element<'_>) -> Result<T, DomainXmlError>,
) -> Result<T, DomainXmlError> {
    // Without a DTD there are no entities of one's own, so no text can grow while it is read.
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|error| {
        let at = error.pos();
        DomainXmlError::Malformed { line: at.row, column: at.col, reason: error.to_string() }
    })?;
    let mut element = Element::new(document.root_element());
    let value = read(&mut element)?;
    element.finish()?;
    Ok(value)
}

/// An element being read.
#[derive(Debug)]
pub struct Element<'a> {
    node: Node<'a, 'a>,
    attributes: Vec<Attribute<'a, 'a>>,
    children: Vec<Node<'a, 'a>>,
}

impl<'a> Element<'a> {
    fn new(node: Node<'a, 'a>) -> Self {
        let attributes = node.attributes().collect();
        let children = node.children().filter(Node::is_element).collect();
        Self { node, attributes, children }
    }

    /// Takes all children without looking at them.
    pub fn take_children(&mut self) -> Vec<Node<'a, 'a>> {
        std::mem::take(&mut self.children)
    }

    /// Local name.
    pub fn name(&self) -> &'a str {
        self.node.tag_name().name()
    }

    fn is_called(&self, name: &str) -> bool {
        is_called(self.node, name)
    }

    /// Line of its start tag, from 1.
    pub fn line(&self) -> u32 {
        line_of(self.node)
    }

    /// Takes an attribute. Attributes with a namespace are never taken, and so refused.
    pub fn attribute(&mut self, name: &str) -> Option<&'a str> {
        let is_meant = |attribute: &Attribute<'_, '_>| attribute.name() == name && attribute.namespace().is_none();
        let value = self.node.attributes().find(is_meant)?.value();
        self.attributes.retain(|attribute| !is_meant(attribute));
        Some(value)
    }

    /// Takes an attribute that must be there.
    pub fn required(&mut self, name: &str) -> Result<&'a str, DomainXmlError> {
        let missing = self.invalid(format!("<{}> lacks the attribute '{name}'", self.name()));
        self.attribute(name).ok_or(missing)
    }

    /// Takes an attribute that is a number.
    pub fn number<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>, DomainXmlError> {
        let Some(text) = self.attribute(name) else { return Ok(None) };
        let bad = || self.invalid(format!("{name}='{text}' of <{}> is no number that it can have", self.name()));
        text.trim().parse().map(Some).map_err(|_| bad())
    }

    /// Takes an attribute that may only have certain values; another is refused with the reason.
    pub fn only(&mut self, name: &str, values: &[&str], reason: &str) -> Result<Option<&'a str>, DomainXmlError> {
        match self.attribute(name) {
            Some(value) if !values.contains(&value) => Err(self.unsupported_value(name, value, reason)),
            value => Ok(value),
        }
    }

    /// Takes the child with this name.
    pub fn child(&mut self, name: &str) -> Result<Option<Self>, DomainXmlError> {
        let mut found = self.children(name);
        match found.len() {
            0 | 1 => Ok(found.pop()),
            _ => Err(self.invalid(format!("<{}> has more than one <{name}>", self.name()))),
        }
    }

    /// Takes all children with this name, in order.
    pub fn children(&mut self, name: &str) -> Vec<Self> {
        let (taken, left) = std::mem::take(&mut self.children).into_iter().partition(|node| is_called(*node, name));
        self.children = left;
        Vec::into_iter(taken).map(Self::new).collect()
    }

    /// Takes a child that has text and nothing else.
    pub fn text_child(&mut self, name: &str) -> Result<Option<String>, DomainXmlError> {
        let Some(child) = self.child(name)? else { return Ok(None) };
        let text = child.text();
        child.finish()?;
        Ok(Some(text))
    }

    /// Takes a child that has nothing inside, and says whether it was there.
    pub fn flag(&mut self, name: &str) -> Result<bool, DomainXmlError> {
        match self.child(name)? {
            Some(child) => child.finish().map(|()| true),
            None => Ok(false),
        }
    }

    /// Its text, without that of its children.
    pub fn text(&self) -> String {
        self.node.children().filter(Node::is_text).filter_map(|node| node.text()).collect()
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When an attribute or child was not taken: this hypervisor does not have it.
    pub fn finish(self) -> Result<(), DomainXmlError> {
        if let Some(attribute) = self.attributes.first() {
            let what = format!("attribute '{}' of <{}>", attribute.name(), self.name());
            return Err(DomainXmlError::Unsupported { what, line: self.line(), reason: String::new() });
        }
        let Some(child) = self.children.first() else { return Ok(()) };
        let name = child.tag_name().name();
        let what = match child.tag_name().namespace() {
            Some(namespace) => format!("element <{name}> of the namespace {namespace} in <{}>", self.name()),
            None => format!("element <{name}> in <{}>", self.name()),
        };
        let reason = REASONS.iter().find(|(listed, _)| *listed == name).map_or("", |(_, reason)| reason);
        Err(DomainXmlError::Unsupported { what, line: line_of(*child), reason: reason.into() })
    }

    /// This element is wrong.
    pub fn invalid(&self, reason: impl Into<String>) -> DomainXmlError {
        DomainXmlError::Invalid { reason: reason.into(), line: self.line() }
    }

    /// This hypervisor has this element, but not like that.
    pub fn unsupported(&self, what: impl Into<String>, reason: impl Into<String>) -> DomainXmlError {
        DomainXmlError::Unsupported { what: what.into(), line: self.line(), reason: reason.into() }
    }

    /// This hypervisor has the attribute, but not this value.
    pub fn unsupported_value(&self, name: &str, value: &str, reason: impl Into<String>) -> DomainXmlError {
        self.unsupported(format!("{name}='{value}' of <{}>", self.name()), reason)
    }
}

fn is_called(node: Node<'_, '_>, name: &str) -> bool {
    node.tag_name().name() == name && node.tag_name().namespace().is_none()
}

fn line_of(node: Node<'_, '_>) -> u32 {
    node.document().text_pos_at(node.range().start).row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<String>, DomainXmlError> {
        parse(text, "a", |element| {
            element.attribute("x");
            element.text_child("b")
        })
    }

    #[test]
    fn what_is_taken_is_fine() {
        assert_eq!(read("<a x='1'><!-- c --><b>t&amp;<![CDATA[<]]></b></a>"), Ok(Some("t&<".into())));
        assert_eq!(read("<a/>"), Ok(None));
    }

    #[test]
    fn what_is_left_is_named() {
        let said = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(said("<a>\n <c/></a>"), "unsupported configuration: element <c> in <a> (line 2)");
        assert_eq!(said("<a y='1'/>"), "unsupported configuration: attribute 'y' of <a> (line 1)");
        assert_eq!(said("<a><b z='1'/></a>"), "unsupported configuration: attribute 'z' of <b> (line 1)");
        assert!(said("<a><graphics/></a>").ends_with("(line 1): there is no display; use a serial console"));
        assert!(said("<a xmlns:q='urn:q'><q:b/></a>").contains("<b> of the namespace urn:q"));
        assert!(said("<a xmlns:q='urn:q' q:x='1'/>").contains("'x'"));
        assert_eq!(said("<a><b/><b/></a>"), "XML error: <a> has more than one <b> (line 1)");
        assert_eq!(said("<b/>"), "XML error: the root element is <b>, not <a> (line 1)");
    }

    #[test]
    fn malformed_text_has_a_place() {
        let error = read("<a>\n  <b></a>").unwrap_err();
        assert!(matches!(error, DomainXmlError::Malformed { line: 2, column: 6, .. }), "{error:?}");
        assert!(read("").is_err());
    }

    #[test]
    fn bombs_are_refused() {
        let entities = "<!DOCTYPE a [<!ENTITY x 'xxxx'><!ENTITY y '&x;&x;'>]><a><b>&y;</b></a>";
        assert!(matches!(read(entities), Err(DomainXmlError::Malformed { .. })));
        let deep = "<a>".repeat(200_000);
        assert!(matches!(read(&deep), Err(DomainXmlError::Malformed { .. })));
        let wide = format!("<a>{}</a>", "<c/>".repeat(200_000));
        assert!(matches!(read(&wide), Err(DomainXmlError::Malformed { .. })));
    }
}
