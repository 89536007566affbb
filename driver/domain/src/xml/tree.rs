//! Elements of others, kept under `<metadata>`: moved into a namespace and out of it.

use std::fmt::Write as _;

use roxmltree::{Document, Node};

use super::writer::escape;

/// The `xml` prefix's namespace, which is never declared.
const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";

/// True when the text has only characters that XML can carry.
#[must_use]
pub fn is_xml_text(text: &str) -> bool {
    text.chars().all(|c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..))
}

/// Namespace declarations that an element uses and that stand further out: written into its start tag, the element
/// means the same wherever it is put.
#[must_use]
pub fn inherited_namespaces(node: Node<'_, '_>) -> Vec<(String, String)> {
    let Some(parent) = node.parent_element() else { return Vec::new() };
    let text = &node.document().input_text()[node.range()];
    let outside = parent.namespaces().filter(|namespace| namespace.uri() != XML_NAMESPACE);
    let inherited = outside.filter_map(|namespace| {
        let name = namespace.name()?;
        let is_used = text.contains(&format!("{name}:"));
        let is_own = start_tag(text).contains(&format!("xmlns:{name}"));
        (is_used && !is_own).then(|| (name.to_owned(), namespace.uri().to_owned()))
    });
    inherited.collect()
}

/// The start tag that the text begins with: up to the first `>` outside quotes.
fn start_tag(text: &str) -> &str {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match quote {
            Some(open) if open == c => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == '>' => return &text[..at],
            _ => {}
        }
    }
    text
}

/// The document's root, with every element that has no namespace moved into `uri` under the given prefix.
#[must_use]
pub fn with_namespace(document: &Document<'_>, prefix: &str, uri: &str) -> String {
    let mut out = String::new();
    let printer = Printer { bare_becomes: Some(prefix), drop: None };
    printer.element(&mut out, document.root_element(), &[(prefix.to_owned(), uri.to_owned())]);
    out
}

/// The document's root, with every element of the namespace `uri` moved out of it.
#[must_use]
pub fn without_namespace(document: &Document<'_>, uri: &str) -> String {
    let mut out = String::new();
    Printer { bare_becomes: None, drop: Some(uri) }.element(&mut out, document.root_element(), &[]);
    out
}

struct Printer<'p> {
    bare_becomes: Option<&'p str>,
    drop: Option<&'p str>,
}

impl Printer<'_> {
    fn element(&self, out: &mut String, node: Node<'_, '_>, declare: &[(String, String)]) {
        let name = self.tag_name(node);
        out.push('<');
        out.push_str(&name);
        for (prefix, uri) in declare {
            declaration(out, Some(prefix), uri);
        }
        let outside: Vec<_> = node.parent_element().map(|parent| parent.namespaces().collect()).unwrap_or_default();
        for namespace in node.namespaces() {
            let is_new = !outside.contains(&namespace);
            if is_new && namespace.uri() != XML_NAMESPACE && self.drop != Some(namespace.uri()) {
                declaration(out, namespace.name(), namespace.uri());
            }
        }
        for attribute in node.attributes() {
            let prefix = attribute.namespace().and_then(|uri| prefix_of(node, uri)).unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = write!(out, " {prefix}{}='", attribute.name());
            escape(out, attribute.value(), true);
            out.push('\'');
        }
        if !node.has_children() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        for child in node.children() {
            if child.is_element() {
                self.element(out, child, &[]);
            } else if child.is_text() {
                escape(out, child.text().unwrap_or_default(), false);
            } else if child.is_comment() {
                let _ = write!(out, "<!--{}-->", child.text().unwrap_or_default());
            }
        }
        let _ = write!(out, "</{name}>");
    }

    fn tag_name(&self, node: Node<'_, '_>) -> String {
        let local = node.tag_name().name();
        let prefix = match node.tag_name().namespace() {
            None => self.bare_becomes.map(|prefix| format!("{prefix}:")),
            Some(uri) if self.drop == Some(uri) => None,
            Some(uri) => prefix_of(node, uri),
        };
        format!("{}{local}", prefix.unwrap_or_default())
    }
}

fn prefix_of(node: Node<'_, '_>, uri: &str) -> Option<String> {
    if uri == XML_NAMESPACE {
        return Some("xml:".into());
    }
    node.lookup_prefix(uri).filter(|prefix| !prefix.is_empty()).map(|prefix| format!("{prefix}:"))
}

fn declaration(out: &mut String, prefix: Option<&str>, uri: &str) {
    match prefix {
        Some(prefix) => {
            let _ = write!(out, " xmlns:{prefix}='");
        }
        None => out.push_str(" xmlns='"),
    }
    escape(out, uri, true);
    out.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn into_a_namespace_and_back() {
        let bare = "<app v='1'><x>a&amp;b</x><!--c--><y xml:lang='en'/></app>";
        let inside = with_namespace(&Document::parse(bare).unwrap(), "k", "urn:k");
        let expected = "<k:app xmlns:k='urn:k' v='1'><k:x>a&amp;b</k:x><!--c--><k:y xml:lang='en'/></k:app>";
        assert_eq!(inside, expected);
        let document = Document::parse(&inside).unwrap();
        assert_eq!(without_namespace(&document, "urn:k"), bare);
    }

    #[test]
    fn other_namespaces_stay() {
        let text = "<app xmlns:o='urn:o' o:a='1'><o:x/></app>";
        let inside = with_namespace(&Document::parse(text).unwrap(), "k", "urn:k");
        assert_eq!(inside, "<k:app xmlns:k='urn:k' xmlns:o='urn:o' o:a='1'><o:x/></k:app>");
        assert_eq!(without_namespace(&Document::parse(&inside).unwrap(), "urn:k"), text);
    }

    #[test]
    fn characters_that_xml_lacks() {
        assert!(is_xml_text("a\n\t ä 𝄞"));
        assert!(!is_xml_text("a\u{1}"));
        assert!(!is_xml_text("\u{ffff}"));
    }
}
