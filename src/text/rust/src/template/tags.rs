//! The first pass over a template's source, before minijinja's own lexer: literals of texts as Python
//! reads them, and tags that minijinja has not or reads otherwise.

use minijinja::{Error, ErrorKind};

fn wrong(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::SyntaxError, problem.into())
}

/// A variable for the source text, so a name that a template could write but does not.
const PRINTED: &str = "moesaic_printed";

/// transformers' own `{% generation %}` only marks text for training; here it is `{% with %}`, which
/// leaves the same text and has names of its own. A newline after `{% raw %}` is part of the text.
/// `{% print a, b %}` is `{% with printed = a ~ b %}{{ printed }}{% endwith %}`.
pub fn rewritten_tags(text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let opens = |pair: &[u8]| matches!(pair, b"{%" | b"{#" | b"{{");
    while let Some(at) = rest.as_bytes().windows(2).position(opens) {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = match &before[at..] {
            "{#" => {
                let end = tag.find("#}").unwrap_or(tag.len());
                out.push_str(&tag[..end]);
                &tag[end..]
            }
            "{{" => expression(&mut out, tag, "}}")?,
            _ => rewritten_tag(&mut out, tag)?,
        };
    }
    out.push_str(rest);
    Ok(out)
}

/// A tag behind its `{%`, written out as it is to be read; what comes behind it.
fn rewritten_tag<'a>(out: &mut String, tag: &'a str) -> Result<&'a str, Error> {
    let inside = tag.trim_start_matches(['-', '+']);
    let sign = &tag[..tag.len() - inside.len()];
    let word = inside.trim_start();
    let name = word.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let name = name.into_iter().next().unwrap_or_default();
    let after = word[name.len()..].trim_start();
    let closes = ["%}", "-%}", "+%}"]
        .iter()
        .any(|end| after.starts_with(end));
    match name {
        "generation" if closes => out.extend([sign, " with "]),
        "endgeneration" if closes => out.extend([sign, " endwith "]),
        "raw" if closes => {
            let body = &after[after.find("%}").map_or(0, |at| at + 2)..];
            let (raw, left) = body.split_at(end_of_raw(body));
            let opening = if after.starts_with("%}") {
                "+%}"
            } else {
                "-%}"
            };
            out.extend([sign, " raw ", opening, raw]);
            return Ok(left);
        }
        "print" => return printed(out, sign, &word[name.len()..]),
        "autoescape" if !after.starts_with("false") => {
            return Err(wrong("autoescape is not for prompts"));
        }
        _ => return expression(out, tag, "%}"),
    }
    Ok(after)
}

/// A print tag behind its name.
fn printed<'a>(out: &mut String, sign: &str, tag: &'a str) -> Result<&'a str, Error> {
    let mut values = String::new();
    let rest = expression(&mut values, tag, "%}")?;
    let values = values.strip_suffix("%}").unwrap_or(&values);
    let all = values.trim_end_matches(['-', '+']);
    let closing = &values[all.len()..];
    let parts: Vec<&str> = parts(all)
        .into_iter()
        .filter(|part| !part.trim().is_empty())
        .collect();
    let joined = match parts.as_slice() {
        [] => "''".to_owned(),
        [one] => format!("({one})"),
        many => many
            .iter()
            .map(|one| format!("({one})"))
            .collect::<Vec<_>>()
            .join(" ~ "),
    };
    out.extend([sign, " with ", PRINTED, " = ", &joined, " %}{{ ", PRINTED]);
    out.extend([" }}{% endwith ", closing, "%}"]);
    Ok(rest)
}

