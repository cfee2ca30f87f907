//! What filters and methods have in common: Python's operations on texts, charged to the budget.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::budget::{self, charge};
use super::sequence::{Tuple, View};
use super::{numbers, python, text};

/// The number that a value is, or that its text means.
pub fn float_of(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => digits_of(text)?.parse().ok(),
        None => number_of(value),
    }
}

/// The number that a value is; true and false are 1 and 0.
pub fn number_of(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(f64::from(value.is_true())),
        _ => f64::try_from(numbers::counted(value.clone())).ok(),
    }
}

/// The text of a number as Python reads it: with digits of any script, and with single _ between
/// digits. None where a _ stands elsewhere.
pub fn digits_of(text: &str) -> Option<String> {
    let mut out = String::new();
    let all: Vec<char> = text::strip(text).chars().collect();
    let is_digit = |at: usize| all.get(at).is_some_and(|c| text::digit(*c).is_some());
    for (at, c) in all.iter().enumerate() {
        match (c, text::digit(*c)) {
            (_, Some(digit)) => out.push(digit),
            ('_', _) if at > 0 && is_digit(at - 1) && is_digit(at + 1) => {}
            ('_', _) => return None,
            _ => out.push(*c),
        }
    }
    Some(out)
}

/// What keys(), values() or items() of a map give.
pub fn view(value: &Value, method: &str) -> Result<Value, Error> {
    if value.kind() != ValueKind::Map {
        return Err(budget::error(format!("a {} has no {method}", value.kind())));
    }
    let keys = value.try_iter()?;
    let size = value.len().unwrap_or(0);
    charge(size.saturating_mul(4 * size_of::<Value>()))?;
    let (kind, items): (_, Result<Vec<Value>, Error>) = match method {
        "keys" => ("dict_keys", Ok(keys.collect())),
        "values" => (
            "dict_values",
            keys.map(|key| value.get_item(&key)).collect(),
        ),
        _ => {
            let pair = |key: Value| Ok(Tuple::value(vec![key.clone(), value.get_item(&key)?]));
            ("dict_items", keys.map(pair).collect())
        }
    };
    Ok(View::value(kind, items?))
}

pub fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map_or_else(String::new, text::title_case);
    first + &characters.as_str().to_lowercase()
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
