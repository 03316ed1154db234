//! Builds the tree of a template.

use super::TemplateError;
use super::lex::{Piece, Token};

/// Parentheses and blocks within one another.
const MAX_DEPTH: usize = 64;

#[derive(Debug)]
pub enum Node {
    Text(String),
    Show(Pipeline),
    If { condition: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    With { value: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    Range { items: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
}

/// Commands, each given the result of the one before as its last argument.
#[derive(Debug)]
pub struct Pipeline {
    /// `$x :=`, or `$i, $x :=` in a range.
    pub variables: Vec<String>,
    pub commands: Vec<Command>,
}

#[derive(Debug)]
pub struct Command {
    pub function: Option<String>,
    pub arguments: Vec<Operand>,
}

#[derive(Debug)]
pub enum Operand {
    Dot,
    Literal(crate::output::value::Value),
    Fields(Box<Operand>, Vec<String>),
    Variable(String),
    Nested(Pipeline),
    /// A function without arguments in the place of an argument.
    Function(String),
}

fn error(text: impl Into<String>) -> TemplateError {
    TemplateError(text.into())
}

pub fn parse(pieces: Vec<Piece>) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { pieces: pieces.into_iter() };
    match parser.block(0)? {
        (nodes, Closed::Eof) => Ok(nodes),
        (_, Closed::Else(_)) => Err(error("unexpected {{else}}")),
        (_, Closed::End) => Err(error("unexpected {{end}}")),
    }
}

/// What closed a block.
enum Closed {
    Eof,
    End,
    Else(Vec<Token>),
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
}

impl Parser {
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, Closed), TemplateError> {
        if depth > MAX_DEPTH {
            return Err(error(format!("more than {MAX_DEPTH} blocks within one another")));
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            match tokens.first() {
                Some(Token::Word(word)) => match word.as_str() {
                    "end" => return Ok((nodes, Closed::End)),
                    "else" => return Ok((nodes, Closed::Else(tokens[1..].to_vec()))),
                    "if" | "with" | "range" => nodes.push(self.control(&tokens, depth)?),
                    "define" | "template" | "block" | "break" | "continue" => {
                        return Err(error(format!("{word:?} is not supported in --format")));
                    }
                    _ => nodes.push(Node::Show(pipeline(&tokens, depth)?)),
                },
                _ => nodes.push(Node::Show(pipeline(&tokens, depth)?)),
            }
        }
        Ok((nodes, Closed::Eof))
    }

    /// `if`, `with` and `range`, their `else` and their `end`.
    fn control(&mut self, tokens: &[Token], depth: usize) -> Result<Node, TemplateError> {
        let head = pipeline(&tokens[1..], depth)?;
        let (then, end) = self.block(depth + 1)?;
        let otherwise = match end {
            Closed::End => Vec::new(),
            Closed::Eof => return Err(error("unexpected EOF")),
            Closed::Else(rest) if rest.is_empty() => match self.block(depth + 1)? {
                (nodes, Closed::End) => nodes,
                (_, Closed::Else(_)) => return Err(error("expected end; found {{else}}")),
                (_, Closed::Eof) => return Err(error("unexpected EOF")),
            },
            // `{{else if …}}` is an if in the else that shares its end.
            Closed::Else(rest) => vec![self.control(&rest, depth + 1)?],
        };
        match tokens.first() {
            Some(Token::Word(word)) if word == "if" => Ok(Node::If { condition: head, then, otherwise }),
            Some(Token::Word(word)) if word == "with" => Ok(Node::With { value: head, then, otherwise }),
            Some(Token::Word(word)) if word == "range" => {
                Ok(Node::Range { items: head, body: then, otherwise })
            }
            _ => Err(error("unexpected token in {{else}}")),
        }
    }
}

fn pipeline(tokens: &[Token], depth: usize) -> Result<Pipeline, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(error(format!("more than {MAX_DEPTH} parentheses within one another")));
    }
    let (variables, tokens) = match tokens {
        [Token::Variable(one), Token::Declare | Token::Assign, rest @ ..] => (vec![one.clone()], rest),
        [Token::Variable(one), Token::Comma, Token::Variable(two), Token::Declare, rest @ ..] => {
            (vec![one.clone(), two.clone()], rest)
        }
        rest => (Vec::new(), rest),
    };
    let mut commands = Vec::new();
    let mut open = 0_usize;
    let mut from = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Open => open += 1,
            Token::Close => open = open.checked_sub(1).ok_or_else(|| error("unexpected right paren"))?,
            Token::Pipe if open == 0 => {
                commands.push(command(&tokens[from..at], depth)?);
                from = at + 1;
            }
            _ => {}
        }
    }
    if open > 0 {
        return Err(error("unclosed left paren"));
    }
    commands.push(command(&tokens[from..], depth)?);
    Ok(Pipeline { variables, commands })
}

fn command(tokens: &[Token], depth: usize) -> Result<Command, TemplateError> {
    let mut tokens = tokens;
    let function = match tokens.first() {
        None => return Err(error("missing value for command")),
        Some(Token::Word(word)) if !matches!(word.as_str(), "true" | "false" | "nil") => {
            tokens = &tokens[1..];
            Some(word.clone())
        }
        Some(_) => None,
    };
    let mut arguments: Vec<Operand> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (operand, used) = operand(&tokens[at..], depth)?;
        at += used;
        arguments.push(operand);
    }
    Ok(Command { function, arguments })
}

/// One operand with the fields that hang on it, and how many tokens it takes.
fn operand(tokens: &[Token], depth: usize) -> Result<(Operand, usize), TemplateError> {
    use crate::output::value::Value;
    let mut used = 1;
    let base = match &tokens[0] {
        Token::Dot => Operand::Dot,
        Token::Field(name) => Operand::Fields(Box::new(Operand::Dot), vec![name.clone()]),
        Token::Variable(name) => Operand::Variable(name.clone()),
        Token::Text(text) => Operand::Literal(Value::Text(text.clone())),
        Token::Int(number) => Operand::Literal(Value::Int(*number)),
        Token::Word(word) => match word.as_str() {
            "true" => Operand::Literal(Value::Bool(true)),
            "false" => Operand::Literal(Value::Bool(false)),
            "nil" => Operand::Literal(Value::Null),
            _ => Operand::Function(word.clone()),
        },
        Token::Open => {
            let length = matching(tokens)?;
            used = length + 1;
            Operand::Nested(pipeline(&tokens[1..length], depth + 1)?)
        }
        other => return Err(error(format!("unexpected {other:?} in operand"))),
    };
    let mut fields = Vec::new();
    while let Some(Token::Chain(name)) = tokens.get(used) {
        fields.push(name.clone());
        used += 1;
    }
    Ok(match (base, fields.is_empty()) {
        (base, true) => (base, used),
        (Operand::Fields(inner, mut names), false) => {
            names.append(&mut fields);
            (Operand::Fields(inner, names), used)
        }
        (base, false) => (Operand::Fields(Box::new(base), fields), used),
    })
}

/// Where the parenthesis that opens `tokens` closes.
fn matching(tokens: &[Token]) -> Result<usize, TemplateError> {
    let mut open = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Open => open += 1,
            Token::Close => {
                open -= 1;
                if open == 0 {
                    return Ok(at);
                }
            }
            _ => {}
        }
    }
    Err(error("unclosed left paren"))
}
