//! Decoding hostile bytes asks the allocator for little, whatever lengths the bytes claim.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use edge_protocol::{DesiredCommand, Envelope, MAX_PAYLOAD, Refusal, Report, decode};
use proptest::prelude::*;

/// Two copies of the largest payload, error texts and the largest struct stay well below.
const LIMIT: usize = 16 * 1024;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + layout.size());
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

fn bytes_asked_by(decoding: impl FnOnce()) -> usize {
    let before = ASKED.get();
    decoding();
    ASKED.get() - before
}

fn decode_as_everything(bytes: &[u8]) {
    let _ = decode::<DesiredCommand>(bytes);
    let _ = decode::<Report>(bytes);
    let _ = decode::<Refusal>(bytes);
}

/// CBOR heads with any length they like, between runs of plain bytes: more likely to get deep than noise.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let head = (0u8..8, 24u8..28, any::<[u8; 8]>()).prop_map(|(major, size, length)| {
        let mut head = vec![(major << 5) | size];
        head.extend_from_slice(&length[..1 << (size - 24)]);
        head
    });
    let plain = prop::collection::vec(any::<u8>(), 1..8);
    prop::collection::vec(prop_oneof![head, plain], 0..60).prop_map(|parts| {
        let mut bytes = parts.concat();
        bytes.truncate(MAX_PAYLOAD - 8);
        bytes
    })
}

proptest! {
    #[test]
    fn noise_neither_panics_nor_allocates_much(bytes in prop::collection::vec(any::<u8>(), 0..1100)) {
        let asked = bytes_asked_by(|| decode_as_everything(&bytes));
        prop_assert!(asked <= 3 * LIMIT, "{asked} bytes");
    }

    #[test]
    fn claimed_lengths_neither_panic_nor_allocate_much(bytes in hostile()) {
        let inside = Envelope::plain(bytes.clone()).to_bytes().unwrap();
        let asked = bytes_asked_by(|| {
            decode_as_everything(&bytes);
            decode_as_everything(&inside);
        });
        prop_assert!(asked <= 6 * LIMIT, "{asked} bytes");
    }
}

#[test]
fn the_counter_counts() {
    let asked = bytes_asked_by(|| drop(std::hint::black_box(vec![0u8; 5000])));
    assert!(asked >= 5000);
}
