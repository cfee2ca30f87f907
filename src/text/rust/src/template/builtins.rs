//! Filters, tests and functions of Jinja2 as transformers sets it up. What minijinja has is taken
//! as it is where it agrees with Jinja2, but charged to the budget.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{filters, tests, Environment, Error, ErrorKind, State, Value};

use super::budget::{self, charge, charge_values};
use super::python::{self, JsonStyle};
use super::sequence::{Range, Tuple};
use super::{
    clock, format, numbers, operators, order, ordering_filters, strings, text, text_filters,
};

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
    env.add_function("range", Range::make);
    env.add_function("dict", dict);
    env.add_function("cycler", |items: Rest<Value>| {
        minijinja_contrib::globals::cycler(items.0)
    });
    env.add_function("joiner", minijinja_contrib::globals::joiner);
}

/// Filters of minijinja whose result is at most a copy of their arguments, once or a few times.
fn add_charged_filters(env: &mut Environment) {
    let charged = [
        ("attr", Value::from_function(filters::attr)),
        ("bool", Value::from_function(filters::bool)),
        ("chain", Value::from_function(filters::chain)),
        ("first", Value::from_function(filters::first)),
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
        ("zip", Value::from_function(filters::zip)),
    ];
    for (name, filter) in charged {
        env.add_filter(name, move |state: &State, args: Rest<Value>| {
            charge_filter(&args)?;
            filter.call(state, &gone_through(name, args.0)?)
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
            filter.call(state, &gone_through(name, args.0)?)
        });
    }
}

/// The arguments of a filter that goes through its first one: nothing is in what is undefined, none
/// cannot be gone through, and what goes through nothing at all does not look at it.
fn gone_through(name: &str, mut args: Vec<Value>) -> Result<Vec<Value>, Error> {
    const LAZY: [&str; 5] = ["map", "reject", "rejectattr", "select", "selectattr"];
    let any = !matches!(name, "attr" | "bool" | "split" | "lines");
    if let Some(first) = args.first_mut().filter(|_| any) {
        if first.is_undefined() || (LAZY.contains(&name) && !first.is_true()) {
            *first = Value::from(Vec::<Value>::new());
        } else if first.is_none() {
            return Err(budget::error(format!("{name} cannot go through none")));
        } else if matches!(name, "last" | "reverse") && first.kind() == ValueKind::Map {
            *first = first.try_iter()?.collect();
        }
    }
    Ok(args)
}

/// A list of a string's characters takes a value each.
fn charge_filter(args: &[Value]) -> Result<(), Error> {
    charge_values(args)?;
    match args.first().and_then(Value::as_str) {
        Some(text) if text.len() > 64 => charge(text.len() * std::mem::size_of::<Value>()),
        _ => Ok(()),
    }
}

/// Filters of Jinja2 that no prompt is made with.
const REFUSED: [(&str, &str); 2] = [
    ("random", "a prompt must be the same each time"),
    ("urlize", "it makes HTML for a browser"),
];

/// A filter that changes a text, and its name.
type TextFilter = (&'static str, fn(&str) -> String);

fn add_own_filters(env: &mut Environment) {
    text_filters::add_to(env);
    ordering_filters::add_to(env);
    for (name, why) in REFUSED {
        env.add_filter(name, move |_all: Rest<Value>| {
            Err::<Value, Error>(budget::refuse(format!(
                "the chat template uses the filter {name}, which is not served: {why}"
            )))
        });
    }
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
        false => strings::view(&value, "items"),
    });
    env.add_filter("tojson", to_json);
    env.add_filter("string", |value: Value| {
        let text = string(value.clone())?;
        Ok::<_, Error>(text::like(&value, text))
    });
    env.add_filter("safe", |value: Value| {
        string(value).map(Value::from_safe_string)
    });
    env.add_filter("pprint", |value: Value| python::pretty_of(&value));
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
    env.add_filter("format", format_filter);
    env.add_filter("abs", |value: Value| match value.kind() {
        ValueKind::Bool => Ok(Value::from(i64::from(value.is_true()))),
        _ => filters::abs(numbers::counted(value)),
    });
    env.add_filter("round", round);
    for name in ["length", "count"] {
        env.add_filter(name, length);
    }
    env.add_filter("int", int);
    env.add_filter("float", |value: Value, default: Option<f64>| {
        match value.is_undefined() {
            true => Err(Error::from(ErrorKind::UndefinedError)),
            false => Ok(strings::float_of(&value).or(default).unwrap_or(0.0)),
        }
    });
}

