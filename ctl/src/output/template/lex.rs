//! Splits a template into text and actions, and an action into tokens that know where they stand.

use super::TemplateError;

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// `.` alone.
    Dot,
    /// `.Name`.
    Field(String),
    /// `.Name` right after a field, a variable or a parenthesis: a field of that.
    Chain(String),
    /// `$` or `$name`.
    Variable(String),
    /// A keyword or a function.
    Word(String),
    Text(String),
    Int(i64),
    Float(f64),
    Pipe,
    Open,
    Close,
    Comma,
    Declare,
    Assign,
}

/// A token and the offset at which it begins.
pub type Placed = (Token, usize);

#[derive(Debug, PartialEq)]
pub enum Piece {
    Text(String),
    Action(Vec<Placed>, usize),
}

/// What an error of the parser is about: the whole template, and how far it was read.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub text: &'a str,
}

impl Source<'_> {
    /// `template: :LINE: what`.
    pub fn error(self, at: usize, what: impl AsRef<str>) -> TemplateError {
        let before = self.text.get(..at).unwrap_or(self.text);
        TemplateError(format!("template: :{}: {}", 1 + before.matches('\n').count(), what.as_ref()))
    }
}

/// Cuts at `{{` and `}}`, trimming blanks where `{{-` and `-}}` ask for it.
pub fn split(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let source = Source { text };
    let mut pieces = Vec::new();
    let mut at = 0;
    let mut trim_next = false;
    while let Some(open) = text[at..].find("{{").map(|open| at + open) {
        let mut before = &text[at..open];
        let mut inside = open + 2;
        if trim_next {
            before = before.trim_start();
        }
        if text[inside..].starts_with('-') && text[inside + 1..].starts_with(char::is_whitespace) {
            inside += 1;
            before = before.trim_end();
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_string()));
        }
        let (tokens, close) = action(source, inside)?;
        trim_next = text[..close].ends_with('-') && text[..close - 1].ends_with(char::is_whitespace);
        if let Some(tokens) = tokens {
            pieces.push(Piece::Action(tokens, open));
        }
        at = close + 2;
    }
    let last = if trim_next { text[at..].trim_start() } else { &text[at..] };
    if !last.is_empty() {
        pieces.push(Piece::Text(last.to_string()));
    }
    Ok(pieces)
}

/// The tokens up to `}}` and where that is; nothing for a comment.
fn action(source: Source<'_>, from: usize) -> Result<(Option<Vec<Placed>>, usize), TemplateError> {
    let text = source.text;
    let start = from + (text[from..].len() - text[from..].trim_start().len());
    if text[start..].starts_with("/*") {
        let end = text[start..].find("*/").ok_or_else(|| source.error(start, "unclosed comment"))?;
        let end = start + end + 2;
        let rest = text[end..].trim_start();
        let rest = rest.strip_prefix('-').unwrap_or(rest);
        return match rest.starts_with("}}") {
            true => Ok((None, text.len() - rest.len())),
            false => Err(source.error(end, "comment ends before closing delimiter")),
        };
    }
    let mut tokens: Vec<Placed> = Vec::new();
    let mut at = from;
    let mut glue = None;
    loop {
        let rest = &text[at..];
        let Some(first) = rest.chars().next() else { return Err(source.error(at, "unclosed action")) };
        if rest.starts_with("}}") {
            return Ok((Some(tokens), at));
        }
        if rest.starts_with("-}}") && text[..at].ends_with(char::is_whitespace) {
            at += 1;
            continue;
        }
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (token, length) = token(source, at, first)?;
        let glued = glue == Some(at)
            && matches!(
                tokens.last(),
                Some((Token::Field(_) | Token::Chain(_) | Token::Variable(_) | Token::Close, _))
            );
        let token = match token {
            Token::Field(name) if glued => Token::Chain(name),
            token => token,
        };
        tokens.push((token, at));
        at += length;
        glue = Some(at);
    }
}

