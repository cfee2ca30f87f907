//! Python's two ways to put values into a text: `'%s' % value` and `'{}'.format(value)`.

use std::iter::Peekable;
use std::str::Chars;

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::budget::{self, charge};
use super::sequence::Tuple;
use super::{numbers, python};

/// Widest field, and most digits of a number.
const MAX_WIDTH: usize = 10_000;

fn bad(problem: impl Into<String>) -> Error {
    budget::error(problem)
}

/// A number as formats see it.
enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    /// None when the value is none; true and false are 1 and 0.
    fn of(value: &Value) -> Option<Number> {
        let value = numbers::counted(value.clone());
        match value.kind() {
            ValueKind::Bool => Some(Number::Whole(value.is_true().into())),
            ValueKind::Number if value.is_integer() => {
                i128::try_from(value).ok().map(Number::Whole)
            }
            ValueKind::Number => f64::try_from(value).ok().map(Number::Real),
            _ => None,
        }
    }

    fn real(&self) -> f64 {
        match self {
            Number::Whole(whole) => *whole as f64,
            Number::Real(real) => *real,
        }
    }
}

/// How one field is laid out.
#[derive(Default)]
struct Layout {
    fill: Option<char>,
    /// One of < > ^ =
    align: Option<char>,
    /// + or blank: what stands before a number that is not negative.
    plus: Option<char>,
    /// No sign before a zero.
    no_negative_zero: bool,
    alternative: bool,
    width: usize,
    /// , or _
    grouping: Option<char>,
    precision: Option<usize>,
    conversion: Option<char>,
}

impl Layout {
    /// The text within the field's width. `prefix` characters of it are a sign or a base.
    fn padded(&self, text: String, prefix: usize, align: char) -> Result<String, Error> {
        let missing = self.width.saturating_sub(text.chars().count());
        charge(text.len() + missing * 4)?;
        let fill = |count: usize| self.fill.unwrap_or(' ').to_string().repeat(count);
        Ok(match self.align.unwrap_or(align) {
            '<' => text + &fill(missing),
            '^' => fill(missing / 2) + &text + &fill(missing - missing / 2),
            '=' => {
                let (sign, digits) = text.split_at(prefix);
                format!("{sign}{}{digits}", fill(missing))
            }
            _ => fill(missing) + &text,
        })
    }

    /// A number's digits behind its sign and its base, grouped and padded.
    fn number(&self, negative: bool, base: &str, digits: String) -> Result<String, Error> {
        let is_zero = !digits.chars().any(|c| matches!(c, '1'..='9'));
        let mut sign = match (negative && !(self.no_negative_zero && is_zero), self.plus) {
            (true, _) => "-".to_owned(),
            (false, Some(plus)) => plus.to_string(),
            (false, None) => String::new(),
        };
        sign.push_str(base);
        let digits = match self.grouping {
            Some(separator) => {
                let zeros = self.fill == Some('0') && self.align.is_none_or(|align| align == '=');
                let room = if zeros {
                    self.width.saturating_sub(sign.len())
                } else {
                    0
                };
                grouped(
                    &digits,
                    separator,
                    if base.is_empty() { 3 } else { 4 },
                    room,
                )
            }
            None => digits,
        };
        let prefix = sign.len();
        // Zeros stand behind the sign.
        let align = if self.fill == Some('0') { '=' } else { '>' };
        self.padded(sign + &digits, prefix, align)
    }

    fn real(&self, number: f64) -> Result<String, Error> {
        let (conversion, size) = (self.conversion, number.abs());
        let upper = conversion.is_some_and(|c| c.is_ascii_uppercase());
        let precision = self.precision.unwrap_or(6);
        let mut digits = match conversion.map(|c| c.to_ascii_lowercase()) {
            _ if !size.is_finite() => numbers::float(size, ["nan", "inf"]),
            Some('e') => with_exponent(size, precision, self.alternative),
            Some('f') => fixed(size, precision, self.alternative),
            Some('%') => fixed(size * 100.0, precision, self.alternative),
            None if self.precision.is_none() => numbers::float(size, ["nan", "inf"]),
            _ => general(
                size,
                precision.max(1),
                self.alternative,
                conversion.is_none(),
            ),
        };
        if conversion == Some('%') {
            digits.push('%');
        }
        if upper {
            digits = digits.to_uppercase();
        }
        self.number(number.is_sign_negative() && !number.is_nan(), "", digits)
    }

