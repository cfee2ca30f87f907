//! Python's methods of strings, dicts and lists: those of minijinja-contrib charged to the budget,
//! and those it lacks, has wrong or does without a limit.

use minijinja::value::{from_args, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::budget::{self, charge, charge_values};
use super::sequence::{is_list, Tuple};
use super::{format, order, strings, text};

pub fn call(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    charge_values(std::slice::from_ref(value))?;
    charge_values(args)?;
    let args = &*match (method, args) {
        // What is looked for is taken as it is.
        ("replace", [old, rest @ ..]) => {
            let rest = text::escaped_args(value, rest.to_vec())?;
            [vec![old.clone()], rest].concat()
        }
        _ => text::escaped_args(value, args.to_vec())?,
    };
    let own = match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => string_method(text, method, args)?,
        (ValueKind::Seq, _) => list_method(value, method, args)?,
        (ValueKind::Map, _) => map_method(value, method, args)?,
        (ValueKind::Number, _) => number_method(value, method, args)?,
        _ => None,
    };
    let result = match own {
        Some(result) => result,
        None => pycompat::unknown_method_callback(state, value, method, args)?,
    };
    Ok(text::all_like(value, result))
}

fn map_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "copy" if args.is_empty() => Ok(Some(value.clone())),
        "items" | "keys" | "values" if args.is_empty() => Ok(Some(strings::view(value, method)?)),
        _ => Ok(None),
    }
}

fn list_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "index" | "count" => {
            let (what,): (&Value,) = from_args(args)?;
            let mut count = 0;
            for (at, item) in value.try_iter()?.enumerate() {
                if order::equal(&item, what)? {
                    if method == "index" {
                        return Ok(Some(Value::from(at)));
                    }
                    count += 1;
                }
            }
            match method {
                "count" => Ok(Some(Value::from(count))),
                _ => Err(budget::error("the value is not in the list")),
            }
        }
        "copy" if is_list(value) => Ok(Some(value.clone())),
        _ => Ok(None),
    }
}

fn number_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match (method, args) {
        ("is_integer", []) if !value.is_integer() => Ok(Some(Value::from(
            f64::try_from(value.clone()).is_ok_and(|number| number.fract() == 0.0),
        ))),
        ("bit_length", []) if value.is_integer() => {
            let size = i128::try_from(value.clone()).map_or(0, i128::unsigned_abs);
            Ok(Some(Value::from(u128::BITS - size.leading_zeros())))
        }
        _ => Ok(None),
    }
}

/// A method that this module has itself; None for the others.
fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if let Some(answer) = text::is_method(text, method).filter(|_| args.is_empty()) {
        return Ok(Some(Value::from(answer)));
    }
    let result = match method {
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(args)?;
            let strips = |c: char| characters.map_or(text::is_blank(c), |set| set.contains(c));
            Value::from(match method {
                "strip" => text.trim_matches(strips),
                "lstrip" => text.trim_start_matches(strips),
                _ => text.trim_end_matches(strips),
            })
        }
        "title" => Value::from(text::title(text)),
        "capitalize" => Value::from(strings::capitalized(text)),
        "swapcase" => Value::from(swapped(text)),
        "expandtabs" => {
            let (width,): (Option<usize>,) = from_args(args)?;
            Value::from(with_tabs_expanded(text, width.unwrap_or(8))?)
        }
        "startswith" | "endswith" => {
            let (ends, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            Value::from(begins_or_ends(text, method, ends, start, end)?)
        }
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            Value::from(strings::replace(text, old, new, count)?)
        }
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            if values.try_iter()?.any(|value| value.as_str().is_none()) {
                return Err(budget::error("only texts can be joined"));
            }
            Value::from(strings::join_values(values, text)?)
        }
        "format" => Value::from(format::str_format(text, args)?),
        "format_map" => {
            let (map,): (&Value,) = from_args(args)?;
            Value::from(format::format_map(text, map)?)
        }
        "splitlines" => {
            let keep_ends = match args {
                [kwargs] if kwargs.is_kwargs() => kwargs.get_attr("keepends")?,
                args => from_args::<(Option<Value>,)>(args)?.0.unwrap_or_default(),
            };
            let lines = strings::split_lines(text, keep_ends.is_true());
            charge(lines.len() * std::mem::size_of::<Value>())?;
            lines.into_iter().map(Value::from).collect()
        }
        "split" => {
            let (separator, limit) = split_args(args)?;
            parts_value(split(text, separator.as_deref(), limit)?)?
        }
        "rsplit" => {
            let (separator, limit) = split_args(args)?;
            parts_value(rsplit(text, separator.as_deref(), limit)?)?
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (head, rest) = text
                .split_once(separator)
                .map_or((text, None), |(h, t)| (h, Some(t)));
            let middle = if rest.is_some() { separator } else { "" };
            three(head, middle, rest.unwrap_or(""))
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (rest, tail) = text
                .rsplit_once(separator)
                .map_or((None, text), |(h, t)| (Some(h), t));
            let middle = if rest.is_some() { separator } else { "" };
            three(rest.unwrap_or(""), middle, tail)
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "count" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let part = Part::of(text, start, end);
            Value::from(part.map_or(0, |part| match what {
                "" => part.text.chars().count() + 1,
                what => part.text.matches(what).count(),
            }))
        }
        "find" | "index" | "rfind" | "rindex" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let found = Part::of(text, start, end).and_then(|part| {
                let from_end = method.starts_with('r');
                let at = if from_end {
                    part.text.rfind(what)
                } else {
                    part.text.find(what)
                };
                at.map(|at| part.before + part.text[..at].chars().count())
            });
            match found {
                Some(at) => Value::from(at),
                None if method.ends_with("index") => {
                    return Err(budget::error("substring not found"));
                }
                None => Value::from(-1),
            }
        }
        "translate" => {
            let (table,): (&Value,) = from_args(args)?;
            Value::from(translated(text, table)?)
        }
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss").replace('ς', "σ")),
        "zfill" | "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            Value::from(padded(text, method, width, fill)?)
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

