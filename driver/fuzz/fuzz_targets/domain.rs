//! Domain XML of any content. The body is in `virtft_domain::fuzz`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        virtft_domain::fuzz::domain(text);
    }
});
