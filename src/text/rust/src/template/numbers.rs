//! The conversation's JSON as values, its numbers as they were written.
//!
//! A number that the C++ side cannot hold comes as an object of one member (json_strict.h): its
//! text. Here it is a number again if Python would write it the same; else it is its text, which
//! only arithmetic sees as a number.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr};
use minijinja::Value;

/// The name of the one member.
const WRITTEN: &str = "\u{FDD3}";

/// The text of a number that comes so.
pub fn written(object: &serde_json::Map<String, serde_json::Value>) -> Option<&str> {
    let text = object.get(WRITTEN)?.as_str()?;
    (object.len() == 1 && is_json(text)).then_some(text)
}

fn is_json(text: &str) -> bool {
    matches!(text.as_bytes(), [b'0'..=b'9', ..] | [b'-', b'0'..=b'9', ..])
        && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

pub fn value_of(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => number
            .as_i64()
            .map(Value::from)
            .or_else(|| number.as_u64().map(Value::from))
            .or_else(|| number.as_f64().map(Value::from))
            .unwrap_or_default(),
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(value_of).collect(),
        serde_json::Value::Object(members) => match written(members) {
            Some(text) => number(text),
            None => members
                .iter()
                .map(|(name, value)| (name.as_str(), value_of(value)))
                .collect(),
        },
    }
}

fn number(text: &str) -> Value {
    let value = native(text);
    let python = match f64::try_from(value.clone()) {
        Ok(real) if !value.is_integer() => float(real, ["nan", "inf"]),
        _ => value.to_string(),
    };
    match python == text {
        true => value,
        false => Value::from_object(Written(text.to_owned())),
    }
}

fn native(text: &str) -> Value {
    match text.parse::<i128>() {
        Ok(whole) => i64::try_from(whole).map_or_else(|_| Value::from(whole), Value::from),
        Err(_) => Value::from(text.parse::<f64>().unwrap_or(f64::NAN)),
    }
}

/// Python's repr of a float: the shortest digits that read back, with an exponent below 1e-4 and
/// from 1e16 on. `words` are for NaN and infinity.
pub fn float(number: f64, words: [&str; 2]) -> String {
    if number.is_nan() {
        return words[0].to_owned();
    }
    if number.is_infinite() {
        let sign = if number < 0.0 { "-" } else { "" };
        return format!("{sign}{}", words[1]);
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        return if plain.contains('.') {
            plain
        } else {
            plain + ".0"
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The value, as a number to count with where it is one by its text.
pub fn counted(value: Value) -> Value {
    match value.downcast_object_ref::<Written>() {
        Some(Written(text)) => native(text),
        None => value,
    }
}

/// The text of a value that is a number by its text.
pub fn text_of(value: &Value) -> Option<&str> {
    value
        .downcast_object_ref::<Written>()
        .map(|Written(text)| text.as_str())
}

#[derive(Debug)]
struct Written(String);

impl Object for Written {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        native(&self.0).is_true()
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
