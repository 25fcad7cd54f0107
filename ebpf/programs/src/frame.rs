//! A packet's bytes by direct access. Each read is checked against the end, as the verifier wants it.

use fault_abi::packet::{Frame, MAX_OFFSET};

use crate::maps::Scratch;

/// The linear part of a packet.
#[derive(Clone, Copy)]
pub struct Linear {
    start: usize,
    end: usize,
}

impl Linear {
    /// # Safety
    /// `start` and `end` are a program context's `data` and `data_end`, read after the last helper call that
    /// can move the packet, and none such follows while this value is in use.
    #[inline(always)]
    pub unsafe fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: within the packet, as just checked; see `new`. The BPF machine loads words at any address
        // (`read_unaligned` would make it load byte by byte).
        Some(unsafe { *(at as *const T) })
    }

    /// As [`Self::read`]. That there is one more byte behind `at` is that `at` is before the end, as the compiler knows, which
    /// then compares only the lower halves of both, as it knows, too; the verifier does not know either. So it must not
    /// see where the other number comes from.
    #[inline(always)]
    fn read_byte(&self, offset: usize) -> Option<u8> {
        let at = self.start + offset;
        let mut after = at;
        // SAFETY: changes its operand only.
        unsafe {
            core::arch::asm!("{after} += 1", after = inout(reg) after, options(pure, nomem, nostack));
        }
        if after > self.end {
            return None;
        }
        // SAFETY: as in `read`.
        Some(unsafe { *(at as *const u8) })
    }
}

impl Frame for Linear {
    #[inline(always)]
    fn byte(&self, offset: usize) -> Option<u8> {
        self.read_byte(offset)
    }

    #[inline(always)]
    fn word16(&self, offset: usize) -> Option<u16> {
        self.read(offset)
    }

    #[inline(always)]
    fn word32(&self, offset: usize) -> Option<u32> {
        self.read(offset)
    }
}

/// The linear part, with memory in which an offset is forgotten.
pub struct Forgetful<'a> {
    linear: &'a Linear,
    scratch: *mut Scratch,
}

impl<'a> Forgetful<'a> {
    /// `scratch` is this CPU's element of `SCRATCH`.
    #[inline(always)]
    pub fn new(linear: &'a Linear, scratch: *mut Scratch) -> Self {
        Self { linear, scratch }
    }
}

impl Frame for Forgetful<'_> {
    #[inline(always)]
    fn byte(&self, offset: usize) -> Option<u8> {
        self.linear.read_byte(offset)
    }

    #[inline(always)]
    fn word16(&self, offset: usize) -> Option<u16> {
        self.linear.read(offset)
    }

    #[inline(always)]
    fn word32(&self, offset: usize) -> Option<u32> {
        self.linear.read(offset)
    }

    #[inline(always)]
    fn forget(&self, offset: usize) -> usize {
        // SAFETY: this CPU's own memory; see `Scratch`.
        let offset = unsafe {
            let at = &raw mut (*self.scratch).forgotten;
            at.write_volatile(offset as u64);
            at.read_volatile()
        };
        within::<{ MAX_OFFSET as u64 }>(offset)
    }
}

/// `value & MASK`, as an instruction of its own: where the compiler knows that the mask changes nothing it leaves
/// it out, and the verifier, which does not know it, refuses the program.
#[inline(always)]
pub fn within<const MASK: u64>(value: u64) -> usize {
    let mut value = value;
    // SAFETY: changes its operand only.
    unsafe {
        core::arch::asm!(
            "{value} &= {mask}",
            value = inout(reg) value,
            mask = const MASK,
            options(pure, nomem, nostack)
        );
    }
    value as usize
}