fn token(source: Source<'_>, at: usize, first: char) -> Result<(Token, usize), TemplateError> {
    let rest = &source.text[at..];
    let error = |what: String| source.error(at, what);
    let name_length = |from: usize| {
        rest[from..].find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len() - from)
    };
    Ok(match first {
        '|' => (Token::Pipe, 1),
        '(' => (Token::Open, 1),
        ')' => (Token::Close, 1),
        ',' => (Token::Comma, 1),
        ':' if rest.starts_with(":=") => (Token::Declare, 2),
        ':' => return Err(error("expected :=".into())),
        '=' => (Token::Assign, 1),
        '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => match name_length(1) {
            0 => (Token::Dot, 1),
            length => (Token::Field(rest[1..1 + length].to_string()), 1 + length),
        },
        '$' => {
            let length = 1 + name_length(1);
            (Token::Variable(rest[..length].to_string()), length)
        }
        '"' => quoted(rest).map_err(|what| error(what.into()))?,
        '\'' => character(rest).map_err(|what| error(what.into()))?,
        '`' => {
            let end = rest[1..].find('`').ok_or_else(|| error("unterminated raw quoted string".into()))?;
            (Token::Text(rest[1..1 + end].to_string()), end + 2)
        }
        '0'..='9' | '-' | '+' | '.' => {
            let inner = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_');
            let length = 1 + rest[1..].find(inner).unwrap_or(rest.len() - 1);
            let word = &rest[..length];
            (number(word).ok_or_else(|| error(format!("bad number syntax: {word:?}")))?, length)
        }
        c if c.is_alphabetic() || c == '_' => {
            let length = name_length(0);
            (Token::Word(rest[..length].to_string()), length)
        }
        c => return Err(error(format!("bad character U+{:04X} '{c}'", u32::from(c)))),
    })
}

/// Go's integers, decimal, hexadecimal, octal or binary, and floating point numbers.
fn number(word: &str) -> Option<Token> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let plain = digits.replace('_', "").to_ascii_lowercase();
    let based = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(|(prefix, base)| plain.strip_prefix(prefix).map(|digits| (digits.to_string(), base)));
    let (digits, base) = based.unwrap_or((plain, 10));
    if let Ok(number) = u64::from_str_radix(&digits, base) {
        return i64::try_from(i128::from(number) * sign).ok().map(Token::Int);
    }
    let sound = base == 10 && digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = digits.parse().ok().filter(|_| sound)?;
    Some(Token::Float(number * sign as f64))
}

/// A string in quotes, with Go's escapes.
fn quoted(rest: &str) -> Result<(Token, usize), &'static str> {
    let mut text = String::new();
    let mut letters = rest.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((Token::Text(text), at + 1)),
            '\n' => break,
            '\\' => text.push(escaped(&mut letters).ok_or("unterminated quoted string")?),
            other => text.push(other),
        }
    }
    Err("unterminated quoted string")
}

/// `'a'`: the character's number.
fn character(rest: &str) -> Result<(Token, usize), &'static str> {
    const BROKEN: &str = "unterminated character constant";
    let mut letters = rest.char_indices().skip(1);
    let letter = match letters.next() {
        Some((_, '\\')) => escaped(&mut letters).ok_or(BROKEN)?,
        Some((_, letter)) if letter != '\'' && letter != '\n' => letter,
        _ => return Err(BROKEN),
    };
    match letters.next() {
        Some((at, '\'')) => Ok((Token::Int(i64::from(u32::from(letter))), at + 1)),
        _ => Err(BROKEN),
    }
}

fn escaped(letters: &mut impl Iterator<Item = (usize, char)>) -> Option<char> {
    let (_, letter) = letters.next()?;
    let mut number = |digits: usize, base: u32, first: u32| {
        let mut value = first;
        for _ in 0..digits {
            value = value.checked_mul(base)?.checked_add(letters.next()?.1.to_digit(base)?)?;
        }
        char::from_u32(value)
    };
    match letter {
        'a' => Some('\x07'),
        'b' => Some('\x08'),
        'f' => Some('\x0c'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'v' => Some('\x0b'),
        'x' => number(2, 16, 0),
        'u' => number(4, 16, 0),
        'U' => number(8, 16, 0),
        '0'..='7' => number(2, 8, letter.to_digit(8)?),
        '"' | '\\' | '\'' => Some(letter),
        _ => None,
    }
}
