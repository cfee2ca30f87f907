//! Jinja2's filters for texts to be read, which minijinja lacks.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, State, Value};

use super::budget::{self, charge};
use super::{entities, methods, python, strings, text};

pub fn add_to(env: &mut Environment) {
    env.add_filter("wordcount", |value: Value| {
        let text = python::str_of(&value)?;
        charge(text.len())?;
        Ok::<_, Error>(
            text.split(|c| !text::is_word(c))
                .filter(|w| !w.is_empty())
                .count(),
        )
    });
    env.add_filter("truncate", truncate);
    env.add_filter("center", |value: Value, width: Option<usize>| {
        let text = python::str_of(&value)?;
        let text = methods::padded(&text, "center", width.unwrap_or(80), None)?;
        Ok::<_, Error>(self::text::like(&value, text))
    });
    env.add_filter("wordwrap", wordwrap);
    env.add_filter("urlencode", urlencode);
    env.add_filter("striptags", striptags);
    env.add_filter("filesizeformat", filesizeformat);
    env.add_filter("xmlattr", xmlattr);
}

/// The value of a parameter given by place or by name.
fn given<T>(place: Option<T>, kwargs: &Kwargs, name: &str) -> Result<Option<T>, Error>
where
    Option<T>: for<'a> minijinja::value::ArgType<'a, Output = Option<T>>,
{
    match place {
        Some(value) => Ok(Some(value)),
        None => kwargs.get(name),
    }
}

/// The error of a filter for texts that is given something else.
pub fn not_a_text(filter: &str, value: &Value) -> Error {
    budget::error(format!("{filter} is for texts, not for a {}", value.kind()))
}

fn truncate(
    _state: &State,
    value: Value,
    args: Rest<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let place = |at: usize| args.get(at).cloned();
    let length = given(place(0), &kwargs, "length")?.map_or(Ok(255), usize::try_from)?;
    let killwords = given(place(1), &kwargs, "killwords")?.is_some_and(|value| value.is_true());
    let end = given(place(2), &kwargs, "end")?.map_or(Ok("...".into()), |v| python::str_of(&v))?;
    let leeway = given(place(3), &kwargs, "leeway")?.map_or(Ok(5), usize::try_from)?;
    kwargs.assert_all_used()?;
    let Some(text) = value.as_str() else {
        return match value.len() {
            Some(size) if size <= length.saturating_add(leeway) => Ok(value),
            None if value.is_undefined() => Ok(value),
            _ => Err(not_a_text("truncate", &value)),
        };
    };
    charge(text.len())?;
    let Some(kept) = length.checked_sub(end.chars().count()) else {
        return Err(budget::error("truncate's length is less than its end's"));
    };
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(value);
    }
    let mut kept: String = text.chars().take(kept).collect();
    if !killwords {
        kept.truncate(kept.rfind(' ').unwrap_or(kept.len()));
    }
    Ok(self::text::like(&value, kept + &end))
}

fn wordwrap(value: Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let place = |at: usize| args.get(at).cloned();
    let width = given(place(0), &kwargs, "width")?.map_or(Ok(79), usize::try_from)?;
    let breaks = given(place(1), &kwargs, "break_long_words")?.is_none_or(|v| v.is_true());
    let wrap = given(place(2), &kwargs, "wrapstring")?.filter(|value| !value.is_none());
    let hyphens = given(place(3), &kwargs, "break_on_hyphens")?.is_none_or(|v| v.is_true());
    kwargs.assert_all_used()?;
    if width == 0 {
        return Err(budget::error("wordwrap's width must be at least 1"));
    }
    let wrap = wrap.map_or(Ok("\n".into()), |wrap| python::str_of(&wrap))?;
    let text = value
        .as_str()
        .ok_or_else(|| not_a_text("wordwrap", &value))?;
    // At most a line for each character, and the pieces while they are put together.
    charge(text.len().saturating_mul(wrap.len() + size_of::<String>()))?;
    let lines = strings::split_lines(text, false);
    let wrapped = lines.into_iter().map(|line| {
        let pieces = pieces(line, hyphens);
        lines_of(pieces, width, breaks, hyphens).join(&wrap)
    });
    Ok(self::text::like(
        &value,
        wrapped.collect::<Vec<_>>().join(&wrap),
    ))
}

