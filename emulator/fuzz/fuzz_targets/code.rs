//! Bytes of any kind executed as code in every mode: nothing panics, and caches cannot be observed. The body is
//! `virtft_machine::platform::fuzz_code::junk_code`; `cargo test` runs it on seeded input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtft_machine::platform::fuzz_code::junk_code;

fuzz_target!(|data: &[u8]| junk_code(data));
