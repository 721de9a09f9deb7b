//! What every target has: an allocator that counts, so that a reader that believes a header's word
//! for a size is found out although the machine would have had the memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A reader may take so many times its input's size,
const FACTOR: usize = 4;

/// and what any reader takes: buffers, messages, a pickle's own allowance and the room that a list
/// leaves while it grows.
const CONSTANT: usize = 4 << 20;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is handed to the system's allocator as it is; the counters are atomic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grown(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn grown(size: usize) {
    let live = LIVE.fetch_add(size, Relaxed) + size;
    PEAK.fetch_max(live, Relaxed);
}

/// Runs a reader on `input` and panics if it takes more memory, beside the input itself, than the
/// rule allows. The matrix library keeps a buffer of the cache's size for every thread from its first
/// product on, so what is too much must be so twice.
pub fn within_bounds<T>(input: Vec<u8>, read: impl Fn(Vec<u8>) -> T) {
    let most = FACTOR * input.len() + CONSTANT;
    if taken(input.clone(), &read) <= most {
        return;
    }
    let size = input.len();
    let taken = taken(input, &read);
    assert!(
        taken <= most,
        "{taken} bytes for an input of {size}: expected at most {most}"
    );
}

fn taken<T>(input: Vec<u8>, read: impl Fn(Vec<u8>) -> T) -> usize {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    drop(read(input));
    PEAK.load(Relaxed).saturating_sub(before)
}