/// What stands between the commas of an expression that are in no brackets.
fn parts(expression: &str) -> Vec<&str> {
    let (mut out, mut start, mut open, mut at) = (Vec::new(), 0, 0, 0);
    let bytes = expression.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open -= 1,
            b'\'' | b'"' => at += end_of_literal(&expression[at..]).max(1) - 1,
            b',' if open == 0 => {
                out.push(&expression[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    out.push(&expression[start..]);
    out
}

/// Bytes before the tag that ends a raw text.
fn end_of_raw(body: &str) -> usize {
    let tags = body.match_indices("{%");
    let mut ends = tags.filter(|(at, _)| {
        let tag = body[at + 2..].trim_start_matches(['-', '+']).trim_start();
        tag.starts_with("endraw")
    });
    ends.next().map_or(body.len(), |(at, _)| at)
}

/// Writes an expression out to its end, its literals as minijinja reads them; what comes behind it.
fn expression<'a>(out: &mut String, text: &'a str, end: &str) -> Result<&'a str, Error> {
    let mut rest = text;
    let mut open = 0;
    while let Some(c) = rest.chars().next() {
        if open == 0 && rest.starts_with(end) {
            out.push_str(end);
            return Ok(&rest[end.len()..]);
        }
        match c {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' if open > 0 => open -= 1,
            '\'' | '"' => {
                let size = end_of_literal(rest);
                out.push_str(&literal(&rest[..size])?);
                rest = &rest[size..];
                continue;
            }
            _ => {}
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    Ok(rest)
}

/// Bytes of the literal that a text begins with, its quotes included.
fn end_of_literal(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != bytes[0] {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    // An escape's second byte may be within a character, or behind the end.
    (at + 1..=text.len())
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(text.len())
}

/// A literal with Python's escapes, as one with only those that mean the same to minijinja.
fn literal(source: &str) -> Result<String, Error> {
    if !source.contains('\\') {
        return Ok(source.to_owned());
    }
    let quote = &source[..1];
    let inner = source[1..].strip_suffix(quote).unwrap_or(&source[1..]);
    let value = unescaped(inner)?;
    let value = value
        .replace('\\', "\\\\")
        .replace(quote, &format!("\\{quote}"));
    Ok(format!("{quote}{value}{quote}"))
}

/// The text of a literal with Python's escapes. Those that Python does not know it leaves as they are.
fn unescaped(inner: &str) -> Result<String, Error> {
    let mut units: Vec<u16> = Vec::with_capacity(inner.len());
    let mut rest = inner;
    let mut push = |code: u32| match char::from_u32(code) {
        Some(c) => units.extend_from_slice(c.encode_utf16(&mut [0; 2])),
        None => units.push(code as u16),
    };
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        let Some(escape) = rest.chars().next().filter(|_| c == '\\') else {
            push(c.into());
            continue;
        };
        rest = &rest[escape.len_utf8()..];
        let code = match escape {
            '\n' => continue,
            '\\' | '\'' | '"' => escape.into(),
            'a' => 0x07,
            'b' => 0x08,
            't' => 0x09,
            'n' => 0x0a,
            'v' => 0x0b,
            'f' => 0x0c,
            'r' => 0x0d,
            'x' => digits(&mut rest, 2)?,
            'u' => digits(&mut rest, 4)?,
            'U' => digits(&mut rest, 8)?,
            'N' => {
                return Err(wrong(
                    "a text names a character; write the character itself",
                ))
            }
            '0'..='7' => {
                let octal = |c: &char| matches!(c, '0'..='7');
                let more: String = rest.chars().take(2).take_while(octal).collect();
                rest = &rest[more.len()..];
                u32::from_str_radix(&format!("{escape}{more}"), 8).unwrap_or(0)
            }
            other => {
                push('\\'.into());
                other.into()
            }
        };
        if code > char::MAX.into() {
            return Err(wrong("a text's escape is no character"));
        }
        push(code);
    }
    String::from_utf16(&units).map_err(|_| wrong("a text's escapes are half a character"))
}

/// The number in so many hexadecimal digits.
fn digits(rest: &mut &str, count: usize) -> Result<u32, Error> {
    let digits = rest.get(..count).unwrap_or_default();
    let is_hex = digits.len() == count && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u32::from_str_radix(digits, 16).ok().filter(|_| is_hex);
    let number = number.ok_or_else(|| wrong("a text's escape lacks digits"))?;
    *rest = &rest[count..];
    Ok(number)
}
