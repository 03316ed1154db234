//! Builds the tree of a template. Each node knows where it stands and how it reads, for the errors.

use std::fmt;

use super::TemplateError;
use super::lex::{Piece, Placed, Source, Token};
use crate::output::value::Value;

/// Parentheses and blocks within one another.
const MAX_DEPTH: usize = 64;

/// Functions that there are, docker's and Go's.
pub const FUNCTIONS: &[&str] = &[
    "and", "call", "eq", "ge", "gt", "html", "index", "join", "js", "json", "le", "len", "lower", "lt", "ne",
    "not", "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate", "upper",
    "urlquery",
];

#[derive(Debug)]
pub enum Node {
    Text(String),
    Show(Pipeline),
    If { condition: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    With { value: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    Range { items: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
    Break,
    Continue,
}

/// Commands, each given the result of the one before as its last argument.
#[derive(Debug)]
pub struct Pipeline {
    /// `$x :=`, or `$i, $x :=` in a range.
    pub variables: Vec<String>,
    /// `=`: the variables exist already.
    pub assigns: bool,
    pub commands: Vec<Command>,
    pub at: usize,
}

#[derive(Debug)]
pub struct Command {
    /// The function, and where its name stands.
    pub function: Option<String>,
    pub arguments: Vec<Operand>,
    pub at: usize,
}

#[derive(Debug)]
pub struct Operand {
    pub kind: Kind,
    pub at: usize,
}

#[derive(Debug)]
pub enum Kind {
    Dot,
    /// A value and how it was written.
    Literal(Value, String),
    Fields(Box<Operand>, Vec<String>),
    Variable(String),
    Nested(Pipeline),
    /// A function without arguments in the place of an argument.
    Function(String),
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Dot => f.write_str("."),
            Kind::Literal(_, text) | Kind::Variable(text) | Kind::Function(text) => f.write_str(text),
            Kind::Fields(base, names) => {
                if !matches!(base.kind, Kind::Dot) {
                    write!(f, "{base}")?;
                }
                names.iter().try_for_each(|name| write!(f, ".{name}"))
            }
            Kind::Nested(pipeline) => write!(f, "({pipeline})"),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.function.iter().cloned().chain(self.arguments.iter().map(ToString::to_string));
        f.write_str(&words.collect::<Vec<_>>().join(" "))
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.variables.is_empty() {
            write!(f, "{} {} ", self.variables.join(", "), if self.assigns { "=" } else { ":=" })?;
        }
        f.write_str(&self.commands.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "))
    }
}

pub fn parse(text: &str, pieces: Vec<Piece>) -> Result<Vec<Node>, TemplateError> {
    let source = Source { text };
    let mut parser = Parser { source, pieces: pieces.into_iter(), variables: vec!["$".into()], ranges: 0 };
    match parser.block(0)? {
        (nodes, Closed::Eof) => Ok(nodes),
        (_, Closed::Else(_, at)) => Err(source.error(at, "unexpected {{else}}")),
        (_, Closed::End(at)) => Err(source.error(at, "unexpected {{end}}")),
    }
}

/// What closed a block.
enum Closed {
    Eof,
    End(usize),
    Else(Vec<Placed>, usize),
}

struct Parser<'a> {
    source: Source<'a>,
    pieces: std::vec::IntoIter<Piece>,
    /// Those that are known here.
    variables: Vec<String>,
    /// Ranges around us.
    ranges: usize,
}

impl Parser<'_> {
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, Closed), TemplateError> {
        if depth > MAX_DEPTH {
            return Err(self.source.error(0, format!("more than {MAX_DEPTH} blocks within one another")));
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (tokens, at) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens, at) => (tokens, at),
            };
            let word = match tokens.first() {
                Some((Token::Word(word), _)) => word.as_str(),
                _ => "",
            };
            match word {
                "end" => return Ok((nodes, Closed::End(at))),
                "else" => return Ok((nodes, Closed::Else(tokens[1..].to_vec(), at))),
                "if" | "with" | "range" => nodes.push(self.control(&tokens, at, depth)?),
                "break" | "continue" if self.ranges == 0 => {
                    return Err(self.source.error(at, format!("{{{{{word}}}}} outside {{{{range}}}}")));
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" | "template" | "block" => {
                    return Err(self.source.error(at, format!("{word:?} is not supported in --format")));
                }
                _ => nodes.push(Node::Show(self.pipeline(&tokens, at, "command", depth)?)),
            }
        }
        Ok((nodes, Closed::Eof))
    }

    /// `if`, `with` and `range`, their `else` and their `end`.
    fn control(&mut self, tokens: &[Placed], at: usize, depth: usize) -> Result<Node, TemplateError> {
        let Some((Token::Word(word), _)) = tokens.first() else {
            return Err(self.source.error(at, "unexpected token in {{else}}"));
        };
        let outer = self.variables.len();
        let head = self.pipeline(&tokens[1..], at, word, depth)?;
        let ranges = usize::from(word == "range");
        self.ranges += ranges;
        let (then, end) = self.block(depth + 1)?;
        self.ranges -= ranges;
        let otherwise = match end {
            Closed::End(_) => Vec::new(),
            Closed::Eof => return Err(self.source.error(self.source.text.len(), "unexpected EOF")),
            Closed::Else(rest, _) if rest.is_empty() => match self.block(depth + 1)? {
                (nodes, Closed::End(_)) => nodes,
                (_, Closed::Else(_, at)) => {
                    return Err(self.source.error(at, "expected end; found {{else}}"));
                }
                (_, Closed::Eof) => {
                    return Err(self.source.error(self.source.text.len(), "unexpected EOF"));
                }
            },
            // `{{else if …}}` is an if in the else that shares its end.
            Closed::Else(rest, at) => vec![self.control(&rest, at, depth + 1)?],
        };
        self.variables.truncate(outer);
        Ok(match word.as_str() {
            "if" => Node::If { condition: head, then, otherwise },
            "with" => Node::With { value: head, then, otherwise },
            _ => Node::Range { items: head, body: then, otherwise },
        })
    }

    fn pipeline(
        &mut self,
        tokens: &[Placed],
        at: usize,
        within: &str,
        depth: usize,
    ) -> Result<Pipeline, TemplateError> {
        if depth > MAX_DEPTH {
            return Err(self
                .source
                .error(at, format!("more than {MAX_DEPTH} parentheses within one another")));
        }
        let (variables, assigns, tokens) = match tokens {
            [(Token::Variable(one), _), (mark @ (Token::Declare | Token::Assign), _), rest @ ..] => {
                (vec![one.clone()], *mark == Token::Assign, rest)
            }
            [
                (Token::Variable(one), _),
                (Token::Comma, _),
                (Token::Variable(two), _),
                (mark @ (Token::Declare | Token::Assign), _),
                rest @ ..,
            ] if within == "range" => (vec![one.clone(), two.clone()], *mark == Token::Assign, rest),
            rest => (Vec::new(), false, rest),
        };
        let start = tokens.first().map_or(at, |(_, at)| *at);
        let mut commands = Vec::new();
        for part in self.commands(tokens, start)? {
            if part.is_empty() {
                return Err(self.source.error(start, format!("missing value for {within}")));
            }
            commands.push(self.command(part, depth)?);
        }
        match assigns {
            true => variables.iter().try_for_each(|name| self.known(name, at))?,
            false => self.variables.extend(variables.iter().cloned()),
        }
        Ok(Pipeline { variables, assigns, commands, at: start })
    }

    /// The tokens between the bars that stand outside of parentheses.
    fn commands<'t>(&self, tokens: &'t [Placed], at: usize) -> Result<Vec<&'t [Placed]>, TemplateError> {
        let mut parts = Vec::new();
        let mut open = 0_usize;
        let mut from = 0;
        for (index, (token, place)) in tokens.iter().enumerate() {
            match token {
                Token::Open => open += 1,
                Token::Close => {
                    open = open
                        .checked_sub(1)
                        .ok_or_else(|| self.source.error(*place, "unexpected right paren"))?;
                }
                Token::Pipe if open == 0 => {
                    parts.push(&tokens[from..index]);
                    from = index + 1;
                }
                _ => {}
            }
        }
        if open > 0 {
            return Err(self.source.error(at, "unclosed left paren"));
        }
        parts.push(&tokens[from..]);
        Ok(parts)
    }

    fn known(&self, name: &String, at: usize) -> Result<(), TemplateError> {
        match self.variables.contains(name) {
            true => Ok(()),
            false => Err(self.source.error(at, format!("undefined variable {name:?}"))),
        }
    }

    fn command(&mut self, tokens: &[Placed], depth: usize) -> Result<Command, TemplateError> {
        let at = tokens.first().map_or(0, |(_, at)| *at);
        let mut rest = tokens;
        let function = match tokens.first() {
            Some((Token::Word(word), _)) if !is_constant(word) => {
                self.function(word, at)?;
                rest = &tokens[1..];
                Some(word.clone())
            }
            _ => None,
        };
        let mut arguments: Vec<Operand> = Vec::new();
        while !rest.is_empty() {
            let (operand, used) = self.operand(rest, depth)?;
            rest = &rest[used..];
            arguments.push(operand);
        }
        let callable =
            matches!(arguments.first().map(|first| &first.kind), Some(Kind::Fields(..) | Kind::Variable(_)));
        if function.is_none() && arguments.len() > 1 && !callable {
            return Err(self.source.error(at, format!("unexpected {} in command", arguments[1])));
        }
        Ok(Command { function, arguments, at })
    }

    fn function(&self, word: &str, at: usize) -> Result<(), TemplateError> {
        match FUNCTIONS.contains(&word) {
            true => Ok(()),
            false => Err(self.source.error(at, format!("function {word:?} not defined"))),
        }
    }

    /// One operand with the fields that hang on it, and how many tokens it takes.
    fn operand(&mut self, tokens: &[Placed], depth: usize) -> Result<(Operand, usize), TemplateError> {
        let mut used = 1;
        let (token, at) = &tokens[0];
        let dot = || Box::new(Operand { kind: Kind::Dot, at: *at });
        let kind = match token {
            Token::Dot => Kind::Dot,
            Token::Field(name) => Kind::Fields(dot(), vec![name.clone()]),
            Token::Variable(name) => {
                self.known(name, *at)?;
                Kind::Variable(name.clone())
            }
            Token::Text(text) => Kind::Literal(Value::Text(text.clone()), Value::Text(text.clone()).json()),
            Token::Int(number) => Kind::Literal(Value::Int(*number), number.to_string()),
            Token::Float(number) => Kind::Literal(Value::Float(*number), number.to_string()),
            Token::Word(word) => match word.as_str() {
                "true" => Kind::Literal(Value::Bool(true), word.clone()),
                "false" => Kind::Literal(Value::Bool(false), word.clone()),
                "nil" => Kind::Literal(Value::Null, word.clone()),
                _ => {
                    self.function(word, *at)?;
                    Kind::Function(word.clone())
                }
            },
            Token::Open => {
                let length = self.matching(tokens)?;
                used = length + 1;
                Kind::Nested(self.pipeline(&tokens[1..length], *at, "parenthesized pipeline", depth + 1)?)
            }
            other => {
                return Err(self.source.error(*at, format!("unexpected {} in operand", spelled(other))));
            }
        };
        let mut place = *at;
        let mut fields = Vec::new();
        while let Some((Token::Chain(name), at)) = tokens.get(used) {
            if fields.is_empty() {
                place = *at;
            }
            fields.push(name.clone());
            used += 1;
        }
        let operand = Operand { kind, at: *at };
        if fields.is_empty() {
            return Ok((operand, used));
        }
        let kind = match operand.kind {
            Kind::Fields(inner, mut names) => {
                names.append(&mut fields);
                Kind::Fields(inner, names)
            }
            _ => Kind::Fields(Box::new(operand), fields),
        };
        Ok((Operand { kind, at: place }, used))
    }

    /// Where the parenthesis that opens `tokens` closes.
    fn matching(&self, tokens: &[Placed]) -> Result<usize, TemplateError> {
        let mut open = 0_usize;
        for (index, (token, _)) in tokens.iter().enumerate() {
            match token {
                Token::Open => open += 1,
                Token::Close => {
                    open = open.saturating_sub(1);
                    if open == 0 {
                        return Ok(index);
                    }
                }
                _ => {}
            }
        }
        Err(self.source.error(tokens.first().map_or(0, |(_, at)| *at), "unclosed left paren"))
    }
}

fn is_constant(word: &str) -> bool {
    matches!(word, "true" | "false" | "nil")
}

fn spelled(token: &Token) -> &'static str {
    match token {
        Token::Comma => "\",\"",
        Token::Declare => "\":=\"",
        Token::Assign => "\"=\"",
        Token::Close => "\")\"",
        Token::Pipe => "\"|\"",
        _ => "token",
    }
}
