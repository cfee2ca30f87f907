//! Python's slices, for any step and any limits.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::budget::{self, charge};
use super::sequence::{Range, Tuple, View};
use super::text;

/// The indices that `[start:stop:step]` takes of a sequence, as CPython finds them.
struct Slice {
    next: i128,
    stop: i128,
    step: i128,
}

impl Slice {
    fn new(
        start: Option<i128>,
        stop: Option<i128>,
        step: Option<i128>,
        length: usize,
    ) -> Result<Slice, Error> {
        let step = step.unwrap_or(1);
        if step == 0 {
            return Err(budget::error("a slice's step cannot be 0"));
        }
        let length = length as i128;
        let (lowest, highest) = if step < 0 {
            (-1, length - 1)
        } else {
            (0, length)
        };
        let limit = |index: Option<i128>, default: i128| match index {
            None => default,
            Some(index) if index < 0 => index.saturating_add(length).max(lowest),
            Some(index) => index.min(highest),
        };
        let (first, last) = if step < 0 {
            (highest, lowest)
        } else {
            (lowest, highest)
        };
        Ok(Slice {
            next: limit(start, first),
            stop: limit(stop, last),
            step,
        })
    }
}

impl Iterator for Slice {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let more = if self.step < 0 {
            self.next > self.stop
        } else {
            self.next < self.stop
        };
        let index = usize::try_from(self.next).ok().filter(|_| more);
        self.next = self.next.saturating_add(self.step);
        index
    }
}

/// `value[start:stop:step]`.
pub fn slice(value: Value, start: Value, stop: Value, step: Value) -> Result<Value, Error> {
    let (start, stop, step) = (index(&start)?, index(&stop)?, index(&step)?);
    match (value.kind(), value.as_str()) {
        (ValueKind::Undefined, _) => Err(Error::from(ErrorKind::UndefinedError)),
        (ValueKind::String, Some(all)) => {
            charge(all.len().saturating_mul(size_of::<char>() + 1))?;
            let characters: Vec<char> = all.chars().collect();
            let taken = Slice::new(start, stop, step, characters.len())?;
            Ok(text::like(&value, taken.map(|at| characters[at]).collect()))
        }
        (ValueKind::Seq | ValueKind::Iterable, _) if View::of(&value).is_none() => {
            if let Some(range) = Range::of(&value) {
                let taken = Slice::new(start, stop, step, range.length())?;
                return range.slice(taken.next, taken.stop, taken.step);
            }
            charge(budget::size(&value))?;
            let items: Vec<Value> = value.try_iter()?.collect();
            let taken = Slice::new(start, stop, step, items.len())?;
            let taken = taken.map(|at| items[at].clone()).collect();
            Ok(Tuple::like(&value, taken))
        }
        (kind, _) => Err(budget::error(format!(
            "a value of type {kind} has no slices"
        ))),
    }
}

/// A limit of a slice: a whole number, or nothing.
fn index(limit: &Value) -> Result<Option<i128>, Error> {
    match limit.kind() {
        ValueKind::None => Ok(None),
        ValueKind::Bool => Ok(Some(limit.is_true().into())),
        ValueKind::Number if limit.is_integer() => {
            let huge = if limit < &Value::from(0) {
                i128::MIN
            } else {
                i128::MAX
            };
            Ok(Some(i128::try_from(limit.clone()).unwrap_or(huge)))
        }
        kind => Err(budget::error(format!(
            "a slice is limited by whole numbers, not by {kind}"
        ))),
    }
}
