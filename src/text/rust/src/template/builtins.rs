//! Filters, tests and functions of Jinja2 as transformers sets it up. What minijinja has is taken
//! as it is where it agrees with Jinja2, but charged to the budget.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{filters, format_filter, Environment, Error, FormatStyle, State, Value};

use super::budget::{self, charge, charge_values};
use super::clock;
use super::program;
use super::python::{self, JsonStyle};

pub fn add_to(env: &mut Environment) {
    add_charged_filters(env);
    add_own_filters(env);
    add_tests(env);
    env.remove_global("debug");
    env.add_function("raise_exception", |message: Value| {
        Err::<Value, Error>(budget::refuse(python::str_of(&message)?))
    });
    env.add_function("strftime_now", |format: String| {
        clock::strftime_now(&format)
    });
    env.add_function("cycler", |items: Rest<Value>| {
        minijinja_contrib::globals::cycler(items.0)
    });
    env.add_function("joiner", minijinja_contrib::globals::joiner);
}

/// Filters of minijinja whose result is at most a copy of their arguments, once or a few times.
fn add_charged_filters(env: &mut Environment) {
    let charged = [
        ("abs", Value::from_function(filters::abs)),
        ("attr", Value::from_function(filters::attr)),
        ("bool", Value::from_function(filters::bool)),
        ("chain", Value::from_function(filters::chain)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("first", Value::from_function(filters::first)),
        ("groupby", Value::from_function(filters::groupby)),
        ("items", Value::from_function(filters::items)),
        ("last", Value::from_function(filters::last)),
        ("lines", Value::from_function(filters::lines)),
        ("list", Value::from_function(filters::list)),
        ("map", Value::from_function(filters::map)),
        ("max", Value::from_function(filters::max)),
        ("min", Value::from_function(filters::min)),
        ("reject", Value::from_function(filters::reject)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("reverse", Value::from_function(filters::reverse)),
        ("select", Value::from_function(filters::select)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("sort", Value::from_function(filters::sort)),
        ("split", Value::from_function(filters::split)),
        ("sum", Value::from_function(filters::sum)),
        ("unique", Value::from_function(filters::unique)),
        ("zip", Value::from_function(filters::zip)),
    ];
    for (name, filter) in charged {
        env.add_filter(name, move |state: &State, args: Rest<Value>| {
            charge_filter(&args)?;
            filter.call(state, &args)
        });
    }
    // These take any value's text.
    let textual = [
        ("capitalize", Value::from_function(filters::capitalize)),
        ("lower", Value::from_function(filters::lower)),
        ("trim", Value::from_function(filters::trim)),
        ("upper", Value::from_function(filters::upper)),
    ];
    for (name, filter) in textual {
        env.add_filter(name, move |state: &State, mut args: Rest<Value>| {
            if let Some(first) = args.first_mut().filter(|value| value.as_str().is_none()) {
                *first = Value::from(python::str_of(first)?);
            }
            charge_values(&args)?;
            filter.call(state, &args)
        });
    }
    // These make as many lists as their first argument says.
    let counted = [
        ("batch", Value::from_function(filters::batch)),
        ("slice", Value::from_function(filters::slice)),
    ];
    for (name, filter) in counted {
        env.add_filter(name, move |state: &State, args: Rest<Value>| {
            charge_filter(&args)?;
            let count = args.get(1).and_then(Value::as_usize).unwrap_or(0);
            if count > budget::MAX_ITEMS {
                return Err(budget::refuse("the chat template makes too long a list"));
            }
            charge(count * std::mem::size_of::<Value>())?;
            filter.call(state, &args)
        });
    }
}

/// A list of a string's characters takes a value each.
fn charge_filter(args: &[Value]) -> Result<(), Error> {
    charge_values(args)?;
    match args.first().and_then(Value::as_str) {
        Some(text) if text.len() > 64 => charge(text.len() * std::mem::size_of::<Value>()),
        _ => Ok(()),
    }
}

fn add_own_filters(env: &mut Environment) {
    env.add_filter("tojson", to_json);
    env.add_filter("string", string);
    env.add_filter("safe", string);
    env.add_filter("pprint", |value: Value| python::repr_of(&value));
    for name in ["escape", "e", "forceescape"] {
        env.add_filter(name, escape);
    }
    env.add_filter(
        "replace",
        |value: Value, old: Value, new: Value, count: Option<i64>| {
            let (old, new) = (python::str_of(&old)?, python::str_of(&new)?);
            replace(&python::str_of(&value)?, &old, &new, count)
        },
    );
    env.add_filter("join", join);
    env.add_filter("indent", indent);
    env.add_filter("format", |format: String, args: Rest<Value>| {
        formatted(FormatStyle::Printf, &format, &args)
    });
    env.add_filter("title", title);
    env.add_filter("round", round);
    for name in ["length", "count"] {
        env.add_filter(name, length);
    }
    env.add_filter("int", |value: Value, default: Option<i64>| {
        int_of(&value).map_or_else(|| Value::from(default.unwrap_or(0)), Value::from)
    });
    env.add_filter("float", |value: Value, default: Option<f64>| {
        let number = match value.as_str() {
            Some(text) => text.trim().parse().ok(),
            None => f64::try_from(value).ok(),
        };
        number.or(default).unwrap_or(0.0)
    });
}

fn add_tests(env: &mut Environment) {
    env.add_test("sequence", |value: Value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::String | ValueKind::Map
        )
    });
    env.add_test("iterable", |value: Value| {
        let kind = value.kind();
        matches!(kind, ValueKind::String | ValueKind::Undefined)
            || (kind != ValueKind::None && value.try_iter().is_ok())
    });
    env.add_test("number", |value: Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
    });
    env.add_test("divisibleby", program::is_divisible);
    env.add_test("callable", |value: Value| {
        matches!(value.kind(), ValueKind::Plain)
    });
}

