//! Images made by hand, and broken ones.

use super::layout::{MemoryKind, START_INFO, ZERO_PAGE, memory_map};
use super::*;

const MIB: u64 = 1 << 20;

fn source(kernel: Vec<u8>, initrd: Option<Vec<u8>>) -> BootSource {
    BootSource { kernel: kernel.into(), initrd: initrd.map(Into::into), command_line: "console=ttyS0".into() }
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A 64-bit relocatable bzImage with one setup sector and a kernel of 4 KiB.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024 + 4096];
    image[0x1f1] = 1;
    put(&mut image, 0x1f4, &(4096u32 / 16).to_le_bytes());
    put(&mut image, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x20fu16.to_le_bytes());
    image[0x211] = 1;
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x230, &0x20_0000u32.to_le_bytes());
    image[0x234] = 1;
    put(&mut image, 0x236, &1u16.to_le_bytes());
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x248, &0x10u32.to_le_bytes());
    put(&mut image, 0x24c, &0x40u32.to_le_bytes());
    put(&mut image, 0x258, &0x100_0000u64.to_le_bytes());
    put(&mut image, 0x260, &0x40_0000u32.to_le_bytes());
    image[1024..].fill(0x90);
    put(&mut image, 1024 + 0x10, b"\x02\x21\x4c\x18");
    put(&mut image, 1024 + 0x10 + 0x3c, &77u32.to_le_bytes());
    image
}

/// An ELF image with one segment of 16 bytes (32 in memory) at 1 MiB, and a note segment.
fn elf64(note: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x200];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 18, &62u16.to_le_bytes());
    put(&mut image, 24, &0x10_0000u64.to_le_bytes());
    put(&mut image, 32, &64u64.to_le_bytes());
    put(&mut image, 54, &56u16.to_le_bytes());
    put(&mut image, 56, &2u16.to_le_bytes());
    for (header, kind, offset, file, memory) in
        [(64, 1u32, 0x100u64, 16u64, 32u64), (120, 4, 0x180, note.len() as u64, 0)]
    {
        put(&mut image, header, &kind.to_le_bytes());
        put(&mut image, header + 8, &offset.to_le_bytes());
        put(&mut image, header + 24, &0x10_0000u64.to_le_bytes());
        put(&mut image, header + 32, &file.to_le_bytes());
        put(&mut image, header + 40, &memory.to_le_bytes());
    }
    image[0x100..0x110].fill(0xf4);
    put(&mut image, 0x180, note);
    image
}

fn pvh_note() -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4u32, 4, 1] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"GNU\0abcd");
    for word in [4u32, 8, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(0x10_0004u64.to_le_bytes());
    note
}

