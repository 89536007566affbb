//! Runs test cases on the host's own processor, in this process.

#![allow(unsafe_code, reason = "maps memory at fixed addresses and runs generated code there")]

mod signal;

use std::io;
use std::ptr;
use std::sync::atomic::Ordering;

use crate::case::{Case, Event, Outcome};
use crate::fp::Fp;
use crate::layout::{CODE, CODE_BYTES, CODE_SIZE, CONSTANT, DATA, DATA_BYTES, DATA_SIZE, INT3, PAGE, selector};
use signal::{CONTEXT_FLAGS, Context, FpImage, GPR_SLOT, SignalStack};

// Vectors of the breakpoint and of page faults.
const BP: u64 = 3;
const PF: u64 = 14;
/// Bit 1 of RFLAGS and IF, which user code cannot change.
const FIXED_FLAGS: u64 = 0x202;
/// Ticks of the timer that a case may see before it counts as hanging: the first may come at once.
const TRIES: usize = 3;

/// The host's processor as a place to run cases. One per process.
#[derive(Debug)]
pub struct Host {
    /// The code pages, writable.
    code: *mut u8,
    data: *mut u8,
    stack: SignalStack,
    image: Box<FpImage>,
}

impl Host {
    /// Maps the pages and installs signal handlers. `constant` fills the read-only page.
    ///
    /// # Errors
    /// When the addresses are taken or the host cannot do what is needed.
    pub fn new(constant: &[u8]) -> io::Result<Self> {
        // SAFETY: no arguments.
        let fsgsbase = unsafe { libc::getauxval(libc::AT_HWCAP2) } & 2 != 0;
        if !fsgsbase {
            return Err(io::Error::other("the host does not let programs use RDFSBASE (FSGSBASE)"));
        }
        let code = map_code()?;
        let data = map(DATA, DATA_SIZE + PAGE, libc::PROT_READ | libc::PROT_WRITE, -1)?;
        // SAFETY: the page was just mapped, and is written before anything reads it.
        unsafe {
            let page = CONSTANT as *mut u8;
            ptr::copy_nonoverlapping(constant.as_ptr(), page, constant.len().min(4096));
            signal::check(libc::mprotect(page.cast(), 4096, libc::PROT_READ))?;
        }
        let stack = signal::install()?;
        Ok(Self { code, data, stack, image: Box::new(FpImage([0; 512])) })
    }

    /// Runs a case. The outcome's buffer is reused.
    pub fn run(&mut self, case: &Case, outcome: &mut Outcome) {
        for attempt in 1..=TRIES {
            self.run_once(case, outcome);
            if outcome.event != Event::Hang || attempt == TRIES {
                return;
            }
        }
    }

    fn run_once(&mut self, case: &Case, outcome: &mut Outcome) {
        let offset = code_offset(case.rip);
        let length = case.bytes.len().min(CODE_BYTES - offset);
        case.fp.write_image(&mut self.image.0);
        let context = self.context(case);
        signal::CASE_FS.store(case.fs_base, Ordering::Relaxed);
        signal::CASE_GS.store(case.gs_base, Ordering::Relaxed);
        // SAFETY: the data pages are 8 KiB that nothing else uses, and the code lies inside its mapping.
        // The handlers are installed, and the generator lets no address of this process into a case.
        unsafe {
            ptr::copy_nonoverlapping(case.data.as_ptr(), self.data, DATA_BYTES);
            ptr::copy_nonoverlapping(case.bytes.as_ptr(), self.code.add(offset), length);
            signal::enter(&raw const context);
            ptr::write_bytes(self.code.add(offset), INT3, length);
            ptr::copy_nonoverlapping(self.data, outcome.data.as_mut_ptr(), DATA_BYTES);
        }
        // SAFETY: the frame is on the signal stack, which nothing used since.
        let frame = unsafe { &*signal::FRAME.load(Ordering::Relaxed) };
        read_frame(case, frame, outcome);
        outcome.fs_base = signal::CASE_FS.load(Ordering::Relaxed);
        outcome.gs_base = signal::CASE_GS.load(Ordering::Relaxed);
    }

