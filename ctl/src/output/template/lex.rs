//! Splits a template into text and actions, and an action into tokens.

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
    Pipe,
    Open,
    Close,
    Comma,
    Declare,
    Assign,
}

#[derive(Debug, PartialEq)]
pub enum Piece {
    Text(String),
    Action(Vec<Token>),
}

fn error(text: impl Into<String>) -> TemplateError {
    TemplateError(text.into())
}

/// Cuts at `{{` and `}}`, trimming blanks where `{{-` and `-}}` ask for it.
pub fn split(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    while let Some(at) = rest.find("{{") {
        let mut before = &rest[..at];
        let mut inside = &rest[at + 2..];
        if trim_next {
            before = before.trim_start();
        }
        if inside.starts_with("- ") {
            inside = &inside[1..];
            before = before.trim_end();
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_string()));
        }
        let (tokens, length) = action(inside)?;
        let consumed = &inside[..length];
        trim_next = consumed.ends_with(" -");
        rest = &inside[length + 2..];
        if let Some(tokens) = tokens {
            pieces.push(Piece::Action(tokens));
        }
    }
    let last = if trim_next { rest.trim_start() } else { rest };
    if !last.is_empty() {
        pieces.push(Piece::Text(last.to_string()));
    }
    Ok(pieces)
}

/// The tokens up to `}}` and how many bytes they take; nothing for a comment.
fn action(inside: &str) -> Result<(Option<Vec<Token>>, usize), TemplateError> {
    if inside.trim_start().starts_with("/*") {
        let end = inside.find("*/").ok_or_else(|| error("unclosed comment"))?;
        let close = inside[end..].find("}}").ok_or_else(|| error("comment ends before closing delimiter"))?;
        return Ok((None, end + close));
    }
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut glue = None;
    loop {
        let rest = &inside[at..];
        let mut letters = rest.chars();
        let Some(first) = letters.next() else { return Err(error("unclosed action")) };
        if rest.starts_with("}}") {
            return Ok((Some(tokens), at));
        }
        if rest.starts_with("-}}") {
            at += 1;
            continue;
        }
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (token, length) = token(rest, first)?;
        let glued = glue == Some(at)
            && matches!(
                tokens.last(),
                Some(Token::Field(_) | Token::Chain(_) | Token::Variable(_) | Token::Close)
            );
        tokens.push(match token {
            Token::Field(name) if glued => Token::Chain(name),
            token => token,
        });
        at += length;
        glue = Some(at);
    }
}

fn token(rest: &str, first: char) -> Result<(Token, usize), TemplateError> {
    let name_length = |from: usize| {
        rest[from..].find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len() - from)
    };
    Ok(match first {
        '|' => (Token::Pipe, 1),
        '(' => (Token::Open, 1),
        ')' => (Token::Close, 1),
        ',' => (Token::Comma, 1),
        ':' if rest.starts_with(":=") => (Token::Declare, 2),
        '=' => (Token::Assign, 1),
        '.' => match name_length(1) {
            0 => (Token::Dot, 1),
            length => (Token::Field(rest[1..1 + length].to_string()), 1 + length),
        },
        '$' => {
            let length = 1 + name_length(1);
            (Token::Variable(rest[..length].to_string()), length)
        }
        '"' => quoted(rest)?,
        '`' => {
            let end = rest[1..].find('`').ok_or_else(|| error("unterminated raw quoted string"))?;
            (Token::Text(rest[1..1 + end].to_string()), end + 2)
        }
        '0'..='9' | '-' | '+' => {
            let length = 1 + rest[1..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - 1);
            let number = rest[..length].parse();
            (
                Token::Int(number.map_err(|_| error(format!("bad number syntax: {:?}", &rest[..length])))?),
                length,
            )
        }
        c if c.is_alphabetic() || c == '_' => {
            let length = name_length(0);
            (Token::Word(rest[..length].to_string()), length)
        }
        c => return Err(error(format!("unexpected {c:?} in command"))),
    })
}

fn quoted(rest: &str) -> Result<(Token, usize), TemplateError> {
    let mut text = String::new();
    let mut letters = rest.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((Token::Text(text), at + 1)),
            '\n' => break,
            '\\' => match letters.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, 'r')) => text.push('\r'),
                Some((_, escaped @ ('"' | '\\' | '\''))) => text.push(escaped),
                Some((_, other)) => return Err(error(format!("the escape \\{other} is not supported"))),
                None => break,
            },
            other => text.push(other),
        }
    }
    Err(error("unterminated quoted string"))
}
