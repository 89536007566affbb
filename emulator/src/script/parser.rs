//! From text to steps. The grammar is in the parent module's description.

use std::iter::Peekable;
use std::str::Chars;

use virtft_machine::io::{CharPort, DeviceIndex, Input};

use super::{Action, Position, REACTION_STEPS, Script, Step};
use crate::cli::parse_count;

/// Length of the `virtio_net_hdr_v1` in front of a frame.
const NET_HEADER_BYTES: usize = 12;
/// The largest frame a device takes: 64 KiB and a VLAN header.
const MAX_FRAME_BYTES: usize = 65_553;

type Reason = String;

/// A word of a line: bare or in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Bare(String),
    Text(Vec<u8>),
}

/// Parses a whole script; an error names its line.
pub fn parse(text: &str) -> Result<Script, (usize, Reason)> {
    let mut steps = Vec::new();
    let mut last_port = CharPort::Serial(0);
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let words = split(line).map_err(|reason| (number, reason))?;
        if words.is_empty() {
            continue;
        }
        let step = parse_step(words, &mut last_port).map_err(|reason| (number, reason))?;
        steps.push((number, step));
    }
    Ok(Script { steps })
}

fn split(line: &str) -> Result<Vec<Word>, Reason> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(&c) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
        } else if c == '#' {
            break;
        } else if c == '"' {
            chars.next();
            words.push(Word::Text(quoted(&mut chars)?));
        } else {
            let mut word = String::new();
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                word.push(c);
            }
            words.push(Word::Bare(word));
        }
    }
    Ok(words)
}

fn quoted(chars: &mut Peekable<Chars<'_>>) -> Result<Vec<u8>, Reason> {
    let mut text = Vec::new();
    loop {
        match chars.next() {
            None => return Err("the text has no closing quote; add \" at its end".to_owned()),
            Some('"') => return Ok(text),
            Some('\\') => text.push(escape(chars)?),
            Some(c) => text.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
}

fn escape(chars: &mut Peekable<Chars<'_>>) -> Result<u8, Reason> {
    match chars.next() {
        Some('n') => Ok(b'\n'),
        Some('r') => Ok(b'\r'),
        Some('t') => Ok(b'\t'),
        Some('e') => Ok(0x1b),
        Some('\\') => Ok(b'\\'),
        Some('"') => Ok(b'"'),
        Some('x') => {
            let digits: String = chars.by_ref().take(2).collect();
            hex_byte(&digits).ok_or_else(|| "'\\x' needs two hex digits, for example \\x03".to_owned())
        }
        _ => Err("unknown escape; the escapes are \\n \\r \\t \\e \\\\ \\\" \\xHH".to_owned()),
    }
}

fn hex_byte(digits: &str) -> Option<u8> {
    (digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.is_ascii() {
        return None;
    }
    text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok().and_then(hex_byte)).collect()
}

/// The words of a step, taken from the front.
struct Words(std::vec::IntoIter<Word>);

impl Words {
    fn bare(&mut self, what: &str) -> Result<String, Reason> {
        match self.0.next() {
            Some(Word::Bare(word)) => Ok(word),
            Some(Word::Text(_)) => Err(format!("found quoted text where {what} should be")),
            None => Err(format!("{what} is missing")),
        }
    }

    fn text(&mut self) -> Result<Vec<u8>, Reason> {
        match self.0.next() {
            Some(Word::Text(text)) if !text.is_empty() => Ok(text),
            Some(Word::Text(_)) => Err("the text is empty".to_owned()),
            Some(Word::Bare(word)) => Err(format!("'{word}' should be text in double quotes")),
            None => Err("text in double quotes is missing".to_owned()),
        }
    }

    fn index(&mut self, what: &str) -> Result<u8, Reason> {
        let word = self.bare(what)?;
        word.parse().map_err(|_| format!("'{word}' is no {what}; write a small number, the first is 0"))
    }

    fn next_is_text(&self) -> bool {
        matches!(self.0.as_slice().first(), Some(Word::Text(_)))
    }

    fn finish(mut self) -> Result<(), Reason> {
        match self.0.next() {
            None => Ok(()),
            Some(Word::Bare(word)) => Err(format!("'{word}' is too much for this step; remove it")),
            Some(Word::Text(_)) => Err("the quoted text is too much for this step; remove it".to_owned()),
        }
    }
}

fn parse_step(words: Vec<Word>, last_port: &mut CharPort) -> Result<Step, Reason> {
    let mut words = Words(words.into_iter());
    let first = words.bare("a position or the name of a step")?;
    let (position, name) = match parse_position(&first)? {
        Some(position) => (Some(position), words.bare("the name of a step")?),
        None => (None, first),
    };
    if name == "expect" {
        if position.is_some() {
            return Err("'expect' has no position: it waits; remove the number".to_owned());
        }
        let port = if words.next_is_text() { CharPort::Serial(0) } else { parse_port(&mut words, None)? };
        let text = words.text()?;
        words.finish()?;
        *last_port = port;
        return Ok(Step::Expect(port, text));
    }
    let action = parse_action(&name, &mut words, *last_port)?;
    words.finish()?;
    Ok(Step::Do(position.unwrap_or(Position::After(REACTION_STEPS)), action))
}

fn parse_position(word: &str) -> Result<Option<Position>, Reason> {
    let (digits, relative) = match word.strip_prefix('+') {
        Some(rest) => (rest, true),
        None => (word, false),
    };
    if !relative && !word.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(None);
    }
    let count = parse_count(digits).map_err(|error| error.to_string())?;
    Ok(Some(if relative { Position::After(count) } else { Position::At(count) }))
}

fn parse_port(words: &mut Words, name: Option<&str>) -> Result<CharPort, Reason> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => words.bare("'serial' or 'console'")?,
    };
    match name.as_str() {
        "serial" => match words.index("serial port")? {
            port @ 0..=1 => Ok(CharPort::Serial(port)),
            port => Err(format!("there is no serial port {port}; the ports are 0 and 1")),
        },
        "console" => Ok(CharPort::Console(words.index("console port")?)),
        other => Err(format!("'{other}' is no channel; write 'serial N' or 'console N'")),
    }
}

