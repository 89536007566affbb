//! Reading XML so that nothing is overlooked, and writing it.

mod reader;
mod tree;
mod writer;

pub use reader::{Element, parse, parse_any};
pub use tree::{inherited_namespaces, is_xml_text, with_namespace, without_namespace};
pub use writer::{Writer, escape};