fn is_wrap_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r')
}

/// The blanks and words of a line; words are cut after hyphens within them, and around dashes.
fn pieces(line: &str, hyphens: bool) -> Vec<Vec<char>> {
    let mut pieces: Vec<Vec<char>> = Vec::new();
    for c in line.chars() {
        match pieces.last_mut() {
            Some(last) if is_wrap_blank(last[0]) == is_wrap_blank(c) => last.push(c),
            _ => pieces.push(vec![c]),
        }
    }
    if !hyphens {
        return pieces;
    }
    pieces.into_iter().flat_map(|piece| cut(&piece)).collect()
}

fn cut(word: &[char]) -> Vec<Vec<char>> {
    let letter = |at: usize| {
        word.get(at)
            .is_some_and(|c| text::is_word(*c) && !c.is_numeric() && *c != '_')
            || word.get(at) == Some(&'_')
    };
    let punctuated = |c: char| text::is_word(c) || "!\"'&.,?".contains(c);
    let mut parts = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < word.len() {
        if word[at] != '-' {
            at += 1;
            continue;
        }
        let dashes = word[at..].iter().take_while(|c| **c == '-').count();
        let word_after = word.get(at + dashes).is_some_and(|c| text::is_word(*c));
        if dashes > 1 {
            if at > start && punctuated(word[at - 1]) && word_after {
                parts.push(word[start..at].to_vec());
                parts.push(word[at..at + dashes].to_vec());
                start = at + dashes;
            }
            at += dashes;
            continue;
        }
        let before = at >= start + 2 && letter(at - 1) && letter(at - 2)
            || at >= start + 3 && letter(at - 3) && word[at - 2] == '-' && punctuated(word[at - 1]);
        let after =
            letter(at + 1) && (letter(at + 2) || word.get(at + 2) == Some(&'-') && letter(at + 3));
        at += 1;
        if before && after {
            parts.push(word[start..at].to_vec());
            start = at;
        }
    }
    if start < word.len() {
        parts.push(word[start..].to_vec());
    }
    parts
}

/// Lines of at most `width` characters, without blanks where one begins or ends.
fn lines_of(pieces: Vec<Vec<char>>, width: usize, breaks: bool, hyphens: bool) -> Vec<String> {
    let mut left: Vec<Vec<char>> = pieces.into_iter().rev().collect();
    let mut lines: Vec<String> = Vec::new();
    let blank = |piece: &Vec<char>| piece.iter().all(|c| text::is_blank(*c));
    while !left.is_empty() {
        let mut line: Vec<Vec<char>> = Vec::new();
        let mut size = 0;
        if !lines.is_empty() && left.last().is_some_and(blank) {
            left.pop();
        }
        while let Some(piece) = left.pop_if(|piece| size + piece.len() <= width) {
            size += piece.len();
            line.push(piece);
        }
        if let Some(piece) = left.pop_if(|piece| piece.len() > width) {
            let room = width - size;
            if breaks {
                let mut end = room;
                let hyphen = piece[..room].iter().rposition(|c| *c == '-').unwrap_or(0);
                if hyphens && hyphen > 0 && piece[..hyphen].iter().any(|c| *c != '-') {
                    end = hyphen + 1;
                }
                let rest = piece[end..].to_vec();
                line.push(piece[..end].to_vec());
                left.push(rest);
            } else if line.is_empty() {
                line.push(piece);
            } else {
                left.push(piece);
            }
        }
        line.pop_if(|piece| blank(piece));
        if !line.is_empty() {
            lines.push(line.into_iter().flatten().collect());
        }
    }
    lines
}

