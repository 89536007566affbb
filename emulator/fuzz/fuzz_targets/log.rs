//! Logs of any content: entries, frames, headers, snapshots, whole files. The bodies, with what they check, are in
//! `virtft_replay::fuzz`; `cargo test` runs them on seeded input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtft_replay::fuzz::{entries, frames, log};

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((0..=84, rest)) => entries(rest),
        Some((85..=169, rest)) => frames(rest),
        Some((_, rest)) => log(rest),
        None => {}
    }
});