fn read<const N: usize>(ram: &GuestRam, address: u64) -> [u8; N] {
    let mut bytes = [0; N];
    ram.memory().read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

fn read_u32(ram: &GuestRam, address: u64) -> u64 {
    u64::from(u32::from_le_bytes(read(ram, address)))
}

#[test]
fn a_bzimage_is_entered_in_long_mode() {
    let ram = GuestRam::new(64 * MIB).unwrap();
    let state = load(&ram, &source(bzimage(), Some(vec![0xab; 5000])), &[1, 2, 3]).unwrap();
    assert_eq!((state.rip, state.gpr[6]), (0x100_0200, ZERO_PAGE));
    assert_eq!((state.sys.efer, state.sys.cr4, state.sys.cr0), (0x500, 0x20, 0x8000_0011));
    assert_eq!(read::<1>(&ram, 0x100_0000), [0x90]);
    assert_eq!(read::<4>(&ram, ZERO_PAGE + 0x202), *b"HdrS");
    let initrd = read_u32(&ram, ZERO_PAGE + 0x218);
    assert_eq!((initrd, read_u32(&ram, ZERO_PAGE + 0x21c)), (64 * MIB - 0x2000, 5000));
    assert_eq!(read::<1>(&ram, initrd + 4999), [0xab]);
    let line = read_u32(&ram, ZERO_PAGE + 0x228);
    assert_eq!(&read::<14>(&ram, line), b"console=ttyS0\0");
    assert_eq!(read_u32(&ram, ZERO_PAGE + 0x70), crate::acpi::TABLES_BASE);
    assert_eq!(read::<3>(&ram, crate::acpi::TABLES_BASE), [1, 2, 3]);
    assert_eq!(read::<1>(&ram, ZERO_PAGE + 0x1e8), [7]);
    // Entry 2047 of the page directories maps the last 2 MiB below 4 GiB.
    assert_eq!(ram.read_u64(0xb000 + 2047 * 8), 0xffe0_0083);
}

#[test]
fn a_relocatable_bzimage_moves_down_when_memory_is_small() {
    let ram = GuestRam::new(8 * MIB).unwrap();
    let state = load(&ram, &source(bzimage(), None), &[]).unwrap();
    assert_eq!(state.rip, 0x20_0200);
    let ram = GuestRam::new(4 * MIB).unwrap();
    let error = load(&ram, &source(bzimage(), None), &[]).unwrap_err();
    assert_eq!(error, BootError::KernelDoesNotFit { start: 0x100_0000, end: 0x140_0000, memory_bytes: 4 * MIB });
}

#[test]
fn the_initrd_goes_below_what_is_in_the_way() {
    let ram = GuestRam::new(24 * MIB).unwrap();
    // The kernel claims 16 to 20 MiB; 5 MiB fit only below it.
    load(&ram, &source(bzimage(), Some(vec![1; 5 << 20])), &[]).unwrap();
    assert_eq!(read_u32(&ram, ZERO_PAGE + 0x218), 11 * MIB);
    let error = load(&ram, &source(bzimage(), Some(vec![1; 20 << 20])), &[]).unwrap_err();
    assert_eq!(error, BootError::InitrdDoesNotFit { initrd_bytes: 20 << 20, memory_bytes: 24 * MIB });
}

#[test]
fn the_payload_is_found() {
    let image = bzimage();
    let found = payload(&image).unwrap().unwrap();
    assert_eq!(found.compression, Compression::Lz4);
    assert_eq!((found.bytes.len(), found.uncompressed_bytes), (0x3c, Some(77)));
    assert_eq!(payload(&elf64(&[])), Ok(None));
}

#[test]
fn an_elf_with_the_note_is_entered_by_pvh() {
    let ram = GuestRam::new(16 * MIB).unwrap();
    let state = load(&ram, &source(elf64(&pvh_note()), Some(vec![9; 10])), &[]).unwrap();
    assert_eq!((state.rip, state.gpr[3], state.sys.cr0), (0x10_0004, START_INFO, 0x11));
    assert_eq!(read_u32(&ram, START_INFO), 0x336e_c578);
    assert_eq!(ram.read_u64(START_INFO + 24), layout::COMMAND_LINE);
    let module = ram.read_u64(START_INFO + 16);
    assert_eq!((ram.read_u64(module), ram.read_u64(module + 8)), (16 * MIB - 0x1000, 10));
    assert_eq!(read::<17>(&ram, 0x10_0000)[15..], [0xf4, 0]);
}

#[test]
fn an_elf_without_the_note_is_entered_as_linux() {
    let ram = GuestRam::new(16 * MIB).unwrap();
    let state = load(&ram, &source(elf64(&[]), None), &[]).unwrap();
    assert_eq!((state.rip, state.gpr[6], state.sys.efer), (0x10_0000, ZERO_PAGE, 0x500));
}

#[test]
fn a_flat_multiboot_image_goes_where_its_header_says() {
    let mut image = vec![0xcc; 0x1000];
    let flags = 1u32 << 16 | 3;
    let words = [
        0x1bad_b002,
        flags,
        0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags),
        0x10_0040,
        0x10_0000,
        0,
        0x10_2000,
        0x10_0060,
    ];
    for (index, word) in words.iter().enumerate() {
        put(&mut image, 0x40 + 4 * index, &word.to_le_bytes());
    }
    let ram = GuestRam::new(16 * MIB).unwrap();
    let state = load(&ram, &source(image, Some(vec![5; 3])), &[]).unwrap();
    assert_eq!((state.rip, state.gpr[0], state.gpr[3]), (0x10_0060, 0x2bad_b002, START_INFO));
    assert_eq!(read::<2>(&ram, 0x10_0fff), [0xcc, 0]);
    assert_eq!(read_u32(&ram, START_INFO + 8), 15 << 10, "upper memory in KiB");
    assert_eq!(read_u32(&ram, START_INFO + 20), 1);
    let module = read_u32(&ram, read_u32(&ram, START_INFO + 24));
    assert_eq!(read::<3>(&ram, module), [5; 3]);
}

#[test]
fn what_cannot_start_is_refused_by_name() {
    let ram = GuestRam::new(64 * MIB).unwrap();
    let refuse = |kernel: Vec<u8>| load(&ram, &source(kernel, None), &[]).unwrap_err();
    assert_eq!(refuse(vec![]), BootError::Empty);
    assert_eq!(refuse(vec![0x7f; 4000]), BootError::NotAKernel);
    assert_eq!(refuse(bzimage()[..2000].to_vec()), BootError::Truncated { expected: 5120, found: 2000 });
    let mut old = bzimage();
    put(&mut old, 0x206, &0x203u16.to_le_bytes());
    assert_eq!(refuse(old), BootError::Protocol { major: 2, minor: 3 });
    let mut arm = elf64(&[]);
    put(&mut arm, 18, &183u16.to_le_bytes());
    assert_eq!(refuse(arm), BootError::Architecture { machine: 183 });
    assert_eq!(refuse(elf64(&[])[..0x108].to_vec()), BootError::Truncated { expected: 0x110, found: 0x108 });
    let mut far = elf64(&[]);
    put(&mut far, 64 + 24, &u64::MAX.to_le_bytes());
    assert!(matches!(refuse(far), BootError::KernelDoesNotFit { .. }));
    let mut long = source(bzimage(), None);
    long.command_line = "x".repeat(3000);
    let error = load(&ram, &long, &[]).unwrap_err();
    assert_eq!(error, BootError::CommandLine { length: 3000, limit: 2047 });
}

#[test]
fn junk_never_panics() {
    let ram = GuestRam::new(8 * MIB).unwrap();
    let mut random = 1u64;
    for original in [bzimage(), elf64(&pvh_note())] {
        for _ in 0..3000 {
            let mut image = original.clone();
            for _ in 0..4 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = to_usize(random >> 33) % image.len().min(0x280);
                image[at] = crate::bits::low8(random >> 24);
            }
            // Either it starts or it is refused.
            let _ = load(&ram, &source(image.clone(), Some(vec![1; 100])), &[]);
            let _ = payload(&image);
        }
    }
}

#[test]
fn the_memory_map_is_ascending_and_has_all_memory() {
    let ram = GuestRam::new(4096 * MIB).unwrap();
    let map = memory_map(&ram);
    assert!(map.windows(2).all(|pair| pair[0].start + pair[0].size <= pair[1].start));
    let usable: u64 = map.iter().filter(|range| range.kind == MemoryKind::Usable).map(|range| range.size).sum();
    assert_eq!(usable, 4096 * MIB - MIB + layout::CONVENTIONAL_END);
}
