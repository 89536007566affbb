//! Shuffles, blends, insertions and extractions that an immediate controls.

use iced_x86::{Instruction, Mnemonic};

use super::super::in_memory;
use super::moves::{is_mmx, registers};
use super::shift::shift_bytes;
use super::vector::{Vector, from_low, host, join, low, split};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_MEMORY, Op};

/// Byte indices for PSHUFB that do what PSHUFD does, by immediate.
static DWORDS: [[u8; 16]; 256] = indices(4, 0);
/// The same for PSHUFLW: four words of the low half.
static LOW_WORDS: [[u8; 16]; 256] = indices(2, 0);
/// The same for PSHUFHW: four words of the upper half.
static HIGH_WORDS: [[u8; 16]; 256] = indices(2, 8);

/// Byte indices that pick, by two bits of the index each, four lanes of `size` bytes among the four from byte `first`
/// on; bytes outside of them stay.
const fn indices(size: usize, first: usize) -> [[u8; 16]; 256] {
    let mut table = [[0; 16]; 256];
    let mut control = 0;
    while control < 256 {
        let mut byte = 0;
        while byte < 16 {
            let inside = byte >= first && byte < first + 4 * size;
            let index = if inside {
                let lane = (byte - first) / size;
                first + (control >> (2 * lane) & 3) * size + (byte - first) % size
            } else {
                byte
            };
            table[control][byte] = index as u8;
            byte += 1;
        }
        control += 1;
    }
    table
}

#[inline(always)]
fn shuffle(value: Vector, table: &'static [[u8; 16]; 256], control: u64) -> Vector {
    let indices = &table[(control & 0xff) as usize];
    host!(_mm_shuffle_epi8(value, _mm_loadu_si128(indices.as_ptr().cast())))
}

/// An operation on two vectors and an immediate.
trait Controlled {
    fn apply(a: Vector, b: Vector, control: u64) -> Vector;
}

fn reg<C: Controlled>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let result = C::apply(core.xmm(op.dst), core.xmm(op.src), op.imm);
    core.set_xmm(op.dst, result);
    Ok(())
}

fn mem<C: Controlled>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let b = core.load_aligned(op)?;
    let result = C::apply(core.xmm(op.dst), b, op.imm);
    core.set_xmm(op.dst, result);
    Ok(())
}

macro_rules! controlled {
    ($($name:ident = |$a:ident, $b:ident, $control:ident| $body:expr;)*) => {
        $(
            struct $name;
            impl Controlled for $name {
                #[inline(always)]
                fn apply($a: Vector, $b: Vector, $control: u64) -> Vector {
                    $body
                }
            }
        )*
    };
}

controlled! {
    Pshufd = |_a, b, control| shuffle(b, &DWORDS, control);
    Pshuflw = |_a, b, control| shuffle(b, &LOW_WORDS, control);
    Pshufhw = |_a, b, control| shuffle(b, &HIGH_WORDS, control);
    Shufps = |a, b, control| {
        let (a, b) = (shuffle(a, &DWORDS, control), shuffle(b, &DWORDS, control >> 4));
        host!(_mm_unpacklo_epi64(a, b))
    };
    Shufpd = |a, b, control| {
        let (a, b): ([u64; 2], [u64; 2]) = (split(a), split(b));
        join([a[(control & 1) as usize], b[(control >> 1 & 1) as usize]])
    };
    Palignr = |a, b, control| {
        let bytes = control as isize;
        let (upper, lower) = (shift_bytes(a, bytes - 16), shift_bytes(b, bytes));
        host!(_mm_or_si128(upper, lower))
    };
    // BLENDPS and BLENDPD come here too, with their immediates in words.
    Pblendw = |a, b, control| {
        host!({
            let bits = _mm_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128);
            let chosen = _mm_cmpeq_epi16(_mm_and_si128(_mm_set1_epi16(control as i16), bits), bits);
            _mm_blendv_epi8(a, b, chosen)
        })
    };
}

/// An operation on two vectors that XMM0 controls.
trait Masked {
    fn apply(a: Vector, b: Vector, mask: Vector) -> Vector;
}

fn masked<M: Masked>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let b = if op.has(OP_MEMORY) { core.load_aligned(op)? } else { core.xmm(op.src) };
    let result = M::apply(core.xmm(op.dst), b, core.xmm(0));
    core.set_xmm(op.dst, result);
    Ok(())
}

struct Pblendvb;
impl Masked for Pblendvb {
    #[inline(always)]
    fn apply(a: Vector, b: Vector, mask: Vector) -> Vector {
        host!(_mm_blendv_epi8(a, b, mask))
    }
}

struct Blendvps;
impl Masked for Blendvps {
    #[inline(always)]
    fn apply(a: Vector, b: Vector, mask: Vector) -> Vector {
        host!(_mm_blendv_epi8(a, b, _mm_srai_epi32(mask, 31)))
    }
}

struct Blendvpd;
impl Masked for Blendvpd {
    #[inline(always)]
    fn apply(a: Vector, b: Vector, mask: Vector) -> Vector {
        host!(_mm_blendv_epi8(a, b, _mm_cmpgt_epi64(_mm_setzero_si128(), mask)))
    }
}

fn pshufw(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let b = if op.has(OP_MEMORY) { core.load::<u64>(op)? } else { core.mmx(op.src) };
    let result = shuffle(from_low(b), &LOW_WORDS, op.imm);
    core.set_mmx(op.dst, low(result));
    Ok(())
}

