//! Known answers of the standards. Against the host's own instructions: `sse/tests.rs`.

use super::super::sse::vector::{Vector, join, split};
use super::{aes, clmul, crc32, sha};

/// A block in the order in which the standards print it.
fn block(text: &str) -> Vector {
    join(u128::from_str_radix(text, 16).expect("hexadecimal").swap_bytes())
}

fn text(value: Vector) -> String {
    format!("{:032x}", split::<u128>(value).swap_bytes())
}

/// AES-128 key expansion with AESKEYGENASSIST, as programs do it.
fn expand(key: Vector) -> Vec<Vector> {
    let mut keys = vec![key];
    let mut constant = 1_u32;
    for _ in 0..10 {
        let key = *keys.last().expect("not empty");
        let [_, _, _, assist]: [u32; 4] = split(aes::key_assist(key, constant));
        let mut words: [u32; 4] = split(key);
        let mut previous = assist;
        for word in &mut words {
            *word ^= previous;
            previous = *word;
        }
        keys.push(join(words));
        constant = constant << 1 ^ if constant & 0x80 != 0 { 0x11b } else { 0 };
    }
    keys
}

fn xor(a: Vector, b: Vector) -> Vector {
    join(split::<u128>(a) ^ split::<u128>(b))
}

/// FIPS 197, appendices A.1 and C.1.
#[test]
fn aes_128_of_fips_197() {
    let schedule = expand(block("2b7e151628aed2a6abf7158809cf4f3c"));
    assert_eq!(text(schedule[1]), "a0fafe1788542cb123a339392a6c7605");
    assert_eq!(text(schedule[10]), "d014f9a8c9ee2589e13f0cc8b6630ca6");

    let keys = expand(block("000102030405060708090a0b0c0d0e0f"));
    let plain = block("00112233445566778899aabbccddeeff");
    let state = keys[1..10].iter().fold(xor(plain, keys[0]), |state, &key| aes::encrypt(state, key));
    let cipher = aes::encrypt_last(state, keys[10]);
    assert_eq!(text(cipher), "69c4e0d86a7b0430d8cdb78070b4c55a");

    let state =
        keys[1..10].iter().rev().fold(xor(cipher, keys[10]), |state, &key| aes::decrypt(state, aes::unmix(key, key)));
    assert_eq!(text(aes::decrypt_last(state, keys[0])), text(plain));
}

/// The CRC-32C check value, and RFC 3720 B.4.
#[test]
fn crc32c() {
    let bytewise = |bytes: &[u8]| !bytes.iter().fold(!0, |crc, &byte| crc32::update(crc, byte.into(), 1));
    assert_eq!(bytewise(b"123456789"), 0xe306_9283);
    assert_eq!(bytewise(&[0; 32]), 0x8a91_36aa);
    assert_eq!(bytewise(&[0xff; 32]), 0x62a8_ab43);
    let data: Vec<u8> = (0..32).collect();
    assert_eq!(bytewise(&data), 0x46dd_794e);
    for size in [2, 4, 8] {
        let wide = data.chunks_exact(size).fold(!0, |crc, chunk| {
            let mut word = [0; 8];
            word[..size].copy_from_slice(chunk);
            crc32::update(crc, u64::from_le_bytes(word), size)
        });
        assert_eq!(!wide, 0x46dd_794e, "{size} bytes at a time");
    }
}

/// Examples of Intel's white paper on carry-less multiplication.
#[test]
fn carry_less_products() {
    assert_eq!(clmul::product(0x63746f725d53475d, 0x5b477565726f6e5d), 0x1d4d84c85c3440c0929633d5d36f0451);
    assert_eq!(clmul::product(0x7b5b546573745665, 0x4869285368617929), 0x1d1e1f2c592e7c45d66ee03e410fd4ed);
    assert_eq!(clmul::product(u64::MAX, u64::MAX), 0x5555_5555_5555_5555_5555_5555_5555_5555);
    assert_eq!(clmul::product(1 << 63, 1 << 63), 1 << 126);
}

/// SHA-1 of "abc" (FIPS 180-4) by rounds of four, the message schedule by its definition.
#[test]
fn sha1_of_abc() {
    let mut words = [0_u32; 80];
    words[0] = 0x6162_6380;
    words[15] = 24;
    for t in 16..80 {
        words[t] = (words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16]).rotate_left(1);
    }
    let start = [0x1032_5476_u32, 0x98ba_dcfe, 0xefcd_ab89, 0x6745_2301];
    let (mut state, mut e) = (join(start), 0xc3d2_e1f0_u32);
    for group in 0..20 {
        let w = &words[4 * group..];
        let message = join([w[3], w[2], w[1], w[0].wrapping_add(e)]);
        e = split::<[u32; 4]>(state)[3].rotate_left(30);
        state = sha::sha1_rounds(state, message, group / 5);
    }
    let [d, c, b, a]: [u32; 4] = split(state);
    let sum = [
        a.wrapping_add(start[3]),
        b.wrapping_add(start[2]),
        c.wrapping_add(start[1]),
        d.wrapping_add(start[0]),
        e.wrapping_add(0xc3d2_e1f0),
    ];
    assert_eq!(sum, [0xa999_3e36, 0x4706_816a, 0xba3e_2571, 0x7850_c26c, 0x9cd0_d89d]);
}

/// The first two rounds of SHA-256 of "abc" (FIPS 180-4, example B.1).
#[test]
fn sha256_first_rounds_of_abc() {
    let abef = join([0x9b05_688c_u32, 0x510e_527f, 0xbb67_ae85, 0x6a09_e667]);
    let cdgh = join([0x5be0_cd19_u32, 0x1f83_d9ab, 0xa54f_f53a, 0x3c6e_f372]);
    let message = join([0x6162_6380_u32.wrapping_add(0x428a_2f98), 0x7137_4491, 0, 0]);
    let [f, e, b, a]: [u32; 4] = split(sha::sha256_rounds(cdgh, abef, message));
    assert_eq!([a, b, e, f], [0x5a6a_d9ad, 0x5d6a_ebcd, 0x78ce_7989, 0xfa2a_4622]);
}
