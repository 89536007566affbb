//! The tables as an operating system walks them.

use super::*;

fn config(vcpus: u8) -> TableConfig {
    TableConfig { vcpus, pci_window_64: 0x10_0000_0000..0x20_0000_0000 }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

fn table(area: &[u8], address: u64) -> &[u8] {
    let start = usize::try_from(address - TABLES_BASE).unwrap();
    let length = usize::try_from(u32_at(area, start + 4)).unwrap();
    &area[start..start + length]
}

#[test]
fn every_table_is_reachable_and_sums_to_zero() {
    let area = build(&config(8));
    assert_eq!(&area[..8], b"RSD PTR ");
    assert_eq!((sum(&area[..20]), sum(&area[..36]), area[15]), (0, 0, 2));
    let xsdt = table(&area, u64_at(&area, 24));
    assert_eq!((&xsdt[..4], sum(xsdt)), (b"XSDT".as_slice(), 0));
    let mut found = Vec::new();
    for entry in xsdt[36..].chunks_exact(8) {
        let table = table(&area, u64_at(entry, 0));
        assert_eq!(sum(table), 0, "{}", String::from_utf8_lossy(&table[..4]));
        found.push(String::from_utf8_lossy(&table[..4]).into_owned());
        if &table[..4] == b"FACP" {
            let dsdt = super::tests::table(&area, u64_at(table, 140));
            assert_eq!((&dsdt[..4], sum(dsdt)), (b"DSDT".as_slice(), 0));
            let facs = u64::from(u32_at(table, 36));
            assert_eq!((&super::tests::table(&area, facs)[..4], facs % 64), (b"FACS".as_slice(), 0));
            assert_eq!(table[116], 1, "reset register in I/O space");
            assert_eq!(u64_at(table, 120), 0xcf9);
        }
    }
    assert_eq!(found, ["FACP", "APIC", "MCFG"]);
}

#[test]
fn the_madt_lists_processors_and_overrides() {
    let madt = madt(&config(4));
    let bytes = madt.as_slice();
    let mut at = 44;
    let mut kinds = Vec::new();
    while at < bytes.len() {
        kinds.push(bytes[at]);
        at += usize::from(bytes[at + 1]);
    }
    assert_eq!(at, bytes.len());
    assert_eq!(kinds, [0, 0, 0, 0, 1, 2, 2, 4]);
}

#[test]
fn the_tables_depend_on_the_configuration_only() {
    assert_eq!(build(&config(2)), build(&config(2)));
    assert_ne!(build(&config(2)), build(&config(3)));
}
