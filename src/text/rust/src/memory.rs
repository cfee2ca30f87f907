//! Memory that is not to be had.
//!
//! On stable Rust a failed allocation ends the process; nothing can catch it. So it must not happen:
//!
//! - The C++ side claims what a call may take before it begins, by the figures of `estimate`.
//! - Before work in large pieces, `room_for` tries whether the allocator has as much.
//! - What fails all the same, because another thread was quicker, comes out of a reserve that is
//!   mapped while there is memory. The thread then counts as short of memory, and its call ends
//!   with an error at the next check.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use crate::error::{Error, Result};

/// Address space only, until it is needed.
const RESERVE_BYTES: usize = 128 << 20;
/// Smaller pieces than this are not asked for in advance.
const LARGE: usize = 1 << 20;

struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;
static RESERVE: Mutex<FreeList> = Mutex::new(FreeList {
    first: ptr::null_mut(),
});
/// Where the reserve begins; null before it is mapped.
static START: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    static SHORT: Cell<bool> = const { Cell::new(false) };
    static HELD: Cell<isize> = const { Cell::new(0) };
    #[cfg(test)]
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Maps the reserve, once, and keeps panics from writing to stderr, where a pipe may be full: their
/// text is in the error that they become.
pub fn prepare() -> Result<()> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(not(test))]
        std::panic::set_hook(Box::new(|_| {}));
        // SAFETY: a new anonymous mapping, checked below.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                RESERVE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start != libc::MAP_FAILED {
            let mut list = RESERVE.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: the mapping is ours alone, page-aligned and never unmapped.
            unsafe { list.give(start.cast(), RESERVE_BYTES) };
            START.store(start.cast(), Ordering::Release);
        }
    });
    if START.load(Ordering::Acquire).is_null() {
        return Err(short());
    }
    Ok(())
}

/// Begins a call: what earlier ones of this thread were short of is forgotten.
pub fn begin() {
    SHORT.set(false);
}

/// Whether the thread had to take from the reserve since begin().
pub fn check() -> Result<()> {
    if SHORT.get() {
        return Err(short());
    }
    Ok(())
}

/// Whether the allocator has so many bytes now. Small pieces are not tried.
pub fn room_for(bytes: usize) -> Result<()> {
    check()?;
    if bytes < LARGE {
        return Ok(());
    }
    let layout = Layout::from_size_align(bytes, 16).map_err(|_| short())?;
    // SAFETY: the layout has a size; the block is given back at once, by the same layout.
    unsafe {
        // Unseen by the compiler, which would leave out a block that nobody uses.
        let block = std::hint::black_box(System.alloc(layout));
        if block.is_null() {
            return Err(short());
        }
        System.dealloc(block, layout);
    }
    Ok(())
}

/// Bytes that the thread has allocated more than it has given back.
pub fn held() -> isize {
    HELD.get()
}

fn count(bytes: isize) {
    HELD.set(HELD.get() + bytes);
    #[cfg(test)]
    PEAK.set(PEAK.get().max(HELD.get()));
}

/// The most that the thread held while it did the work, beyond what it held before.
#[cfg(test)]
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (isize, T) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (PEAK.get() - before, result)
}

fn short() -> Error {
    Error::memory("there is not enough memory for this text now")
}

fn in_reserve(block: *const u8) -> bool {
    let start = START.load(Ordering::Relaxed) as usize;
    start != 0 && (start..start + RESERVE_BYTES).contains(&(block as usize))
}

fn from_reserve(layout: Layout) -> *mut u8 {
    SHORT.set(true);
    let mut list = RESERVE.lock().unwrap_or_else(PoisonError::into_inner);
    list.take(layout)
}

// SAFETY: blocks are the system's, or come out of the reserve; which, their address tells.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        let block = System.alloc(layout);
        if block.is_null() {
            return from_reserve(layout);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        if in_reserve(block) {
            let mut list = RESERVE.lock().unwrap_or_else(PoisonError::into_inner);
            return list.give(block.sub(HEADER), list_size(layout.size()));
        }
        System.dealloc(block, layout);
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !in_reserve(block) {
            let moved = System.realloc(block, layout, size);
            if !moved.is_null() {
                // The old block and the new one may have been there together.
                count(size as isize);
                count(-(layout.size() as isize));
                return moved;
            }
        }
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else {
            return ptr::null_mut();
        };
        let moved = self.alloc(wanted);
        if !moved.is_null() {
            ptr::copy_nonoverlapping(block, moved, size.min(layout.size()));
            self.dealloc(block, layout);
        }
        moved
    }
}

/// Before each block of the reserve, so that blocks stay aligned.
const HEADER: usize = 16;

/// What a block of `size` bytes takes of the reserve.
fn list_size(size: usize) -> usize {
    HEADER + size.next_multiple_of(HEADER)
}

/// A free piece of the reserve; it begins with this.
struct Piece {
    size: usize,
    next: *mut Piece,
}

/// The free pieces of the reserve in order of address, none beside another.
struct FreeList {
    first: *mut Piece,
}

// SAFETY: it owns the pieces it points to, and is used behind a mutex.
unsafe impl Send for FreeList {}

