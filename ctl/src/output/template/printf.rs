//! Go's `print` and `printf` for the values that templates have.

use crate::output::value::Value;

/// The widest that one verb is made, and the most digits after a point.
const MAX_WIDTH: usize = 1024;

/// Operands after one another, a blank between two that are no text.
pub fn print(values: &[Value]) -> String {
    let mut text = String::new();
    for (at, value) in values.iter().enumerate() {
        let is_text = |value: &Value| matches!(value, Value::Text(_));
        if at > 0 && !is_text(value) && !is_text(&values[at - 1]) {
            text.push(' ');
        }
        text.push_str(&value.display());
    }
    text
}

/// The flags, width and precision of one verb.
#[derive(Default)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// Never fails: what makes no sense is said in the text, as Go says it.
pub fn printf(format: &str, values: &[Value]) -> String {
    let mut text = String::new();
    let mut next = values.iter();
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = letters.next_if(|letter| "-+# 0".contains(*letter)) {
            match flag {
                '-' => spec.minus = true,
                '+' => spec.plus = true,
                '#' => spec.sharp = true,
                ' ' => spec.space = true,
                _ => spec.zero = true,
            }
        }
        spec.width = number(&mut letters);
        if letters.next_if_eq(&'.').is_some() {
            spec.precision = Some(number(&mut letters));
        }
        match letters.next() {
            None => text.push_str("%!(NOVERB)"),
            Some('%') => text.push('%'),
            Some(verb) => match next.next() {
                None => text.push_str(&format!("%!{verb}(MISSING)")),
                Some(value) => text.push_str(&spec.pad(spec.verb(verb, value), value)),
            },
        }
    }
    let extra: Vec<String> = next.map(|value| format!("{}={}", kind(value), value.display())).collect();
    if !extra.is_empty() {
        text.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    text
}

/// The digits that come next, as a number that is no wider than a template may ask.
fn number(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> usize {
    let mut value = 0_usize;
    while let Some(digit) = letters.next_if(char::is_ascii_digit) {
        value = (value * 10 + digit.to_digit(10).unwrap_or(0) as usize).min(MAX_WIDTH);
    }
    value
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float64",
        Value::Text(_) => "string",
        Value::List(_) => "[]string",
        Value::Struct(_) | Value::Map(_) => "map[string]string",
    }
}

impl Spec {
    fn verb(&self, verb: char, value: &Value) -> String {
        match (verb, value) {
            ('T', value) => kind(value).into(),
            // Lists and maps have the verb applied to each of theirs.
            ('s' | 'q' | 'd' | 'x' | 'X', Value::List(items)) => {
                format!("[{}]", items.iter().map(|item| self.verb(verb, item)).collect::<Vec<_>>().join(" "))
            }
            ('s' | 'q' | 'd' | 'x' | 'X', Value::Map(fields)) => {
                let pair = |(key, value): &(String, Value)| {
                    format!("{}:{}", self.verb(verb, &Value::Text(key.clone())), self.verb(verb, value))
                };
                format!("map[{}]", fields.iter().map(pair).collect::<Vec<_>>().join(" "))
            }
            ('v' | 'd', Value::Int(number)) => self.signed(*number),
            ('v' | 'g', Value::Float(number)) => number.to_string(),
            ('f' | 'F', Value::Float(number)) => format!("{number:.*}", self.precision.unwrap_or(6)),
            ('e', Value::Float(number)) => exponent(*number, self.precision.unwrap_or(6)),
            ('v', Value::Text(text)) if self.sharp => Value::Text(text.clone()).json(),
            ('v' | 's', Value::Text(text)) => match self.precision {
                Some(length) => text.chars().take(length).collect(),
                None => text.clone(),
            },
            ('q', Value::Text(text)) => Value::Text(text.clone()).json(),
            ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
            ('X', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
            ('x', Value::Int(number)) => self.based(*number, "0x", |number| format!("{number:x}")),
            ('X', Value::Int(number)) => self.based(*number, "0X", |number| format!("{number:X}")),
            ('o', Value::Int(number)) => self.based(*number, "0", |number| format!("{number:o}")),
            ('b', Value::Int(number)) => self.based(*number, "0b", |number| format!("{number:b}")),
            ('c', Value::Int(number)) => character(*number).to_string(),
            ('q', Value::Int(number)) => format!("'{}'", character(*number)),
            ('U', Value::Int(number)) => format!("U+{number:04X}"),
            ('t' | 'v', Value::Bool(flag)) => flag.to_string(),
            ('v', value) => value.display(),
            (verb, Value::Null) => format!("%!{verb}(<nil>)"),
            (verb, value) => format!("%!{verb}({}={})", kind(value), value.display()),
        }
    }

    fn signed(&self, number: i64) -> String {
        match () {
            () if number >= 0 && self.plus => format!("+{number}"),
            () if number >= 0 && self.space => format!(" {number}"),
            () => number.to_string(),
        }
    }

    fn based(&self, number: i64, prefix: &str, write: fn(u64) -> String) -> String {
        let sign = if number < 0 { "-" } else { "" };
        format!("{sign}{}{}", if self.sharp { prefix } else { "" }, write(number.unsigned_abs()))
    }

    fn pad(&self, text: String, value: &Value) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        let is_number = matches!(value, Value::Int(_) | Value::Float(_));
        match () {
            () if missing == 0 => text,
            () if self.minus => text + &" ".repeat(missing),
            () if self.zero && is_number => {
                let digits = text.trim_start_matches(['-', '+']).to_string();
                let sign = &text[..text.len() - digits.len()];
                format!("{sign}{}{digits}", "0".repeat(missing))
            }
            () => " ".repeat(missing) + &text,
        }
    }
}

fn character(number: i64) -> char {
    u32::try_from(number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}')
}

/// `1.500000e+03`.
fn exponent(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    match text.split_once('e') {
        Some((mantissa, power)) => {
            let (sign, digits) = match power.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', power),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}
