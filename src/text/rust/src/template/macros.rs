//! Macros that read `varargs` or `kwargs`: what a call has beyond their parameters.
//!
//! `rewrite` gives such a macro parameters of these names; here its calls are sorted out.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Kwargs, Object};
use minijinja::{Error, State, Value};

use super::sequence::Tuple;

pub const VARARGS: &str = "varargs";
pub const KWARGS: &str = "kwargs";

/// The macro itself, or around it what sorts out its calls.
pub fn catching(value: Value) -> Result<Value, Error> {
    let names: Vec<String> = value
        .get_attr("arguments")?
        .try_iter()?
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let has = |name: &str| names.iter().any(|known| known == name);
    Ok(match has(VARARGS) || has(KWARGS) {
        true => Value::from_object(Catching { value, names }),
        false => value,
    })
}

struct Catching {
    value: Value,
    names: Vec<String>,
}

impl Catching {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }
}

impl fmt::Debug for Catching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value)
    }
}

impl Object for Catching {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.value
            .get_item(key)
            .ok()
            .filter(|value| !value.is_undefined())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["name", "arguments", "caller"])
    }

    fn call(self: &Arc<Self>, state: &State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let is_own = |name: &&String| *name == VARARGS || *name == KWARGS;
        let count = self.names.len() - self.names.iter().filter(is_own).count();
        let (mut place, named) = match args.split_last() {
            Some((last, rest)) if last.is_kwargs() => (rest, Some(last)),
            _ => (args, None),
        };
        let mut beyond: &[Value] = &[];
        if place.len() > count && self.has(VARARGS) {
            (place, beyond) = place.split_at(count);
        }
        let mut passed: Vec<(String, Value)> = Vec::new();
        let mut others: Vec<(String, Value)> = Vec::new();
        for key in named
            .into_iter()
            .flat_map(|named| named.try_iter())
            .flatten()
        {
            let value = named.map_or(Ok(Value::UNDEFINED), |named| named.get_item(&key))?;
            let name = key.as_str().unwrap_or_default().to_owned();
            let known = self.names[..count].contains(&name) || name == "caller";
            match known || !self.has(KWARGS) {
                true => passed.push((name, value)),
                false => others.push((name, value)),
            }
        }
        if self.has(VARARGS) {
            passed.push((VARARGS.into(), Tuple::value(beyond.to_vec())));
        }
        if self.has(KWARGS) {
            passed.push((KWARGS.into(), others.into_iter().collect()));
        }
        let kwargs = passed
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()));
        let mut args = place.to_vec();
        args.push(Kwargs::from_iter(kwargs).into());
        self.value.call(state, &args)
    }
}
