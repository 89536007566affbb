//! Ctrl-A at a terminal: the way out of a raw terminal.

/// The key that begins a command.
const PREFIX: u8 = 0x01;

/// What was typed, sorted out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Typed {
    /// Bytes for the guest.
    pub data: Vec<u8>,
    /// Ctrl-A x: leave.
    pub quit: bool,
    /// Ctrl-A h: show help.
    pub help: bool,
}

/// Finds commands among typed bytes; they may arrive in pieces.
#[derive(Debug, Default)]
pub struct EscapeFilter {
    prefixed: bool,
}

impl EscapeFilter {
    /// The text of Ctrl-A h.
    pub const HELP: &'static [u8] = b"\r\nCtrl-A x  end the emulator\r\nCtrl-A Ctrl-A  type Ctrl-A\r\n";

    /// Sorts out the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Typed {
        let mut typed = Typed::default();
        for byte in bytes {
            if !self.prefixed {
                if *byte == PREFIX {
                    self.prefixed = true;
                } else {
                    typed.data.push(*byte);
                }
                continue;
            }
            self.prefixed = false;
            match byte {
                b'x' | b'X' => typed.quit = true,
                b'h' | b'H' | b'?' => typed.help = true,
                &PREFIX => typed.data.push(PREFIX),
                // Not ours: the guest's editor or multiplexer gets both keys.
                other => typed.data.extend([PREFIX, *other]),
            }
        }
        typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_across_pieces() {
        let mut filter = EscapeFilter::default();
        assert_eq!(filter.feed(b"ls\x01").data, b"ls");
        assert!(filter.feed(b"x").quit);
        assert_eq!(filter.feed(b"\x01\x01x"), Typed { data: b"\x01x".to_vec(), ..Typed::default() });
        assert!(filter.feed(b"\x01h").help);
        assert_eq!(filter.feed(b"\x01c").data, b"\x01c");
    }
}