/// The text with its characters changed by a table from their numbers to texts, numbers or none.
fn translated(text: &str, table: &Value) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let new = table.get_item(&Value::from(u32::from(c)))?;
        match new.kind() {
            ValueKind::Undefined => out.push(c),
            ValueKind::None => {}
            ValueKind::Number => {
                let code = u32::try_from(new).ok().and_then(char::from_u32);
                out.push(code.ok_or_else(|| budget::error("a character is out of range"))?);
            }
            _ => {
                let new = new.as_str().unwrap_or_default();
                charge(new.len())?;
                out.push_str(new);
            }
        }
    }
    Ok(out)
}

/// The characters of a text from one to another, by their numbers as Python counts them.
struct Part<'a> {
    text: &'a str,
    /// Characters before it.
    before: usize,
}

impl Part<'_> {
    /// None where it begins behind the text's end.
    fn of(text: &str, start: Option<i64>, end: Option<i64>) -> Option<Part<'_>> {
        if start.is_none() && end.is_none() {
            return Some(Part { text, before: 0 });
        }
        let size = text.chars().count() as i64;
        let place = |at: i64| {
            if at < 0 {
                at.saturating_add(size).max(0)
            } else {
                at
            }
        };
        let (start, end) = (
            place(start.unwrap_or(0)),
            place(end.unwrap_or(size)).min(size),
        );
        if start > end {
            return None;
        }
        let byte = |at: i64| {
            let found = text.char_indices().nth(at as usize);
            found.map_or(text.len(), |(byte, _)| byte)
        };
        Some(Part {
            text: &text[byte(start)..byte(end)],
            before: start as usize,
        })
    }
}

fn begins_or_ends(
    text: &str,
    method: &str,
    ends: &Value,
    start: Option<i64>,
    end: Option<i64>,
) -> Result<bool, Error> {
    let Some(part) = Part::of(text, start, end) else {
        return Ok(false);
    };
    let one = |end: &Value| match end.as_str() {
        Some(end) if method == "startswith" => Ok(part.text.starts_with(end)),
        Some(end) => Ok(part.text.ends_with(end)),
        None => Err(budget::error(format!("{method} wants texts"))),
    };
    if ends.as_str().is_some() {
        return one(ends);
    }
    let Some(ends) = Tuple::of(ends) else {
        return Err(budget::error(format!(
            "{method} wants a text or a tuple of texts"
        )));
    };
    for end in ends {
        if one(end)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn swapped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_uppercase() {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
    }
    out
}

fn with_tabs_expanded(text: &str, width: usize) -> Result<String, Error> {
    if width > MAX_WIDTH {
        return Err(budget::error("a tab is too wide"));
    }
    charge(text.matches('\t').count().saturating_mul(width))?;
    let mut out = String::with_capacity(text.len());
    let mut column: usize = 0;
    for c in text.chars() {
        match c {
            '\t' => {
                let size = column.checked_rem(width).map_or(0, |past| width - past);
                out.extend(std::iter::repeat_n(' ', size));
                column += size;
            }
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') {
                    0
                } else {
                    column + 1
                };
            }
        }
    }
    Ok(out)
}

