//! The errors that cross to C++, where each becomes one of the program's typed exceptions.

use std::path::Path;

/// What went wrong, as the C++ side tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Kind {
    /// A model file is malformed; `file` names it.
    ModelFile = 1,
    /// A file is absent or unreadable.
    MissingFile = 2,
    /// The request cannot be served: refused by the template, or over a budget.
    Request = 3,
    /// The caller's cancel flag was set.
    Cancelled = 4,
    /// A bug, such as a panic in a dependency.
    Internal = 5,
    /// Memory that cannot be had now.
    Memory = 6,
    /// A thread that cannot be had now.
    Thread = 7,
}

#[derive(Clone, Debug)]
pub struct Error {
    pub kind: Kind,
    pub file: String,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn model_file(file: &Path, problem: impl Into<String>) -> Self {
        Error {
            kind: Kind::ModelFile,
            file: file.display().to_string(),
            message: shortened(problem.into()),
        }
    }

    pub fn missing_file(message: impl Into<String>) -> Self {
        Error::new(Kind::MissingFile, message)
    }

    pub fn request(message: impl Into<String>) -> Self {
        Error::new(Kind::Request, message)
    }

    pub fn cancelled() -> Self {
        Error::new(Kind::Cancelled, "the request was cancelled")
    }

    pub fn memory(message: impl Into<String>) -> Self {
        Error::new(Kind::Memory, message)
    }

    pub fn thread(message: impl Into<String>) -> Self {
        Error::new(Kind::Thread, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(Kind::Internal, message)
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error {
            kind,
            file: String::new(),
            message: shortened(message.into()),
        }
    }
}

/// Other crates' messages quote what they found, however long it is.
fn shortened(message: String) -> String {
    const MOST: usize = 600;
    const END: usize = 100;
    if message.len() <= MOST {
        return message;
    }
    let (head, tail) = (MOST - END, message.len() - END);
    let (head, tail) = (floor(&message, head), floor(&message, tail));
    format!("{} [...] {}", &message[..head], &message[tail..])
}

/// The character boundary at `at` or before it.
fn floor(text: &str, at: usize) -> usize {
    (0..=at)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}
