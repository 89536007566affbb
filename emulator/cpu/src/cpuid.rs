//! CPUID of the CPU model `virtft-v2`.

/// CPUID leaf 1 EAX: family 6, model 0x3f... of the guest CPU model.
pub const SIGNATURE: u32 = 0x0005_0657;
