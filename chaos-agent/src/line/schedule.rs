//! How soon the engine's thread runs when it is woken: on a node whose CPUs are all taken that is what makes packets late.

use std::io;

use edge_api::fault_node::Scheduling;
use nix::errno::Errno;
use nix::libc;

/// The shortest slice that the kernel takes, in nanoseconds (`__setparam_fair` of kernel/sched/syscalls.c, Linux 6.12). Among
/// threads of equal weight the one whose slice ends first is the next, so a short one runs soon after it was woken; it gets
/// no more of the CPU for it.
const SLICE_NS: u64 = 100_000;

/// `struct sched_attr` in its first version (linux/sched/types.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// Of a thread without a deadline: its slice, since Linux 6.12; before, 0.
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

#[expect(clippy::cast_possible_truncation, reason = "48 bytes")]
const SIZE: u32 = size_of::<Attributes>() as u32;

/// Gives this thread the best that it may have, up to `best`: real-time priority (CAP_SYS_NICE, or a limit `RLIMIT_RTPRIO`
/// above 0), a short slice (everybody), or what it has. Threads that it makes have none of it.
pub fn take(best: Scheduling) -> Scheduling {
    if best == Scheduling::RealTime {
        match become_realtime() {
            Ok(()) => return Scheduling::RealTime,
            Err(error) => tracing::info!(
                %error,
                "the delay line's thread has no real-time priority, which CAP_SYS_NICE or the limit RTPRIO would allow: on a busy node delays get longer"
            ),
        }
    }
    if best == Scheduling::Ordinary {
        return Scheduling::Ordinary;
    }
    match shorten_slice() {
        Ok(true) => Scheduling::ShortSlice,
        Ok(false) => {
            tracing::info!(
                "this kernel gives threads no slices of their own (Linux 6.12 does): the delay line's thread waits for its turn"
            );
            Scheduling::Ordinary
        }
        Err(error) => {
            tracing::info!(%error, "the delay line's thread has no short slice");
            Scheduling::Ordinary
        }
    }
}

/// The lowest real-time priority: before everything that has none.
fn become_realtime() -> io::Result<()> {
    // SAFETY: plain numbers, zero is valid.
    let mut parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    parameter.sched_priority = 1;
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 is this thread, and the parameter lives.
    let set = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the kernel has taken it.
fn shorten_slice() -> io::Result<bool> {
    let before = attributes()?;
    let wanted = Attributes {
        size: SIZE,
        runtime_ns: SLICE_NS,
        flags: libc::SCHED_FLAG_RESET_ON_FORK as u64,
        ..before
    };
    // SAFETY: 0 is this thread, the attributes are as long as they say.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) };
    Errno::result(set)?;
    Ok(attributes()?.runtime_ns == SLICE_NS)
}

fn attributes() -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: 0 is this thread, and there is room for so many bytes.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) };
    Errno::result(got)?;
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own, so that no other test has what it took.
    fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(work).join().unwrap())
    }

    #[test]
    fn what_is_said_to_be_taken_is_what_the_kernel_says() {
        on_a_thread(|| {
            let before = attributes().unwrap();
            let taken = take(Scheduling::ShortSlice);
            let after = attributes().unwrap();
            assert_eq!((after.policy, after.nice), (before.policy, before.nice), "nothing else has changed");
            let expected = if taken == Scheduling::ShortSlice { SLICE_NS } else { before.runtime_ns };
            assert_eq!(after.runtime_ns, expected, "{taken:?}");
        });
    }

    #[test]
    fn nothing_is_taken_that_was_not_asked_for() {
        on_a_thread(|| {
            let before = attributes().unwrap();
            assert_eq!(take(Scheduling::Ordinary), Scheduling::Ordinary);
            assert_eq!(attributes().unwrap().runtime_ns, before.runtime_ns);
        });
    }

    #[test]
    fn threads_of_the_thread_have_no_part_in_it() {
        on_a_thread(|| {
            take(Scheduling::RealTime);
            let child = on_a_thread(|| attributes().unwrap());
            assert_eq!(child.policy, libc::SCHED_OTHER.cast_unsigned());
            assert_ne!(child.runtime_ns, SLICE_NS);
        });
    }
}
