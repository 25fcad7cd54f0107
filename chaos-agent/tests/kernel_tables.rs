//! Entries and counters in the kernel's own tables, many in one call: how far one goes that is refused in the middle.
#![expect(clippy::unwrap_used, reason = "a test: what fails ends it")]

use std::net::Ipv4Addr;
use std::sync::Arc;

use chaos_agent::kernel::aya::AyaKernel;
use chaos_agent::kernel::{Ahead, Kernel as _, KernelError, object};
use chaos_agent::table::{Capacity, Op, Place, TargetName, Uid};
use fault_abi::counter::Counter;
use fault_abi::key::{Direction, PROTOCOL_UDP};

/// More than go into one call.
const TARGETS: u32 = 1_500;
const CAPACITY: Capacity = Capacity { targets: TARGETS, ..Capacity::of_each(8) };

fn kernel(capacity: Capacity) -> AyaKernel {
    AyaKernel::load(object::built_in().unwrap(), capacity, false).unwrap()
}

/// Both places of a target.
fn places(number: u32) -> [Place; 2] {
    let ip = Ipv4Addr::from(0x0a80_0000 + number);
    [Place::port(ip.into(), PROTOCOL_UDP, 5683), Place::Address(ip.into())]
}

fn write(place: Place) -> Op {
    Op::WriteEntry { place, entry: Box::new(place.blank()) }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn many_entries_are_written_and_removed_and_a_full_table_says_which_one_it_refused() {
    let mut kernel = kernel(CAPACITY);
    for at in [0, 1] {
        let all: Vec<Place> = (0..TARGETS).map(|number| places(number)[at]).collect();
        let mut writes: Vec<Op> = all.iter().copied().map(write).collect();
        kernel.perform_all(&writes).unwrap();
        kernel.perform_all(&writes).unwrap();
        writes.push(write(places(TARGETS)[at]));
        let refusal = kernel.perform_all(&writes).unwrap_err();
        assert_eq!(refusal.at, all.len(), "{}", refusal.error);
        assert!(matches!(refusal.error, KernelError::Table { op: "WriteEntry", .. }), "{}", refusal.error);
        let removals =
            |step: usize| -> Vec<Op> { all.iter().step_by(step).copied().map(Op::RemoveEntry).collect() };
        kernel.perform_all(&removals(3)).unwrap();
        // Each third is gone already.
        kernel.perform_all(&removals(1)).unwrap();
        let others: Vec<Op> = (TARGETS..2 * TARGETS).map(|number| write(places(number)[at])).collect();
        kernel.perform_all(&others).unwrap();
    }
}

/// Makes the states 1 to `last`.
fn make_all(kernel: &mut AyaKernel, last: u32) {
    let (uid, target): (Uid, TargetName) = ("u".into(), "t".into());
    let make = |state| Op::MakeState { state, uid: Arc::clone(&uid), target: Arc::clone(&target) };
    let makes: Vec<Op> = (1..=last).map(make).collect();
    let mut rest = makes.as_slice();
    while let Err(refusal) = kernel.perform_all(rest) {
        // The kernel fills up its reserve by the portion.
        assert!(refusal.error.is_momentary(), "{}", refusal.error);
        rest = &rest[refusal.at..];
        kernel.begin_round(rest.len());
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn counters_of_many_targets_are_there_once_they_are_made_and_gone_once_they_are_dropped() {
    let mut kernel = kernel(CAPACITY);
    let counters = kernel.counters();
    let is_there = |state: u32| {
        let of = Direction::ALL.map(|direction| counters.counter(state, direction).unwrap().is_some());
        assert_eq!(of[0], of[1], "both directions of {state}");
        of[0]
    };
    // Some were made ahead.
    while kernel.prepare() == Ahead::More {}
    make_all(&mut kernel, TARGETS);
    assert!((1..=TARGETS).all(is_there));
    let drops: Vec<Op> = (1..=TARGETS).map(|state| Op::DropState { state }).collect();
    kernel.perform_all(&drops[..10]).unwrap();
    kernel.perform_all(&drops).unwrap();
    assert!(!(1..=TARGETS).any(is_there));
}

/// The most memory that this process had since [`forget_peak`], in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// See `clear_refs` in proc_pid_clear_refs(5).
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn counters_of_very_many_targets_are_made_with_little_memory_of_the_agents() {
    const ALL: usize = 64 << 20;
    let cpus = std::thread::available_parallelism().unwrap().get();
    let targets = u32::try_from(ALL / (Direction::ALL.len() * size_of::<Counter>() * cpus)).unwrap();
    let mut kernel = kernel(Capacity { targets, ..CAPACITY });
    forget_peak();
    let before = peak();
    make_all(&mut kernel, targets);
    let more = peak() - before;
    assert!(more < ALL / 2, "{more} bytes more, for {targets} targets whose counters take {ALL}");
}