fn mmx_palignr(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let b = if op.has(OP_MEMORY) { core.load::<u64>(op)? } else { core.mmx(op.src) };
    let both = join([b, core.mmx(op.dst)]);
    core.set_mmx(op.dst, low(shift_bytes(both, op.imm as isize)));
    Ok(())
}

/// INSERTPS: immediate bits 7:6 choose the source lane (registers only), 5:4 the destination, 3:0 lanes to clear.
fn insertps(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = if op.has(OP_MEMORY) {
        core.load::<u32>(op)?
    } else {
        split::<[u32; 4]>(core.xmm(op.src))[(op.imm >> 6 & 3) as usize]
    };
    let mut lanes: [u32; 4] = split(core.xmm(op.dst));
    lanes[(op.imm >> 4 & 3) as usize] = value;
    for (index, lane) in lanes.iter_mut().enumerate() {
        if op.imm >> index & 1 != 0 {
            *lane = 0;
        }
    }
    core.set_xmm(op.dst, join(lanes));
    Ok(())
}

/// PINSRB, PINSRW, PINSRD and PINSRQ for one lane type.
macro_rules! insert_extract {
    ($insert:ident, $extract:ident, $lane:ty, $count:literal) => {
        fn $insert(core: &mut Core, op: &Op) -> Done {
            core.check_sse()?;
            let value =
                if op.has(OP_MEMORY) { core.load::<$lane>(op)? } else { core.r[usize::from(op.src & 31)] as $lane };
            let mut lanes: [$lane; $count] = split(core.xmm(op.dst));
            lanes[(op.imm as usize) & ($count - 1)] = value;
            core.set_xmm(op.dst, join(lanes));
            Ok(())
        }

        fn $extract(core: &mut Core, op: &Op) -> Done {
            core.check_sse()?;
            let lanes: [$lane; $count] = split(core.xmm(op.src));
            let value = lanes[(op.imm as usize) & ($count - 1)];
            if op.has(OP_MEMORY) {
                return core.store::<$lane>(op, value);
            }
            core.r[usize::from(op.dst & 31)] = u64::from(value);
            Ok(())
        }
    };
}

insert_extract!(pinsrb, pextrb, u8, 16);
insert_extract!(pinsrw, pextrw, u16, 8);
insert_extract!(pinsrd, pextrd, u32, 4);
insert_extract!(pinsrq, pextrq, u64, 2);

fn mmx_pinsrw(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let value = if op.has(OP_MEMORY) { core.load::<u16>(op)? } else { core.r[usize::from(op.src & 31)] as u16 };
    let shift = 16 * (op.imm & 3);
    let rest = core.mmx(op.dst) & !(0xffff << shift);
    core.set_mmx(op.dst, rest | u64::from(value) << shift);
    Ok(())
}

fn mmx_pextrw(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    core.r[usize::from(op.dst & 31)] = core.mmx(op.src) >> (16 * (op.imm & 3)) & 0xffff;
    core.enter_mmx();
    Ok(())
}

/// Every bit of `bits` that is below `count`, `times` times.
fn widen(bits: u64, count: u32, times: u32) -> u64 {
    let repeated = (1 << times) - 1;
    (0..count).filter(|bit| bits >> bit & 1 != 0).fold(0, |wide, bit| wide | repeated << (bit * times))
}

fn controlled<C: Controlled>(ins: &Instruction) -> Handler {
    if in_memory(ins, 1) { mem::<C> } else { reg::<C> }
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    use Mnemonic as M;
    let control = u64::from(ins.immediate8());
    let mut imm = control;
    let handler: Handler = match ins.mnemonic() {
        M::Pshufd => controlled::<Pshufd>(ins),
        M::Pshuflw => controlled::<Pshuflw>(ins),
        M::Pshufhw => controlled::<Pshufhw>(ins),
        M::Pshufw => pshufw,
        M::Shufps => controlled::<Shufps>(ins),
        M::Shufpd => controlled::<Shufpd>(ins),
        M::Palignr if is_mmx(ins, 0) => mmx_palignr,
        M::Palignr => controlled::<Palignr>(ins),
        M::Pblendw => controlled::<Pblendw>(ins),
        M::Blendps => {
            imm = widen(control, 4, 2);
            controlled::<Pblendw>(ins)
        }
        M::Blendpd => {
            imm = widen(control, 2, 4);
            controlled::<Pblendw>(ins)
        }
        M::Pblendvb => masked::<Pblendvb>,
        M::Blendvps => masked::<Blendvps>,
        M::Blendvpd => masked::<Blendvpd>,
        M::Insertps => insertps,
        M::Extractps | M::Pextrd => pextrd,
        M::Pinsrb => pinsrb,
        M::Pinsrw if is_mmx(ins, 0) => mmx_pinsrw,
        M::Pinsrw => pinsrw,
        M::Pinsrd => pinsrd,
        M::Pinsrq => pinsrq,
        M::Pextrb => pextrb,
        M::Pextrw if is_mmx(ins, 1) => mmx_pextrw,
        M::Pextrw => pextrw,
        M::Pextrq => pextrq,
        _ => return None,
    };
    registers(ins, op);
    op.imm = imm;
    Some(handler)
}
