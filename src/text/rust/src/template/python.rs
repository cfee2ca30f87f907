//! Values as Python writes them: str, repr and json.dumps.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::budget::{self, MAX_NESTING};
use super::sequence::{is_list, Range, Tuple, View};
use super::{numbers, order, provenance};

/// Python's str of a value; an undefined one is empty, as in Jinja.
pub fn str_of(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write_str(&mut out, value)?;
    Ok(out)
}

pub fn write_str(out: &mut String, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => {
            out.push_str(text);
            Ok(())
        }
        None if value.is_undefined() => Ok(()),
        None => write_repr(out, value, 0),
    }
}

pub fn repr_of(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write_repr(&mut out, value, 0)?;
    Ok(out)
}

/// pprint's form of a value, on one line: dicts by their keys.
pub fn pretty_of(value: &Value) -> Result<String, Error> {
    repr_of(&with_sorted_keys(value, 0)?)
}

fn with_sorted_keys(value: &Value, depth: usize) -> Result<Value, Error> {
    check_depth(depth)?;
    budget::charge(size_of::<Value>())?;
    match value.kind() {
        ValueKind::Map if !is_namespace(value) => {
            let keys: Vec<Value> = value.try_iter()?.collect();
            let sorted = order::sorted(keys.clone(), &order::compare_keys).unwrap_or(keys);
            let member = |key: Value| {
                Ok((
                    key.clone(),
                    with_sorted_keys(&value.get_item(&key)?, depth + 1)?,
                ))
            };
            sorted.into_iter().map(member).collect()
        }
        ValueKind::Seq if Range::of(value).is_none() => {
            let items = value.try_iter()?;
            let items = items.map(|item| with_sorted_keys(&item, depth + 1));
            Ok(Tuple::like(value, items.collect::<Result<_, Error>>()?))
        }
        _ => Ok(value.clone()),
    }
}

/// Whether it is what `namespace()` makes, which minijinja keeps to itself.
fn is_namespace(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

fn write_repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    check_depth(depth)?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => write_number(out, value),
        ValueKind::String if value.is_safe() => {
            out.push_str("Markup(");
            write_quoted(out, value.as_str().unwrap_or_default());
            out.push(')');
        }
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            if let Some(range) = Range::of(value) {
                out.push_str(&range.repr());
                return Ok(());
            }
            if let Some((kind, items)) = View::of(value) {
                let _ = write!(out, "{kind}(");
                write_repr(out, &Value::from(items.to_vec()), depth + 1)?;
                out.push(')');
                return Ok(());
            }
            let tuple = Tuple::of(value);
            out.push(if tuple.is_some() { '(' } else { '[' });
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, &item, depth + 1)?;
                check_written(out)?;
            }
            out.push_str(match tuple {
                Some([_]) => ",)",
                Some(_) => ")",
                None => "]",
            });
        }
        ValueKind::Map => {
            let is_namespace = is_namespace(value);
            out.push_str(if is_namespace { "<Namespace {" } else { "{" });
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, &key, depth + 1)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
                check_written(out)?;
            }
            out.push_str(if is_namespace { "}>" } else { "}" });
        }
        _ => write!(out, "{value}").map_err(|e| budget::error(e.to_string()))?,
    }
    Ok(())
}

/// Shared values nested in themselves write out exponentially long, so length counts on the way.
fn check_written(out: &str) -> Result<(), Error> {
    budget::check_output(out.len())
}

fn check_depth(depth: usize) -> Result<(), Error> {
    if depth > MAX_NESTING {
        return Err(budget::refuse(
            "the chat template writes out too deep a value",
        ));
    }
    Ok(())
}

fn write_number(out: &mut String, value: &Value) {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => out.push_str(&numbers::float(number, ["nan", "inf"])),
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

fn write_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            // Marks are not text: they must survive so that they can be taken out again.
            c if provenance::is_mark(c) => out.push(c),
            c if is_printable(c) => out.push(c),
            c => {
                let code = c as u32;
                let _ = match code {
                    0..=0xFF => write!(out, "\\x{code:02x}"),
                    0x100..=0xFFFF => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// Whether Python prints the character as it is: no control, separator but space, surrogate,
/// private use or noncharacter. (Unassigned code points, which Python escapes too, are kept.)
pub fn is_printable(c: char) -> bool {
    if c == ' ' {
        return true;
    }
    let code = c as u32;
    let is_format = matches!(code, 0xAD | 0x600..=0x605 | 0x61C | 0x6DD | 0x70F | 0x180E
        | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0xFEFF | 0xFFF9..=0xFFFB);
    let is_private = matches!(code, 0xE000..=0xF8FF | 0xE0000..=0xE007F | 0xF0000..=0x10FFFF);
    let is_noncharacter = code & 0xFFFE == 0xFFFE || matches!(code, 0xFDD0..=0xFDEF);
    !(c.is_control() || c.is_whitespace() || is_format || is_private || is_noncharacter)
}

/// How json.dumps lays out its result.
pub struct JsonStyle {
    pub ensure_ascii: bool,
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

/// json.dumps of a value, as transformers' `tojson` filter calls it.
pub fn json_of(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = String::new();
    write_json(&mut out, value, style, 0)?;
    Ok(out)
}

fn write_json(
    out: &mut String,
    value: &Value,
    style: &JsonStyle,
    depth: usize,
) -> Result<(), Error> {
    check_depth(depth)?;
    check_written(out)?;
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_json_number(out, value),
        ValueKind::String => write_json_text(out, value.as_str().unwrap_or_default(), style),
        ValueKind::Seq | ValueKind::Iterable if is_list(value) || Tuple::of(value).is_some() => {
            let items = value.try_iter()?;
            write_group(out, style, depth, ['[', ']'], items, |out, item| {
                write_json(out, &item, style, depth + 1)
            })?;
        }
        ValueKind::Map if !is_namespace(value) => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys = order::sorted(keys, &order::compare_keys)?;
            }
            write_group(
                out,
                style,
                depth,
                ['{', '}'],
                keys.into_iter(),
                |out, key| {
                    write_json_text(out, &json_key(&key)?, style);
                    out.push_str(&style.key_separator);
                    write_json(out, &value.get_item(&key)?, style, depth + 1)
                },
            )?;
        }
        kind => match numbers::text_of(value) {
            Some(text) => out.push_str(text),
            None => {
                return Err(budget::error(format!(
                    "a value of type {kind} cannot be written as JSON"
                )))
            }
        },
    }
    Ok(())
}

fn write_group(
    out: &mut String,
    style: &JsonStyle,
    depth: usize,
    braces: [char; 2],
    items: impl Iterator<Item = Value>,
    mut write_item: impl FnMut(&mut String, Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let newline = |out: &mut String, depth: usize| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    };
    out.push(braces[0]);
    let mut any = false;
    for item in items {
        if any {
            out.push_str(&style.item_separator);
        }
        any = true;
        newline(out, depth + 1);
        write_item(out, item)?;
    }
    if any {
        newline(out, depth);
    }
    out.push(braces[1]);
    Ok(())
}

fn json_key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number => {
            let mut text = String::new();
            write_json_number(&mut text, key);
            Ok(text)
        }
        kind => Err(budget::error(format!("a key of type {kind} is not JSON"))),
    }
}

fn write_json_number(out: &mut String, value: &Value) {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => {
            out.push_str(&numbers::float(number, ["NaN", "Infinity"]))
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

fn write_json_text(out: &mut String, text: &str, style: &JsonStyle) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c if style.ensure_ascii && c >= '\u{7f}' && !provenance::is_mark(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
