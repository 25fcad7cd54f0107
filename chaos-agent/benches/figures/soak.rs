//! Counts what a processor does for everybody else: a thread that runs only while nothing else wants to soaks up the rest of the
//! time, and whatever it misses was others'. In a machine whose clock counts instructions that is a count of instructions, with
//! all that the kernel does in interrupts.

use std::arch::asm;
use std::arch::x86_64::_rdtsc;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::libc;

use crate::measure::float;
use crate::support::time::Beat;

/// Turns of the loop between two looks at the clock: looking is what costs most where it is emulated.
const TURNS: u64 = 500;

/// Long enough for the thread to run, and to look at the clock.
const ASIDE: Duration = Duration::from_millis(2);

/// The thread.
pub(crate) struct Soak {
    others: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Soak {
    /// Starts it. Everything that is measured is to run on the same processor.
    pub(crate) fn start() -> Self {
        let (others, is_over) = <(Arc<AtomicU64>, Arc<AtomicBool>)>::default();
        let (count, end) = (Arc::clone(&others), Arc::clone(&is_over));
        let thread = thread::spawn(move || soak(&count, &end));
        Self { others, is_over, thread: Some(thread) }
    }

    /// Ticks of the clock that were others' so far. Stands aside for a moment, in which the thread takes them in.
    pub(crate) fn others(&self) -> u64 {
        Beat::new(ASIDE).wait();
        self.others.load(Ordering::Relaxed)
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn soak(others: &AtomicU64, is_over: &AtomicBool) {
    run_last().unwrap();
    let undisturbed = (0..100).map(|_| turn(tick()).1).min().unwrap();
    let mut last = tick();
    while !is_over.load(Ordering::Relaxed) {
        let (now, took) = turn(last);
        last = now;
        // Less is the difference between a turn and the next.
        if took > undisturbed + 50 {
            others.fetch_add(took - undisturbed, Ordering::Relaxed);
        }
    }
}

/// The clock behind one turn, and what that took.
fn turn(last: u64) -> (u64, u64) {
    let mut left = TURNS;
    // SAFETY: it counts a register down.
    unsafe { asm!("2: dec {0}", "jnz 2b", inout(reg) left, options(nomem, nostack)) };
    let _ = left;
    let now = tick();
    (now, now - last)
}

/// Ticks of this processor's clock.
pub(crate) fn tick() -> u64 {
    // SAFETY: every x86-64 processor has it.
    unsafe { _rdtsc() }
}

/// Ticks that an instruction takes: 1 where the clock counts them.
pub(crate) fn ticks_of_an_instruction() -> f64 {
    let took = (0..100).map(|_| turn(tick()).1).min().unwrap();
    float(took) / float(2 * TURNS)
}

/// Gives this thread only what nobody else wants.
fn run_last() -> io::Result<()> {
    // SAFETY: plain numbers, zero is valid, and the priority of this policy.
    let parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is this thread, and the parameter lives.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
