//! The parser: one pass over the text, errors that give the place.

use std::iter::Peekable;
use std::str::CharIndices;

use super::{Filter, MAX_FILTER, MAX_FILTERS, Selector, Test};
use crate::error::{Error, Result};

/// Most bytes a compiled regular expression may take.
const MAX_REGEX: usize = 256 * 1024;

pub fn all<S: AsRef<str>>(filters: &[S]) -> Result<Filter> {
    if filters.len() > MAX_FILTERS {
        return Err(Error::ResourceExhausted {
            what: format!("{} filters", filters.len()),
            limit: "filters of one request",
            max: MAX_FILTERS as u64,
        });
    }
    let alternatives = filters.iter().map(|filter| one(filter.as_ref())).collect::<Result<Vec<_>>>()?;
    // An empty filter matches everything, and so does a list with one.
    if alternatives.iter().any(Vec::is_empty) {
        return Ok(Filter::default());
    }
    Ok(Filter { alternatives })
}

fn one(text: &str) -> Result<Vec<Selector>> {
    if text.len() > MAX_FILTER {
        return Err(Error::ResourceExhausted {
            what: format!("filter of {} bytes", text.len()),
            limit: "bytes of one filter",
            max: MAX_FILTER as u64,
        });
    }
    let mut parser = Parser { text, chars: text.char_indices().peekable() };
    let mut selectors = Vec::new();
    if text.trim().is_empty() {
        return Ok(selectors);
    }
    loop {
        selectors.push(parser.selector()?);
        parser.space();
        match parser.chars.next() {
            None => return Ok(selectors),
            Some((_, ',')) => {}
            Some((at, found)) => return Err(parser.refuse(at, format!("expected ',' but found {found:?}"))),
        }
    }
}

/// What a value may be quoted by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Double,
    /// For regular expressions: `/` and `|`, too.
    Any,
}

struct Parser<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

impl Parser<'_> {
    fn selector(&mut self) -> Result<Selector> {
        self.space();
        let mut path = vec![self.segment()?];
        while self.take('.') {
            path.push(self.segment()?);
        }
        self.space();
        let test = match self.operator()? {
            None => Test::Present,
            Some("==") => Test::Equal(self.value(Quotes::Double)?),
            Some("!=") => Test::NotEqual(self.value(Quotes::Double)?),
            Some(_) => {
                let at = self.position();
                let pattern = self.value(Quotes::Any)?;
                let regex = regex::RegexBuilder::new(&pattern)
                    .size_limit(MAX_REGEX)
                    .dfa_size_limit(MAX_REGEX)
                    .build()
                    .map_err(|error| self.refuse(at, format!("bad regular expression: {error}")))?;
                Test::Matches(regex)
            }
        };
        Ok(Selector { path, test })
    }

    fn segment(&mut self) -> Result<String> {
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let word = self.run(|c| c == '_' || c.is_ascii_alphanumeric());
        if word.is_empty() {
            let at = self.position();
            return Err(self.refuse(at, "expected a field name".into()));
        }
        Ok(word)
    }

    fn operator(&mut self) -> Result<Option<&'static str>> {
        let at = self.position();
        let (first, operator) = match self.peek() {
            Some('=') => ('=', "=="),
            Some('!') => ('!', "!="),
            Some('~') => ('~', "~="),
            _ => return Ok(None),
        };
        if self.take(first) && self.take('=') {
            return Ok(Some(operator));
        }
        Err(self.refuse(at, "unknown operator: ==, != and ~= exist".into()))
    }

    fn value(&mut self, quotes: Quotes) -> Result<String> {
        self.space();
        let at = self.position();
        match self.peek() {
            Some('"') => return self.quoted(),
            Some('/' | '|') if quotes == Quotes::Any => return self.quoted(),
            Some('/' | '|') => {
                let why = "a value after == or != is quoted by '\"'; '/' and '|' are for ~=";
                return Err(self.refuse(at, why.into()));
            }
            Some('.' | '=' | '!' | '~') => {
                return Err(self.refuse(at, "a value that begins so must be quoted".into()));
            }
            _ => {}
        }
        let value = self.run(|c| c != ',' && !c.is_whitespace() && !c.is_control());
        if value.is_empty() {
            let at = self.position();
            return Err(self.refuse(at, "expected a value".into()));
        }
        Ok(value)
    }

    fn quoted(&mut self) -> Result<String> {
        let start = self.position();
        let Some((_, quote)) = self.chars.next() else {
            return Err(self.refuse(start, "expected a quote".into()));
        };
        let mut value = Vec::new();
        loop {
            match self.chars.next() {
                None | Some((_, '\n')) => return Err(self.refuse(start, "this quote is not closed".into())),
                Some((_, c)) if c == quote => break,
                Some((at, '\\')) => self.escape(at, quote, &mut value)?,
                Some((_, c)) => push(&mut value, c),
            }
        }
        String::from_utf8(value).map_err(|_| self.refuse(start, "the escapes do not make UTF-8".into()))
    }

    fn escape(&mut self, at: usize, quote: char, value: &mut Vec<u8>) -> Result<()> {
        let escaped = self.chars.next().map(|(_, c)| c);
        if let Some(plain) = escaped.and_then(|c| plain_escape(c, quote)) {
            push(value, plain);
            return Ok(());
        }
        let (code, digits, radix) = match escaped {
            Some('x') => (0, 2, 16),
            Some('u') => (0, 4, 16),
            Some('U') => (0, 8, 16),
            Some(c @ '0'..='7') => (u32::from(c) - u32::from('0'), 2, 8),
            _ => return Err(self.refuse(at, "unknown escape".into())),
        };
        let code = self.number(at, code, digits, radix)?;
        if digits == 2 {
            let byte = u8::try_from(code).map_err(|_| self.refuse(at, "this escape is over 255".into()))?;
            value.push(byte);
            return Ok(());
        }
        let c = char::from_u32(code).ok_or_else(|| self.refuse(at, "this escape is no character".into()))?;
        push(value, c);
        Ok(())
    }

    fn number(&mut self, at: usize, first: u32, digits: u32, radix: u32) -> Result<u32> {
        let mut code = first;
        for _ in 0..digits {
            let digit = self.chars.next().and_then(|(_, c)| c.to_digit(radix));
            let Some(digit) = digit else {
                return Err(self.refuse(at, "this escape has too few digits".into()));
            };
            code = code.wrapping_mul(radix) | digit;
        }
        Ok(code)
    }

    fn space(&mut self) {
        self.run(char::is_whitespace);
    }

    fn run(&mut self, belongs: impl Fn(char) -> bool) -> String {
        let mut run = String::new();
        while let Some((_, c)) = self.chars.next_if(|&(_, c)| belongs(c)) {
            run.push(c);
        }
        run
    }

    fn take(&mut self, wanted: char) -> bool {
        self.chars.next_if(|&(_, c)| c == wanted).is_some()
    }

    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|&(_, c)| c)
    }

    fn position(&mut self) -> usize {
        self.chars.peek().map_or(self.text.len(), |&(at, _)| at)
    }

    fn refuse(&self, at: usize, why: String) -> Error {
        Error::invalid(format!("filter {:?}", self.text), format!("at byte {at}: {why}"))
    }
}

/// Escapes of one character.
fn plain_escape(c: char, quote: char) -> Option<char> {
    Some(match c {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '\\' => '\\',
        c if c == quote => c,
        _ => return None,
    })
}

fn push(value: &mut Vec<u8>, c: char) {
    value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
