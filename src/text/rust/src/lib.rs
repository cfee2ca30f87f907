//! Text in and out of tokens, and chat templates, for moesaic's C++ side.
//!
//! `ffi` is the only module that C++ sees (moesaic_text.h). Everything else but `memory`, which is
//! the allocator, is safe Rust that returns `error::Error`, and no panic leaves `ffi`.

mod added_tokens;
mod cancel;
mod config;
mod decode;
mod encode;
mod error;
mod estimate;
#[cfg(test)]
mod estimate_test;
mod ffi;
mod files;
mod gbnf;
mod grammar;
#[cfg(test)]
mod grammar_test;
mod guard;
mod long_word;
mod memory;
mod template;
mod tokenizer;
mod tokenizer_json;