    /// A whole number in the base of its conversion; `least` digits at least.
    fn whole(&self, number: i128, least: usize) -> Result<String, Error> {
        let size = number.unsigned_abs();
        let (base, digits) = match self.conversion {
            Some('x') => ("0x", format!("{size:x}")),
            Some('X') => ("0X", format!("{size:X}")),
            Some('o') => ("0o", format!("{size:o}")),
            Some('b') => ("0b", format!("{size:b}")),
            _ => ("", size.to_string()),
        };
        let digits = "0".repeat(least.saturating_sub(digits.len())) + &digits;
        let is_decimal = base.is_empty();
        if self.grouping.is_some() && !is_decimal && !self.alternative {
            // Groups of four, as behind a base that is not written.
            let grouped = grouped(&digits, self.grouping.unwrap_or('_'), 4, 0);
            let plain = Layout {
                grouping: None,
                fill: self.fill,
                align: self.align,
                plus: self.plus,
                width: self.width,
                ..Layout::default()
            };
            return plain.number(number < 0, "", grouped);
        }
        let base = if self.alternative { base } else { "" };
        self.number(number < 0, base, digits)
    }
}

/// Digits in groups, with zeros before them until they fill the room.
fn grouped(digits: &str, separator: char, size: usize, room: usize) -> String {
    let end = digits
        .find(|c: char| !c.is_ascii_hexdigit())
        .unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(end);
    let mut zeros = 0;
    loop {
        let count = whole.len() + zeros;
        let total = count + count.saturating_sub(1) / size + rest.len();
        if total >= room {
            break;
        }
        zeros += 1;
    }
    let all = "0".repeat(zeros) + whole;
    let mut out = String::with_capacity(all.len() * 2);
    for (at, c) in all.chars().enumerate() {
        if at > 0 && (all.len() - at) % size == 0 {
            out.push(separator);
        }
        out.push(c);
    }
    out + rest
}

fn fixed(number: f64, precision: usize, point: bool) -> String {
    let text = format!("{number:.precision$}");
    if point && precision == 0 {
        text + "."
    } else {
        text
    }
}

fn with_exponent(number: f64, precision: usize, point: bool) -> String {
    let text = format!("{number:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let point = if point && precision == 0 { "." } else { "" };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}{point}e{sign}{:02}", exponent.abs())
}

/// So many significant digits, with an exponent where the number is small or large. A number that
/// must look like one with a fraction has an exponent sooner, and a digit behind the point.
fn general(number: f64, precision: usize, keep_zeros: bool, fraction: bool) -> String {
    let scientific = with_exponent(number, precision - 1, false);
    let exponent: i64 = scientific
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse().ok())
        .unwrap_or(0);
    let limit = precision as i64 - i64::from(fraction);
    let trimmed = |text: &str| match text.contains('.') && !keep_zeros {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= limit.max(i64::from(!fraction)) {
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
        return format!("{}e{exponent}", trimmed(digits));
    }
    let decimals = (precision as i64 - 1 - exponent).max(0) as usize;
    let text = trimmed(&fixed(number, decimals, keep_zeros));
    if fraction && !text.contains('.') {
        text + ".0"
    } else {
        text
    }
}

/// repr() with what is not ASCII escaped.
fn ascii_of(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    for c in python::repr_of(value)?.chars() {
        match c as u32 {
            0..=0x7f => out.push(c),
            code @ 0x80..=0xff => out.push_str(&format!("\\x{code:02x}")),
            code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
            code => out.push_str(&format!("\\U{code:08x}")),
        }
    }
    Ok(out)
}

fn digits(rest: &mut Peekable<Chars>) -> Result<Option<usize>, Error> {
    let mut number = None;
    while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
        let more = number.unwrap_or(0) * 10 + digit as usize;
        if more > MAX_WIDTH {
            return Err(bad("a format's field may be 10000 wide"));
        }
        number = Some(more);
        rest.next();
    }
    Ok(number)
}

/// The values of a printf format.
struct Values<'a> {
    place: &'a [Value],
    next: usize,
    /// What `%(name)s` looks into.
    named: Option<&'a Value>,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value, Error> {
        let value = self.place.get(self.next).cloned();
        self.next += 1;
        value.ok_or_else(|| bad("there are fewer values than the format has fields"))
    }

    /// A width or a precision that stands among the values.
    fn next_size(&mut self) -> Result<i64, Error> {
        let size = self.next()?;
        let size = Some(size).filter(Value::is_integer);
        let size = size.and_then(|size| i64::try_from(size).ok());
        size.filter(|size| size.unsigned_abs() <= MAX_WIDTH as u64)
            .ok_or_else(|| bad("a format's * wants a whole number up to 10000"))
    }
}

