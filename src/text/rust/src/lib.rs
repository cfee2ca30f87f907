//! Tokenizers and chat templates for moesaic, behind the C face of `moesaic_text.h`.

pub mod ffi;
pub mod python_json;
pub mod template;
pub mod tokenizer;

/// Why a call failed: whose fault it is, and a sentence for a person.
#[derive(Debug)]
pub enum Problem {
    /// The model's file is malformed.
    File(String),
    /// The request cannot be rendered or encoded.
    Request(String),
}

/// Marks around text that must never be read as a special token. Both are Unicode noncharacters, meant
/// for internal use; in what clients send they are replaced.
pub const GUARD_START: char = '\u{FDD0}';
pub const GUARD_END: char = '\u{FDD1}';
