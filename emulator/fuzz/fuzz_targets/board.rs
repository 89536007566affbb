//! A hostile guest before the whole board, damaged snapshots, and twins after a restore. The bodies, with what they check, are
//! in `virtft_machine::platform::fuzz`; `cargo test` runs them on seeded input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtft_machine::platform::fuzz::{damaged_state, hostile_guest, twins};

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((0..=127, rest)) => hostile_guest(rest),
        Some((128..=191, rest)) => damaged_state(rest),
        Some((_, rest)) => twins(rest),
        None => {}
    }
});