/// `format % arguments`, which are all by place or all by name.
fn format_filter(format: Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let names: Vec<&str> = kwargs.args().collect();
    let operand = match (args.is_empty(), names.is_empty()) {
        (_, true) => Tuple::value(args.0),
        (true, false) => names
            .iter()
            .map(|name| Ok((*name, kwargs.get::<Value>(name)?)))
            .collect::<Result<Value, Error>>()?,
        _ => return Err(budget::error("format takes values by place or by name")),
    };
    let operand = text::escaped_operand(&format, operand)?;
    let text = format::printf(&python::str_of(&format)?, &operand)?;
    Ok(text::like(&format, text))
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
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    let whole = match value.as_str() {
        Some(text) if base != 10 => whole_of(text, base).map(i128::from),
        _ => int_of(&numbers::counted(value)),
    };
    operators::integer(Some(whole.unwrap_or(default.into())))
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
            ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined
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
    for (name, remainder) in [("even", 0), ("odd", 1)] {
        env.add_test(name, move |value: Value| {
            order::equal(
                &operators::remainder(value, Value::from(2))?,
                &Value::from(remainder),
            )
        });
    }
    type Known = fn(&State, &str) -> bool;
    let named: [(&str, Known); 2] = [("filter", tests::is_filter), ("test", tests::is_test)];
    for (name, is_known) in named {
        env.add_test(name, move |state: &State, value: Value| {
            value.as_str().is_some_and(|name| is_known(state, name))
        });
    }
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
        value.is_undefined()
            || (value.kind() == ValueKind::Plain && numbers::text_of(&value).is_none())
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

/// dict(), of a map, of pairs or of nothing, and of what is named.
fn dict(base: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let mut members: Vec<(Value, Value)> = Vec::new();
    if let Some(base) = base {
        let pairs = match base.kind() {
            ValueKind::Map => strings::view(&base, "items")?,
            _ => base,
        };
        charge_values(std::slice::from_ref(&pairs))?;
        for pair in pairs.try_iter()? {
            let pair: Vec<Value> = pair.try_iter()?.collect();
            let [key, value] = <[Value; 2]>::try_from(pair)
                .map_err(|_| budget::error("dict takes pairs of a key and a value"))?;
            members.push((key, value));
        }
    }
    for name in kwargs.args() {
        members.push((Value::from(name), kwargs.get(name)?));
    }
    Ok(members.into_iter().collect())
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
    let separators: Option<Value> = kwargs.get("separators")?;
    let separators = match separators.filter(|pair| !pair.is_none()) {
        Some(pair) => {
            let parts = match pair.as_str() {
                Some(text) => text.chars().map(String::from).collect(),
                None => pair
                    .try_iter()?
                    .map(|part| part.as_str().map(str::to_owned))
                    .collect::<Option<Vec<String>>>()
                    .unwrap_or_default(),
            };
            Some(parts)
        }
        None => None,
    };
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
        None => " ".repeat(i64::try_from(indent.clone())?.clamp(0, MAX_INDENT as i64 + 1) as usize),
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
    if values.is_none() {
        return Err(budget::error("join cannot go through none"));
    }
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
    let Some(text) = value.as_str() else {
        return Err(text_filters::not_a_text("indent", &value));
    };
    let text = text.to_owned() + "\n";
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
    let number =
        strings::number_of(&value).ok_or_else(|| budget::error("only numbers are rounded"))?;
    let is_whole = value.kind() == ValueKind::Bool || value.is_integer();
    if method == "common" && is_whole {
        // Whole numbers stay so, rounded half to even.
        let whole = int_of(&value).unwrap_or(0);
        let scale = u32::try_from(-precision)
            .ok()
            .map(|zeros| 10i128.checked_pow(zeros));
        return operators::integer(match scale {
            None => Some(whole),
            Some(None) => Some(0),
            Some(Some(scale)) => {
                let (tens, rest) = (whole.div_euclid(scale), whole.rem_euclid(scale));
                let up = rest * 2 > scale || (rest * 2 == scale && tens % 2 != 0);
                (tens + i128::from(up)).checked_mul(scale)
            }
        });
    }
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
    if value.is_none() {
        return Err(budget::error("none has no length"));
    }
    match value.len() {
        Some(size) => Ok(size),
        None => Ok(value
            .try_iter()
            .map_err(|_| budget::error(format!("a {} has no length", value.kind())))?
            .count()),
    }
}

fn int_of(value: &Value) -> Option<i128> {
    let truncated = |number: f64| number.is_finite().then(|| number.trunc() as i128);
    match value.as_str() {
        Some(text) => {
            let whole = strings::digits_of(text).and_then(|text| text.parse().ok());
            whole.or_else(|| strings::float_of(value).and_then(truncated))
        }
        None if value.kind() == ValueKind::Bool => Some(i128::from(value.is_true())),
        None => {
            let whole = Some(value).filter(|value| value.is_integer());
            let whole = whole.and_then(|value| i128::try_from(value.clone()).ok());
            whole.or_else(|| f64::try_from(value.clone()).ok().and_then(truncated))
        }
    }
}
