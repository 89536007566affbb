//! Bytes of any kind from a peer. The body is `virtft_ft::fuzz::messages`; `cargo test` runs it on changed frames.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtft_ft::fuzz::messages;

fuzz_target!(|data: &[u8]| messages(data));