    fn context(&mut self, case: &Case) -> Context {
        let mut gpr = [0; 16];
        for (slot, value) in GPR_SLOT.into_iter().zip(case.gpr) {
            gpr[slot] = value;
        }
        Context {
            flags: CONTEXT_FLAGS,
            link: 0,
            stack_base: self.stack.base,
            stack_flags: 0,
            stack_size: self.stack.size as u64,
            gpr,
            rip: case.rip,
            rflags: case.rflags | FIXED_FLAGS,
            cs: selector::USER_CODE,
            gs: 0,
            fs: 0,
            ss: selector::USER_DATA,
            error: 0,
            trap: 0,
            oldmask: 0,
            cr2: 0,
            fp: &raw mut *self.image,
            reserved: [0; 8],
            sigmask: 0,
        }
    }
}

fn read_frame(case: &Case, frame: &Context, outcome: &mut Outcome) {
    for (value, slot) in outcome.gpr.iter_mut().zip(GPR_SLOT) {
        *value = frame.gpr[slot];
    }
    outcome.rip = frame.rip;
    let loaded = signal::SELECTORS.load(Ordering::Relaxed).to_le_bytes();
    let loaded = |index: usize| u16::from_le_bytes([loaded[2 * index], loaded[2 * index + 1]]);
    outcome.selectors = [loaded(0), frame.cs, frame.ss, loaded(1), loaded(2), loaded(3)];
    outcome.rflags = frame.rflags;
    // SAFETY: the kernel stored an XSAVE image there, which begins with the 512 bytes of FXSAVE.
    let image = unsafe { &*frame.fp };
    outcome.fp = Fp::from_image(&image.0);
    outcome.event = event(case, frame, &mut outcome.rip);
}

fn event(case: &Case, frame: &Context, rip: &mut u64) -> Event {
    let signal = i32::try_from(signal::SIGNAL.load(Ordering::Relaxed)).unwrap_or(0);
    if signal == libc::SIGALRM {
        return Event::Hang;
    }
    let own = case.rip..case.rip + case.bytes.len() as u64;
    let landed = rip.wrapping_sub(1);
    if frame.trap == BP && !own.contains(&landed) {
        *rip = landed;
        return Event::Retired;
    }
    let with_code = matches!(frame.trap, 8 | 10..=14 | 17);
    Event::Exception {
        vector: u8::try_from(frame.trap).unwrap_or(u8::MAX),
        code: if with_code { frame.error } else { 0 },
        address: if frame.trap == PF { frame.cr2 } else { 0 },
    }
}

/// Offset of a case's instruction in the code pages.
fn code_offset(rip: u64) -> usize {
    usize::try_from(rip - CODE).unwrap_or(0).min(CODE_BYTES)
}

/// Maps the code pages twice: executable at their place, and writable anywhere, which is returned.
fn map_code() -> io::Result<*mut u8> {
    // SAFETY: the name is a C string.
    let file = unsafe { libc::memfd_create(c"code".as_ptr(), 0) };
    signal::check(file)?;
    // SAFETY: `file` is open.
    signal::check(unsafe { libc::ftruncate(file, 0x2000) })?;
    map(CODE, CODE_SIZE, libc::PROT_READ | libc::PROT_EXEC, file)?;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let code = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(ptr::null_mut(), CODE_BYTES, protection, libc::MAP_SHARED, file, 0)
    };
    if code == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the whole mapping is ours.
    unsafe { ptr::write_bytes(code.cast::<u8>(), INT3, CODE_BYTES) };
    Ok(code.cast())
}

fn map(address: u64, size: u64, protection: i32, file: i32) -> io::Result<*mut u8> {
    let kind = if file < 0 { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS } else { libc::MAP_SHARED };
    let wanted = address as *mut libc::c_void;
    let size = usize::try_from(size).map_err(io::Error::other)?;
    // SAFETY: MAP_FIXED_NOREPLACE takes nothing away from anyone.
    let got = unsafe { libc::mmap(wanted, size, protection, kind | libc::MAP_FIXED_NOREPLACE, file, 0) };
    if got == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    if got != wanted {
        return Err(io::Error::other(format!("the host's kernel cannot map at {address:#x} exactly")));
    }
    Ok(got.cast())
}
