//! x87 and SSE state between FXSAVE's layout and the engine's.

use virtft_cpu::state::{Float80, FpuState, VectorState};

/// x87 and SSE state as a test compares it. x87 registers by physical number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fp {
    /// Control word.
    pub control: u16,
    /// Status word.
    pub status: u16,
    /// Abridged tags: bit n set when physical register n is not empty.
    pub tags: u8,
    /// Last opcode.
    pub opcode: u16,
    /// Last instruction pointer.
    pub instruction: u64,
    /// Last operand pointer.
    pub operand: u64,
    /// Physical registers: significand, sign and exponent.
    pub regs: [(u64, u16); 8],
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
}

impl Default for Fp {
    fn default() -> Self {
        let zero = (0, 0);
        Self {
            control: 0x37f,
            status: 0,
            tags: 0,
            opcode: 0,
            instruction: 0,
            operand: 0,
            regs: [zero; 8],
            xmm: [0; 16],
            mxcsr: 0x1f80,
        }
    }
}

fn word<const N: usize>(image: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&image[at..at + N]);
    bytes
}

impl Fp {
    /// TOP of the status word.
    #[must_use]
    pub fn top(&self) -> usize {
        usize::from(self.status >> 11 & 7)
    }

    /// Writes the image that FXRSTOR64 loads.
    pub fn write_image(&self, image: &mut [u8; 512]) {
        image[..416].fill(0);
        image[0..2].copy_from_slice(&self.control.to_le_bytes());
        image[2..4].copy_from_slice(&self.status.to_le_bytes());
        image[4] = self.tags;
        image[6..8].copy_from_slice(&self.opcode.to_le_bytes());
        image[8..16].copy_from_slice(&self.instruction.to_le_bytes());
        image[16..24].copy_from_slice(&self.operand.to_le_bytes());
        image[24..28].copy_from_slice(&self.mxcsr.to_le_bytes());
        image[28..32].copy_from_slice(&0xffff_u32.to_le_bytes());
        for stack in 0..8 {
            let (significand, exponent) = self.regs[(self.top() + stack) & 7];
            let at = 32 + 16 * stack;
            image[at..at + 8].copy_from_slice(&significand.to_le_bytes());
            image[at + 8..at + 10].copy_from_slice(&exponent.to_le_bytes());
        }
        for (index, value) in self.xmm.iter().enumerate() {
            let at = 160 + 16 * index;
            image[at..at + 16].copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Reads an image that FXSAVE64 stored.
    #[must_use]
    pub fn from_image(image: &[u8; 512]) -> Self {
        let mut fp = Self {
            control: u16::from_le_bytes(word(image, 0)),
            status: u16::from_le_bytes(word(image, 2)),
            tags: image[4],
            opcode: u16::from_le_bytes(word(image, 6)),
            instruction: u64::from_le_bytes(word(image, 8)),
            operand: u64::from_le_bytes(word(image, 16)),
            mxcsr: u32::from_le_bytes(word(image, 24)),
            ..Self::default()
        };
        for stack in 0..8 {
            let at = 32 + 16 * stack;
            let value = (u64::from_le_bytes(word(image, at)), u16::from_le_bytes(word(image, at + 8)));
            fp.regs[(fp.top() + stack) & 7] = value;
        }
        for (index, value) in fp.xmm.iter_mut().enumerate() {
            *value = u128::from_le_bytes(word(image, 160 + 16 * index));
        }
        fp
    }

    /// The engine's form.
    #[must_use]
    pub fn engine_state(&self) -> (FpuState, VectorState) {
        let mut fpu = FpuState {
            control: self.control,
            status: self.status,
            tags: self.tags,
            opcode: self.opcode,
            instruction: self.instruction,
            operand: self.operand,
            ..FpuState::default()
        };
        for (to, &(mantissa, sign_exponent)) in fpu.regs.iter_mut().zip(&self.regs) {
            *to = Float80 { mantissa, sign_exponent };
        }
        let mut vector = VectorState { mxcsr: self.mxcsr, ..VectorState::default() };
        for (to, value) in vector.regs.iter_mut().zip(self.xmm) {
            let (low, high) = halves(value);
            *to = [low, high, 0, 0];
        }
        (fpu, vector)
    }

    /// From the engine's form.
    #[must_use]
    pub fn from_engine(fpu: &FpuState, vector: &VectorState) -> Self {
        let mut fp = Self {
            control: fpu.control,
            status: fpu.status,
            tags: fpu.tags,
            opcode: fpu.opcode,
            instruction: fpu.instruction,
            operand: fpu.operand,
            mxcsr: vector.mxcsr,
            ..Self::default()
        };
        for (to, from) in fp.regs.iter_mut().zip(&fpu.regs) {
            *to = (from.mantissa, from.sign_exponent);
        }
        for (to, from) in fp.xmm.iter_mut().zip(&vector.regs) {
            *to = u128::from(from[0]) | u128::from(from[1]) << 64;
        }
        fp
    }
}

/// Low and high word.
#[must_use]
pub fn halves(value: u128) -> (u64, u64) {
    let bytes = value.to_le_bytes();
    (u64::from_le_bytes(word(&bytes, 0)), u64::from_le_bytes(word(&bytes, 8)))
}