/// `format % operand`: the items of a tuple, the members of a map, or one value.
pub fn printf(format: &str, operand: &Value) -> Result<String, Error> {
    let single = std::slice::from_ref(operand);
    let is_map = operand.kind() == ValueKind::Map;
    // What can be indexed need not be used.
    let may_be_left = matches!(
        operand.kind(),
        ValueKind::Map | ValueKind::Seq | ValueKind::Undefined
    );
    let tuple = Tuple::of(operand);
    let mut values = Values {
        place: tuple.unwrap_or(single),
        next: 0,
        named: Some(operand).filter(|_| is_map),
    };
    let mut out = String::with_capacity(format.len());
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '%' => out.push_str(&conversion(&mut rest, &mut values)?),
            c => out.push(c),
        }
    }
    charge(out.len())?;
    if values.next < values.place.len() && (tuple.is_some() || !may_be_left) {
        return Err(bad("there are more values than the format has fields"));
    }
    Ok(out)
}

/// One field of a printf format, behind its %.
fn conversion(rest: &mut Peekable<Chars>, values: &mut Values) -> Result<String, Error> {
    let incomplete = || bad("the format ends within a field");
    let mut named = None;
    if rest.next_if_eq(&'(').is_some() {
        let mut name = String::new();
        let mut open = 1;
        loop {
            let c = rest.next().ok_or_else(incomplete)?;
            match c {
                '(' => open += 1,
                ')' if open == 1 => break,
                ')' => open -= 1,
                _ => {}
            }
            name.push(c);
        }
        let map = values
            .named
            .ok_or_else(|| bad("a format with names wants a map"))?;
        let value = map.get_item(&Value::from(name.as_str()))?;
        if value.is_undefined() {
            return Err(bad(format!(
                "the format names {name:?}, which is not there"
            )));
        }
        named = Some(value);
    }
    let (mut layout, mut zeros) = (Layout::default(), false);
    while let Some(flag) = rest.next_if(|c| "-+ #0".contains(*c)) {
        match flag {
            '-' => layout.align = Some('<'),
            '+' => layout.plus = Some('+'),
            ' ' => layout.plus = layout.plus.or(Some(' ')),
            '#' => layout.alternative = true,
            _ => zeros = true,
        }
    }
    if rest.next_if_eq(&'*').is_some() {
        let width = values.next_size()?;
        if width < 0 {
            layout.align = Some('<');
        }
        layout.width = width.unsigned_abs() as usize;
    } else {
        layout.width = digits(rest)?.unwrap_or(0);
    }
    if rest.next_if_eq(&'.').is_some() {
        layout.precision = Some(match rest.next_if_eq(&'*') {
            Some(_) => values.next_size()?.max(0) as usize,
            None => digits(rest)?.unwrap_or(0),
        });
    }
    rest.next_if(|c| "hlL".contains(*c));
    let conversion = rest.next().ok_or_else(incomplete)?;
    if conversion == '%' {
        return Ok("%".to_owned());
    }
    let value = match named {
        Some(value) => {
            // What is named does not count as one of the values.
            values.next = values.place.len();
            value
        }
        None => values.next()?,
    };
    if zeros && layout.align.is_none() {
        layout.fill = Some('0');
        layout.align = Some('=');
    }
    layout.conversion = Some(conversion);
    converted(layout, conversion, &value)
}

fn converted(mut layout: Layout, conversion: char, value: &Value) -> Result<String, Error> {
    let number = || {
        Number::of(value).ok_or_else(|| {
            bad(format!(
                "%{conversion} wants a number, not {}",
                value.kind()
            ))
        })
    };
    let text = match conversion {
        'd' | 'i' | 'u' => {
            let whole = match number()? {
                Number::Whole(whole) => whole,
                Number::Real(real) if real.is_finite() => real.trunc() as i128,
                Number::Real(_) => return Err(bad("infinity and NaN are no whole numbers")),
            };
            return layout.whole(whole, layout.precision.unwrap_or(0));
        }
        'x' | 'X' | 'o' => match number()? {
            Number::Whole(whole) => return layout.whole(whole, layout.precision.unwrap_or(0)),
            Number::Real(_) => return Err(bad(format!("%{conversion} wants a whole number"))),
        },
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => return layout.real(number()?.real()),
        'c' => match value.as_str() {
            Some(text) if text.chars().count() == 1 => text.to_owned(),
            Some(_) => return Err(bad("%c wants one character")),
            None => character(&number()?)?,
        },
        's' => python::str_of(value)?,
        'r' => python::repr_of(value)?,
        'a' => ascii_of(value)?,
        other => return Err(bad(format!("a format has no %{other}"))),
    };
    // Texts have no zeros before them.
    layout.fill = None;
    layout.align = layout.align.filter(|align| *align == '<');
    let text = match layout.precision.filter(|_| conversion != 'c') {
        Some(most) => text.chars().take(most).collect(),
        None => text,
    };
    layout.padded(text, 0, '>')
}

