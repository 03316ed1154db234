//! D-Bus values and their bytes: little-endian, aligned as the specification says, bounded.

/// Deepest nesting that is read; the specification's own limit is 64 in all.
const DEPTH_MAX: u32 = 32;

/// A value with its type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Str(String),
    Path(String),
    Signature(String),
    /// With the signature of its elements, as it may be empty.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(crate) fn str(text: impl Into<String>) -> Value {
        Value::Str(text.into())
    }

    pub(crate) fn variant(value: Value) -> Value {
        Value::Variant(Box::new(value))
    }

    /// Its type as the wire spells it.
    pub(crate) fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".into(),
            Value::Bool(_) => "b".into(),
            Value::I16(_) => "n".into(),
            Value::U16(_) => "q".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::Double(_) => "d".into(),
            Value::Str(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => {
                let inner: String = fields.iter().map(Value::signature).collect();
                format!("({inner})")
            }
            Value::Variant(_) => "v".into(),
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) | Value::Path(text) => Some(text),
            Value::Variant(inner) => inner.as_str(),
            _ => None,
        }
    }

    /// Appends it to a message whose first byte is the first of `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        pad(out, alignment(self.signature().as_bytes()[0]));
        match self {
            Value::Byte(value) => out.push(*value),
            Value::Bool(value) => out.extend(u32::from(*value).to_le_bytes()),
            Value::I16(value) => out.extend(value.to_le_bytes()),
            Value::U16(value) => out.extend(value.to_le_bytes()),
            Value::I32(value) => out.extend(value.to_le_bytes()),
            Value::U32(value) => out.extend(value.to_le_bytes()),
            Value::I64(value) => out.extend(value.to_le_bytes()),
            Value::U64(value) => out.extend(value.to_le_bytes()),
            Value::Double(value) => out.extend(value.to_le_bytes()),
            Value::Str(text) | Value::Path(text) => {
                out.extend((text.len() as u32).to_le_bytes());
                out.extend(text.bytes().chain([0]));
            }
            Value::Signature(text) => {
                out.push(text.len() as u8);
                out.extend(text.bytes().chain([0]));
            }
            Value::Array(element, values) => write_array(element, values, out),
            Value::Struct(fields) => fields.iter().for_each(|field| field.write(out)),
            Value::Variant(value) => {
                Value::Signature(value.signature()).write(out);
                value.write(out);
            }
        }
    }
}

/// The length counts from the first element, without the padding before it.
fn write_array(element: &str, values: &[Value], out: &mut Vec<u8>) {
    let length_at = out.len();
    out.extend([0; 4]);
    pad(out, alignment(element.as_bytes()[0]));
    let start = out.len();
    values.iter().for_each(|value| value.write(out));
    let length = ((out.len() - start) as u32).to_le_bytes();
    out[length_at..length_at + 4].copy_from_slice(&length);
}

pub(crate) fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment), 0);
}

fn alignment(kind: u8) -> usize {
    match kind {
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b's' | b'o' | b'a' => 4,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 1,
    }
}

