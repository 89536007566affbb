//! Rules for documents: decisions are numbered, what README and the guide tell people to type exists.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use tidy::{files, read, root};

use super::assert_none;

/// Documents whose commands are checked.
const GUIDES: &[&str] = &["README.md", "docs/user-guide.md"];

#[test]
fn decisions_are_numbered() -> Result<()> {
    let mut findings = Vec::new();
    let all = files()?;
    let decisions = all.iter().filter(|file| file.path.starts_with("docs/decisions/"));
    for (index, file) in decisions.enumerate() {
        let number = format!("{:04}", index + 1);
        let text = file.text.as_deref().unwrap_or_default();
        let name = file.path.rsplit('/').next().unwrap_or_default();
        if !name.starts_with(&format!("{number}-")) || !file.has_extension("md") {
            findings.push(format!("{}: should be {number}-title.md", file.path));
        }
        if !text.starts_with(&format!("# {number}: ")) {
            findings.push(format!("{}: should open with '# {number}: title'", file.path));
        }
        if text.lines().count() >= 60 {
            findings.push(format!("{}: has 60 lines or more", file.path));
        }
    }
    assert_none("decisions", &findings);
    Ok(())
}

/// Lines of the document that are to be typed: those in fenced blocks, and spans in backquotes.
fn commands(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            commands.push(line.to_owned());
        } else {
            commands.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    commands
}

fn make_targets() -> Result<BTreeSet<String>> {
    let makefile = read("Makefile")?;
    let rules = makefile.lines().filter(|line| !line.starts_with(['\t', ' ', '#', '.']));
    let rules = rules.filter_map(|line| line.split_once(':')).filter(|(_, rest)| !rest.starts_with('='));
    Ok(rules.map(|(target, _)| target.trim().to_owned()).collect())
}

#[test]
fn make_targets_in_guides_exist() -> Result<()> {
    let targets = make_targets()?;
    let mut findings = Vec::new();
    for guide in GUIDES {
        for command in commands(&read(guide)?) {
            let words: Vec<&str> = command.split_whitespace().collect();
            for pair in words.windows(2).filter(|pair| pair[0] == "make") {
                if !targets.contains(pair[1]) {
                    findings.push(format!("{guide}: make {}", pair[1]));
                }
            }
        }
    }
    assert!(targets.contains("demo") && targets.contains("test"), "make demo and make test exist");
    assert_none("guides name targets that the Makefile lacks", &findings);
    Ok(())
}

#[test]
fn paths_in_guides_exist() -> Result<()> {
    let folders = ["tests/", "docs/", "emulator/", "driver/", ".ci/"];
    let mut findings = Vec::new();
    for guide in GUIDES {
        for command in commands(&read(guide)?) {
            for word in command.split_whitespace() {
                let path = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '.' && c != '/');
                if folders.iter().any(|folder| path.starts_with(folder)) && !root().join(path).exists() {
                    findings.push(format!("{guide}: {path}"));
                }
            }
        }
    }
    assert_none("guides name files that do not exist", &findings);
    Ok(())
}

#[test]
fn emulator_options_in_guides_exist() -> Result<()> {
    let all = files()?;
    let sources = all.iter().filter(|file| file.path.starts_with("emulator/src/cli"));
    let parser: String = sources.filter_map(|file| file.text.clone()).collect();
    let mut findings = Vec::new();
    for guide in GUIDES {
        let text = read(guide)?.replace("\\\n", " ");
        let runs = commands(&text).into_iter().filter(|command| command.contains("virtft-emulator run"));
        for command in runs {
            let (_, arguments) = command.split_once("virtft-emulator run").context("just looked for")?;
            for option in arguments.split_whitespace().filter_map(|word| word.strip_prefix("--")) {
                let field = option.replace('-', "_");
                if !option.is_empty() && field != "help" && !parser.contains(&format!("pub {field}:")) {
                    findings.push(format!("{guide}: --{option}"));
                }
            }
        }
    }
    assert_none("guides name options that virtft-emulator lacks", &findings);
    Ok(())
}

#[test]
fn commands_are_found_in_text() {
    let text = "Run `make demo`.\n\n    make test\n\n```sh\nmake bench\n```\nmake nothing\n";
    assert_eq!(commands(text), ["make demo", "    make test", "make bench"]);
}
