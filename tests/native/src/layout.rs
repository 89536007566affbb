//! The address space of a test case, the same in this process and in the guest.
//!
//! ```text
//! CODE            2 pages, executable, filled with INT3: every place where an instruction ends up stops
//! CODE + 2 pages  nothing
//! DATA            2 pages, writable
//! DATA + 2 pages  1 page, read-only
//! around them     nothing
//! ```
//! All of it lies below 2 GiB, so that absolute, RIP-relative and 32-bit addresses reach it.

/// Size of a page in bytes.
pub const PAGE: u64 = 4096;
/// First byte of the code pages.
pub const CODE: u64 = 0x2000_0000;
/// Size of the code pages in bytes.
pub const CODE_SIZE: u64 = 2 * PAGE;
/// First byte of the data pages.
pub const DATA: u64 = 0x2001_0000;
/// Size of the writable data pages in bytes.
pub const DATA_SIZE: u64 = 2 * PAGE;
/// First byte of the read-only page.
pub const CONSTANT: u64 = DATA + DATA_SIZE;
/// Size of the writable pages and the read-only page together.
pub const WINDOW_SIZE: u64 = DATA_SIZE + PAGE;
/// What fills the code pages.
pub const INT3: u8 = 0xcc;

/// [`CODE_SIZE`] as an index.
pub const CODE_BYTES: usize = 0x2000;
/// [`DATA_SIZE`] as an index.
pub const DATA_BYTES: usize = 0x2000;
/// [`WINDOW_SIZE`] as an index.
pub const WINDOW_BYTES: usize = 0x3000;

/// Selectors of Linux user space; the guest's descriptor table has the same.
pub mod selector {
    /// 64-bit user code.
    pub const USER_CODE: u16 = 0x33;
    /// User data and stack.
    pub const USER_DATA: u16 = 0x2b;
}

/// True when nothing of this process but the window can lie at `address`: below 4 GiB, in the kernel's half, or not
/// canonical. Random addresses elsewhere might hit the process's own memory.
#[must_use]
pub fn harmless(address: u64, size: u64) -> bool {
    let outside = |address: u64| !(1 << 32..1 << 47).contains(&address);
    outside(address) && outside(address.wrapping_add(size))
}

/// Offset of `address` in the window of data and read-only pages when all of `size` bytes lie there.
#[must_use]
pub fn window_offset(address: u64, size: usize) -> Option<usize> {
    let offset = usize::try_from(address.checked_sub(DATA)?).ok()?;
    (offset.checked_add(size)? <= WINDOW_BYTES).then_some(offset)
}