/// Reads values out of a message; `None` wherever the message is not what it says.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// `at` counts from the message's first byte, as alignment does.
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Reader<'a> {
        Reader { bytes, at }
    }

    /// The values of a whole signature.
    pub(crate) fn all(&mut self, signature: &str) -> Option<Vec<Value>> {
        let mut rest = signature.as_bytes();
        let mut values = Vec::new();
        while !rest.is_empty() {
            let (one, after) = rest.split_at(complete(rest, DEPTH_MAX)?);
            values.push(self.value(one, DEPTH_MAX)?);
            rest = after;
        }
        Some(values)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = std::str::from_utf8(self.take(length)?).ok()?.to_owned();
        (self.take(1)? == [0]).then_some(text)
    }

    fn value(&mut self, signature: &[u8], depth: u32) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        let kind = *signature.first()?;
        self.at = self.at.next_multiple_of(alignment(kind));
        Some(match kind {
            b'y' => Value::Byte(self.number::<1>()?[0]),
            b'b' => Value::Bool(u32::from_le_bytes(self.number()?) != 0),
            b'n' => Value::I16(i16::from_le_bytes(self.number()?)),
            b'q' => Value::U16(u16::from_le_bytes(self.number()?)),
            b'i' => Value::I32(i32::from_le_bytes(self.number()?)),
            b'u' | b'h' => Value::U32(u32::from_le_bytes(self.number()?)),
            b'x' => Value::I64(i64::from_le_bytes(self.number()?)),
            b't' => Value::U64(u64::from_le_bytes(self.number()?)),
            b'd' => Value::Double(f64::from_le_bytes(self.number()?)),
            b's' | b'o' => {
                let length = u32::from_le_bytes(self.number()?) as usize;
                let text = self.text(length)?;
                if kind == b's' { Value::Str(text) } else { Value::Path(text) }
            }
            b'g' => Value::Signature(self.signature()?),
            b'v' => {
                let inner = self.signature()?;
                if complete(inner.as_bytes(), depth)? != inner.len() {
                    return None;
                }
                Value::variant(self.value(inner.as_bytes(), depth)?)
            }
            b'(' | b'{' => {
                let mut rest = signature.get(1..signature.len() - 1)?;
                let mut fields = Vec::new();
                while !rest.is_empty() {
                    let (one, after) = rest.split_at(complete(rest, depth)?);
                    fields.push(self.value(one, depth)?);
                    rest = after;
                }
                Value::Struct(fields)
            }
            b'a' => self.array(signature.get(1..)?, depth)?,
            _ => return None,
        })
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.number::<1>()?[0]);
        self.text(length)
    }

    fn array(&mut self, element: &[u8], depth: u32) -> Option<Value> {
        let length = u32::from_le_bytes(self.number()?) as usize;
        self.at = self.at.next_multiple_of(alignment(*element.first()?));
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let mut values = Vec::new();
        while self.at < end {
            values.push(self.value(element, depth)?);
        }
        (self.at == end).then(|| Value::Array(String::from_utf8_lossy(element).into_owned(), values))
    }
}

/// The length of the first complete type of a signature.
fn complete(signature: &[u8], depth: u32) -> Option<usize> {
    let depth = depth.checked_sub(1)?;
    match *signature.first()? {
        b'a' => Some(1 + complete(&signature[1..], depth)?),
        open @ (b'(' | b'{') => {
            let close = if open == b'(' { b')' } else { b'}' };
            let mut at = 1;
            while *signature.get(at)? != close {
                at += complete(&signature[at..], depth)?;
            }
            // An empty structure would be read without end.
            (at > 1).then_some(at + 1)
        }
        kind => b"ybnqiuxtdsoghv".contains(&kind).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_wire() {
        let list = Value::Array(
            "(sv)".into(),
            vec![
                Value::Struct(vec![
                    Value::str("PIDs"),
                    Value::variant(Value::Array("u".into(), vec![Value::U32(7)])),
                ]),
                Value::Struct(vec![Value::str("Delegate"), Value::variant(Value::Bool(true))]),
                Value::Struct(vec![
                    Value::str("DeviceAllow"),
                    Value::variant(Value::Array("(ss)".into(), Vec::new())),
                ]),
            ],
        );
        let values =
            [Value::str("a.scope"), Value::Byte(3), list, Value::U64(9), Value::Double(0.5), Value::I16(-1)];
        let mut bytes = Vec::new();
        values.iter().for_each(|value| value.write(&mut bytes));
        let signature: String = values.iter().map(Value::signature).collect();
        assert_eq!(signature, "sya(sv)tdn");
        assert_eq!(Reader::new(&bytes, 0).all(&signature).unwrap(), values);
        // Cut anywhere, it is refused.
        for end in 0..bytes.len() {
            assert_eq!(Reader::new(&bytes[..end], 0).all(&signature), None);
        }
    }

    #[test]
    fn odd_signatures_are_refused() {
        let deep = "a".repeat(100) + "y";
        for signature in ["(", "a", "()", "{s", "z", "a()", deep.as_str()] {
            assert_eq!(Reader::new(&[0; 64], 0).all(signature), None, "{signature}");
        }
        // A variant of a variant of …
        let nested = b"\x01v\0".repeat(100);
        assert_eq!(Reader::new(&nested, 0).all("v"), None);
    }
}
