//! Python's arithmetic: of numbers, texts, lists and tuples.

use std::cell::RefCell;

use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, Value};

use super::budget::{self, charge};
use super::numbers;
use super::sequence::{is_list, Tuple};
use super::{format, text};

/// Names that no template can write.
pub const ADD: &str = "+add";
pub const MULTIPLY: &str = "+multiply";
/// After minijinja's own operator on what ADD or MULTIPLY gave it.
pub const RESULT: &str = "+result";
pub const SUBTRACT: &str = "+subtract";
pub const DIVIDE: &str = "+divide";
pub const FLOOR_DIVIDE: &str = "+floor_divide";
pub const REMAINDER: &str = "+remainder";
pub const POWER: &str = "+power";
pub const NEGATE: &str = "+negate";

pub fn add_to(env: &mut Environment) {
    env.add_function(ADD, |operands: Value| own_or_native(operands, add));
    env.add_function(MULTIPLY, |operands: Value| {
        own_or_native(operands, multiply)
    });
    env.add_function(RESULT, |native: Value| RESULT_OF.take().unwrap_or(native));
    env.add_function(SUBTRACT, |a: Value, b: Value| {
        calculate("-", &a, &b, i128::checked_sub, |a, b| a - b)
    });
    env.add_function(DIVIDE, |a: Value, b: Value| match divisible(&a, &b)? {
        Numbers::Whole(a, b) => Ok(Value::from(a as f64 / b as f64)),
        Numbers::Real(a, b) => Ok::<_, Error>(Value::from(a / b)),
    });
    env.add_function(FLOOR_DIVIDE, floor_divide);
    env.add_function(REMAINDER, remainder);
    env.add_function(POWER, power);
    env.add_function(NEGATE, |a: Value| {
        calculate("-", &Value::from(0), &a, i128::checked_sub, |_, a| -a)
    });
}

thread_local! {
    /// What ADD or MULTIPLY has computed itself.
    static RESULT_OF: RefCell<Option<Value>> = const { RefCell::new(None) };
}

/// Lists are minijinja's, which joins them without copying. So the operands are handed on, in the
/// order that UnpackList wants, or two that cost nothing when the result is here already.
fn own_or_native(
    operands: Value,
    operator: fn(&Value, &Value) -> Result<Option<Value>, Error>,
) -> Result<Value, Error> {
    let operands: Vec<Value> = operands.try_iter()?.map(numbers::counted).collect();
    let [left, right] = operands.as_slice() else {
        return Err(budget::error("an operator has two operands"));
    };
    let own = operator(left, right)?;
    let operands = match own {
        Some(_) => [Value::from(0), Value::from(0)],
        None => [right.clone(), left.clone()],
    };
    RESULT_OF.set(own);
    Ok(operands.into_iter().collect())
}

fn limit_list(items: usize) -> Result<(), Error> {
    if items > budget::MAX_ITEMS {
        return Err(budget::refuse("the chat template makes too long a list"));
    }
    budget::tick()
}

fn add(left: &Value, right: &Value) -> Result<Option<Value>, Error> {
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        charge(a.len() + b.len())?;
        return Ok(Some(match (left.is_safe(), right.is_safe()) {
            (false, false) => Value::from([a, b].concat()),
            // A text that is safe makes the other one so.
            (true, false) => Value::from_safe_string([a, &text::escaped(b)?].concat()),
            (false, true) => Value::from_safe_string([&text::escaped(a)?, b].concat()),
            (true, true) => Value::from_safe_string([a, b].concat()),
        }));
    }
    match (Tuple::of(left), Tuple::of(right)) {
        (Some(a), Some(b)) => {
            limit_list(a.len() + b.len())?;
            charge((a.len() + b.len()) * size_of::<Value>())?;
            return Ok(Some(Tuple::value([a, b].concat())));
        }
        (None, None) if is_list(left) && is_list(right) => {
            let lengths = [left, right].map(|list| list.len().unwrap_or(0));
            limit_list(lengths[0].saturating_add(lengths[1]))?;
            return Ok(None);
        }
        _ => {}
    }
    calculate("+", left, right, i128::checked_add, |a, b| a + b).map(Some)
}

fn multiply(left: &Value, right: &Value) -> Result<Option<Value>, Error> {
    for (value, factor) in [(left, right), (right, left)] {
        let Ok(factor) = i64::try_from(factor.clone()) else {
            continue;
        };
        let factor = usize::try_from(factor).unwrap_or(0);
        if let Some(text) = value.as_str() {
            charge(text.len().saturating_mul(factor))?;
            return Ok(Some(text::like(value, text.repeat(factor))));
        }
        if is_list(value) || Tuple::of(value).is_some() {
            let size = value.len().unwrap_or(0);
            // An empty list is gone through as often, too.
            limit_list(size.max(1).saturating_mul(factor))?;
            if factor == 0 {
                return Ok(Some(Tuple::like(value, Vec::new())));
            }
            if let Some(items) = Tuple::of(value) {
                charge(size * factor * size_of::<Value>())?;
                return Ok(Some(Tuple::value(
                    std::iter::repeat_n(items, factor)
                        .flatten()
                        .cloned()
                        .collect(),
                )));
            }
            return Ok(None);
        }
    }
    calculate("*", left, right, i128::checked_mul, |a, b| a * b).map(Some)
}