impl FreeList {
    /// A block from the first piece that is large enough; null when there is none.
    fn take(&mut self, layout: Layout) -> *mut u8 {
        let wanted = list_size(layout.size());
        if layout.align() > HEADER || layout.size() > RESERVE_BYTES {
            return ptr::null_mut();
        }
        let mut link: *mut *mut Piece = &mut self.first;
        // SAFETY: all pieces are free memory of the reserve with a header written by give().
        unsafe {
            while !(*link).is_null() {
                let piece = *link;
                let size = (*piece).size;
                if size >= wanted {
                    let next = (*piece).next;
                    if size - wanted >= size_of::<Piece>() {
                        let rest = piece.cast::<u8>().add(wanted).cast::<Piece>();
                        rest.write(Piece {
                            size: size - wanted,
                            next,
                        });
                        *link = rest;
                    } else {
                        *link = next;
                    }
                    return piece.cast::<u8>().add(HEADER);
                }
                link = &mut (*piece).next;
            }
        }
        ptr::null_mut()
    }

    /// Adds memory, joined with the free pieces that it touches.
    ///
    /// # Safety
    /// The bytes are nobody's, aligned to 16 and a multiple of it.
    unsafe fn give(&mut self, start: *mut u8, size: usize) {
        let piece = start.cast::<Piece>();
        let mut before: *mut Piece = ptr::null_mut();
        let mut after = self.first;
        while !after.is_null() && after < piece {
            before = after;
            after = (*after).next;
        }
        piece.write(Piece { size, next: after });
        if !after.is_null() && start.add(size) == after.cast() {
            (*piece).size += (*after).size;
            (*piece).next = (*after).next;
        }
        if before.is_null() {
            self.first = piece;
        } else if before.cast::<u8>().add((*before).size) == start {
            (*before).size += (*piece).size;
            (*before).next = (*piece).next;
        } else {
            (*before).next = piece;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A free list over memory of its own.
    fn list(memory: &mut Vec<u128>) -> FreeList {
        let mut list = FreeList {
            first: ptr::null_mut(),
        };
        unsafe { list.give(memory.as_mut_ptr().cast(), memory.len() * 16) };
        list
    }

    fn pieces(list: &FreeList) -> Vec<usize> {
        let mut sizes = Vec::new();
        let mut at = list.first;
        while !at.is_null() {
            unsafe {
                sizes.push((*at).size);
                at = (*at).next;
            }
        }
        sizes
    }

    #[test]
    fn blocks_do_not_overlap_and_come_back() {
        let mut memory = vec![0u128; 4096];
        let mut list = list(&mut memory);
        let mut held: Vec<(*mut u8, usize, u8)> = Vec::new();
        let mut random = 1u64;
        let mut refused = 0;
        for round in 0..200_000u64 {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let choice = (random >> 33) as usize;
            if choice % 2 == 0 || held.is_empty() {
                let size = choice / 2 % 700 + 1;
                let layout = Layout::from_size_align(size, 1 << (choice % 5)).unwrap();
                let block = list.take(layout);
                if block.is_null() {
                    refused += 1;
                    continue;
                }
                assert_eq!(block as usize % 16, 0);
                unsafe { ptr::write_bytes(block, round as u8, size) };
                held.push((block, size, round as u8));
            } else {
                let (block, size, mark) = held.swap_remove(choice / 2 % held.len());
                let bytes = unsafe { std::slice::from_raw_parts(block, size) };
                assert!(bytes.iter().all(|byte| *byte == mark));
                unsafe { list.give(block.sub(HEADER), list_size(size)) };
            }
        }
        assert!(refused > 100);
        for (block, size, _) in held {
            unsafe { list.give(block.sub(HEADER), list_size(size)) };
        }
        assert_eq!(pieces(&list), [4096 * 16]);
    }

    #[test]
    fn what_is_too_large_or_too_aligned_is_refused() {
        let mut memory = vec![0u128; 64];
        let mut list = list(&mut memory);
        let take = |list: &mut FreeList, size, align| {
            list.take(Layout::from_size_align(size, align).unwrap())
        };
        assert!(take(&mut list, 64 * 16, 16).is_null());
        assert!(take(&mut list, 8, 32).is_null());
        assert!(take(&mut list, isize::MAX as usize - 32, 16).is_null());
        assert!(!take(&mut list, 63 * 16, 16).is_null());
        assert!(take(&mut list, 1, 1).is_null());
    }

    #[test]
    fn short_of_memory_is_told_at_the_next_check() {
        prepare().unwrap();
        begin();
        assert!(check().is_ok());
        assert!(room_for(1 << 20).is_ok());
        assert!(room_for(isize::MAX as usize).is_err());
        assert!(room_for(1 << 50).is_err());
        // The system refuses this much; the reserve has it.
        let mut text = Vec::<u8>::new();
        let layout = Layout::from_size_align(1000, 1).unwrap();
        let block = from_reserve(layout);
        assert!(in_reserve(block));
        assert!(check().is_err());
        // Growing moves it, and giving it back leaves the reserve whole.
        let grown = unsafe { ALLOCATOR.realloc(block, layout, 5000) };
        assert!(!in_reserve(grown));
        unsafe { ALLOCATOR.dealloc(grown, Layout::from_size_align(5000, 1).unwrap()) };
        let list = RESERVE.lock().unwrap();
        assert_eq!(pieces(&list), [RESERVE_BYTES]);
        drop(list);
        begin();
        assert!(check().is_ok());
        assert!(text.try_reserve(1 << 50).is_err());
    }
}
