//! What a client sends, cut into frames. The body is in `virtft_rpc::fuzz`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| virtft_rpc::fuzz::frames(data));