fn three(head: &str, middle: &str, tail: &str) -> Value {
    Tuple::value([head, middle, tail].map(Value::from).to_vec())
}

fn parts_value(parts: Vec<&str>) -> Result<Value, Error> {
    charge(parts.len() * std::mem::size_of::<Value>())?;
    Ok(parts.into_iter().map(Value::from).collect())
}

/// split(sep=None, maxsplit=-1), by place or by name.
fn split_args(args: &[Value]) -> Result<(Option<String>, Option<i64>), Error> {
    let (place, named) = match args.split_last() {
        Some((last, rest)) if last.is_kwargs() => (rest, Some(last)),
        _ => (args, None),
    };
    let (mut separator, mut limit): (Option<String>, Option<i64>) = from_args(place)?;
    if let Some(named) = named {
        for key in named.try_iter()? {
            let value = named.get_item(&key)?;
            match key.as_str() {
                Some("maxsplit") => limit = Some(i64::try_from(value)?),
                Some("sep") => separator = value.as_str().map(str::to_owned),
                _ => return Err(Error::from(ErrorKind::TooManyArguments)),
            }
        }
    }
    Ok((separator, limit))
}

fn limit_of(limit: Option<i64>) -> usize {
    limit
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX - 1)
}

fn split<'a>(
    text: &'a str,
    separator: Option<&str>,
    limit: Option<i64>,
) -> Result<Vec<&'a str>, Error> {
    let limit = limit_of(limit);
    match separator {
        Some("") => Err(budget::error("empty separator")),
        Some(separator) => Ok(text.splitn(limit + 1, separator).collect()),
        None => {
            let mut parts = Vec::new();
            let mut rest = text.trim_start_matches(text::is_blank);
            while !rest.is_empty() {
                if parts.len() == limit {
                    parts.push(rest);
                    break;
                }
                let end = rest.find(text::is_blank).unwrap_or(rest.len());
                parts.push(&rest[..end]);
                rest = rest[end..].trim_start_matches(text::is_blank);
            }
            Ok(parts)
        }
    }
}

fn rsplit<'a>(
    text: &'a str,
    separator: Option<&str>,
    limit: Option<i64>,
) -> Result<Vec<&'a str>, Error> {
    let limit = limit_of(limit);
    let mut parts: Vec<&str> = match separator {
        Some("") => return Err(budget::error("empty separator")),
        Some(separator) => text.rsplitn(limit + 1, separator).collect(),
        None => {
            let mut parts = Vec::new();
            let mut rest = text.trim_end_matches(text::is_blank);
            while !rest.is_empty() {
                if parts.len() == limit {
                    parts.push(rest);
                    break;
                }
                let start = rest
                    .char_indices()
                    .rev()
                    .find(|(_, c)| text::is_blank(*c))
                    .map_or(0, |(at, c)| at + c.len_utf8());
                parts.push(&rest[start..]);
                rest = rest[..start].trim_end_matches(text::is_blank);
            }
            parts
        }
    };
    parts.reverse();
    Ok(parts)
}

const MAX_WIDTH: usize = 10_000;

/// zfill, ljust, rjust or center.
pub fn padded(text: &str, method: &str, width: usize, fill: Option<char>) -> Result<String, Error> {
    if width > MAX_WIDTH {
        return Err(budget::error("a padded text is too wide"));
    }
    let missing = width.saturating_sub(text.chars().count());
    let fill = |count: usize, default: char| fill.unwrap_or(default).to_string().repeat(count);
    Ok(match method {
        "ljust" => format!("{text}{}", fill(missing, ' ')),
        "rjust" => format!("{}{text}", fill(missing, ' ')),
        "center" => {
            // Python puts the odd space left when the width is odd.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", fill(left, ' '), fill(missing - left, ' '))
        }
        _ => {
            let (sign, digits) = match text.strip_prefix(['+', '-']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", text),
            };
            format!("{sign}{}{digits}", fill(missing, '0'))
        }
    })
}