fn character(number: &Number) -> Result<String, Error> {
    let code = match number {
        Number::Whole(whole) => u32::try_from(*whole).ok().and_then(char::from_u32),
        Number::Real(_) => None,
    };
    let character = code.ok_or_else(|| bad("a character's number is out of range"))?;
    Ok(character.to_string())
}

/// The fields of a str.format.
struct Fields<'a> {
    args: &'a [Value],
    named: Option<&'a Value>,
    /// Fields without a number so far; None after one with a number.
    counted: Option<usize>,
    any_counted: bool,
}

/// `format.format(args...)`, the last of which may be the named ones.
pub fn str_format(format: &str, args: &[Value]) -> Result<String, Error> {
    let (place, named) = match args.split_last() {
        Some((last, rest)) if last.is_kwargs() => (rest, Some(last)),
        _ => (args, None),
    };
    fields_filled(format, place, named)
}

/// `format.format_map(map)`.
pub fn format_map(format: &str, map: &Value) -> Result<String, Error> {
    fields_filled(format, &[], Some(map))
}

fn fields_filled(format: &str, args: &[Value], named: Option<&Value>) -> Result<String, Error> {
    let mut fields = Fields {
        args,
        named,
        counted: Some(0),
        any_counted: false,
    };
    let out = fields.filled(format, true)?;
    charge(out.len())?;
    Ok(out)
}

impl Fields<'_> {
    /// A format, or a field's specification, which may itself have fields.
    fn filled(&mut self, format: &str, outer: bool) -> Result<String, Error> {
        let mut out = String::new();
        let mut rest = format;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if outer && rest.starts_with(brace) {
                out.push_str(brace);
                rest = &rest[1..];
                continue;
            }
            if brace == "}" {
                return Err(bad("the format has a } that closes nothing"));
            }
            let end = end_of_field(rest)?;
            out.push_str(&self.field(&rest[..end], outer)?);
            budget::check_output(out.len())?;
            rest = &rest[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn field(&mut self, field: &str, outer: bool) -> Result<String, Error> {
        if !outer && field.contains('{') {
            return Err(bad("the format's fields are nested too deeply"));
        }
        let end = end_of_name(field);
        let (name, rest) = field.split_at(end);
        let value = self.value(name)?;
        let (value, rest) = match rest.strip_prefix('!') {
            Some(rest) => {
                let mut rest = rest.chars();
                let text = match rest.next() {
                    Some('r') => python::repr_of(&value)?,
                    Some('s') => python::str_of(&value)?,
                    Some('a') => ascii_of(&value)?,
                    _ => return Err(bad("a format converts with !r, !s or !a")),
                };
                (Value::from(text), rest.as_str())
            }
            None => (value, rest),
        };
        match (rest.is_empty(), rest.strip_prefix(':')) {
            (true, _) => python::str_of(&value),
            (false, Some(layout)) => {
                let layout = self.filled(layout, false)?;
                laid_out(&value, &layout)
            }
            _ => Err(bad("a format's field goes on behind its conversion")),
        }
    }

    /// The value that a field names: an argument, and what is in it.
    fn value(&mut self, name: &str) -> Result<Value, Error> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        let mut value = self.argument(first)?;
        while !rest.is_empty() {
            let (key, after) = match rest.strip_prefix('[') {
                Some(inner) => {
                    let end = inner
                        .find(']')
                        .ok_or_else(|| bad("a format's [ has no ]"))?;
                    (&inner[..end], &inner[end + 1..])
                }
                None => {
                    let inner = rest.strip_prefix('.').unwrap_or(rest);
                    let end = inner.find(['.', '[']).unwrap_or(inner.len());
                    (&inner[..end], &inner[end..])
                }
            };
            if key.is_empty() {
                return Err(bad("a format's field has an empty name"));
            }
            let index = key.parse::<i64>().ok().filter(|_| rest.starts_with('['));
            value = value.get_item(&index.map_or_else(|| Value::from(key), Value::from))?;
            rest = after;
        }
        Ok(value)
    }

    fn argument(&mut self, name: &str) -> Result<Value, Error> {
        let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
        let missing = || bad(format!("the format names {name:?}, which is not there"));
        if !name.is_empty() && !is_number {
            let named = self.named.ok_or_else(missing)?;
            let value = named.get_item(&Value::from(name))?;
            return Some(value)
                .filter(|v| !v.is_undefined())
                .ok_or_else(missing);
        }
        let mixed = || bad("a format's fields are numbered all or none");
        let index = if is_number {
            if self.any_counted {
                return Err(mixed());
            }
            self.counted = None;
            name.parse().unwrap_or(usize::MAX)
        } else {
            let next = self.counted.ok_or_else(mixed)?;
            self.counted = Some(next + 1);
            self.any_counted = true;
            next
        };
        self.args.get(index).cloned().ok_or_else(missing)
    }
}

