//! From guest bytes to a block.

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic};

use super::{BLOCK_OPS, Block, NO_EDGE};
use crate::core::Core;
use crate::memory::to_usize;
use crate::mmu::CodeMode;
use crate::op::{Op, Stop};
use crate::ops;

/// Longest instruction in bytes; a longer one raises #GP.
const LONGEST: usize = 15;

impl Core {
    /// Decodes the block at a physical address and keeps it.
    pub(super) fn decode_block(&mut self, linear: u64, physical: u64, mode: CodeMode) -> Result<*mut Block, Stop> {
        let page = self.ram.page_index(physical).expect("the caller checked");
        let offset = to_usize(physical & 0xfff);
        let bytes = self.ram.page(page);
        let mut ops = Vec::with_capacity(8);
        let used = decode_run(&bytes[offset..], mode, &mut ops);
        let mut second_page = None;
        let mut length = used;
        if ops.is_empty() {
            // The first instruction does not end in this page.
            let first = bytes[offset..].to_vec();
            if ops::is_undefined_however_it_goes_on(&first, mode) {
                length = first.len();
                ops.push(ops::translate(&Instruction::default(), &first, 0, mode));
            } else {
                let second = self.second_page_address(linear)?;
                let Some(second) = self.ram.page_index(second) else { return Err(self.ud()) };
                let mut both = first.clone();
                both.extend_from_slice(&self.ram.page(second)[..LONGEST - first.len()]);
                length = decode_one(&both, mode, &mut ops);
                if length > first.len() {
                    second_page = Some(second);
                }
            }
        }
        self.statistics.blocks_decoded += 1;
        let block = Block {
            id: 0,
            ops: ops.into_boxed_slice(),
            bytes: u16::try_from(length).expect("a block fits two pages"),
            offset: u16::try_from(offset).expect("an offset in a page"),
            mode,
            page,
            second_page,
            links: [NO_EDGE; 2],
            next_link: 0,
        };
        let fresh = self.ram.flags(page) & crate::memory::PAGE_CODE == 0;
        if fresh {
            self.tlb.drop_writes_to(self.ram.page_pointer(page));
        }
        if let Some(second) = second_page {
            self.tlb.drop_writes_to(self.ram.page_pointer(second));
        }
        Ok(self.code.insert(block, &self.ram))
    }
}

fn decoder(bytes: &[u8], mode: CodeMode) -> Decoder<'_> {
    Decoder::with_ip(mode.bits(), bytes, 0, DecoderOptions::NONE)
}

/// Decodes instructions until the block ends or the bytes do. Returns the bytes used.
fn decode_run(bytes: &[u8], mode: CodeMode, ops: &mut Vec<Op>) -> usize {
    let mut decoder = decoder(bytes, mode);
    let mut instruction = Instruction::default();
    let mut used = 0;
    while ops.len() < BLOCK_OPS && decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if decoder.last_error() == DecoderError::NoMoreBytes && bytes.len() - used < LONGEST {
            break;
        }
        let start = used;
        used = decoder.position();
        exchange_not_pause(&mut instruction, &bytes[start..used], start, mode);
        ops.push(ops::translate(&instruction, &bytes[start..used], start, mode));
        if ends_block(&instruction) {
            break;
        }
    }
    used
}

/// Decodes exactly one instruction. Returns its length.
fn decode_one(bytes: &[u8], mode: CodeMode, ops: &mut Vec<Op>) -> usize {
    let mut decoder = decoder(bytes, mode);
    let mut instruction = decoder.decode();
    let used = decoder.position();
    exchange_not_pause(&mut instruction, &bytes[..used], 0, mode);
    ops.push(ops::translate(&instruction, &bytes[..used], 0, mode));
    used
}

/// F3 90 with REX.B is XCHG R8, RAX on processors, and PAUSE to the decoder.
fn exchange_not_pause(instruction: &mut Instruction, bytes: &[u8], offset: usize, mode: CodeMode) {
    let [.., 0x41 | 0x43 | 0x45 | 0x47 | 0x49 | 0x4b | 0x4d | 0x4f, 0x90] = bytes else { return };
    if instruction.code() == Code::Pause && mode == CodeMode::Bits64 {
        *instruction = Decoder::with_ip(64, bytes, offset as u64, DecoderOptions::NO_PAUSE).decode();
    }
}

/// True for instructions after which RIP is not simply the next one, or which may take many steps.
fn ends_block(instruction: &Instruction) -> bool {
    instruction.code() == Code::INVALID
        || instruction.flow_control() != FlowControl::Next
        || instruction.is_string_instruction()
        || matches!(instruction.mnemonic(), Mnemonic::Hlt | Mnemonic::Pause)
}
