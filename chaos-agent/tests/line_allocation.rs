//! A packet's way through the delay line asks the allocator for nothing.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use chaos_agent::line::pool::{LONGEST, Limits};
use chaos_agent::line::relay::{Device, Queue, Relay};
use fault_abi::ticket::{GUARD, TICKET};

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System.alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A TAP whose frames are made as they are read.
struct Tap {
    left: Cell<u64>,
    length: Cell<usize>,
    written: Cell<u64>,
}

const MAGIC: u64 = 7;

impl Device for Tap {
    fn read(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let left = self.left.get().checked_sub(1).ok_or(io::ErrorKind::WouldBlock)?;
        self.left.set(left);
        buffers[0][..8].copy_from_slice(&MAGIC.to_ne_bytes());
        buffers[0][12..16].copy_from_slice(&GUARD.to_ne_bytes());
        buffers[0][16..24].copy_from_slice(&(left * 7919 % 1000).to_ne_bytes());
        Ok(TICKET + self.length.get())
    }

    fn write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.written.set(self.written.get() + 1);
        Ok(buffers.iter().map(|buffer| buffer.len()).sum())
    }
}

/// Sends packets of this length through the line; returns how often anybody was asked for memory.
fn allocations(relay: &mut Relay, tap: &Tap, length: usize) -> usize {
    tap.length.set(length);
    tap.left.set(500);
    let before = ASKED.get();
    while relay.take_in(tap, 0).unwrap() == Queue::Open {}
    while let Some(at) = relay.next_deadline() {
        relay.give_out(tap, at + 30, || Ok(at + 40)).unwrap();
    }
    ASKED.get() - before
}

#[test]
fn packets_of_any_length_pass_without_an_allocation() {
    let limits = Limits { packets: 501, bytes: 501 * LONGEST as u64 };
    let mut relay = Relay::new(MAGIC, limits, Arc::default()).unwrap();
    let tap = Tap { left: Cell::new(0), length: Cell::new(0), written: Cell::new(0) };
    for length in [14, 60, 1_514, 9_014, 65_549] {
        assert_eq!(allocations(&mut relay, &tap, length), 0, "{length} bytes");
    }
    assert_eq!(tap.written.get(), 5 * 500);
}

#[test]
fn the_counter_counts() {
    let before = ASKED.get();
    drop(std::hint::black_box(vec![0_u8; 100]));
    assert_eq!(ASKED.get() - before, 1);
}
