//! What is equal and what comes first, as Python compares: values of unlike types are unequal and have
//! no order, and a list is no tuple.

use std::cmp::Ordering;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::budget::{self, charge, MAX_NESTING};
use super::numbers;
use super::operators::{both, Numbers};
use super::sequence::{is_list, Range, Tuple, View};

/// Names that no template can write.
pub const EQUAL: &str = "+equal";
pub const UNEQUAL: &str = "+unequal";
pub const LESS: &str = "+less";
pub const LESS_OR_EQUAL: &str = "+less_or_equal";
pub const GREATER: &str = "+greater";
pub const GREATER_OR_EQUAL: &str = "+greater_or_equal";
pub const CONTAINS: &str = "+contains";
const LACKS: &str = "+lacks";

/// Before a loop: what it goes through.
pub const ITERATED: &str = "+iterated";
/// `value[key]` and `value.name`.
pub const ITEM: &str = "+item";

type Comparison = fn(&Value, &Value) -> Result<bool, Error>;

/// The same within a chain of comparisons, where the right operand is kept, in minijinja's order.
pub const CHAINED: [&str; 8] = [
    "+chained_equal",
    "+chained_unequal",
    "+chained_less",
    "+chained_less_or_equal",
    "+chained_greater",
    "+chained_greater_or_equal",
    "+chained_contains",
    "+chained_lacks",
];

/// The operators, in the same order, by the names of their functions and those of tests that are the same.
const COMPARISONS: [(&str, &[&str], Comparison); 8] = [
    (EQUAL, &["eq", "equalto", "=="], equal),
    (UNEQUAL, &["ne", "!="], |a, b| Ok(!equal(a, b)?)),
    (LESS, &["lt", "lessthan", "<"], |a, b| {
        ordered(a, b, Ordering::is_lt)
    }),
    (LESS_OR_EQUAL, &["le", "<="], |a, b| {
        ordered(a, b, Ordering::is_le)
    }),
    (GREATER, &["gt", "greaterthan", ">"], |a, b| {
        ordered(a, b, Ordering::is_gt)
    }),
    (GREATER_OR_EQUAL, &["ge", ">="], |a, b| {
        ordered(a, b, Ordering::is_ge)
    }),
    (CONTAINS, &["in"], |item, all| contains(all, item)),
    (LACKS, &[], |item, all| Ok(!contains(all, item)?)),
];

pub fn add_to(env: &mut Environment) {
    for ((name, tests, compare), chained) in COMPARISONS.into_iter().zip(CHAINED) {
        env.add_function(name, move |a: Value, b: Value| compare(&a, &b));
        env.add_function(chained, move |operands: Value| {
            let operands: Vec<Value> = operands.try_iter()?.collect();
            let [a, b] = operands.as_slice() else {
                return Err(budget::error("an operator has two operands"));
            };
            // In the order that UnpackList wants: the right operand stays below the answer.
            Ok::<_, Error>(Value::from(vec![Value::from(compare(a, b)?), b.clone()]))
        });
        for test in tests {
            env.add_test(*test, move |a: Value, b: Value| compare(&a, &b));
        }
    }
    env.add_function(ITERATED, iterated);
    env.add_function(ITEM, item);
}

pub fn equal(a: &Value, b: &Value) -> Result<bool, Error> {
    equal_at(a, b, 0)
}

fn equal_at(a: &Value, b: &Value, depth: usize) -> Result<bool, Error> {
    check(depth)?;
    if let Some(numbers) = both(a, b) {
        return Ok(match numbers {
            Numbers::Whole(a, b) => a == b,
            Numbers::Real(a, b) => a == b,
        });
    }
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return Ok(a == b);
    }
    if let (Some(a), Some(b)) = (Range::of(a), Range::of(b)) {
        return Ok(a.equals(b));
    }
    if let Some((a, b)) = like_sequences(a, b) {
        let [mut a, mut b] = [a.try_iter()?, b.try_iter()?];
        loop {
            match (a.next(), b.next()) {
                (None, None) => return Ok(true),
                (Some(a), Some(b)) if equal_at(&a, &b, depth + 1)? => {}
                _ => return Ok(false),
            }
        }
    }
    match (a.kind(), b.kind()) {
        (ValueKind::Map, ValueKind::Map) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for key in a.try_iter()? {
                let other = b.get_item(&key)?;
                if other.is_undefined() || !equal_at(&a.get_item(&key)?, &other, depth + 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (ValueKind::Seq | ValueKind::Iterable, _) | (_, ValueKind::Seq | ValueKind::Iterable) => {
            Ok(match (View::of(a), View::of(b)) {
                // Keys and items are sets; values are equal to nothing.
                (Some((of_a, a)), Some((of_b, b))) if of_a == of_b && of_a != "dict_values" => {
                    a.len() == b.len() && a.iter().all(|key| b.contains(key))
                }
                _ => false,
            })
        }
        (of_a, of_b) => Ok(of_a == of_b && a == b),
    }
}

fn check(depth: usize) -> Result<(), Error> {
    if depth > MAX_NESTING {
        return Err(budget::refuse(
            "the chat template compares too deep a value",
        ));
    }
    budget::tick()
}

/// Both, if they are two lists or two tuples.
fn like_sequences<'a>(a: &'a Value, b: &'a Value) -> Option<(&'a Value, &'a Value)> {
    let tuples = Tuple::of(a).is_some() && Tuple::of(b).is_some();
    (tuples || (is_list(a) && is_list(b))).then_some((a, b))
}