fn parse_action(name: &str, words: &mut Words, last_port: CharPort) -> Result<Action, Reason> {
    let input = match name {
        "serial" | "console" => {
            let port = parse_port(words, Some(name))?;
            return Ok(Action::Type(port, words.text()?));
        }
        "send" => return Ok(Action::Type(last_port, words.text()?)),
        "end" => return Ok(Action::End),
        "net" => {
            let device = DeviceIndex(words.index("network device")?);
            Input::NetReceive { device, packet: parse_frame(&words.bare("a frame in hex")?)? }
        }
        "link" => {
            let device = DeviceIndex(words.index("network device")?);
            match words.bare("'up' or 'down'")?.as_str() {
                "up" => Input::NetLink { device, up: true },
                "down" => Input::NetLink { device, up: false },
                other => return Err(format!("'{other}' is no link state; write up or down")),
            }
        }
        "key" => Input::Keyboard { scancodes: parse_scancodes(words)? },
        "balloon" => {
            let pages = words.bare("a number of pages")?;
            let pages = pages.parse().map_err(|_| format!("'{pages}' is no number of 4 KiB pages"))?;
            Input::BalloonTarget { pages }
        }
        "power" => Input::PowerButton,
        "reset" => Input::Reset,
        "nmi" => Input::Nmi,
        other => {
            return Err(format!(
                "there is no step '{other}'; the steps are net, link, key, serial, console, send, expect, balloon, \
                 power, reset, nmi and end"
            ));
        }
    };
    Ok(Action::Deliver(input))
}

fn parse_frame(word: &str) -> Result<Vec<u8>, Reason> {
    let frame = hex_bytes(word).ok_or("the frame must be an even number of hex digits")?;
    if !(14..=MAX_FRAME_BYTES).contains(&frame.len()) {
        return Err(format!("a frame of {} bytes; an Ethernet frame has at least 14", frame.len()));
    }
    let mut packet = vec![0; NET_HEADER_BYTES];
    packet.extend(frame);
    Ok(packet)
}

fn parse_scancodes(words: &mut Words) -> Result<Vec<u8>, Reason> {
    let mut scancodes = Vec::new();
    loop {
        let word = words.bare("a scan code in hex")?;
        let bytes = hex_bytes(&word).ok_or_else(|| format!("'{word}' is no scan code; write hex bytes"))?;
        scancodes.extend(bytes);
        if words.0.as_slice().is_empty() {
            return Ok(scancodes);
        }
    }
}
