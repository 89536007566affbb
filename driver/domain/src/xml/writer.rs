//! Writing XML with two spaces an indentation, as libvirt does.

use std::fmt::{Display, Write};

/// A document being written.
#[derive(Debug, Default)]
pub struct Writer {
    out: String,
    depth: usize,
}

impl Writer {
    /// The document.
    pub fn into_string(self) -> String {
        self.out
    }

    /// Begins an element on a line of its own.
    pub fn tag<'w>(&'w mut self, name: &'static str) -> Tag<'w> {
        self.indent();
        self.out.push('<');
        self.out.push_str(name);
        Tag { writer: self, name }
    }

    /// Writes `text` as it is, on lines of its own.
    pub fn verbatim(&mut self, text: &str) {
        self.indent();
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn indent(&mut self) {
        self.out.extend(std::iter::repeat_n(' ', 2 * self.depth));
    }
}

/// A start tag being written. It must be ended by one of the methods that take it.
#[derive(Debug)]
#[must_use]
pub struct Tag<'w> {
    writer: &'w mut Writer,
    name: &'static str,
}

impl Tag<'_> {
    /// An attribute.
    pub fn attr(self, name: &str, value: impl Display) -> Self {
        self.writer.out.push(' ');
        self.writer.out.push_str(name);
        self.writer.out.push_str("='");
        escape(&mut self.writer.out, &value.to_string(), true);
        self.writer.out.push('\'');
        self
    }

    /// An attribute that may be absent.
    pub fn attr_opt(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.attr(name, value),
            None => self,
        }
    }

    /// The element is empty.
    pub fn end(self) {
        self.writer.out.push_str("/>\n");
    }

    /// The element has text.
    pub fn text(self, text: impl Display) {
        self.writer.out.push('>');
        escape(&mut self.writer.out, &text.to_string(), false);
        self.close();
    }

    /// The element has children.
    pub fn content(self, write: impl FnOnce(&mut Writer)) {
        self.writer.out.push_str(">\n");
        let start = self.writer.out.len();
        self.writer.depth += 1;
        write(self.writer);
        self.writer.depth -= 1;
        if self.writer.out.len() == start {
            // Nothing came: an empty element is written as one.
            self.writer.out.truncate(start - 2);
            self.writer.out.push_str("/>\n");
            return;
        }
        self.writer.indent();
        self.close();
    }

    fn close(self) {
        self.writer.out.push_str("</");
        self.writer.out.push_str(self.name);
        self.writer.out.push_str(">\n");
    }
}

/// Appends text so that a parser gives it back: white space in attributes and carriage returns would otherwise be changed.
pub fn escape(out: &mut String, text: &str, in_attribute: bool) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' if in_attribute => out.push_str("&apos;"),
            '\r' => out.push_str("&#13;"),
            '\n' | '\t' if in_attribute => {
                // Writing to a String cannot fail.
                let _ = write!(out, "&#{};", u32::from(c));
            }
            _ => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_indented_and_escaped() {
        let mut writer = Writer::default();
        writer.tag("a").attr("x", "1'<\n").attr_opt("y", None::<u8>).content(|w| {
            w.tag("b").text("<&>\r\n");
            w.tag("c").content(|_| {});
            w.verbatim("<d/>");
        });
        let expected = "<a x='1&apos;&lt;&#10;'>\n  <b>&lt;&amp;&gt;&#13;\n</b>\n  <c/>\n  <d/>\n</a>\n";
        let text = writer.into_string();
        assert_eq!(text, expected);
        let document = roxmltree::Document::parse(&text).unwrap();
        assert_eq!(document.root_element().attribute("x"), Some("1'<\n"));
        assert_eq!(document.descendants().find(|node| node.has_tag_name("b")).unwrap().text(), Some("<&>\r\n"));
    }
}
