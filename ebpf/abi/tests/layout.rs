//! Sizes and offsets of all that crosses the border: a change here is a change of the ABI.

use std::mem::{offset_of, size_of};

use fault_abi::counter::{Counter, Flow, TargetState};
use fault_abi::filter::{BYTES, Filter};
use fault_abi::key::{Address, CounterKey, FlowKey, NetworkKey, PortKey};
use fault_abi::lead::Lead;
use fault_abi::line::{Held, Line};
use fault_abi::rule::{Binding, Config, Entry, Phase, PortRange, Rule};
use fault_abi::ticket::{Queued, Ticket};

/// Asserts a type's size, its fields' offsets, and that the fields fill it without padding.
macro_rules! layout {
    ($type:ty, $size:literal, { $($field:ident: $field_type:ty = $offset:literal),+ $(,)? }) => {
        assert_eq!(size_of::<$type>(), $size, "size of {}", stringify!($type));
        $(assert_eq!(offset_of!($type, $field), $offset, "{}::{}", stringify!($type), stringify!($field));)+
        let sum = 0 $(+ size_of::<$field_type>())+;
        assert_eq!(sum, $size, "{} has padding or a field is missing here", stringify!($type));
    };
}

#[test]
fn keys_have_their_layout_and_no_padding() {
    layout!(Address, 16, { words: [u32; 4] = 0 });
    layout!(PortKey, 20, { address: Address = 0, port: u16 = 16, protocol: u8 = 18, zero: u8 = 19 });
    layout!(NetworkKey, 20, { space: u32 = 0, address: Address = 4 });
    layout!(CounterKey, 8, { state: u32 = 0, direction: u32 = 4 });
    layout!(FlowKey, 28, {
        peer: Address = 0, state: u32 = 16, target_port: u16 = 20, peer_port: u16 = 22, protocol: u8 = 24,
        zero: [u8; 3] = 25,
    });
}

#[test]
fn the_filter_is_its_bytes_and_nothing_else() {
    assert_eq!((size_of::<Filter>(), BYTES), (32_768, 32_768));
}

#[test]
fn entries_and_rules_have_their_layout_and_no_padding() {
    layout!(Binding, 24, { rule: u32 = 0, state: u32 = 4, key: [u64; 2] = 8 });
    layout!(Entry, 232, {
        generation: u64 = 0, address: Address = 8, port: u16 = 24, protocol: u8 = 26, prefix: u8 = 27,
        flags: u16 = 28, count: u16 = 30, bindings: [Binding; 8] = 32, generation_again: u64 = 224,
    });
    layout!(PortRange, 4, { first: u16 = 0, last: u16 = 2 });
    layout!(Phase, 128, {
        until_ns: u64 = 0, loss: u64 = 8, loss_in_burst: u64 = 16, enter_burst: u64 = 24, leave_burst: u64 = 32,
        every: u32 = 40, flags: u32 = 44, corrupt: u64 = 48, duplicate: u64 = 56, reorder: u64 = 64,
        reorder_ns: u64 = 72, delay_ns: u64 = 80, jitter_ns: u64 = 88, correlation: u32 = 96, innovation: u32 = 100,
        rate: u64 = 104, burst_ns: u64 = 112, queue_ns: u64 = 120,
    });
    layout!(Rule, 8296, {
        generation: u64 = 0, deadline_ns: u64 = 8, length_ns: u64 = 16, flags: u32 = 24, peer_set: u32 = 28,
        protocol: u8 = 32, port_ranges: u8 = 33, phase_count: u8 = 34, zero: [u8; 5] = 35,
        ports: [PortRange; 16] = 40, phases: [Phase; 64] = 104,
    });
    layout!(Config, 8, { flags: u32 = 0, kubelet_port: u16 = 4, zero: u16 = 6 });
}

#[test]
fn counters_and_states_have_their_layout_and_no_padding() {
    layout!(Counter, 552, {
        last_seen_ns: u64 = 0, gso_frames: u64 = 8, packets: [u64; 8] = 16, bytes: [u64; 8] = 80,
        effects: [u64; 16] = 144, delays: [u64; 32] = 272, delay_ns: u64 = 528,
        node_misses: u64 = 536, untracked: u64 = 544,
    });
    layout!(TargetState, 104, {
        next_ordinal: u64 = 0, untracked: [u64; 2] = 8, all: [u64; 2] = 24, untracked_later: [u64; 2] = 40,
        all_later: [u64; 2] = 56, departure: [u64; 2] = 72, line_packets: u64 = 88, line_bytes: u64 = 96,
    });
    layout!(Flow, 48, { ordinal: u64 = 0, channel: [u64; 2] = 8, later: [u64; 2] = 24, seen: u64 = 40 });
    layout!(Line, 56, {
        magic: u64 = 0, entry: u32 = 8, splitter: u32 = 12, packets: u64 = 16, bytes: u64 = 24,
        target_packets: u64 = 32, target_bytes: u64 = 40, flags: u64 = 48,
    });
    layout!(Held, 16, { packets: u64 = 0, bytes: u64 = 8 });
}

/// 80 MiB for 1,000 targets on 64 CPUs, both directions.
#[test]
fn counters_of_a_thousand_targets_fit_into_80_mib_on_64_cpus() {
    assert!(size_of::<Counter>() * 2 * 1_000 * 64 <= 80 << 20);
}

#[test]
fn tickets_have_their_layout_and_no_padding() {
    layout!(Ticket, 40, {
        magic: u64 = 0, interface: u32 = 8, guard: u32 = 12, release_ns: u64 = 16, state: u32 = 24, mark: u32 = 28,
        priority: u32 = 32, flags: u32 = 36,
    });
    layout!(Queued, 48, { ticket: Ticket = 0, lead_ns: u64 = 40 });
    layout!(Lead, 32, { ns: u64 = 0, goal_ns: u64 = 8, least_ns: u64 = 16, seen: u64 = 24 });
}
