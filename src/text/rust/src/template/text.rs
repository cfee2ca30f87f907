//! Python's view of characters and texts: what is a blank, a letter or a digit, and texts that are
//! marked as safe (markupsafe's Markup), which stay so and escape what is added to them.

use std::sync::OnceLock;

use minijinja::{Error, Value};
use regex_syntax::hir::{Class, ClassUnicode, HirKind};

use super::budget::charge;
use super::python;
use super::tuple::Tuple;

/// str.isspace() of one character: also the separators of ASCII, which Unicode does not count.
pub fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub fn strip(text: &str) -> &str {
    text.trim_matches(is_blank)
}

/// A class of characters by its regular expression.
struct Characters(OnceLock<ClassUnicode>, &'static str);

impl Characters {
    const fn new(expression: &'static str) -> Characters {
        Characters(OnceLock::new(), expression)
    }

    fn has(&self, c: char) -> bool {
        let class = self.0.get_or_init(|| {
            let parsed = regex_syntax::parse(self.1).map(|hir| hir.into_kind());
            match parsed {
                Ok(HirKind::Class(Class::Unicode(class))) => class,
                _ => ClassUnicode::empty(),
            }
        });
        let ranges = class.ranges();
        let after = ranges.partition_point(|range| range.end() < c);
        ranges.get(after).is_some_and(|range| range.start() <= c)
    }
}

static LETTERS: Characters = Characters::new(r"\p{L}");
static TITLES: Characters = Characters::new(r"\p{Lt}");
static DECIMALS: Characters = Characters::new(r"\p{Nd}");
static NUMBERS: Characters = Characters::new(r"\p{N}");
/// Decimal digits, and digits that have another shape.
static DIGITS: Characters = Characters::new(concat!(
    r"[\p{Nd}²³¹\u{1369}-\u{1371}\u{19DA}⁰⁴-⁹₀-₉①-⑨⑴-⑼⒈-⒐⓪⓵-⓽⓿❶-❾➀-➈➊-➒",
    r"\u{10A40}-\u{10A43}\u{10E60}-\u{10E68}\u{11052}-\u{1105A}\u{1F100}-\u{1F10A}]"
));

/// What \w matches.
pub fn is_word(c: char) -> bool {
    c == '_' || LETTERS.has(c) || NUMBERS.has(c)
}

/// str.isalpha() and its sisters; None for a method that is none of them.
pub fn is_method(text: &str, method: &str) -> Option<bool> {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    let number = |c| NUMBERS.has(c) || DIGITS.has(c);
    Some(match method {
        "isalpha" => all(|c| LETTERS.has(c)),
        "isdecimal" => all(|c| DECIMALS.has(c)),
        "isdigit" => all(|c| DIGITS.has(c)),
        "isnumeric" => !text.is_empty() && text.chars().all(number),
        "isalnum" => !text.is_empty() && text.chars().all(|c| LETTERS.has(c) || number(c)),
        "isspace" => all(is_blank),
        "isascii" => text.is_ascii(),
        "isprintable" => text.chars().all(python::is_printable),
        "isupper" => {
            text.chars().any(char::is_uppercase)
                && !text.chars().any(|c| c.is_lowercase() || TITLES.has(c))
        }
        "islower" => {
            text.chars().any(char::is_lowercase)
                && !text.chars().any(|c| c.is_uppercase() || TITLES.has(c))
        }
        "istitle" => is_title(text),
        _ => return None,
    })
}

fn is_cased(c: char) -> bool {
    c.is_uppercase() || c.is_lowercase() || TITLES.has(c)
}

fn is_title(text: &str) -> bool {
    let (mut after_cased, mut any) = (false, false);
    for c in text.chars() {
        let begins = c.is_uppercase() || TITLES.has(c);
        if (begins && after_cased) || (c.is_lowercase() && !after_cased) {
            return false;
        }
        after_cased = is_cased(c);
        any |= after_cased;
    }
    any
}

/// str.title(): every run of cased letters begins large.
pub fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut after_cased = false;
    for c in text.chars() {
        match after_cased {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        after_cased = is_cased(c);
    }
    out
}

/// The text as a value, safe where `like` is.
pub fn like(like: &Value, text: String) -> Value {
    match like.is_safe() {
        true => Value::from_safe_string(text),
        false => Value::from(text),
    }
}

/// A value whose texts, itself or in a list, are safe where `like` is.
pub fn all_like(like: &Value, value: Value) -> Value {
    if !like.is_safe() {
        return value;
    }
    let safe = |value: &Value| {
        let text = value.as_str();
        text.map_or_else(
            || value.clone(),
            |text| Value::from_safe_string(text.to_owned()),
        )
    };
    if value.as_str().is_some() {
        return safe(&value);
    }
    match value.try_iter() {
        Ok(items) => Tuple::like(&value, items.map(|item| safe(&item)).collect()),
        Err(_) => value,
    }
}

/// markupsafe's escape of a text.
pub fn escaped(text: &str) -> Result<String, Error> {
    charge(text.len().saturating_mul(5))?;
    let text = text.replace('&', "&amp;");
    let text = text.replace('<', "&lt;").replace('>', "&gt;");
    Ok(text.replace('"', "&#34;").replace('\'', "&#39;"))
}

/// Arguments of a method or a format of a safe text: their texts escaped.
pub fn escaped_args(of: &Value, mut args: Vec<Value>) -> Result<Vec<Value>, Error> {
    if of.is_safe() {
        for arg in &mut args {
            if let Some(text) = arg.as_str().filter(|_| !arg.is_safe()) {
                *arg = Value::from_safe_string(escaped(text)?);
            }
        }
    }
    Ok(args)
}
