//! `<metadata>`: elements of other programs, one a namespace, kept to the byte.

use roxmltree::{Document, Node};

use crate::error::DomainXmlError;
use crate::xml::{Element, Writer, escape, inherited_namespaces, is_xml_text, with_namespace, without_namespace};

/// Elements of others, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    elements: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    namespace: String,
    /// The element as it was written; it declares every namespace that it uses.
    xml: String,
}

impl Metadata {
    pub(crate) fn read(metadata: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        let mut elements: Vec<Entry> = Vec::new();
        for node in metadata.take_children() {
            let Some(namespace) = node.tag_name().namespace() else {
                let name = node.tag_name().name();
                return Err(metadata.invalid(format!("<{name}> in <metadata> must have a namespace")));
            };
            if elements.iter().any(|entry| entry.namespace == namespace) {
                return Err(metadata.invalid(format!("<metadata> has two elements of the namespace {namespace}")));
            }
            elements.push(Entry { namespace: namespace.to_owned(), xml: verbatim(node) });
        }
        Ok(Self { elements })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        if !self.elements.is_empty() {
            w.tag("metadata").content(|w| self.elements.iter().for_each(|entry| w.verbatim(&entry.xml)));
        }
    }

    /// The element of this namespace, with the namespace taken off it.
    #[must_use]
    pub fn get(&self, uri: &str) -> Option<String> {
        let entry = self.elements.iter().find(|entry| entry.namespace == uri)?;
        let document = Document::parse(&entry.xml).ok()?;
        Some(without_namespace(&document, uri))
    }

    /// The element of this namespace, as it is in the domain's XML.
    #[must_use]
    pub fn get_verbatim(&self, uri: &str) -> Option<&str> {
        self.elements.iter().find(|entry| entry.namespace == uri).map(|entry| entry.xml.as_str())
    }

    /// Sets or, with `None`, removes the element of a namespace. Elements without a namespace are moved into it, under the
    /// prefix `key`.
    ///
    /// # Errors
    /// When the text is no XML element, or the key or namespace can be none.
    pub fn set(&mut self, uri: &str, key: &str, xml: Option<&str>) -> Result<(), DomainXmlError> {
        let Some(xml) = xml else {
            self.elements.retain(|entry| entry.namespace != uri);
            return Ok(());
        };
        let is_name = |c: char| c.is_alphanumeric() || "._-".contains(c);
        if key.is_empty() || !key.chars().all(is_name) || key.starts_with(|c: char| !c.is_alphabetic()) {
            return Err(DomainXmlError::invalid(format!("'{key}' cannot be a namespace prefix")));
        }
        if uri.is_empty() || !is_xml_text(uri) {
            return Err(DomainXmlError::invalid("a namespace must be given"));
        }
        let document = Document::parse(xml).map_err(|error| {
            let at = error.pos();
            DomainXmlError::Malformed { line: at.row, column: at.col, reason: error.to_string() }
        })?;
        let xml = match document.root_element().tag_name().namespace() {
            None => with_namespace(&document, key, uri),
            Some(own) if own == uri => document.root_element().range_text(),
            Some(own) => {
                let reason = format!("the element is of the namespace {own}, not {uri}");
                return Err(DomainXmlError::invalid(reason));
            }
        };
        let entry = Entry { namespace: uri.to_owned(), xml };
        match self.elements.iter_mut().find(|entry| entry.namespace == uri) {
            Some(old) => *old = entry,
            None => self.elements.push(entry),
        }
        Ok(())
    }

    /// True when there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }
}

trait RangeText {
    fn range_text(&self) -> String;
}

impl RangeText for Node<'_, '_> {
    fn range_text(&self) -> String {
        self.document().input_text()[self.range()].to_owned()
    }
}

/// The element's text, made independent of what stands around it.
fn verbatim(node: Node<'_, '_>) -> String {
    let text = node.range_text();
    // The start tag's name ends at white space, at its end, or at the slash of an empty element.
    let name_end = text.find([' ', '\t', '\r', '\n', '>', '/']).unwrap_or(text.len());
    let mut result = text[..name_end].to_owned();
    for (prefix, uri) in inherited_namespaces(node) {
        result.push_str(&format!(" xmlns:{prefix}='"));
        escape(&mut result, &uri, true);
        result.push('\'');
    }
    result.push_str(&text[name_end..]);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::parse;

    fn read(text: &str) -> Result<Metadata, DomainXmlError> {
        parse(text, "d", |domain| {
            let mut element = domain.child("metadata")?.ok_or_else(|| DomainXmlError::invalid("none"))?;
            let metadata = Metadata::read(&mut element)?;
            element.finish()?;
            Ok(metadata)
        })
    }

    fn write(metadata: &Metadata) -> String {
        let mut w = Writer::default();
        w.tag("d").content(|w| metadata.write(w));
        w.into_string()
    }

    #[test]
    fn elements_are_kept_to_the_byte() {
        let text =
            "<d><metadata>\n<x:a xmlns:x='urn:x'  b = \"1>\"><!-- c -->\n  <c/></x:a><y xmlns='urn:y'/></metadata></d>";
        let metadata = read(text).unwrap();
        let expected = "<x:a xmlns:x='urn:x'  b = \"1>\"><!-- c -->\n  <c/></x:a>";
        assert_eq!(metadata.get_verbatim("urn:x"), Some(expected));
        assert_eq!(read(&write(&metadata)), Ok(metadata));
    }

    #[test]
    fn declarations_from_outside_come_along() {
        let outside = "<d xmlns:x='urn:x' xmlns:z='urn:z'><metadata><x:a><x:b/></x:a></metadata></d>";
        assert_eq!(read(outside).unwrap().get_verbatim("urn:x"), Some("<x:a xmlns:x='urn:x'><x:b/></x:a>"));
        let twice = "<d xmlns:x='urn:x'><metadata><x:a v='>' xmlns:x='urn:x'/></metadata></d>";
        assert_eq!(read(twice).unwrap().get_verbatim("urn:x"), Some("<x:a v='>' xmlns:x='urn:x'/>"));
    }

    #[test]
    fn elements_are_set_and_removed() {
        let mut metadata = Metadata::default();
        metadata.set("urn:ft", "ft", Some("<fault-tolerance><peer uri='x'/></fault-tolerance>")).unwrap();
        let expected = "<ft:fault-tolerance xmlns:ft='urn:ft'><ft:peer uri='x'/></ft:fault-tolerance>";
        assert_eq!(metadata.get_verbatim("urn:ft"), Some(expected));
        assert_eq!(metadata.get("urn:ft").unwrap(), "<fault-tolerance><peer uri='x'/></fault-tolerance>");
        metadata.set("urn:ft", "ft", Some("<a/>")).unwrap();
        assert_eq!(metadata.get("urn:ft").unwrap(), "<a/>");
        for (uri, key, xml) in [("u", "1", "<a/>"), ("u", "k", "<a"), ("", "k", "<a/>"), ("u", "k", "<a xmlns='v'/>")] {
            assert!(metadata.set(uri, key, Some(xml)).is_err(), "{uri} {key} {xml}");
        }
        metadata.set("urn:ft", "", None).unwrap();
        assert!(metadata.is_empty() && metadata.get("urn:ft").is_none());
    }

    #[test]
    fn what_has_no_place() {
        assert!(read("<d><metadata><a/></metadata></d>").is_err());
        assert!(read("<d><metadata><a xmlns='u'/><b xmlns='u'/></metadata></d>").is_err());
    }
}
