//! Of which addresses entries are looked up at all. It is a variable and no map to the programs, which read it by one instruction.

use core::cell::UnsafeCell;

use fault_abi::filter::{Filter, Spot};

/// A variable that the agent writes to.
#[repr(transparent)]
struct Shared(UnsafeCell<Filter>);

// SAFETY: bytes, which are read one at a time.
unsafe impl Sync for Shared {}

/// All of the section `.bss`: see `fault_abi::names::FILTER`.
static FILTER: Shared = Shared(UnsafeCell::new(Filter::NONE));

/// Whether the addresses of this spot may have entries.
#[inline(always)]
pub fn may_have(spot: Spot) -> bool {
    // SAFETY: below `BYTES`, the length, as the verifier sees by the shift that it comes from; volatile, since the agent changes it.
    let byte = unsafe { FILTER.0.get().cast::<u8>().add(spot.byte).read_volatile() };
    byte >> spot.bit & 1 != 0
}
