//! Filters, tests and functions of Jinja2 as transformers sets it up. What minijinja has is taken
//! as it is where it agrees with Jinja2, but charged to the budget.

use std::cmp::Ordering;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{filters, Environment, Error, ErrorKind, FormatStyle, State, Value};

use super::budget::{self, charge, charge_values};
use super::python::{self, JsonStyle};
use super::tuple::Tuple;
use super::{clock, numbers, operators, strings, text, text_filters};

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
        ("first", Value::from_function(filters::first)),
        ("groupby", Value::from_function(filters::groupby)),
        ("last", Value::from_function(filters::last)),
        ("lines", Value::from_function(filters::lines)),
        ("list", Value::from_function(filters::list)),
        ("map", Value::from_function(filters::map)),
        ("reject", Value::from_function(filters::reject)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("reverse", Value::from_function(filters::reverse)),
        ("select", Value::from_function(filters::select)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("split", Value::from_function(filters::split)),
        ("unique", Value::from_function(filters::unique)),
        ("zip", Value::from_function(filters::zip)),
    ];
    for (name, filter) in charged {
        env.add_filter(name, move |state: &State, args: Rest<Value>| {
            charge_filter(&args)?;
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

/// A filter that changes a text, and its name.
type TextFilter = (&'static str, fn(&str) -> String);

fn add_own_filters(env: &mut Environment) {
    text_filters::add_to(env);
    let textual: [TextFilter; 3] = [
        ("capitalize", strings::capitalized),
        ("lower", |text| text.to_lowercase()),
        ("upper", |text| text.to_uppercase()),
    ];
    for (name, change) in textual {
        env.add_filter(name, move |value: Value| {
            let text = python::str_of(&value)?;
            charge(text.len())?;
            Ok::<_, Error>(text::like(&value, change(&text)))
        });
    }
    env.add_filter("trim", |value: Value, characters: Option<String>| {
        let text = python::str_of(&value)?;
        charge(text.len())?;
        let trimmed = match &characters {
            Some(set) => text.trim_matches(|c| set.contains(c)),
            None => text::strip(&text),
        };
        Ok::<_, Error>(text::like(&value, trimmed.to_owned()))
    });
    env.add_filter("title", |value: Value| {
        string(value).map(|text| title(&text))
    });
    env.add_filter("items", |value: Value| match value.is_undefined() {
        true => Ok(Value::from(Vec::<Value>::new())),
        false => strings::items(&value),
    });
    env.add_filter("dictsort", dictsort);
    env.add_filter("sort", sort);
    env.add_filter("sum", sum);
    env.add_filter(
        "min",
        |state: &State, value: Value, args: Rest<Value>, kwargs: Kwargs| {
            extreme(state, value, args, kwargs, Ordering::Less)
        },
    );
    env.add_filter(
        "max",
        |state: &State, value: Value, args: Rest<Value>, kwargs: Kwargs| {
            extreme(state, value, args, kwargs, Ordering::Greater)
        },
    );
    env.add_filter("tojson", to_json);
    env.add_filter("string", |value: Value| {
        let text = string(value.clone())?;
        Ok::<_, Error>(text::like(&value, text))
    });
    env.add_filter("safe", |value: Value| {
        string(value).map(Value::from_safe_string)
    });
    env.add_filter("pprint", |value: Value| python::repr_of(&value));
    for name in ["escape", "e"] {
        env.add_filter(name, |value: Value| match value.is_safe() {
            true => Ok(value),
            false => escape(&value),
        });
    }
    env.add_filter("forceescape", |value: Value| escape(&value));
    env.add_filter(
        "replace",
        |value: Value, old: Value, new: Value, count: Option<i64>| {
            let (old, new) = (python::str_of(&old)?, python::str_of(&new)?);
            strings::replace(&python::str_of(&value)?, &old, &new, count)
        },
    );
    env.add_filter("join", join);
    env.add_filter("indent", indent);
    env.add_filter("format", |format: Value, args: Rest<Value>| {
        let args = text::escaped_args(&format, args.0)?;
        let text = strings::formatted(FormatStyle::Printf, &python::str_of(&format)?, &args)?;
        Ok::<_, Error>(text::like(&format, text))
    });
    env.add_filter("round", round);
    for name in ["length", "count"] {
        env.add_filter(name, length);
    }
    env.add_filter("int", int);
    env.add_filter("float", |value: Value, default: Option<f64>| {
        strings::float_of(&value).or(default).unwrap_or(0.0)
    });
}

fn int(
    value: Value,
    default: Option<i64>,
    base: Option<u32>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?).unwrap_or(0);
    let base = base.or(kwargs.get("base")?).unwrap_or(10);
    kwargs.assert_all_used()?;
    let whole = match value.as_str() {
        Some(text) if base != 10 => whole_of(text, base),
        _ => int_of(&numbers::counted(value)),
    };
    Ok(Value::from(whole.unwrap_or(default)))
}

/// int(text, base) of bases 2 to 36, with or without its prefix.
fn whole_of(text: &str, base: u32) -> Option<i64> {
    let text = text::strip(text).to_lowercase();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.as_str()),
    };
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let digits = digits.strip_prefix(prefix).unwrap_or(digits);
    let number = (2..=36)
        .contains(&base)
        .then(|| i64::from_str_radix(digits, base));
    number?.ok().map(|number| sign * number)
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
            || numbers::text_of(&value).is_some()
    });
    env.add_test("divisibleby", operators::is_divisible);
    env.add_test("escaped", |value: Value| value.is_safe());
    for (name, method) in [("upper", "isupper"), ("lower", "islower")] {
        env.add_test(name, move |value: Value| {
            let text = python::str_of(&value)?;
            charge(text.len())?;
            Ok::<_, Error>(text::is_method(&text, method).unwrap_or(false))
        });
    }
    env.add_test("callable", |value: Value| {
        value.kind() == ValueKind::Plain && numbers::text_of(&value).is_none()
    });
    env.add_test("integer", |value: Value| {
        numbers::counted(value).is_integer()
    });
    env.add_test("float", |value: Value| {
        let value = numbers::counted(value);
        value.is_number() && !value.is_integer()
    });
}

