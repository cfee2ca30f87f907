//! Python's tuples, which print and add unlike lists.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::Value;

#[derive(Debug)]
pub struct Tuple(Vec<Value>);

impl Tuple {
    pub fn value(items: Vec<Value>) -> Value {
        Value::from_object(Tuple(items))
    }

    pub fn of(value: &Value) -> Option<&[Value]> {
        value.downcast_object_ref::<Tuple>().map(|tuple| &*tuple.0)
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
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}
