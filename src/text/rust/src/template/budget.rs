//! What one rendering may use. Each rendering has a thread of its own, so its budget is the
//! thread's: filters and operators charge it without passing it around.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use minijinja::{Error, ErrorKind, Value};

use crate::memory;

/// Instructions of one rendering. A conversation of 10,000 messages takes about 2 million.
pub const STEPS: u64 = 5_000_000;
/// Bytes of all strings and lists that a rendering makes, kept or not.
const WORK_BYTES: u64 = 256 << 20;
/// Further bytes of work for each byte of context: templates copy their messages around.
const WORK_PER_CONTEXT_BYTE: u64 = 32;
/// Bytes of output, and further ones for each byte of context.
const OUTPUT_BYTES: u64 = 8 << 20;
const OUTPUT_PER_CONTEXT_BYTE: u64 = 8;
/// Longest list that an operator may make.
pub const MAX_ITEMS: usize = 1_000_000;
/// Bytes of memory of a rendering, and further ones for each byte of context. With many small
/// messages most of it is the lists and dicts that hold them.
const MEMORY_BYTES: u64 = 4 << 20;
const MEMORY_PER_CONTEXT_BYTE: u64 = 160;
/// What a template may take beyond that, where the machine has it.
const MORE_MEMORY_BYTES: u64 = 1 << 30;
/// Wall time, against single operations that are slow. Steps are the limit that real loops meet.
const TIME: Duration = Duration::from_secs(5);
/// Nesting of values that may be written out.
pub const MAX_NESTING: usize = 128;

thread_local! {
    static WORK: Cell<u64> = const { Cell::new(0) };
    static OUTPUT: Cell<u64> = const { Cell::new(0) };
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    static MEMORY: Cell<isize> = const { Cell::new(isize::MAX) };
    /// Whether the machine, not the template, is why it gets no more.
    static LIMITED: Cell<bool> = const { Cell::new(false) };
    static REFUSAL: RefCell<Option<crate::error::Error>> = const { RefCell::new(None) };
}

/// Bytes of memory that rendering a context of so many bytes takes: at least, and at most.
pub fn memory_of(context_bytes: usize) -> (u64, u64) {
    let least = MEMORY_BYTES + MEMORY_PER_CONTEXT_BYTE * context_bytes as u64;
    (least, least + MORE_MEMORY_BYTES)
}

/// Starts the thread's rendering of a context of so many bytes, in so much memory.
pub fn start(context_bytes: usize, memory: u64) {
    let context = context_bytes as u64;
    WORK.set(WORK_BYTES + WORK_PER_CONTEXT_BYTE * context);
    OUTPUT.set(OUTPUT_BYTES + OUTPUT_PER_CONTEXT_BYTE * context);
    MEMORY.set(isize::try_from(memory).unwrap_or(isize::MAX));
    LIMITED.set(memory < memory_of(context_bytes).1);
    DEADLINE.set(Some(Instant::now() + TIME));
    REFUSAL.set(None);
}

/// What raise_exception or an exhausted budget said, which is all that a client needs to read.
pub fn refusal() -> Option<crate::error::Error> {
    REFUSAL.take()
}

/// An error whose message reaches the client as it is.
pub fn refuse(message: impl Into<String>) -> Error {
    refuse_with(crate::error::Error::request(message))
}

fn refuse_with(refusal: crate::error::Error) -> Error {
    let error = Error::new(ErrorKind::InvalidOperation, refusal.message.clone());
    REFUSAL.set(Some(refusal));
    error
}

pub fn error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Checks the clock and the memory. Called before every operation whose time depends on its
/// operands.
pub fn tick() -> Result<(), Error> {
    memory::check().map_err(refuse_with)?;
    if memory::held() > MEMORY.get() {
        let message = "the chat template takes more memory for this conversation than it may";
        return Err(refuse_with(match LIMITED.get() {
            true => crate::error::Error::memory(message),
            false => crate::error::Error::request(message),
        }));
    }
    match DEADLINE.get() {
        Some(deadline) if Instant::now() > deadline => Err(refuse(
            "the chat template takes too long for this conversation",
        )),
        _ => Ok(()),
    }
}

/// Takes bytes of work off the budget, before they are allocated.
pub fn charge(bytes: usize) -> Result<(), Error> {
    tick()?;
    memory::room_for(bytes).map_err(refuse_with)?;
    match WORK.get().checked_sub(bytes as u64) {
        Some(left) => {
            WORK.set(left);
            Ok(())
        }
        None => Err(refuse(
            "the chat template builds more text than this conversation can need",
        )),
    }
}

/// Takes written bytes off the output's budget.
pub fn charge_output(bytes: usize) -> Result<(), Error> {
    match OUTPUT.get().checked_sub(bytes as u64) {
        Some(left) => {
            OUTPUT.set(left);
            Ok(())
        }
        None => Err(refuse(
            "the chat template writes more text than this conversation can need",
        )),
    }
}

/// Checks a text that is still being written, which will be charged when it is whole.
pub fn check_output(bytes: usize) -> Result<(), Error> {
    tick()?;
    if bytes as u64 > OUTPUT.get() {
        return Err(refuse("the chat template writes out too large a value"));
    }
    Ok(())
}

/// Bytes that a copy of the value takes, one level deep.
pub fn size(value: &Value) -> usize {
    match value.as_str() {
        Some(text) => text.len(),
        None => value
            .as_object()
            .and_then(|object| object.enumerator_len())
            .map_or(0, |items| {
                items.saturating_mul(std::mem::size_of::<Value>())
            }),
    }
}

/// Charges for copies of all the values.
pub fn charge_values(values: &[Value]) -> Result<(), Error> {
    charge(values.iter().map(size).fold(0, usize::saturating_add))
}