fn string(value: Value) -> Result<String, Error> {
    let text = python::str_of(&value)?;
    charge(text.len())?;
    Ok(text)
}

fn escape(value: &Value) -> Result<Value, Error> {
    text::escaped(&python::str_of(value)?).map(Value::from_safe_string)
}

/// Parameters of a filter by place, given to minijinja's own by name.
fn by_name(names: &[&'static str], args: &[Value], kwargs: &Kwargs) -> Result<Kwargs, Error> {
    if args.len() > names.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut all: Vec<(&str, Value)> = names.iter().copied().zip(args.iter().cloned()).collect();
    for name in kwargs.args() {
        if all.iter().any(|(known, _)| *known == name) {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        all.push((name, kwargs.peek(name)?));
    }
    Ok(Kwargs::from_iter(all))
}

fn dictsort(value: Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    charge_filter(std::slice::from_ref(&value))?;
    let kwargs = by_name(&["case_sensitive", "by", "reverse"], &args, &kwargs)?;
    let sorted = filters::dictsort(&value, kwargs)?;
    let pair = |pair: Value| Ok(Tuple::value(pair.try_iter()?.collect()));
    let pairs = sorted
        .try_iter()?
        .map(pair)
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(Value::from(pairs))
}

fn sort(state: &State, value: Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    charge_filter(std::slice::from_ref(&value))?;
    let kwargs = by_name(&["reverse", "case_sensitive", "attribute"], &args, &kwargs)?;
    filters::sort(state, value, kwargs)
}

/// The values of a list, or of an attribute of each.
fn attributes(state: &State, value: &Value, attribute: Option<Value>) -> Result<Vec<Value>, Error> {
    charge_filter(std::slice::from_ref(value))?;
    let values = match attribute.filter(|name| !name.is_none()) {
        Some(name) => {
            let kwargs = Kwargs::from_iter([("attribute", name)]);
            state.apply_filter("map", &[value.clone(), Value::from(kwargs)])?
        }
        None => value.clone(),
    };
    Ok(values.try_iter()?.collect())
}

fn sum(
    state: &State,
    value: Value,
    attribute: Option<Value>,
    start: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let attribute = attribute.or(kwargs.get("attribute")?);
    let start = start.or(kwargs.get("start")?);
    kwargs.assert_all_used()?;
    let mut total = start.unwrap_or(Value::from(0));
    if total.as_str().is_some() {
        return Err(budget::error("sum is not for texts; join them"));
    }
    for value in attributes(state, &value, attribute)? {
        total = operators::sum(&total, &value)?;
    }
    Ok(total)
}

/// The least or the greatest value, of texts without regard to case unless asked to.
fn extreme(
    state: &State,
    value: Value,
    args: Rest<Value>,
    kwargs: Kwargs,
    wanted: Ordering,
) -> Result<Value, Error> {
    let kwargs = by_name(&["case_sensitive", "attribute"], &args, &kwargs)?;
    let attribute: Option<Value> = kwargs.get("attribute")?;
    let case_sensitive = kwargs
        .get::<Option<bool>>("case_sensitive")?
        .unwrap_or(false);
    kwargs.assert_all_used()?;
    let keys = attributes(state, &value, attribute)?
        .into_iter()
        .map(|key| match key.as_str() {
            Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
            _ => key,
        });
    let mut best: Option<(Value, Value)> = None;
    for (item, key) in value.try_iter()?.zip(keys) {
        budget::tick()?;
        if best
            .as_ref()
            .is_none_or(|(_, known)| key.cmp(known) == wanted)
        {
            best = Some((item, key));
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(item, _)| item))
}

/// transformers' tojson: json.dumps without HTML escapes, non-ASCII characters as they are.
fn to_json(
    value: Value,
    ensure_ascii: Option<Value>,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let ensure_ascii = ensure_ascii.or(kwargs.get("ensure_ascii")?);
    let ensure_ascii = ensure_ascii.is_some_and(|value| value.is_true());
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
        ensure_ascii,
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
    strings::join_values(&values, &separator)
}

fn indent(
    value: Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
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
    let lines = strings::split_lines(&text, false);
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
    Ok(text::like(&value, out))
}

/// Words begin after spaces, dashes and opening brackets, so not within "they're".
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if text::is_blank(c) || matches!(c, '-' | '(' | '{' | '[' | '<') {
            out.push(c);
            begins = true;
        } else if begins {
            out.extend(c.to_uppercase());
            begins = false;
        } else {
            out.extend(c.to_lowercase());
        }
    }
    out
}

/// Half to even, by the number's exact decimal value, as Python rounds.
fn round(
    value: Value,
    precision: Option<i64>,
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
    let number = f64::try_from(value)?;
    if precision < 0 {
        let scale = 10f64.powi(precision.unsigned_abs().min(MAX_PRECISION as u64) as i32);
        return Ok(Value::from(match method {
            "common" => (number / scale).round_ties_even() * scale,
            "ceil" => (number / scale).ceil() * scale,
            "floor" => (number / scale).floor() * scale,
            _ => return Err(budget::error("round knows common, ceil and floor")),
        }));
    }
    let precision = (precision as usize).min(MAX_PRECISION);
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
            let text = text::strip(text);
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
