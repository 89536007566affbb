//! SHA1RNDS4, SHA1NEXTE, SHA1MSG1, SHA1MSG2, SHA256RNDS2, SHA256MSG1, SHA256MSG2 (FIPS 180-4).
//!
//! Lanes are written from least significant, so the manual's "bits 127:96" is lane 3.

use iced_x86::{Instruction, Mnemonic};

use super::super::sse::vector::{Vector, join, split};
use super::second;
use crate::core::Core;
use crate::op::{Done, Handler, Op};

const SHA1_CONSTANTS: [u32; 4] = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6];

/// Four rounds of SHA-1; `kind` chooses function and constant.
pub(super) fn sha1_rounds(state: Vector, message: Vector, kind: usize) -> Vector {
    let [mut d, mut c, mut b, mut a]: [u32; 4] = split(state);
    let words: [u32; 4] = split(message);
    let constant = SHA1_CONSTANTS[kind & 3];
    // The message's top word already includes E of the first round; it is zero there.
    let mut e = 0_u32;
    for word in words.into_iter().rev() {
        let f = match kind & 3 {
            0 => b & c ^ !b & d,
            2 => b & c ^ b & d ^ c & d,
            _ => b ^ c ^ d,
        };
        let next = f.wrapping_add(a.rotate_left(5)).wrapping_add(word).wrapping_add(e).wrapping_add(constant);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
    }
    join([d, c, b, a])
}

fn sha1_next(state: Vector, message: Vector) -> Vector {
    let a: [u32; 4] = split(state);
    let mut words: [u32; 4] = split(message);
    words[3] = words[3].wrapping_add(a[3].rotate_left(30));
    join(words)
}

fn sha1_message_1(a: Vector, b: Vector) -> Vector {
    let (a, b): ([u32; 4], [u32; 4]) = (split(a), split(b));
    join([a[0] ^ b[2], a[1] ^ b[3], a[2] ^ a[0], a[3] ^ a[1]])
}

fn sha1_message_2(a: Vector, b: Vector) -> Vector {
    let (a, b): ([u32; 4], [u32; 4]) = (split(a), split(b));
    let w16 = (a[3] ^ b[2]).rotate_left(1);
    let w17 = (a[2] ^ b[1]).rotate_left(1);
    let w18 = (a[1] ^ b[0]).rotate_left(1);
    let w19 = (a[0] ^ w16).rotate_left(1);
    join([w19, w18, w17, w16])
}

/// Two rounds of SHA-256: `cdgh` and `abef` hold the state, the low words of `message` the sums of word and constant.
pub(super) fn sha256_rounds(cdgh: Vector, abef: Vector, message: Vector) -> Vector {
    let [mut h, mut g, mut d, mut c]: [u32; 4] = split(cdgh);
    let [mut f, mut e, mut b, mut a]: [u32; 4] = split(abef);
    let words: [u32; 4] = split(message);
    for &word in &words[..2] {
        let choice = e & f ^ !e & g;
        let majority = a & b ^ a & c ^ b & c;
        let sigma1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let sigma0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let sum = choice.wrapping_add(sigma1).wrapping_add(word).wrapping_add(h);
        let next = sum.wrapping_add(majority).wrapping_add(sigma0);
        (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(sum), c, b, a, next);
    }
    join([f, e, b, a])
}

fn sha256_message_1(a: Vector, b: Vector) -> Vector {
    let (a, b): ([u32; 4], [u32; 4]) = (split(a), split(b));
    let sigma = |word: u32| word.rotate_right(7) ^ word.rotate_right(18) ^ word >> 3;
    join([
        a[0].wrapping_add(sigma(a[1])),
        a[1].wrapping_add(sigma(a[2])),
        a[2].wrapping_add(sigma(a[3])),
        a[3].wrapping_add(sigma(b[0])),
    ])
}

fn sha256_message_2(a: Vector, b: Vector) -> Vector {
    let (a, b): ([u32; 4], [u32; 4]) = (split(a), split(b));
    let sigma = |word: u32| word.rotate_right(17) ^ word.rotate_right(19) ^ word >> 10;
    let w16 = a[0].wrapping_add(sigma(b[2]));
    let w17 = a[1].wrapping_add(sigma(b[3]));
    let w18 = a[2].wrapping_add(sigma(w16));
    let w19 = a[3].wrapping_add(sigma(w17));
    join([w16, w17, w18, w19])
}

fn binary(core: &mut Core, op: &Op, apply: fn(Vector, Vector) -> Vector) -> Done {
    let b = second(core, op)?;
    let result = apply(core.xmm(op.dst), b);
    core.set_xmm(op.dst, result);
    Ok(())
}

fn sha1rnds4(core: &mut Core, op: &Op) -> Done {
    let b = second(core, op)?;
    let result = sha1_rounds(core.xmm(op.dst), b, (op.imm & 3) as usize);
    core.set_xmm(op.dst, result);
    Ok(())
}

fn sha256rnds2(core: &mut Core, op: &Op) -> Done {
    let b = second(core, op)?;
    let result = sha256_rounds(core.xmm(op.dst), b, core.xmm(0));
    core.set_xmm(op.dst, result);
    Ok(())
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    let handler: Handler = match ins.mnemonic() {
        Mnemonic::Sha1rnds4 => sha1rnds4,
        Mnemonic::Sha1nexte => |core, op| binary(core, op, sha1_next),
        Mnemonic::Sha1msg1 => |core, op| binary(core, op, sha1_message_1),
        Mnemonic::Sha1msg2 => |core, op| binary(core, op, sha1_message_2),
        Mnemonic::Sha256rnds2 => sha256rnds2,
        Mnemonic::Sha256msg1 => |core, op| binary(core, op, sha256_message_1),
        Mnemonic::Sha256msg2 => |core, op| binary(core, op, sha256_message_2),
        _ => return None,
    };
    super::registers(ins, op);
    op.imm = u64::from(ins.immediate8());
    Some(handler)
}
