//! Python's sequences that are no lists: tuples, ranges, and what a dict shows of itself. They print,
//! add and compare unlike lists.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, ValueKind};
use minijinja::{Error, Value};

use super::budget;

#[derive(Debug)]
pub struct Tuple {
    items: Vec<Value>,
    /// Of a named tuple, whose items are also attributes.
    names: &'static [&'static str],
}

impl Tuple {
    pub fn value(items: Vec<Value>) -> Value {
        Tuple::named(items, &[])
    }

    pub fn named(items: Vec<Value>, names: &'static [&'static str]) -> Value {
        Value::from_object(Tuple { items, names })
    }

    pub fn of(value: &Value) -> Option<&[Value]> {
        value
            .downcast_object_ref::<Tuple>()
            .map(|tuple| &*tuple.items)
    }

    /// The items as a tuple where `like` is one, else as a list.
    pub fn like(like: &Value, items: Vec<Value>) -> Value {
        match Tuple::of(like) {
            Some(_) => Tuple::value(items),
            None => Value::from(items),
        }
    }
}

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let named = |name| self.names.iter().position(|known| *known == name);
        let at = key.as_str().map_or_else(|| key.as_usize(), named)?;
        self.items.get(at).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }
}

/// Whole numbers from one on, at equal distances.
#[derive(Debug, PartialEq)]
pub struct Range {
    start: i64,
    step: i64,
    length: usize,
    /// As it was written, to be printed.
    stop: i64,
}

impl Range {
    /// Longest range, as in Jinja2's sandbox.
    const MAX_LENGTH: i128 = 100_000;

    pub fn of(value: &Value) -> Option<&Range> {
        value.downcast_object_ref::<Range>()
    }

    /// range(stop), range(start, stop) and range(start, stop, step).
    pub fn make(args: Rest<Value>) -> Result<Value, Error> {
        let whole = |value: &Value| match value.kind() {
            ValueKind::Bool => Ok(i64::from(value.is_true())),
            _ if value.is_integer() => i64::try_from(value.clone()),
            kind => Err(budget::error(format!(
                "range is of whole numbers, not of {kind}"
            ))),
        };
        let (start, stop, step) = match &*args.0 {
            [stop] => (0, whole(stop)?, 1),
            [start, stop] => (whole(start)?, whole(stop)?, 1),
            [start, stop, step] => (whole(start)?, whole(stop)?, whole(step)?),
            _ => return Err(budget::error("range has one to three parameters")),
        };
        Range::value(start, stop, step)
    }

    fn value(start: i64, stop: i64, step: i64) -> Result<Value, Error> {
        if step == 0 {
            return Err(budget::error("a range's step cannot be 0"));
        }
        let distance = (i128::from(stop) - i128::from(start)) * i128::from(step.signum());
        let step_size = i128::from(step).abs();
        let length = (distance.max(0) + step_size - 1) / step_size;
        if length > Range::MAX_LENGTH {
            return Err(budget::error("a range has at most 100000 numbers"));
        }
        Ok(Value::from_object(Range {
            start,
            step,
            length: length as usize,
            stop,
        }))
    }

    pub fn length(&self) -> usize {
        self.length
    }

    /// The number at an index, which may also be just before or behind the range.
    fn at(&self, index: i128) -> i64 {
        let number = i128::from(self.start) + index * i128::from(self.step);
        number.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// What a slice takes of it, by CPython's indices of the slice.
    pub fn slice(&self, start: i128, stop: i128, step: i128) -> Result<Value, Error> {
        let step = i128::from(self.step).saturating_mul(step);
        let step = step.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        Range::value(self.at(start), self.at(stop), step)
    }

    /// Whether both have the same numbers.
    pub fn equals(&self, other: &Range) -> bool {
        self.length == other.length
            && (self.length == 0 || self.start == other.start)
            && (self.length <= 1 || self.step == other.step)
    }

    pub fn repr(&self) -> String {
        match self.step {
            1 => format!("range({}, {})", self.start, self.stop),
            step => format!("range({}, {}, {step})", self.start, self.stop),
        }
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let parts = [
            ("start", self.start),
            ("stop", self.stop),
            ("step", self.step),
        ];
        if let Some(name) = key.as_str() {
            let part = parts.iter().find(|(known, _)| *known == name);
            return part.map(|(_, number)| Value::from(*number));
        }
        let index = key.as_usize().filter(|index| *index < self.length)?;
        Some(Value::from(self.at(index as i128)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.length)
    }
}

/// What keys(), values() and items() of a dict give: they are gone through, and have no index.
#[derive(Debug)]
pub struct View {
    kind: &'static str,
    items: Vec<Value>,
}

impl View {
    pub fn value(kind: &'static str, items: Vec<Value>) -> Value {
        Value::from_object(View { kind, items })
    }

    /// Its Python type and its items.
    pub fn of(value: &Value) -> Option<(&'static str, &[Value])> {
        value
            .downcast_object_ref::<View>()
            .map(|view| (view.kind, &*view.items))
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }
}

/// Whether the value is a list, and not one of the above.
pub fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
        && Tuple::of(value).is_none()
        && Range::of(value).is_none()
        && View::of(value).is_none()
}