/// Where a field's name ends: at a ! or a : that is in no brackets.
fn end_of_name(field: &str) -> usize {
    let mut inside = false;
    for (at, c) in field.char_indices() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            '!' | ':' if !inside => return at,
            _ => {}
        }
    }
    field.len()
}

/// Where the } of a field is.
fn end_of_field(rest: &str) -> Result<usize, Error> {
    let mut open = 1;
    for (at, c) in rest.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 1 => return Ok(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    Err(bad("the format has a { that is not closed"))
}

/// A value by a specification like `*^+#012,.3f`.
fn laid_out(value: &Value, specification: &str) -> Result<String, Error> {
    if specification.is_empty() {
        return python::str_of(value);
    }
    let mut layout = layout_of(specification)?;
    if let Some(text) = value.as_str() {
        return text_laid_out(layout, text);
    }
    let Some(number) = Number::of(value) else {
        return Err(bad(format!("a {} has no format", value.kind())));
    };
    if layout.grouping == Some(',') && layout.conversion.is_some_and(|c| "boxXnc".contains(c)) {
        return Err(bad("only decimal numbers have commas"));
    }
    match (&number, layout.conversion) {
        (Number::Whole(_), None | Some('d' | 'n' | 'b' | 'o' | 'x' | 'X' | 'c'))
            if layout.precision.is_some() =>
        {
            Err(bad("a whole number's format has no precision"))
        }
        (Number::Whole(_), Some('c')) => {
            let text = character(&number)?;
            layout.padded(text, 0, '<')
        }
        (Number::Whole(whole), None | Some('d' | 'n' | 'b' | 'o' | 'x' | 'X')) => {
            layout.whole(*whole, 0)
        }
        (_, None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => layout.real(number.real()),
        (_, Some('n')) => {
            layout.conversion = Some('g');
            layout.real(number.real())
        }
        (_, Some(other)) => Err(bad(format!("a number has no format {other:?}"))),
    }
}

fn text_laid_out(layout: Layout, text: &str) -> Result<String, Error> {
    if layout
        .conversion
        .is_some_and(|conversion| conversion != 's')
    {
        return Err(bad("a text's format is s"));
    }
    if layout.plus.is_some() || layout.alternative || layout.grouping.is_some() {
        return Err(bad("a text's format has no sign, # or ,"));
    }
    if layout.align == Some('=') {
        return Err(bad("a text has no sign to align behind"));
    }
    let text = match layout.precision {
        Some(most) => text.chars().take(most).collect(),
        None => text.to_owned(),
    };
    layout.padded(text, 0, '<')
}

fn layout_of(specification: &str) -> Result<Layout, Error> {
    const ALIGNS: &str = "<>^=";
    let mut layout = Layout::default();
    let mut rest = specification.chars();
    let (first, second) = (rest.next(), rest.next());
    let mut rest = specification.chars().peekable();
    if second.is_some_and(|c| ALIGNS.contains(c)) {
        layout.fill = first;
        layout.align = second;
        rest.next();
        rest.next();
    } else if let Some(align) = rest.next_if(|c| ALIGNS.contains(*c)) {
        layout.align = Some(align);
    }
    match rest.next_if(|c| "+- ".contains(*c)) {
        Some('-') | None => {}
        plus => layout.plus = plus,
    }
    layout.no_negative_zero = rest.next_if_eq(&'z').is_some();
    layout.alternative = rest.next_if_eq(&'#').is_some();
    if rest.next_if_eq(&'0').is_some() && layout.fill.is_none() {
        layout.fill = Some('0');
    }
    layout.width = digits(&mut rest)?.unwrap_or(0);
    layout.grouping = rest.next_if(|c| ",_".contains(*c));
    if rest.next_if_eq(&'.').is_some() {
        let precision = digits(&mut rest)?;
        layout.precision = Some(precision.ok_or_else(|| bad("a format's . wants digits"))?);
    }
    layout.conversion = rest.next();
    match rest.next() {
        Some(_) => Err(bad(format!("{specification:?} is no format"))),
        None => Ok(layout),
    }
}