fn string(value: Value) -> Result<String, Error> {
    let text = python::str_of(&value)?;
    charge(text.len())?;
    Ok(text)
}

fn escape(value: Value) -> Result<String, Error> {
    let text = python::str_of(&value)?;
    charge(text.len().saturating_mul(5))?;
    let text = text.replace('&', "&amp;");
    let text = text.replace('<', "&lt;").replace('>', "&gt;");
    Ok(text.replace('"', "&#34;").replace('\'', "&#39;"))
}

/// transformers' tojson: json.dumps without HTML escapes, non-ASCII characters as they are.
fn to_json(
    value: Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let ensure_ascii = ensure_ascii.or(kwargs.get("ensure_ascii")?);
    let indent = match indent.or(kwargs.get::<Option<Value>>("indent")?) {
        Some(indent) if !indent.is_none() && !indent.is_undefined() => Some(json_indent(&indent)?),
        _ => None,
    };
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let sort_keys: Option<bool> = kwargs.get("sort_keys")?;
    kwargs.assert_all_used()?;
    let (item_separator, key_separator) = match separators {
        Some(pair) => <[String; 2]>::try_from(pair)
            .map_err(|_| budget::error("tojson's separators must be two strings"))?
            .into(),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let style = JsonStyle {
        ensure_ascii: ensure_ascii.unwrap_or(false),
        indent,
        item_separator,
        key_separator,
        sort_keys: sort_keys.unwrap_or(false),
    };
    let text = python::json_of(&value, &style)?;
    charge(text.len())?;
    Ok(text)
}

fn json_indent(indent: &Value) -> Result<String, Error> {
    const MAX_INDENT: usize = 64;
    let text = match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::try_from(indent.clone())?.min(MAX_INDENT + 1)),
    };
    if text.len() > MAX_INDENT {
        return Err(budget::error("tojson's indent is too wide"));
    }
    Ok(text)
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

fn join(
    state: &State,
    value: Value,
    separator: Option<Value>,
    attribute: Option<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let separator = separator.or(kwargs.get("d")?);
    let attribute = attribute.or(kwargs.get("attribute")?);
    kwargs.assert_all_used()?;
    let separator = separator.map_or(Ok(String::new()), |s| python::str_of(&s))?;
    let values = match attribute {
        Some(name) if !name.is_none() => {
            let kwargs = Kwargs::from_iter([("attribute", name)]);
            state.apply_filter("map", &[value, Value::from(kwargs)])?
        }
        _ => value,
    };
    join_values(&values, &separator)
}

fn indent(
    value: Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    const MAX_WIDTH: usize = 1000;
    let width = width.or(kwargs.get("width")?);
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let indention = match width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(width)?.min(MAX_WIDTH + 1)),
        },
    };
    if indention.len() > MAX_WIDTH {
        return Err(budget::error("indent is too wide"));
    }
    let text = python::str_of(&value)? + "\n";
    let lines = split_lines(&text, false);
    charge(text.len() + lines.len().saturating_mul(indention.len()))?;
    let mut out = String::with_capacity(text.len());
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let indented = if i == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        if indented {
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    Ok(out)
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
    let fields = format.matches(['%', '{']).count();
    let longest = args.iter().map(budget::size).max().unwrap_or(0);
    charge(format.len() + fields.saturating_mul(longest.saturating_add(10_000)))?;
    format_filter(style, format, args)
}

/// Words begin after spaces, dashes and opening brackets, so not within "they're".
fn title(value: Value) -> Result<String, Error> {
    let text = string(value)?;
    let mut out = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if c.is_whitespace() || matches!(c, '-' | '(' | '{' | '[' | '<') {
            out.push(c);
            begins = true;
        } else if begins {
            out.extend(c.to_uppercase());
            begins = false;
        } else {
            out.extend(c.to_lowercase());
        }
    }
    Ok(out)
}

/// Half to even, by the number's exact decimal value, as Python rounds.
fn round(
    value: Value,
    precision: Option<usize>,
    method: Option<String>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    const MAX_PRECISION: usize = 300;
    let precision = precision.or(kwargs.get("precision")?).unwrap_or(0);
    let method = method.or(kwargs.get("method")?);
    kwargs.assert_all_used()?;
    let method = method.as_deref().unwrap_or("common");
    if method == "common" && value.is_integer() {
        return Ok(value);
    }
    let precision = precision.min(MAX_PRECISION);
    let number = f64::try_from(value)?;
    let scale = 10f64.powi(precision as i32);
    Ok(Value::from(match method {
        "common" => format!("{number:.precision$}").parse().unwrap_or(number),
        "ceil" => (number * scale).ceil() / scale,
        "floor" => (number * scale).floor() / scale,
        _ => return Err(budget::error("round knows common, ceil and floor")),
    }))
}

fn length(value: Value) -> Result<usize, Error> {
    budget::tick()?;
    if value.is_undefined() {
        return Ok(0);
    }
    match value.len() {
        Some(size) => Ok(size),
        None => Ok(value
            .try_iter()
            .map_err(|_| budget::error(format!("a {} has no length", value.kind())))?
            .count()),
    }
}

fn int_of(value: &Value) -> Option<i64> {
    match value.as_str() {
        Some(text) => {
            let text = text.trim();
            let whole = text.parse().ok();
            whole.or_else(|| text.parse::<f64>().ok().map(|number| number as i64))
        }
        None if value.kind() == ValueKind::Bool => Some(i64::from(value.is_true())),
        None => i64::try_from(value.clone()).ok().or_else(|| {
            f64::try_from(value.clone())
                .ok()
                .map(|number| number as i64)
        }),
    }
}
