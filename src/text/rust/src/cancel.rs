//! Whether a call is to go on.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::memory;

/// The caller's cancel flag.
#[derive(Clone, Copy)]
pub struct Cancel<'a>(pub Option<&'a AtomicBool>);

impl Cancel<'_> {
    /// Whether to go on: nobody cancelled, and there is memory.
    pub fn check(&self) -> Result<()> {
        memory::check()?;
        match self.0 {
            Some(flag) if flag.load(Ordering::Relaxed) => Err(Error::cancelled()),
            _ => Ok(()),
        }
    }
}
