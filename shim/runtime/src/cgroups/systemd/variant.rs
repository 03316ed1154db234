//! The text form of typed values that annotations carry (`uint64 5`, `'text'`, `['a', 'b']`), GVariant's as far as unit
//! properties need it: basic types and arrays of them. Anything else is refused.

use super::value::Value;

/// Longest text that is read.
const TEXT_MAX: usize = 64 << 10;

/// Reads one value; the error says what is wrong.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    if text.len() > TEXT_MAX {
        return Err(format!("is longer than {TEXT_MAX} bytes"));
    }
    let mut parser = Parser { rest: text.trim() };
    let value = parser.value()?;
    match parser.rest.trim_start() {
        "" => Ok(value),
        rest => Err(format!("has {rest:?} after its end")),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn skip(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        self.rest
    }

    fn eat(&mut self, token: char) -> bool {
        let rest = self.skip().strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self) -> &'a str {
        let rest = self.skip();
        let end = rest.find(|c: char| c.is_whitespace() || ",[]()<>'\"".contains(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        self.rest = after;
        word
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.skip().chars().next() {
            None => Err("is empty".into()),
            Some('[') => self.array(),
            Some(quote @ ('\'' | '"')) => self.text(quote).map(Value::Str),
            Some('@' | '(' | '{' | '<') => {
                Err("has a form that is not taken; use basic types and arrays of them".into())
            }
            Some(_) => self.scalar(),
        }
    }

    fn scalar(&mut self) -> Result<Value, String> {
        let word = self.word();
        match word {
            "true" | "false" => return Ok(Value::Bool(word == "true")),
            "boolean" => {
                let value = self.word();
                return value.parse().map(Value::Bool).map_err(|_| format!("{value:?} is no boolean"));
            }
            "string" | "objectpath" => {
                let quote = self.skip().chars().next().filter(|c| matches!(c, '\'' | '"'));
                let text = self.text(quote.ok_or("needs quotes around its text")?)?;
                return Ok(if word == "string" { Value::Str(text) } else { Value::Path(text) });
            }
            "byte" | "int16" | "uint16" | "int32" | "uint32" | "int64" | "uint64" | "double" => {
                let digits = self.word();
                return number(word, digits).ok_or_else(|| format!("{digits:?} is no {word}"));
            }
            _ => {}
        }
        let kind = if word.contains('.') { "double" } else { "int32" };
        number(kind, word)
            .ok_or_else(|| format!("{word:?} is neither a number nor a known type; texts need quotes"))
    }

    fn text(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\0' => return Err("contains a NUL byte".into()),
                c if c == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Ok(text);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c @ ('\\' | '\'' | '"'))) => text.push(c),
                    other => {
                        return Err(format!("has the unknown escape \\{}", other.map_or(' ', |(_, c)| c)));
                    }
                },
                c => text.push(c),
            }
        }
        Err("has a text without an end".into())
    }

    fn array(&mut self) -> Result<Value, String> {
        self.eat('[');
        let mut values = Vec::new();
        while !self.eat(']') {
            if !values.is_empty() && !self.eat(',') {
                return Err("has an array without an end".into());
            }
            if self.skip().starts_with('[') {
                return Err("has an array in an array".into());
            }
            values.push(self.value()?);
        }
        let Some(first) = values.first() else {
            return Err("is an empty array, whose type is not known".into());
        };
        let element = first.signature();
        match values.iter().all(|value| value.signature() == element) {
            true => Ok(Value::Array(element, values)),
            false => Err("has an array of several types".into()),
        }
    }
}

fn number(kind: &str, digits: &str) -> Option<Value> {
    let (negative, magnitude) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits),
    };
    if kind == "double" {
        return digits.parse().ok().filter(|value: &f64| value.is_finite()).map(Value::Double);
    }
    // A sign after the prefix is not ours to take; what does not fit 64 bits fits no type.
    let value: u64 = match magnitude.strip_prefix("0x") {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok()?,
        Some(_) => return None,
        None => magnitude.bytes().all(|b| b.is_ascii_digit()).then(|| magnitude.parse().ok())??,
    };
    let value = if negative { -i128::from(value) } else { i128::from(value) };
    Some(match kind {
        "byte" => Value::Byte(value.try_into().ok()?),
        "int16" => Value::I16(value.try_into().ok()?),
        "uint16" => Value::U16(value.try_into().ok()?),
        "int32" => Value::I32(value.try_into().ok()?),
        "uint32" => Value::U32(value.try_into().ok()?),
        "int64" => Value::I64(value.try_into().ok()?),
        "uint64" => Value::U64(value.try_into().ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_their_type_are_refused() {
        for text in [
            "int64 -0x-80000000000000000000000000000000",
            "uint64 18446744073709551616",
            "int32 0x+1",
            "byte -1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("int64 -9223372036854775808").unwrap(), Value::I64(i64::MIN));
    }

    #[test]
    fn typed_texts() {
        assert_eq!(parse("uint64 123456789").unwrap(), Value::U64(123_456_789));
        assert_eq!(parse("'inactive-or-failed'").unwrap(), Value::str("inactive-or-failed"));
        assert_eq!(parse("\"it's\"").unwrap(), Value::str("it's"));
        assert_eq!(parse(" 456 ").unwrap(), Value::I32(456));
        assert_eq!(parse("true").unwrap(), Value::Bool(true));
        assert_eq!(parse("4.5").unwrap(), Value::Double(4.5));
        assert_eq!(
            parse("['a', 'b']").unwrap(),
            Value::Array("s".into(), vec![Value::str("a"), Value::str("b")])
        );
        assert_eq!(parse("[uint32 1]").unwrap(), Value::Array("u".into(), vec![Value::U32(1)]));
    }

    #[test]
    fn others_are_refused() {
        for text in [
            "",
            "abc",
            "'open",
            "byte 256",
            "[1, 'a']",
            "[[1]]",
            "[]",
            "@as []",
            "(1, 2)",
            "5 6",
            "uint64 -1",
            "'\\q'",
            "[1",
            "-",
            "0x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
