//! Grammars.

use super::{boxed, guarded, slice_of, utf8, TextError};
use crate::error::Error;
use crate::grammar::{Grammar, Grammars, Kind, Matcher, Thought};
use crate::memory;
use crate::tokenizer::Tokenizer;

const JSON_SCHEMA: i32 = 0;
const REGEX: i32 = 1;

/// # Safety
/// Pointers are valid for their sizes; `error` is writable.
#[no_mangle]
pub unsafe extern "C" fn moesaic_grammars_new(
    tokenizer: *const Tokenizer,
    vocab_size: u32,
    ends: *const i32,
    count: usize,
    error: *mut TextError,
) -> *mut Grammars {
    let (tokenizer, ends) = (&*tokenizer, slice_of(ends, count));
    boxed(guarded(error, || {
        memory::prepare()?;
        let ends: Vec<u32> = ends.iter().filter_map(|id| (*id).try_into().ok()).collect();
        Grammars::new(tokenizer, vocab_size, &ends)
    }))
}

/// # Safety
/// `grammars` came from moesaic_grammars_new and is not used again.
#[no_mangle]
pub unsafe extern "C" fn moesaic_grammars_free(grammars: *mut Grammars) {
    if !grammars.is_null() {
        drop(Box::from_raw(grammars));
    }
}

/// # Safety
/// Pointers are valid for their sizes; `error` is writable.
#[no_mangle]
pub unsafe extern "C" fn moesaic_grammar_compile(
    grammars: *const Grammars,
    kind: i32,
    text: *const u8,
    size: usize,
    open: *const u8,
    open_size: usize,
    close: *const u8,
    close_size: usize,
    error: *mut TextError,
) -> *mut Grammar {
    let (grammars, text, thought) = (
        &*grammars,
        slice_of(text, size),
        (slice_of(open, open_size), slice_of(close, close_size)),
    );
    let kind = match kind {
        JSON_SCHEMA => Kind::JsonSchema,
        REGEX => Kind::Regex,
        _ => Kind::Grammar,
    };
    boxed(guarded(error, || {
        let thought = Thought {
            open: utf8(thought.0)?,
            close: utf8(thought.1)?,
        };
        grammars.compile(kind, utf8(text)?, &thought)
    }))
}

/// # Safety
/// `grammar` is valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_grammar_bytes(grammar: *const Grammar) -> u64 {
    (*grammar).bytes()
}

/// # Safety
/// `grammar` came from moesaic_grammar_compile and is not used again.
#[no_mangle]
pub unsafe extern "C" fn moesaic_grammar_free(grammar: *mut Grammar) {
    if !grammar.is_null() {
        drop(Box::from_raw(grammar));
    }
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_matcher_new(
    grammar: *const Grammar,
    error: *mut TextError,
) -> *mut Matcher {
    let grammar = &*grammar;
    boxed(guarded(error, || grammar.start()))
}

/// # Safety
/// Pointers are valid for their sizes; `matcher` is used by one caller at a time.
#[no_mangle]
pub unsafe extern "C" fn moesaic_matcher_allowed(
    matcher: *mut Matcher,
    words: *mut u32,
    count: usize,
    error: *mut TextError,
) -> bool {
    let matcher = &mut *matcher;
    let words: &mut [u32] = match count {
        0 => &mut [],
        _ => std::slice::from_raw_parts_mut(words, count),
    };
    guarded(error, || matcher.allowed(words)).is_some()
}

/// # Safety
/// Pointers are valid; `matcher` is used by one caller at a time.
#[no_mangle]
pub unsafe extern "C" fn moesaic_matcher_accept(
    matcher: *mut Matcher,
    id: i32,
    error: *mut TextError,
) -> bool {
    let matcher = &mut *matcher;
    let taken = guarded(error, || match u32::try_from(id) {
        Ok(id) => matcher.accept(id),
        Err(_) => Err(Error::internal("a token id below zero")),
    });
    taken.is_some()
}

/// # Safety
/// `matcher` came from moesaic_matcher_new and is not used again.
#[no_mangle]
pub unsafe extern "C" fn moesaic_matcher_free(matcher: *mut Matcher) {
    if !matcher.is_null() {
        drop(Box::from_raw(matcher));
    }
}
