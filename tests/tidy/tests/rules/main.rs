//! The rules: sources, crates, documents.

mod crates;
mod documents;
mod sources;

/// Fails with all findings at once, one a line.
fn assert_none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}
