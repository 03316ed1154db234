//! The functions of templates: Go's own and docker's.

use std::cmp::Ordering;

use super::printf;
use crate::output::value::Value;

/// Those that leave a column's heading as it is.
pub const IN_HEADINGS: &[&str] = &["json", "join", "lower", "pad", "split", "title", "truncate", "upper"];

/// The most of blanks that `pad` adds on a side.
const MAX_PAD: usize = 1024;

/// How many arguments a function takes: exactly so many, or at least.
fn arity(function: &str) -> (usize, bool) {
    match function {
        "json" | "upper" | "lower" | "title" | "len" | "not" => (1, true),
        "split" | "join" | "truncate" | "ne" | "lt" | "le" | "gt" | "ge" => (2, true),
        "pad" => (3, true),
        "index" | "slice" | "and" | "or" | "eq" | "printf" | "call" => (1, false),
        _ => (0, false),
    }
}

/// What is said about a wrong number of arguments.
pub fn wrong_count(function: &str, count: usize) -> Option<String> {
    match arity(function) {
        (wanted, true) if count != wanted => {
            Some(format!("wrong number of args for {function}: want {wanted} got {count}"))
        }
        (wanted, false) if count < wanted => {
            Some(format!("wrong number of args for {function}: want at least {wanted} got {count}"))
        }
        _ => None,
    }
}

/// The first argument whose type the function cannot take, and the type that it wants.
pub fn wrong_type(function: &str, arguments: &[Value]) -> Option<(usize, &'static str)> {
    let text = |value: &Value| matches!(value, Value::Text(_));
    let int = |value: &Value| matches!(value, Value::Int(_));
    let list = |value: &Value| matches!(value, Value::List(_) | Value::Null);
    type Check<'a> = (&'static str, &'a dyn Fn(&Value) -> bool);
    let wanted: &[Check<'_>] = match function {
        "upper" | "lower" | "title" => &[("string", &text)],
        "split" => &[("string", &text), ("string", &text)],
        "join" => &[("[]string", &list), ("string", &text)],
        "truncate" => &[("string", &text), ("int", &int)],
        "pad" => &[("string", &text), ("int", &int), ("int", &int)],
        "printf" => &[("string", &text)],
        _ => &[],
    };
    wanted
        .iter()
        .zip(arguments)
        .position(|((_, fits), argument)| !fits(argument))
        .map(|index| (index, wanted[index].0))
}

/// Calls a function whose arguments have been counted and looked at.
pub fn call(function: &str, arguments: &[Value]) -> Result<Value, String> {
    let flag = |value: bool| Ok(Value::Bool(value));
    match (function, arguments) {
        ("json", [value]) => Ok(Value::Text(value.json())),
        ("upper", [value]) => Ok(Value::Text(value.display().to_uppercase())),
        ("lower", [value]) => Ok(Value::Text(value.display().to_lowercase())),
        ("title", [value]) => Ok(Value::Text(title(&value.display()))),
        ("split", [Value::Text(text), Value::Text(by)]) => Ok(split(text, by)),
        ("join", [Value::List(items), Value::Text(by)]) => {
            Ok(Value::Text(items.iter().map(Value::display).collect::<Vec<_>>().join(by)))
        }
        ("join", _) => Ok(Value::Text(String::new())),
        ("truncate", [Value::Text(text), Value::Int(length)]) => {
            Ok(Value::Text(text.chars().take(usize::try_from(*length).unwrap_or(0)).collect()))
        }
        ("pad", [Value::Text(text), Value::Int(before), Value::Int(after)]) => {
            let blanks = |count: &i64| " ".repeat(usize::try_from(*count).unwrap_or(0).min(MAX_PAD));
            Ok(Value::Text(match text.is_empty() {
                true => String::new(),
                false => format!("{}{text}{}", blanks(before), blanks(after)),
            }))
        }
        ("len", [value]) => {
            value.length().map(Value::from).ok_or_else(|| format!("len of type {}", kind(value)))
        }
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), |value, key| index(&value, key)),
        ("slice", [value, bounds @ ..]) => slice(value, bounds),
        ("print", values) => Ok(Value::Text(printf::print(values))),
        ("println", values) => {
            Ok(Value::Text(values.iter().map(Value::display).collect::<Vec<_>>().join(" ") + "\n"))
        }
        ("printf", [Value::Text(format), values @ ..]) => Ok(Value::Text(printf::printf(format, values))),
        ("html", values) => Ok(Value::Text(html(&printf::print(values)))),
        ("js", values) => Ok(Value::Text(js(&printf::print(values)))),
        ("urlquery", values) => Ok(Value::Text(urlquery(&printf::print(values)))),
        ("call", [value, ..]) => Err(format!("non-function of type {}", kind(value))),
        ("not", [value]) => flag(!value.is_true()),
        ("and" | "or", [.., last]) => Ok(last.clone()),
        ("eq", [_]) => Err("missing argument for comparison".into()),
        ("eq", [value, others @ ..]) => {
            for other in others {
                if equal(value, other)? {
                    return flag(true);
                }
            }
            flag(false)
        }
        ("ne", [a, b]) => flag(!equal(a, b)?),
        ("lt", [a, b]) => flag(order(a, b)? == Ordering::Less),
        ("le", [a, b]) => flag(order(a, b)? != Ordering::Greater),
        ("gt", [a, b]) => flag(order(a, b)? == Ordering::Greater),
        ("ge", [a, b]) => flag(order(a, b)? != Ordering::Less),
        _ => Err("these arguments make no sense".into()),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float64",
        Value::Text(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Struct(_) | Value::Map(_) => "map[string]interface {}",
    }
}

