//! The files of a model's folder, which the C++ side has found, checked and read.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
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

    /// A JSON object file, or None when there is none. A key that stands twice in an object is an
    /// error: readers differ in which one they take.
    pub fn object(&self, name: &str) -> Result<Option<Map<String, Value>>> {
        let Some(bytes) = self.bytes(name) else {
            return Ok(None);
        };
        match parse_strict(bytes) {
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

/// A JSON value in which no object has a key twice.
pub fn parse_strict(bytes: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice::<Strict>(bytes).map(|Strict(value)| value)
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct StrictVisitor;

        impl<'de> Visitor<'de> for StrictVisitor {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> std::result::Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
                Ok(value.into())
            }
            fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
                Ok(value.into())
            }
            fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
                Ok(value.into())
            }
            fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
                Ok(value.into())
            }
            fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
                Ok(value.into())
            }
            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(Strict(item)) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Value::Array(list))
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Value, A::Error> {
                let mut object = Map::new();
                while let Some((key, Strict(value))) = map.next_entry::<String, Strict>()? {
                    if object.contains_key(&key) {
                        return Err(serde::de::Error::custom(format!(
                            "the key {key:?} appears twice in one object"
                        )));
                    }
                    object.insert(key, value);
                }
                Ok(Value::Object(object))
            }
        }

        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

/// The text in the bytes of the file at `path`.
pub fn text<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|e| {
        let problem = format!("is not UTF-8 text at byte {}", e.valid_up_to());
        Error::model_file(path, problem)
    })
}
