//! Python's methods of strings, dicts and lists: those of minijinja-contrib charged to the budget,
//! and those it lacks, has wrong or does without a limit.

use minijinja::value::{from_args, ValueKind};
use minijinja::{Error, ErrorKind, FormatStyle, State, Value};
use minijinja_contrib::pycompat;

use super::budget::{self, charge, charge_values};
use super::builtins;

pub fn call(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    charge_values(std::slice::from_ref(value))?;
    charge_values(args)?;
    let own = match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => string_method(text, method, args)?,
        (ValueKind::Seq, _) => list_method(value, method, args)?,
        (ValueKind::Map, _) if method == "copy" && args.is_empty() => Some(value.clone()),
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn list_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            match value.try_iter()?.position(|item| item == *what) {
                Some(at) => Ok(Some(Value::from(at))),
                None => Err(budget::error("the value is not in the list")),
            }
        }
        "copy" => Ok(Some(value.clone())),
        _ => Ok(None),
    }
}

/// A method that this module has itself; None for the others.
fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let result = match method {
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            Value::from(builtins::replace(text, old, new, count)?)
        }
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            Value::from(builtins::join_values(values, text)?)
        }
        "format" => Value::from(builtins::formatted(FormatStyle::StrFormat, text, args)?),
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            let lines = builtins::split_lines(text, keep_ends.unwrap_or(false));
            charge(lines.len() * std::mem::size_of::<Value>())?;
            lines.into_iter().map(Value::from).collect()
        }
        "split" => {
            let (separator, limit): (Option<&str>, Option<i64>) = split_args(args)?;
            parts_value(split(text, separator, limit)?)?
        }
        "rsplit" => {
            let (separator, limit): (Option<&str>, Option<i64>) = split_args(args)?;
            parts_value(rsplit(text, separator, limit)?)?
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (head, rest) = text
                .split_once(separator)
                .map_or((text, None), |(h, t)| (h, Some(t)));
            let middle = if rest.is_some() { separator } else { "" };
            parts_value(vec![head, middle, rest.unwrap_or("")])?
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (rest, tail) = text
                .rsplit_once(separator)
                .map_or((None, text), |(h, t)| (Some(h), t));
            let middle = if rest.is_some() { separator } else { "" };
            parts_value(vec![rest.unwrap_or(""), middle, tail])?
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
            let (what,): (&str,) = from_args(args)?;
            Value::from(if what.is_empty() {
                text.chars().count() + 1
            } else {
                text.matches(what).count()
            })
        }
        "find" | "index" => {
            let (what,): (&str,) = from_args(args)?;
            found_at(text, text.find(what), method == "index")?
        }
        "rfind" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            found_at(text, text.rfind(what), method == "rindex")?
        }
        "casefold" => Value::from(text.to_lowercase()),
        "zfill" | "ljust" | "rjust" | "center" => pad(text, method, args)?,
        _ => return Ok(None),
    };
    Ok(Some(result))
}

/// Python counts characters where Rust counts bytes.
fn found_at(text: &str, at: Option<usize>, must_be: bool) -> Result<Value, Error> {
    match at {
        Some(at) => Ok(Value::from(text[..at].chars().count())),
        None if must_be => Err(budget::error("substring not found")),
        None => Ok(Value::from(-1)),
    }
}

fn parts_value(parts: Vec<&str>) -> Result<Value, Error> {
    charge(parts.len() * std::mem::size_of::<Value>())?;
    Ok(parts.into_iter().map(Value::from).collect())
}

type SplitArgs<'a> = (Option<&'a str>, Option<i64>);

/// split(sep=None, maxsplit=-1), by place or by name.
fn split_args(args: &[Value]) -> Result<SplitArgs<'_>, Error> {
    let (place, named) = match args.split_last() {
        Some((last, rest)) if last.is_kwargs() => (rest, Some(last)),
        _ => (args, None),
    };
    let (mut separator, mut limit): SplitArgs = from_args(place)?;
    if let Some(named) = named {
        for key in named.try_iter()? {
            let value = named.get_item(&key)?;
            match key.as_str() {
                Some("maxsplit") => limit = Some(i64::try_from(value)?),
                // The name borrows from the caller's list, which get_item's copy does not outlive.
                Some("sep") if value.is_none() => separator = None,
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
            let mut rest = text.trim_start();
            while !rest.is_empty() {
                if parts.len() == limit {
                    parts.push(rest.trim_end());
                    break;
                }
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                parts.push(&rest[..end]);
                rest = rest[end..].trim_start();
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
            let mut rest = text.trim_end();
            while !rest.is_empty() {
                if parts.len() == limit {
                    parts.push(rest.trim_start());
                    break;
                }
                let start = rest
                    .char_indices()
                    .rev()
                    .find(|(_, c)| c.is_whitespace())
                    .map_or(0, |(at, c)| at + c.len_utf8());
                parts.push(&rest[start..]);
                rest = rest[..start].trim_end();
            }
            parts
        }
    };
    parts.reverse();
    Ok(parts)
}

fn pad(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    const MAX_WIDTH: usize = 10_000;
    let (width, fill): (usize, Option<char>) = from_args(args)?;
    if width > MAX_WIDTH {
        return Err(budget::error("a padded text is too wide"));
    }
    let missing = width.saturating_sub(text.chars().count());
    let fill = |count: usize, default: char| fill.unwrap_or(default).to_string().repeat(count);
    Ok(Value::from(match method {
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
    }))
}