fn split(text: &str, by: &str) -> Value {
    match by.is_empty() {
        true => Value::List(text.chars().map(|letter| Value::Text(letter.into())).collect()),
        false => Value::List(text.split(by).map(Value::from).collect()),
    }
}

fn title(text: &str) -> String {
    let mut start = true;
    let capital = |letter: char| {
        let first = start;
        start = !letter.is_alphanumeric() && letter != '_' && letter != '\'';
        if first { letter.to_uppercase().collect::<String>() } else { letter.to_string() }
    };
    text.chars().map(capital).collect()
}

fn index(value: &Value, key: &Value) -> Result<Value, String> {
    match (value, key) {
        (Value::List(items), Value::Int(at)) => usize::try_from(*at)
            .ok()
            .and_then(|at| items.get(at).cloned())
            .ok_or_else(|| format!("index out of range: {at}")),
        (Value::Text(text), Value::Int(at)) => usize::try_from(*at)
            .ok()
            .and_then(|at| text.as_bytes().get(at))
            .map(|byte| Value::Int(i64::from(*byte)))
            .ok_or_else(|| format!("index out of range: {at}")),
        (Value::List(_) | Value::Text(_), _) => {
            Err(format!("cannot index slice/array with type {}", kind(key)))
        }
        (Value::Map(_) | Value::Struct(_), Value::Text(name)) => {
            Ok(value.field(name).cloned().unwrap_or(Value::Null))
        }
        (Value::Map(_) | Value::Struct(_), _) => {
            Err(format!("value has type {}; should be string", kind(key)))
        }
        (Value::Null, _) => Err("index of untyped nil".into()),
        _ => Err(format!("can't index item of type {}", kind(value))),
    }
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, String> {
    let length = match value {
        Value::List(_) | Value::Text(_) => value.length().unwrap_or(0),
        _ => return Err(format!("can't slice item of type {}", kind(value))),
    };
    if bounds.len() > 3 {
        return Err(format!("too many slice indexes: {}", bounds.len()));
    }
    let mut places = [0, length, length];
    for (place, bound) in places.iter_mut().zip(bounds) {
        *place = match bound {
            Value::Int(at) => usize::try_from(*at)
                .ok()
                .filter(|at| *at <= length)
                .ok_or_else(|| format!("index out of range: {at}"))?,
            other => return Err(format!("cannot index slice/array with type {}", kind(other))),
        };
    }
    let [from, to, _] = places;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    match value {
        Value::List(items) => Ok(Value::List(items.get(from..to).unwrap_or_default().to_vec())),
        other => {
            let text = other.display();
            let bytes = text.as_bytes().get(from..to).unwrap_or_default();
            Ok(Value::Text(String::from_utf8_lossy(bytes).into_owned()))
        }
    }
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::List(_) | Value::Map(_) | Value::Struct(_), _) => {
            Err(format!("non-comparable type {}: {}", a.display(), kind(a)))
        }
        (_, Value::List(_) | Value::Map(_) | Value::Struct(_)) => {
            Err(format!("non-comparable type {}: {}", b.display(), kind(b)))
        }
        (Value::Null, b) => Ok(*b == Value::Null),
        (_, Value::Null) => Ok(false),
        (a, b) if std::mem::discriminant(a) == std::mem::discriminant(b) => Ok(a == b),
        _ => Err("incompatible types for comparison".into()),
    }
}

fn order(a: &Value, b: &Value) -> Result<Ordering, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Bool(_), Value::Bool(_)) => return Err("invalid type for comparison".into()),
        _ => None,
    }
    .ok_or_else(|| "incompatible types for comparison".into())
}

fn html(text: &str) -> String {
    let escape = |letter: char| match letter {
        '&' => "&amp;".to_string(),
        '<' => "&lt;".into(),
        '>' => "&gt;".into(),
        '"' => "&#34;".into(),
        '\'' => "&#39;".into(),
        '\0' => "\u{fffd}".into(),
        other => other.to_string(),
    };
    text.chars().map(escape).collect()
}

fn js(text: &str) -> String {
    let escape = |letter: char| match letter {
        '\\' => "\\\\".to_string(),
        '\'' => "\\'".into(),
        '"' => "\\\"".into(),
        '<' | '>' | '&' | '=' => format!("\\u{:04X}", u32::from(letter)),
        control if control.is_control() => format!("\\u{:04X}", u32::from(control)),
        other => other.to_string(),
    };
    text.chars().map(escape).collect()
}

fn urlquery(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        b' ' => "+".into(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}