pub enum Numbers {
    Whole(i128, i128),
    Real(f64, f64),
}

/// Two numbers, whole when both are; true and false count as 1 and 0. None when one is no number.
pub fn both(left: &Value, right: &Value) -> Option<Numbers> {
    let (left, right) = (
        numbers::counted(left.clone()),
        numbers::counted(right.clone()),
    );
    let whole = |value: &Value| match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        _ if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    };
    let real = |value: &Value| match whole(value) {
        Some(whole) => Some(whole as f64),
        None => f64::try_from(value.clone())
            .ok()
            .filter(|_| value.is_number()),
    };
    Some(match (whole(&left), whole(&right)) {
        (Some(left), Some(right)) => Numbers::Whole(left, right),
        _ => Numbers::Real(real(&left)?, real(&right)?),
    })
}

fn unsupported(operator: &str, left: &Value, right: &Value) -> Error {
    budget::error(format!(
        "{operator} is not for a {} and a {}",
        left.kind(),
        right.kind()
    ))
}

fn calculate(
    operator: &str,
    left: &Value,
    right: &Value,
    whole: fn(i128, i128) -> Option<i128>,
    real: fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    match both(left, right).ok_or_else(|| unsupported(operator, left, right))? {
        Numbers::Whole(a, b) => integer(whole(a, b)),
        Numbers::Real(a, b) => Ok(Value::from(real(a, b))),
    }
}

/// Two numbers of which the second is not zero.
fn divisible(left: &Value, right: &Value) -> Result<Numbers, Error> {
    match both(left, right).ok_or_else(|| unsupported("a division", left, right))? {
        Numbers::Whole(_, 0) => Err(budget::error("division by zero")),
        Numbers::Real(_, 0.0) => Err(budget::error("division by zero")),
        numbers => Ok(numbers),
    }
}

/// What `is divisibleby` asks.
pub fn is_divisible(number: Value, by: Value) -> Result<bool, Error> {
    Ok(match divisible(&number, &by)? {
        Numbers::Whole(a, b) => a.checked_rem(b).unwrap_or(0) == 0,
        Numbers::Real(a, b) => a % b == 0.0,
    })
}

pub fn integer(number: Option<i128>) -> Result<Value, Error> {
    let number = number.ok_or_else(|| budget::error("a number is too large"))?;
    Ok(i64::try_from(number).map_or_else(|_| Value::from(number), Value::from))
}

/// Python's %: the remainder has the divisor's sign, and a string is a format.
pub fn remainder(left: Value, right: Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        let right = text::escaped_operand(&left, right)?;
        return Ok(text::like(&left, format::printf(format, &right)?));
    }
    match divisible(&left, &right)? {
        Numbers::Whole(a, b) => {
            let rest = a.checked_rem(b);
            let fits = |rest: i128| rest == 0 || (rest < 0) == (b < 0);
            integer(rest.map(|rest| if fits(rest) { rest } else { rest + b }))
        }
        Numbers::Real(a, b) => {
            let rest = a % b;
            Ok(Value::from(match rest {
                0.0 => 0f64.copysign(b),
                rest if (rest < 0.0) != (b < 0.0) => rest + b,
                rest => rest,
            }))
        }
    }
}

/// Python's //, rounded down.
fn floor_divide(left: Value, right: Value) -> Result<Value, Error> {
    match divisible(&left, &right)? {
        Numbers::Whole(a, b) => {
            let inexact = a.checked_rem(b).is_some_and(|rest| rest != 0);
            let down = i128::from(inexact && (a < 0) != (b < 0));
            integer(a.checked_div(b).map(|quotient| quotient - down))
        }
        Numbers::Real(a, b) => Ok(Value::from((a / b).floor())),
    }
}

/// Python's **: a whole number's negative power is a fraction.
fn power(left: Value, right: Value) -> Result<Value, Error> {
    match both(&left, &right).ok_or_else(|| unsupported("**", &left, &right))? {
        Numbers::Whole(a, b) if b >= 0 => {
            integer(u32::try_from(b).ok().and_then(|b| a.checked_pow(b)))
        }
        Numbers::Whole(0, _) => Err(budget::error("division by zero")),
        Numbers::Whole(a, b) => Ok(Value::from((a as f64).powf(b as f64))),
        Numbers::Real(0.0, b) if b < 0.0 => Err(budget::error("division by zero")),
        Numbers::Real(a, b) if a < 0.0 && b.fract() != 0.0 => {
            Err(budget::error("a negative number's power is no real number"))
        }
        Numbers::Real(a, b) => Ok(Value::from(a.powf(b))),
    }
}

/// What `+` makes of two values.
pub fn sum(left: &Value, right: &Value) -> Result<Value, Error> {
    match add(
        &numbers::counted(left.clone()),
        &numbers::counted(right.clone()),
    )? {
        Some(sum) => Ok(sum),
        None => {
            let items = left.try_iter()?.chain(right.try_iter()?);
            charge((left.len().unwrap_or(0) + right.len().unwrap_or(0)) * size_of::<Value>())?;
            Ok(items.collect())
        }
    }
}

/// The items of a tuple as a template writes it.
pub fn tuple(items: Rest<Value>) -> Result<Value, Error> {
    limit_list(items.len())?;
    Ok(Tuple::value(items.0))
}
