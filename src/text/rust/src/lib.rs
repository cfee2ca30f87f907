//! Text in and out of tokens, and chat templates, for moesaic's C++ side.
//!
//! `ffi` is the only module that C++ sees (moesaic_text.h). Everything else is safe Rust that
//! returns `error::Error`, and no panic leaves `ffi`.

mod added_tokens;
mod config;
mod decode;
mod encode;
mod error;
mod ffi;
mod files;
mod guard;
mod long_word;
mod template;
mod tokenizer;
mod tokenizer_json;