fn percent_encoded(text: &str, plus: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                out.push(byte.into());
            }
            b'/' if !plus => out.push('/'),
            b' ' if plus => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A text, or the pairs of a form.
fn urlencode(value: Value) -> Result<String, Error> {
    let charged = |text: String| charge(text.len().saturating_mul(3)).map(|()| text);
    let pairs: Vec<(Value, Value)> = match value.kind() {
        ValueKind::Map => {
            let keys = value.try_iter()?;
            keys.map(|key| Ok((key.clone(), value.get_item(&key)?)))
                .collect::<Result<_, Error>>()?
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let pair =
                |pair: Value| match <[Value; 2]>::try_from(pair.try_iter()?.collect::<Vec<_>>()) {
                    Ok([key, value]) => Ok((key, value)),
                    Err(_) => Err(budget::error("urlencode takes a text or pairs")),
                };
            value.try_iter()?.map(pair).collect::<Result<_, Error>>()?
        }
        _ => return Ok(percent_encoded(&charged(python::str_of(&value)?)?, false)),
    };
    let mut out = String::new();
    for (key, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out += &percent_encoded(&charged(python::str_of(&key)?)?, true);
        out.push('=');
        out += &percent_encoded(&charged(python::str_of(&value)?)?, true);
    }
    Ok(out)
}

/// Without what stands between the marks.
fn without(text: &str, open: &str, close: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(open) {
        let Some(end) = rest[at..].find(close) else {
            break;
        };
        out.push_str(&rest[..at]);
        rest = &rest[at + end + close.len()..];
    }
    out.push_str(rest);
    out
}

/// Without tags and comments, blanks made one, and the common entities read.
fn striptags(value: Value) -> Result<String, Error> {
    let text = python::str_of(&value)?;
    charge(text.len().saturating_mul(4))?;
    let text = without(&without(&text, "<!--", "-->"), "<", ">");
    let words: Vec<&str> = text
        .split(text::is_blank)
        .filter(|word| !word.is_empty())
        .collect();
    Ok(entities::unescaped(&words.join(" ")))
}

fn filesizeformat(value: Value, binary: Option<bool>, kwargs: Kwargs) -> Result<String, Error> {
    const LETTERS: [char; 8] = ['k', 'M', 'G', 'T', 'P', 'E', 'Z', 'Y'];
    let binary = binary.or(kwargs.get("binary")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    let bytes = strings::float_of(&value).ok_or_else(|| budget::error("a size is a number"))?;
    if bytes == 1.0 {
        return Ok("1 Byte".into());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes as i64));
    }
    let mut size = bytes / base;
    let mut unit = 0;
    while size >= base && unit + 1 < LETTERS.len() {
        size /= base;
        unit += 1;
    }
    let letter = if binary {
        LETTERS[unit].to_ascii_uppercase()
    } else {
        LETTERS[unit]
    };
    Ok(format!(
        "{size:.1} {letter}{}",
        if binary { "iB" } else { "B" }
    ))
}

fn xmlattr(value: Value, autospace: Option<bool>) -> Result<String, Error> {
    if value.kind() != ValueKind::Map {
        return Err(budget::error("xmlattr is for a map"));
    }
    let mut out = String::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        if item.is_none() || item.is_undefined() {
            continue;
        }
        let name = python::str_of(&key)?;
        if name.contains(|c: char| text::is_blank(c) || matches!(c, '/' | '>' | '=')) {
            return Err(budget::error(
                "an attribute's name has a character that ends it",
            ));
        }
        if !out.is_empty() || autospace.unwrap_or(true) {
            out.push(' ');
        }
        let text = python::str_of(&item)?;
        out += &format!("{}=\"{}\"", text::escaped(&name)?, text::escaped(&text)?);
    }
    Ok(out)
}
