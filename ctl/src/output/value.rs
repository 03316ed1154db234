//! The values that templates and JSON output are made of. Fields keep their order, and a struct is told apart
//! from a map, because a template's missing struct field is an error and a missing map key is not.

use std::collections::HashMap;

use serde::ser::{Serialize, SerializeMap, Serializer};

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    /// Known fields, in the order in which JSON shows them.
    Struct(Vec<(String, Value)>),
    /// Keys of the user's, sorted.
    Map(Vec<(String, Value)>),
}

/// A `Value::Struct` out of `"Field" => value` pairs.
#[macro_export]
macro_rules! fields {
    ($($name:literal => $value:expr),* $(,)?) => {
        $crate::output::value::Value::Struct(vec![
            $(($name.to_string(), $crate::output::value::Value::from($value))),*
        ])
    };
}

impl Value {
    pub fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Struct(fields) | Value::Map(fields) => {
                fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// Go's notion: empty, zero and nil are false.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Text(value) => !value.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Map(fields) => !fields.is_empty(),
            Value::Struct(_) => true,
        }
    }

    /// How many items or characters; nothing for what has no length.
    pub fn length(&self) -> Option<usize> {
        match self {
            Value::Text(text) => Some(text.len()),
            Value::List(items) => Some(items.len()),
            Value::Map(fields) => Some(fields.len()),
            _ => None,
        }
    }

    /// As Go's `%v` prints it.
    pub fn display(&self) -> String {
        match self {
            Value::Null => "<nil>".into(),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Text(value) => value.clone(),
            Value::List(items) => {
                format!("[{}]", items.iter().map(Value::display).collect::<Vec<_>>().join(" "))
            }
            Value::Struct(fields) => {
                format!(
                    "{{{}}}",
                    fields.iter().map(|(_, value)| value.display()).collect::<Vec<_>>().join(" ")
                )
            }
            Value::Map(fields) => {
                let pairs: Vec<_> =
                    fields.iter().map(|(key, value)| format!("{key}:{}", value.display())).collect();
                format!("map[{}]", pairs.join(" "))
            }
        }
    }

    /// Compact JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A row of a list as docker's JSON shows it: keys in alphabetical order, without the method `Label`, and with
    /// what could be mistaken for HTML escaped.
    pub fn row_json(&self) -> String {
        let text = match self {
            Value::Struct(fields) => {
                let mut fields: Vec<_> = fields.iter().filter(|(name, _)| name != "Label").cloned().collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Struct(fields).json()
            }
            other => other.json(),
        };
        text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
    }

    /// JSON with docker's indent of four.
    pub fn json_pretty(&self) -> String {
        let mut text = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, format);
        match self.serialize(&mut serializer) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(_) => String::new(),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i64(*value),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::Text(value) => serializer.serialize_str(value),
            Value::List(items) => serializer.collect_seq(items),
            Value::Struct(fields) | Value::Map(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Value {
        match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(value) => match value.as_i64() {
                Some(value) => Value::Int(value),
                None => Value::Float(value.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(value) => Value::Text(value),
            serde_json::Value::Array(items) => Value::List(items.into_iter().map(Value::from).collect()),
            serde_json::Value::Object(fields) => {
                Value::Map(fields.into_iter().map(|(key, value)| (key, value.into())).collect())
            }
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Int(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Value {
        Value::Int(value.into())
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Value {
        Value::Int(value.into())
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Value {
        Value::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Value {
        Value::from(value as u64)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Float(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::Text(value.to_string())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Value {
        Value::Text(value)
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Value {
        Value::Text(value.clone())
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Value {
        Value::List(items.into_iter().map(Into::into).collect())
    }
}

impl<T: Clone + Into<Value>> From<&[T]> for Value {
    fn from(items: &[T]) -> Value {
        Value::List(items.iter().cloned().map(Into::into).collect())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

impl From<&HashMap<String, String>> for Value {
    fn from(map: &HashMap<String, String>) -> Value {
        let mut pairs: Vec<_> =
            map.iter().map(|(key, value)| (key.clone(), Value::Text(value.clone()))).collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        Value::Map(pairs)
    }
}
