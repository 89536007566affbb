//! Hostile drivers of all virtio devices. The body, with what it checks, is `virtft_machine::devices::virtio::fuzz`; `cargo test`
//! runs it on seeded input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtft_machine::devices::virtio::fuzz::run;

fuzz_target!(|data: &[u8]| {
    run(data);
});
