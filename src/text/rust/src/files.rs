//! The files of a model's folder, which the C++ side has found, checked and read.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A file by its name in the folder, or by the name it has in messages.
#[derive(Clone, Copy)]
pub struct File<'a> {
    pub name: &'a str,
    pub bytes: &'a [u8],
}

/// A model's folder: its path for messages, and those of its files that are there.
pub struct Folder<'a> {
    path: &'a Path,
    files: Vec<File<'a>>,
}

impl<'a> Folder<'a> {
    pub fn new(path: &'a Path, files: Vec<File<'a>>) -> Folder<'a> {
        Folder { path, files }
    }

    /// The path of a file of that name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        let file = self.files.iter().find(|file| file.name == name)?;
        Some(file.bytes)
    }

    /// A UTF-8 text file, or None when there is none.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        let bytes = self.bytes(name);
        bytes.map(|bytes| text(&self.path(name), bytes)).transpose()
    }

    /// A JSON object file, or None when there is none.
    pub fn object(&self, name: &str) -> Result<Option<Map<String, Value>>> {
        let Some(bytes) = self.bytes(name) else {
            return Ok(None);
        };
        match serde_json::from_slice::<Value>(bytes) {
            Ok(Value::Object(map)) => Ok(Some(map)),
            Ok(_) => Err(Error::model_file(
                &self.path(name),
                "must hold a JSON object",
            )),
            Err(e) => Err(Error::model_file(
                &self.path(name),
                format!("is not JSON: {e}"),
            )),
        }
    }
}

/// The text in the bytes of the file at `path`.
pub fn text<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|e| {
        let problem = format!("is not UTF-8 text at byte {}", e.valid_up_to());
        Error::model_file(path, problem)
    })
}
