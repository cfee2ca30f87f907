//! Reading the small text files of a model folder, none of them past its size limit.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

const MIB: u64 = 1 << 20;

/// Largest tokenizer.json. The biggest published ones have 35 MB.
pub const MAX_TOKENIZER_BYTES: u64 = 256 * MIB;
/// Largest tokenizer_config.json and special_tokens_map.json.
pub const MAX_CONFIG_BYTES: u64 = 32 * MIB;
/// Largest chat template.
pub const MAX_TEMPLATE_BYTES: u64 = MIB;

/// The whole file, or None when there is none. The size is checked before anything is read, and
/// again while reading, because a pipe or a growing file has no honest size.
pub fn read_optional(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let unreadable =
        |e: std::io::Error| Error::missing_file(format!("cannot read {}: {e}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None)
        }
        Err(e) => return Err(unreadable(e)),
    };
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Error::missing_file(format!(
            "{} is not a regular file",
            path.display()
        )));
    }
    let too_big = |size: u64| {
        Error::model_file(
            path,
            format!("has {size} bytes or more; at most {limit} are read"),
        )
    };
    if meta.len() > limit {
        return Err(too_big(meta.len()));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(too_big(bytes.len() as u64));
    }
    Ok(Some(bytes))
}

/// A UTF-8 text file, or None when there is none.
pub fn read_text(path: &Path, limit: u64) -> Result<Option<String>> {
    match read_optional(path, limit)? {
        None => Ok(None),
        Some(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(e) => Err(Error::model_file(
                path,
                format!("is not UTF-8 text at byte {}", e.utf8_error().valid_up_to()),
            )),
        },
    }
}

/// A JSON object file, or None when there is none.
pub fn read_object(path: &Path) -> Result<Option<serde_json::Map<String, Value>>> {
    let Some(bytes) = read_optional(path, MAX_CONFIG_BYTES)? else {
        return Ok(None);
    };
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(_) => Err(Error::model_file(path, "must hold a JSON object")),
        Err(e) => Err(Error::model_file(path, format!("is not JSON: {e}"))),
    }
}
