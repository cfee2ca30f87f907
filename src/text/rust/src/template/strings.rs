//! What filters and methods have in common: Python's operations on texts, charged to the budget.

use minijinja::value::ValueKind;
use minijinja::{format_filter, Error, FormatStyle, Value};

use super::budget::{self, charge};
use super::tuple::Tuple;
use super::{numbers, python, text};

/// The number that a value is, or that its text means.
pub fn float_of(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => text::strip(text).parse().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(value.is_true())),
        None => f64::try_from(numbers::counted(value.clone())).ok(),
    }
}

/// The pairs of a map, as tuples.
pub fn items(value: &Value) -> Result<Value, Error> {
    if value.kind() != ValueKind::Map {
        return Err(budget::error(format!("a {} has no items", value.kind())));
    }
    let keys = value.try_iter()?;
    charge(
        value
            .len()
            .unwrap_or(0)
            .saturating_mul(4 * size_of::<Value>()),
    )?;
    let pair = |key: Value| Ok(Tuple::value(vec![key.clone(), value.get_item(&key)?]));
    Ok(Value::from(
        keys.map(pair).collect::<Result<Vec<_>, Error>>()?,
    ))
}

pub fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().into_iter().flat_map(char::to_uppercase);
    first
        .chain(characters.as_str().to_lowercase().chars())
        .collect()
}

/// Python's str.replace, charged for its result before it is made.
pub fn replace(text: &str, old: &str, new: &str, count: Option<i64>) -> Result<String, Error> {
    let limit = count
        .filter(|count| *count >= 0)
        .map_or(usize::MAX, |count| count as usize);
    let found = if old.is_empty() {
        text.chars().count() + 1
    } else {
        text.matches(old).count()
    };
    charge(
        text.len()
            .saturating_add(found.min(limit).saturating_mul(new.len())),
    )?;
    Ok(text.replacen(old, new, limit))
}

/// Python's str.join over a filter's or a method's arguments.
pub fn join_values(values: &Value, separator: &str) -> Result<String, Error> {
    let mut text = String::new();
    for (i, item) in values.try_iter()?.enumerate() {
        let before = text.len();
        if i > 0 {
            text.push_str(separator);
        }
        python::write_str(&mut text, &item)?;
        charge(text.len() - before)?;
    }
    Ok(text)
}

/// Python's str.splitlines.
pub fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    const ENDS: [char; 10] = [
        '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}',
        '\u{2029}',
    ];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ENDS) {
        let end = if rest[at..].starts_with("\r\n") {
            at + 2
        } else {
            at + rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(&rest[..if keep_ends { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// printf or str.format formatting without widths that would fill memory.
pub fn formatted(style: FormatStyle, format: &str, args: &[Value]) -> Result<String, Error> {
    const MAX_DIGITS: usize = 4;
    let mut digits = 0;
    for byte in format.bytes() {
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > MAX_DIGITS {
            return Err(budget::error("a format's numbers may have four digits"));
        }
    }
    let named = format.contains("%(");
    let plain = |value: &Value| match value.kind() {
        ValueKind::String | ValueKind::Number | ValueKind::Bool => Ok(value.clone()),
        ValueKind::Map if named || value.is_kwargs() => Ok(value.clone()),
        _ if style == FormatStyle::StrFormat => Ok(value.clone()),
        _ => python::str_of(value).map(Value::from),
    };
    let args = &*args.iter().map(plain).collect::<Result<Vec<_>, Error>>()?;
    let fields = format.matches(['%', '{']).count();
    let longest = args.iter().map(budget::size).max().unwrap_or(0);
    charge(format.len() + fields.saturating_mul(longest.saturating_add(10_000)))?;
    format_filter(style, format, args)
}
