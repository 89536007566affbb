//! Kernel images of any content: they start or they are refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtft_cpu::memory::GuestRam;
use virtft_machine::boot::{BootSource, load, payload};

fuzz_target!(|data: &[u8]| {
    let ram = GuestRam::new(8 << 20).expect("8 MiB can be had");
    let initrd = Some(vec![1; 100].into());
    let _ = load(&ram, &BootSource { kernel: data.into(), initrd, command_line: "quiet".into() }, &[0; 64]);
    let _ = payload(data);
});
