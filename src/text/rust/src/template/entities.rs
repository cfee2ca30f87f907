//! HTML's references to characters, read as Python's html.unescape reads them.

use std::collections::HashMap;
use std::sync::OnceLock;

/// A name, with its semicolon where it must have one, and what it stands for: one a line, but for the
/// line end and the tab. By testdata/make_goldens.py.
const NAMES: &str = include_str!("entities.txt");
/// Longest name.
const LONGEST: usize = 32;
/// What numbers from 0x80 on stand for in old documents.
const OLD: &str = "\u{20ac}\u{81}\u{201a}\u{192}\u{201e}\u{2026}\u{2020}\u{2021}\u{2c6}\u{2030}\u{160}\
    \u{2039}\u{152}\u{8d}\u{17d}\u{8f}\u{90}\u{2018}\u{2019}\u{201c}\u{201d}\u{2022}\u{2013}\u{2014}\u{2dc}\
    \u{2122}\u{161}\u{203a}\u{153}\u{9d}\u{17e}\u{178}";

fn names() -> &'static HashMap<&'static str, &'static str> {
    static ALL: OnceLock<HashMap<&'static str, &'static str>> = OnceLock::new();
    ALL.get_or_init(|| {
        let lines = NAMES.lines();
        let named = lines.filter_map(|line| line.split_once('\t'));
        named.chain([("NewLine;", "\n"), ("Tab;", "\t")]).collect()
    })
}

/// The text with its references read; what is none stays.
pub fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let read = match rest.strip_prefix('#') {
            Some(number) => numbered(number).map(|(size, text)| (size + 1, text)),
            None => named(rest),
        };
        match read {
            Some((size, text)) => {
                out.push_str(&text);
                rest = &rest[size..];
            }
            None => out.push('&'),
        }
    }
    out.push_str(rest);
    out
}

/// The bytes of a name and its text: of the longest name that the text begins with.
fn named(text: &str) -> Option<(usize, String)> {
    let ends = |c: char| matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';');
    let end = text.find(ends).unwrap_or(text.len());
    let end = end + usize::from(text[end..].starts_with(';'));
    let sizes = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let sizes: Vec<usize> = sizes
        .take_while(|size| *size <= end)
        .take(LONGEST + 1)
        .collect();
    let found = |size: &usize| Some((*size, (*names().get(&text[..*size])?).to_owned()));
    sizes.iter().rev().find_map(found)
}

/// The bytes of a number and the character that it is for.
fn numbered(text: &str) -> Option<(usize, String)> {
    let (prefix, base) = match text.starts_with(['x', 'X']) {
        true => (1, 16),
        false => (0, 10),
    };
    let digits = &text[prefix..];
    let end = digits
        .find(|c: char| !c.is_digit(base))
        .unwrap_or(digits.len());
    if end == 0 {
        return None;
    }
    let size = prefix + end + usize::from(digits[end..].starts_with(';'));
    // What does not fit is beyond all characters.
    let code = u32::from_str_radix(&digits[..end], base).unwrap_or(u32::MAX);
    Some((size, character(code)))
}

fn character(code: u32) -> String {
    let is_noncharacter = code & 0xfffe == 0xfffe || matches!(code, 0xfdd0..=0xfdef);
    match code {
        0 => "\u{fffd}".to_owned(),
        0x0d => "\r".to_owned(),
        0x80..=0x9f => OLD.chars().nth(code as usize - 0x80).into_iter().collect(),
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f => String::new(),
        _ if code <= 0x10ffff && is_noncharacter => String::new(),
        _ => char::from_u32(code).unwrap_or('\u{fffd}').to_string(),
    }
}
