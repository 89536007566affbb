//! AESENC, AESENCLAST, AESDEC, AESDECLAST, AESIMC, AESKEYGENASSIST (FIPS 197).
//!
//! A round is four table look-ups per column: [`ENCRYPT`] and [`DECRYPT`] hold the substituted byte already
//! multiplied by the column of the mixing matrix. The tables are computed when the crate is compiled.

use iced_x86::{Instruction, Mnemonic};

use super::super::sse::vector::{Vector, join, split};
use super::second;
use crate::core::Core;
use crate::op::{Done, Handler, Op};

/// Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    product
}

/// The substitution box: the multiplicative inverse, then an affine map.
const fn substitution() -> [u8; 256] {
    let mut table = [0; 256];
    // `p` runs through all powers of 3, `q` through those of its inverse.
    let (mut p, mut q) = (1_u8, 1_u8);
    loop {
        p = multiply(p, 3);
        q = multiply(q, 0xf6);
        table[p as usize] = q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4) ^ 0x63;
        if p == 1 {
            break;
        }
    }
    table[0] = 0x63;
    table
}

const fn inverse(table: &[u8; 256]) -> [u8; 256] {
    let mut inverse = [0; 256];
    let mut index = 0;
    while index < 256 {
        inverse[table[index] as usize] = index as u8;
        index += 1;
    }
    inverse
}

/// For every byte its substitute times a column of the mixing matrix.
const fn columns(substitute: &[u8; 256], column: [u8; 4]) -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let byte = substitute[index];
        table[index] = u32::from_le_bytes([
            multiply(byte, column[0]),
            multiply(byte, column[1]),
            multiply(byte, column[2]),
            multiply(byte, column[3]),
        ]);
        index += 1;
    }
    table
}

const fn identity() -> [u8; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        table[index] = index as u8;
        index += 1;
    }
    table
}

const UNMIX: [u8; 4] = [14, 9, 13, 11];
static SUBSTITUTE: [u8; 256] = substitution();
static RESTORE: [u8; 256] = inverse(&substitution());
static ENCRYPT: [u32; 256] = columns(&substitution(), [2, 1, 1, 3]);
static DECRYPT: [u32; 256] = columns(&inverse(&substitution()), UNMIX);
/// InvMixColumns without substitution.
static UNMIXED: [u32; 256] = columns(&identity(), UNMIX);

/// Where each byte of the state comes from in ShiftRows.
const fn shift_rows(step: usize) -> [usize; 16] {
    let mut from = [0; 16];
    let mut index = 0;
    while index < 16 {
        from[index] = (index + index % 4 * step) % 16;
        index += 1;
    }
    from
}

const SHIFT: [usize; 16] = shift_rows(4);
const UNSHIFT: [usize; 16] = shift_rows(12);

/// Shifts rows, substitutes and mixes columns.
#[inline(always)]
fn mix(state: Vector, from: &[usize; 16], table: &[u32; 256]) -> [u32; 4] {
    let bytes: [u8; 16] = split(state);
    std::array::from_fn(|column| {
        (0..4).fold(0, |mixed, row| {
            let byte = bytes[from[4 * column + row]];
            mixed ^ table[usize::from(byte)].rotate_left(8 * row as u32)
        })
    })
}

/// Shifts rows and substitutes.
#[inline(always)]
fn substitute(state: Vector, from: &[usize; 16], table: &[u8; 256]) -> Vector {
    let bytes: [u8; 16] = split(state);
    join(from.map(|index| table[usize::from(bytes[index])]))
}

fn add_key(state: Vector, key: Vector) -> Vector {
    join(split::<u128>(state) ^ split::<u128>(key))
}

pub(super) fn encrypt(state: Vector, key: Vector) -> Vector {
    add_key(join(mix(state, &SHIFT, &ENCRYPT)), key)
}

pub(super) fn encrypt_last(state: Vector, key: Vector) -> Vector {
    add_key(substitute(state, &SHIFT, &SUBSTITUTE), key)
}

pub(super) fn decrypt(state: Vector, key: Vector) -> Vector {
    add_key(join(mix(state, &UNSHIFT, &DECRYPT)), key)
}

pub(super) fn decrypt_last(state: Vector, key: Vector) -> Vector {
    add_key(substitute(state, &UNSHIFT, &RESTORE), key)
}

/// InvMixColumns, for the keys of the equivalent inverse cipher.
pub(super) fn unmix(_state: Vector, key: Vector) -> Vector {
    const IN_PLACE: [usize; 16] = shift_rows(0);
    join(mix(key, &IN_PLACE, &UNMIXED))
}

/// Substituted words 1 and 3 of `key`, as they are and rotated, the latter with the round constant.
pub(super) fn key_assist(key: Vector, constant: u32) -> Vector {
    let words: [u32; 4] = split(key);
    let substituted = |word: u32| u32::from_le_bytes(word.to_le_bytes().map(|byte| SUBSTITUTE[usize::from(byte)]));
    let (x1, x3) = (substituted(words[1]), substituted(words[3]));
    join([x1, x1.rotate_right(8) ^ constant, x3, x3.rotate_right(8) ^ constant])
}

fn round(core: &mut Core, op: &Op, apply: fn(Vector, Vector) -> Vector) -> Done {
    let b = second(core, op)?;
    let result = apply(core.xmm(op.dst), b);
    core.set_xmm(op.dst, result);
    Ok(())
}

fn aeskeygenassist(core: &mut Core, op: &Op) -> Done {
    let b = second(core, op)?;
    core.set_xmm(op.dst, key_assist(b, op.imm as u32));
    Ok(())
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    let handler: Handler = match ins.mnemonic() {
        Mnemonic::Aesenc => |core, op| round(core, op, encrypt),
        Mnemonic::Aesenclast => |core, op| round(core, op, encrypt_last),
        Mnemonic::Aesdec => |core, op| round(core, op, decrypt),
        Mnemonic::Aesdeclast => |core, op| round(core, op, decrypt_last),
        Mnemonic::Aesimc => |core, op| round(core, op, unmix),
        Mnemonic::Aeskeygenassist => aeskeygenassist,
        _ => return None,
    };
    super::registers(ins, op);
    op.imm = u64::from(ins.immediate8());
    Some(handler)
}
