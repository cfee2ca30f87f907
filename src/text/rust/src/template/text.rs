//! Python's view of characters and texts: what is a blank, a letter or a digit, and texts that are
//! marked as safe (markupsafe's Markup), which stay so and escape what is added to them.

use std::sync::OnceLock;

use minijinja::{Error, Value};
use regex_syntax::hir::{Class, ClassUnicode, HirKind};

use super::budget::charge;
use super::python;
use super::sequence::Tuple;

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
        self.range_of(c).is_some()
    }

    /// Where the run of the class's characters begins that has this one.
    fn range_of(&self, c: char) -> Option<char> {
        let class = self.0.get_or_init(|| {
            let parsed = regex_syntax::parse(self.1).map(|hir| hir.into_kind());
            match parsed {
                Ok(HirKind::Class(Class::Unicode(class))) => class,
                _ => ClassUnicode::empty(),
            }
        });
        let ranges = class.ranges();
        let after = ranges.partition_point(|range| range.end() < c);
        let range = ranges.get(after).filter(|range| range.start() <= c);
        range.map(|range| range.start())
    }
}

static LETTERS: Characters = Characters::new(r"\p{L}");
static TITLES: Characters = Characters::new(r"\p{Lt}");
static DECIMALS: Characters = Characters::new(r"\p{Nd}");
static STARTS: Characters = Characters::new(r"\p{XID_Start}");
static CONTINUES: Characters = Characters::new(r"\p{XID_Continue}");
static NUMBERS: Characters = Characters::new(r"\p{N}");
/// Decimal digits, and digits that have another shape.
static DIGITS: Characters = Characters::new(concat!(
    r"[\p{Nd}²³¹\u{1369}-\u{1371}\u{19DA}⁰⁴-⁹₀-₉①-⑨⑴-⑼⒈-⒐⓪⓵-⓽⓿❶-❾➀-➈➊-➒",
    r"\u{10A40}-\u{10A43}\u{10E60}-\u{10E68}\u{11052}-\u{1105A}\u{1F100}-\u{1F10A}]"
));

/// The ASCII digit of a decimal digit of any script; they come in runs of ten.
pub fn digit(c: char) -> Option<char> {
    if c.is_ascii() {
        return c.is_ascii_digit().then_some(c);
    }
    let range = DECIMALS.range_of(c)?;
    let digit = (u32::from(c) - u32::from(range)) % 10;
    char::from_digit(digit, 10)
}

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
        "isidentifier" => {
            let begins = text
                .chars()
                .next()
                .is_some_and(|c| c == '_' || STARTS.has(c));
            begins && text.chars().all(|c| CONTINUES.has(c))
        }
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

/// A character as it begins a word: mostly its upper case, of which only the first letter stays large.
pub fn title_case(c: char) -> String {
    let code = u32::from(c);
    let title = match code {
        // Digraphs of two letters have a form with one large.
        0x1c4..=0x1cc => 0x1c5 + (code - 0x1c4) / 3 * 3,
        0x1f1..=0x1f3 => 0x1f2,
        // Georgian begins no word with a capital.
        0x10d0..=0x10ff => code,
        // Greek letters with an iota below keep it there.
        0x1f80..=0x1faf => code | 8,
        0x1fb3 | 0x1fc3 | 0x1ff3 => code + 9,
        0x1fbc | 0x1fcc | 0x1ffc => code,
        0x1fb2 | 0x1fb4 | 0x1fb7 | 0x1fc2 | 0x1fc4 | 0x1fc7 | 0x1ff2 | 0x1ff4 | 0x1ff7 => {
            let upper: Vec<char> = c.to_uppercase().collect();
            return upper[..upper.len() - 1]
                .iter()
                .copied()
                .chain(['\u{345}'])
                .collect();
        }
        0x149 => return c.to_uppercase().collect(),
        _ => {
            let mut upper = c.to_uppercase();
            let first = upper.next().unwrap_or(c);
            return std::iter::once(first)
                .chain(upper.flat_map(char::to_lowercase))
                .collect();
        }
    };
    char::from_u32(title).unwrap_or(c).to_string()
}

/// str.title(): every run of cased letters begins large.
pub fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut after_cased = false;
    for c in text.chars() {
        match after_cased {
            true => out.extend(c.to_lowercase()),
            false => out.push_str(&title_case(c)),
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

/// The right operand of a safe text's `%`: its texts escaped, in a tuple too.
pub fn escaped_operand(of: &Value, operand: Value) -> Result<Value, Error> {
    let items = Tuple::of(&operand).map(<[Value]>::to_vec);
    match items {
        Some(items) => Ok(Tuple::value(escaped_args(of, items)?)),
        None => Ok(escaped_args(of, vec![operand])?.remove(0)),
    }
}
