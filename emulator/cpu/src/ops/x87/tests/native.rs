//! Runs one instruction on the host's own x87 unit.

use crate::state::{Float80, FpuState};

/// What an instruction can see and change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registers {
    pub control: u16,
    pub status: u16,
    pub tag_word: u16,
    /// By physical number.
    pub regs: [Float80; 8],
    pub rflags: u64,
    pub rax: u64,
    /// At most [`OPERAND_BYTES`].
    pub memory: Vec<u8>,
}

impl Registers {
    pub fn fpu(&self) -> FpuState {
        let mut fpu = FpuState { regs: self.regs, status: self.status, ..FpuState::default() };
        fpu.set_tag_word(self.tag_word);
        fpu.set_control(self.control);
        fpu
    }
}

unsafe extern "C" {
    fn mmap(address: *mut u8, length: usize, protection: i32, flags: i32, fd: i32, offset: i64) -> *mut u8;
}

/// Room for the memory operand.
const OPERAND_BYTES: usize = 1024;

#[repr(align(64))]
struct Operand([u8; OPERAND_BYTES]);

/// A page of host code that loads state, executes one instruction and saves state.
pub(super) struct Harness {
    page: *mut u8,
}

/// FRSTOR's image in 64-bit mode.
const IMAGE: usize = 108;

impl Harness {
    pub fn new() -> Self {
        // SAFETY: a fresh anonymous private mapping (PROT_READ|WRITE|EXEC, MAP_PRIVATE|MAP_ANONYMOUS).
        let page = unsafe { mmap(std::ptr::null_mut(), 4096, 7, 0x22, -1, 0) };
        assert!(page as isize != -1, "no page of host code");
        Self { page }
    }

    /// Executes `instruction`, whose memory operand, if any, is `[rsi]`.
    pub fn run(&mut self, instruction: &[u8], before: &Registers) -> Registers {
        let mut code = vec![0xdd, 0x27, 0xff, 0x32, 0x9d, 0x48, 0x8b, 0x42, 0x08];
        code.extend_from_slice(instruction);
        code.extend_from_slice(&[0x48, 0x89, 0x42, 0x08, 0x9c, 0x8f, 0x02, 0xdd, 0x37, 0xc3]);
        let mut image = [0u8; IMAGE];
        image[0..2].copy_from_slice(&before.control.to_le_bytes());
        image[4..6].copy_from_slice(&before.status.to_le_bytes());
        image[8..10].copy_from_slice(&before.tag_word.to_le_bytes());
        let top = usize::from(before.status >> 11 & 7);
        for i in 0..8 {
            let register = before.regs[(top + i) & 7];
            image[28 + 10 * i..][..8].copy_from_slice(&register.mantissa.to_le_bytes());
            image[36 + 10 * i..][..2].copy_from_slice(&register.sign_exponent.to_le_bytes());
        }
        let mut general = [before.rflags, before.rax];
        let mut operand = Operand([0; OPERAND_BYTES]);
        operand.0[..before.memory.len()].copy_from_slice(&before.memory);
        // SAFETY: the code is: frstor [rdi]; push [rdx]; popf; mov rax, [rdx+8]; instruction; mov [rdx+8], rax; pushf;
        // pop [rdx]; fnsave [rdi]; ret. It leaves the unit as FNINIT does, which is what Rust code expects.
        unsafe {
            self.page.copy_from_nonoverlapping(code.as_ptr(), code.len());
            let entry: extern "C" fn(*mut u8, *mut u8, *mut u64) = std::mem::transmute(self.page);
            entry(image.as_mut_ptr(), operand.0.as_mut_ptr(), general.as_mut_ptr());
        }
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let status = word(4);
        let top = usize::from(status >> 11 & 7);
        let mut regs = [Float80::default(); 8];
        for i in 0..8 {
            let mantissa = u64::from_le_bytes(image[28 + 10 * i..][..8].try_into().unwrap());
            regs[(top + i) & 7] = Float80 { mantissa, sign_exponent: word(36 + 10 * i) };
        }
        Registers {
            control: word(0),
            status,
            tag_word: word(8),
            regs,
            rflags: general[0] & 0xcd5,
            rax: general[1],
            memory: operand.0[..before.memory.len()].to_vec(),
        }
    }
}
