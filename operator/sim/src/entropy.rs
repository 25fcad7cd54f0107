//! What makes one seed the same run in each process: the operating system's random bytes and its clocks are replaced for
//! this program. Without it hash tables iterate in another order each time, and what is logged has the real time in it.
//!
//! Rust's standard library calls `getrandom` and `clock_gettime` by these names, and crates look the first one up in the
//! running program (build.rs exports it), so defining them here is enough. Nothing here is for any other program.

use std::ffi::c_void;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use edge_sim::clock;
use nix::libc::{CLOCK_REALTIME, c_int, c_uint, clockid_t, size_t, ssize_t, timespec};
use nix::sys::personality::{self, Persona};

static DRAWN: AtomicU64 = AtomicU64::new(0);

/// SplitMix64 (Steele, Lea and Flood 2014), by its counter.
fn mix(drawn: u64) -> u64 {
    let z = drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Starts this program once more with fixed addresses, if it has random ones: ahash mixes addresses into its seeds.
///
/// # Errors
/// When the kernel does not allow it. A run is then as good, and does not repeat exactly.
pub(crate) fn fix_addresses() -> anyhow::Result<()> {
    let now = personality::get()?;
    if now.contains(Persona::ADDR_NO_RANDOMIZE) {
        return Ok(());
    }
    personality::set(now | Persona::ADDR_NO_RANDOMIZE)?;
    let program = std::env::current_exe()?;
    Err(Command::new(program).args(std::env::args_os().skip(1)).exec().into())
}

/// From now on other random bytes.
pub(crate) fn seed(seed: u64) {
    DRAWN.store(mix(seed.wrapping_add(1)), Ordering::Relaxed);
}

/// In place of the C library's.
///
/// # Safety
/// `buffer` is valid for writes of `length` bytes, as its callers promise to the C library.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, _flags: c_uint) -> ssize_t {
    for offset in 0..length {
        let byte = mix(DRAWN.fetch_add(1, Ordering::Relaxed)).to_be_bytes()[0];
        // SAFETY: `offset` is below `length`, for which the caller promises a writable buffer.
        unsafe { buffer.cast::<u8>().add(offset).write(byte) };
    }
    ssize_t::try_from(length).unwrap_or(ssize_t::MAX)
}

/// In place of the C library's: all clocks show simulated time.
///
/// # Safety
/// `time` is valid for a write, as its callers promise to the C library.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let (tv_sec, tv_nsec) = if clock == CLOCK_REALTIME { clock::wall() } else { clock::monotonic() };
    // SAFETY: the caller promises that it may be written.
    unsafe { time.write(timespec { tv_sec, tv_nsec }) };
    0
}
