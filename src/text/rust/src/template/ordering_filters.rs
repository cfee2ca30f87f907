//! Jinja2's filters that put values in order or into groups, as Python compares them.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::budget::{self, charge};
use super::order::{self, compare_keys, sort_key, sorted};
use super::sequence::{is_list, Tuple};
use super::{numbers, operators, strings};

pub fn add_to(env: &mut Environment) {
    env.add_filter("dictsort", dictsort);
    env.add_filter("sort", sort);
    env.add_filter("groupby", groupby);
    env.add_filter("unique", unique);
    env.add_filter("sum", sum);
    for (name, wanted) in [("min", Ordering::Less), ("max", Ordering::Greater)] {
        env.add_filter(
            name,
            move |value: Value, args: Rest<Value>, kwargs: Kwargs| {
                extreme(value, args, kwargs, wanted)
            },
        );
    }
}

/// Parameters of a filter by place or by name, those that are not given undefined.
fn given<const COUNT: usize>(
    names: [&'static str; COUNT],
    args: &[Value],
    kwargs: &Kwargs,
) -> Result<[Value; COUNT], Error> {
    if args.len() > COUNT {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut all = [const { Value::UNDEFINED }; COUNT];
    for (at, name) in names.into_iter().enumerate() {
        let named: Option<Value> = kwargs.get(name)?;
        all[at] = match (args.get(at), named) {
            (Some(_), Some(_)) => return Err(Error::from(ErrorKind::TooManyArguments)),
            (Some(value), None) => value.clone(),
            (None, named) => named.unwrap_or_default(),
        };
    }
    kwargs.assert_all_used()?;
    Ok(all)
}

/// The items of what a filter is given: an undefined value has none, and none is not gone through.
pub fn items(value: &Value) -> Result<Vec<Value>, Error> {
    let size = value
        .as_str()
        .map_or_else(|| value.len().unwrap_or(0), str::len);
    charge(size.saturating_mul(size_of::<Value>()))?;
    match value.kind() {
        ValueKind::None => Err(budget::error("none cannot be gone through")),
        _ => Ok(value.try_iter()?.collect()),
    }
}

/// An attribute of a value, by a name that may have dots and numbers.
fn attribute(value: &Value, name: &Value) -> Result<Value, Error> {
    let Some(name) = name.as_str() else {
        return value.get_item(name);
    };
    let mut value = value.clone();
    for part in name.split('.') {
        let index = part.parse::<usize>().ok();
        value = value.get_item(&index.map_or_else(|| Value::from(part), Value::from))?;
    }
    Ok(value)
}

/// Each item, and the keys that it is sorted by: attributes, between commas, or itself.
fn keyed(
    value: &Value,
    attributes: &Value,
    case_sensitive: bool,
) -> Result<Vec<(Value, Value)>, Error> {
    let names: Option<Vec<Value>> = match (attributes.kind(), attributes.as_str()) {
        (ValueKind::Undefined | ValueKind::None, _) => None,
        (_, Some(text)) => Some(text.split(',').map(Value::from).collect()),
        _ => Some(vec![attributes.clone()]),
    };
    let key = |item: &Value| match &names {
        None => Ok(sort_key(item.clone(), case_sensitive)),
        Some(names) => {
            let keys = names
                .iter()
                .map(|name| Ok(sort_key(attribute(item, name)?, case_sensitive)));
            Ok::<_, Error>(Value::from(keys.collect::<Result<Vec<_>, Error>>()?))
        }
    };
    let items = items(value)?.into_iter();
    items.map(|item| Ok((key(&item)?, item))).collect()
}

fn directed(reverse: bool) -> impl Fn(&Value, &Value) -> Result<Ordering, Error> {
    move |a, b| match reverse {
        // Equal ones keep their places, so the order is not the other one's reverse.
        true => compare_keys(b, a),
        false => compare_keys(a, b),
    }
}

fn dictsort(value: Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [case_sensitive, by, reverse] = given(["case_sensitive", "by", "reverse"], &args, &kwargs)?;
    let at = match by.as_str() {
        Some("key") => 0,
        Some("value") => 1,
        None if by.is_undefined() => 0,
        _ => return Err(budget::error("dictsort sorts by \"key\" or by \"value\"")),
    };
    let case_sensitive = case_sensitive.is_true();
    let pairs = items(&strings::view(&value, "items")?)?;
    let keyed = pairs.into_iter().map(|pair| {
        Ok((
            sort_key(pair.get_item(&Value::from(at))?, case_sensitive),
            pair,
        ))
    });
    let keyed = keyed.collect::<Result<Vec<_>, Error>>()?;
    let direction = directed(reverse.is_true());
    let sorted = sorted(keyed, &|a, b| direction(&a.0, &b.0))?;
    Ok(sorted.into_iter().map(|(_, pair)| pair).collect())
}

fn sort(value: Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [reverse, case_sensitive, attribute] =
        given(["reverse", "case_sensitive", "attribute"], &args, &kwargs)?;
    let keyed = keyed(&value, &attribute, case_sensitive.is_true())?;
    let direction = directed(reverse.is_true());
    let sorted = sorted(keyed, &|a, b| direction(&a.0, &b.0))?;
    Ok(sorted.into_iter().map(|(_, item)| item).collect())
}

/// Groups of items with the same attribute, in its order.
fn groupby(value: Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [name, default, case_sensitive] =
        given(["attribute", "default", "case_sensitive"], &args, &kwargs)?;
    let case_sensitive = case_sensitive.is_true();
    let key = |item: &Value| {
        let found = attribute(item, &name)?;
        Ok::<_, Error>(if found.is_undefined() {
            default.clone()
        } else {
            found
        })
    };
    let keyed = items(&value)?
        .into_iter()
        .map(|item| Ok((key(&item)?, item)))
        .collect::<Result<Vec<(Value, Value)>, Error>>()?;
    let folded = |key: &Value| sort_key(key.clone(), case_sensitive);
    let sorted = sorted(keyed, &|a, b| compare_keys(&folded(&a.0), &folded(&b.0)))?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in sorted {
        match groups.last_mut() {
            Some((known, group)) if order::equal(&folded(known), &folded(&key))? => {
                group.push(item);
            }
            _ => groups.push((key, vec![item])),
        }
    }
    let named = |(key, group)| Tuple::named(vec![key, Value::from(group)], &["grouper", "list"]);
    Ok(groups.into_iter().map(named).collect())
}

/// The first of each equal items, or of those with an equal attribute.
fn unique(value: Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [case_sensitive, attribute] = given(["case_sensitive", "attribute"], &args, &kwargs)?;
    let keyed = keyed(&value, &attribute, case_sensitive.is_true())?;
    let has_names = !attribute.is_undefined() && !attribute.is_none();
    // Tuples are looked for one by one, since minijinja takes them for lists.
    let (mut seen, mut tuples) = (BTreeSet::new(), Vec::new());
    let mut out = Vec::new();
    for (key, item) in keyed {
        budget::tick()?;
        let key = match has_names {
            true => key.get_item(&Value::from(0))?,
            false => numbers::counted(key),
        };
        let is_new = match key.kind() {
            _ if is_list(&key) => Err(budget::error("unique is not for lists")),
            ValueKind::Map => Err(budget::error("unique is not for maps")),
            ValueKind::Bool => Ok(seen.insert(Value::from(i64::from(key.is_true())))),
            ValueKind::Seq | ValueKind::Iterable => {
                let mut known = false;
                for other in &tuples {
                    known = known || order::equal(other, &key)?;
                }
                tuples.extend((!known).then_some(key));
                Ok(!known)
            }
            _ => Ok(seen.insert(key)),
        };
        if is_new? {
            out.push(item);
        }
    }
    Ok(Value::from(out))
}

fn sum(value: Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [name, start] = given(["attribute", "start"], &args, &kwargs)?;
    let mut total = match start.is_undefined() {
        true => Value::from(0),
        false => start,
    };
    if total.as_str().is_some() {
        return Err(budget::error("sum is not for texts; join them"));
    }
    for item in items(&value)? {
        let item = match name.kind() {
            ValueKind::Undefined | ValueKind::None => item,
            _ => attribute(&item, &name)?,
        };
        total = operators::sum(&total, &item)?;
    }
    Ok(total)
}

/// The least or the greatest value.
fn extreme(
    value: Value,
    args: Rest<Value>,
    kwargs: Kwargs,
    wanted: Ordering,
) -> Result<Value, Error> {
    let [case_sensitive, attribute] = given(["case_sensitive", "attribute"], &args, &kwargs)?;
    let mut best: Option<(Value, Value)> = None;
    for (key, item) in keyed(&value, &attribute, case_sensitive.is_true())? {
        match &best {
            Some((known, _)) if compare_keys(&key, known)? != wanted => {}
            _ => best = Some((key, item)),
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
}