/// Which of two values of one type comes first; None where NaN makes that no question.
pub fn compare(a: &Value, b: &Value) -> Result<Option<Ordering>, Error> {
    compare_at(a, b, 0)
}

fn compare_at(a: &Value, b: &Value, depth: usize) -> Result<Option<Ordering>, Error> {
    check(depth)?;
    if a.is_undefined() || b.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    if let Some(numbers) = both(a, b) {
        return Ok(match numbers {
            Numbers::Whole(a, b) => Some(a.cmp(&b)),
            Numbers::Real(a, b) => a.partial_cmp(&b),
        });
    }
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return Ok(Some(a.cmp(b)));
    }
    let Some((left, right)) = like_sequences(a, b) else {
        let [a, b] = [a, b].map(|value| value.kind());
        return Err(budget::error(format!("{a} and {b} have no order")));
    };
    let [mut left, mut right] = [left.try_iter()?, right.try_iter()?];
    loop {
        match (left.next(), right.next()) {
            (Some(a), Some(b)) if equal_at(&a, &b, depth + 1)? => {}
            (Some(a), Some(b)) => return compare_at(&a, &b, depth + 1),
            (a, b) => return Ok(Some(a.is_some().cmp(&b.is_some()))),
        }
    }
}

fn ordered(a: &Value, b: &Value, wanted: fn(Ordering) -> bool) -> Result<bool, Error> {
    Ok(compare(a, b)?.is_some_and(wanted))
}

/// Python's `item in all`.
fn contains(all: &Value, item: &Value) -> Result<bool, Error> {
    const BYTES_PER_CHARGE: usize = 16;
    charge((budget::size(all) + budget::size(item)) / BYTES_PER_CHARGE)?;
    if let Some(text) = all.as_str() {
        return match item.as_str() {
            Some(part) => Ok(text.contains(part)),
            None => Err(budget::error("only a text can be in a text")),
        };
    }
    match all.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::Map => {
            let key = numbers::counted(item.clone());
            let object = all.as_object();
            Ok(object.is_some_and(|map| map.get_value(&key).is_some()))
        }
        ValueKind::None => Err(budget::error("nothing can be in none")),
        _ => {
            for one in all.try_iter()? {
                if equal(&one, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// A stable sort, that ends where two values have no order.
pub fn sorted<T>(
    items: Vec<T>,
    compare: &dyn Fn(&T, &T) -> Result<Ordering, Error>,
) -> Result<Vec<T>, Error> {
    if items.len() < 2 {
        return Ok(items);
    }
    let mut left = items;
    let right = left.split_off(left.len() / 2);
    let mut out = Vec::with_capacity(left.len() + right.len());
    let mut left = sorted(left, compare)?.into_iter().peekable();
    let mut right = sorted(right, compare)?.into_iter().peekable();
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        match compare(a, b)? {
            Ordering::Greater => out.extend(right.next()),
            _ => out.extend(left.next()),
        }
    }
    out.extend(left);
    out.extend(right);
    Ok(out)
}

/// A value by which something is sorted: texts without regard to case, unless asked to.
pub fn sort_key(value: Value, case_sensitive: bool) -> Value {
    match value.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => value,
    }
}

/// Which of two keys comes first; NaN is equal to all, so that it stays where it is.
pub fn compare_keys(a: &Value, b: &Value) -> Result<Ordering, Error> {
    Ok(compare(a, b)?.unwrap_or(Ordering::Equal))
}

fn iterated(value: Value) -> Result<Value, Error> {
    budget::tick()?;
    match (value.kind(), value.as_str()) {
        (ValueKind::None, _) => Err(budget::error("none cannot be gone through")),
        (ValueKind::String, Some(text)) => characters(&value, text),
        _ => Ok(value),
    }
}

/// The characters of a text, as a list that knows its length.
fn characters(value: &Value, text: &str) -> Result<Value, Error> {
    charge(text.len().saturating_mul(size_of::<Value>()))?;
    let all = text
        .chars()
        .map(|c| super::text::like(value, c.to_string()));
    Ok(Value::from(all.collect::<Vec<_>>()))
}

fn item(value: Value, key: Value) -> Result<Value, Error> {
    budget::tick()?;
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    if View::of(&value).is_some() {
        return Ok(Value::UNDEFINED);
    }
    let key = numbers::counted(key);
    let is_index = matches!(value.kind(), ValueKind::Seq | ValueKind::String);
    match key.kind() {
        ValueKind::Number if is_index && !key.is_integer() => Ok(Value::UNDEFINED),
        ValueKind::Bool if is_index => value.get_item(&Value::from(i64::from(key.is_true()))),
        _ => value.get_item(&key),
    }
}
