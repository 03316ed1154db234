//! Applies a template's tree to a value.

use std::cmp::Ordering;

use super::TemplateError;
use super::parse::{Command, Node, Operand, Pipeline};
use crate::output::value::Value;

/// What a field stands for.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    Values,
    /// Names of columns: functions pass their field's heading on.
    Headings,
}

pub struct Evaluation<'a> {
    root: &'a Value,
    mode: Mode,
    variables: Vec<(String, Value)>,
    out: String,
}

fn error(text: impl Into<String>) -> TemplateError {
    TemplateError(text.into())
}

impl<'a> Evaluation<'a> {
    pub fn new(root: &'a Value, mode: Mode) -> Evaluation<'a> {
        Evaluation { root, mode, variables: Vec::new(), out: String::new() }
    }

    pub fn run(mut self, nodes: &[Node]) -> Result<String, TemplateError> {
        let root = self.root.clone();
        self.block(nodes, &root)?;
        Ok(self.out)
    }

    /// Variables end with the block that declared them.
    fn block(&mut self, nodes: &[Node], dot: &Value) -> Result<(), TemplateError> {
        let outer = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
        }
        self.variables.truncate(outer);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), TemplateError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Show(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                match pipeline.variables.first() {
                    Some(name) => self.assign(name, value),
                    None => self.out.push_str(&shown(&value)),
                }
            }
            Node::If { condition, then, otherwise } => {
                let value = self.pipeline(condition, dot)?;
                self.declare(&condition.variables, &[&value]);
                let branch = if value.is_true() { then } else { otherwise };
                self.block(branch, dot)?;
            }
            Node::With { value, then, otherwise } => {
                let inner = self.pipeline(value, dot)?;
                self.declare(&value.variables, &[&inner]);
                match inner.is_true() {
                    true => self.block(then, &inner)?,
                    false => self.block(otherwise, dot)?,
                }
            }
            Node::Range { items, body, otherwise } => self.range(items, body, otherwise, dot)?,
        }
        Ok(())
    }

    fn range(
        &mut self,
        items: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<(), TemplateError> {
        let pairs: Vec<(Value, Value)> = match self.pipeline(items, dot)? {
            Value::List(items) => {
                items.into_iter().enumerate().map(|(index, item)| (Value::from(index), item)).collect()
            }
            Value::Map(fields) => fields.into_iter().map(|(key, value)| (Value::Text(key), value)).collect(),
            Value::Null => Vec::new(),
            Value::Text(text) if text.is_empty() => Vec::new(),
            other => return Err(error(format!("range can't iterate over {}", other.display()))),
        };
        if pairs.is_empty() {
            return self.block(otherwise, dot);
        }
        for (key, value) in &pairs {
            let outer = self.variables.len();
            match items.variables.len() {
                2 => self.declare(&items.variables, &[key, value]),
                _ => self.declare(&items.variables, &[value]),
            }
            self.block(body, value)?;
            self.variables.truncate(outer);
        }
        Ok(())
    }

    fn declare(&mut self, names: &[String], values: &[&Value]) {
        for (name, value) in names.iter().zip(values) {
            self.variables.push((name.clone(), (*value).clone()));
        }
    }

    fn assign(&mut self, name: &str, value: Value) {
        self.variables.push((name.to_string(), value));
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or(Value::Null))
    }

    fn command(&self, command: &Command, dot: &Value, piped: Option<Value>) -> Result<Value, TemplateError> {
        let mut arguments = Vec::with_capacity(command.arguments.len() + 1);
        for operand in &command.arguments {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(piped);
        if self.mode == Mode::Headings && command.function.is_some() {
            // `{{upper .Names}}` is a column called NAMES.
            let heading = arguments.into_iter().rev().find(|argument| matches!(argument, Value::Text(_)));
            return Ok(heading.unwrap_or(Value::Text(String::new())));
        }
        match &command.function {
            Some(function) => call(function, &arguments),
            None => self.plain(command, arguments),
        }
    }

    /// A command that calls nothing: one value; or docker's one method, `.Label "name"`.
    fn plain(&self, command: &Command, arguments: Vec<Value>) -> Result<Value, TemplateError> {
        let is_label = matches!(command.arguments.first(),
            Some(Operand::Fields(_, names)) if names.last().is_some_and(|name| name == "Label"));
        match (is_label, arguments.as_slice()) {
            (true, [_, Value::Text(name)]) if self.mode == Mode::Headings => Ok(Value::Text(name.clone())),
            (true, [labels, Value::Text(name)]) => {
                Ok(labels.field(name).cloned().unwrap_or(Value::Text(String::new())))
            }
            (_, [value]) => Ok(value.clone()),
            _ => Err(error("can't give argument to non-function")),
        }
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        match operand {
            Operand::Dot => Ok(dot.clone()),
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Variable(name) if name == "$" => Ok(self.root.clone()),
            Operand::Variable(name) => match self.variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => Ok(value.clone()),
                None => Err(error(format!("undefined variable {name:?}"))),
            },
            Operand::Nested(pipeline) => self.pipeline(pipeline, dot),
            Operand::Function(name) => call(name, &[]),
            Operand::Fields(base, names) => {
                let mut value = self.operand(base, dot)?;
                for name in names {
                    value = self.field(&value, name)?;
                }
                Ok(value)
            }
        }
    }

    fn field(&self, value: &Value, name: &str) -> Result<Value, TemplateError> {
        match (value, value.field(name)) {
            (_, Some(value)) => Ok(value.clone()),
            (Value::Map(_), None) => Ok(Value::Null),
            (Value::Null, None) => Ok(Value::Null),
            _ if self.mode == Mode::Headings => Ok(Value::Text(name.to_uppercase())),
            _ => Err(error(format!("executing \"\" at <.{name}>: can't evaluate field {name}"))),
        }
    }
}

/// A missing map key shows as Go shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        other => other.display(),
    }
}

fn call(function: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let wrong = || error(format!("wrong number or kind of arguments for {function}"));
    match (function, arguments) {
        ("json", [value]) => Ok(Value::Text(value.json())),
        ("upper", [value]) => Ok(Value::Text(value.display().to_uppercase())),
        ("lower", [value]) => Ok(Value::Text(value.display().to_lowercase())),
        ("title", [value]) => Ok(Value::Text(title(&value.display()))),
        ("split", [Value::Text(text), Value::Text(by)]) => {
            Ok(Value::List(text.split(by.as_str()).map(Value::from).collect()))
        }
        ("join", [Value::List(items), Value::Text(by)]) => {
            Ok(Value::Text(items.iter().map(Value::display).collect::<Vec<_>>().join(by)))
        }
        ("join", [Value::Null, Value::Text(_)]) => Ok(Value::Text(String::new())),
        ("truncate", [Value::Text(text), Value::Int(length)]) => {
            Ok(Value::Text(text.chars().take(usize::try_from(*length).unwrap_or(0)).collect()))
        }
        ("pad", [Value::Text(text), Value::Int(before), Value::Int(after)]) => {
            let blanks = |count: &i64| " ".repeat(usize::try_from(*count).unwrap_or(0).min(1024));
            Ok(Value::Text(match text.is_empty() {
                true => String::new(),
                false => format!("{}{text}{}", blanks(before), blanks(after)),
            }))
        }
        ("len", [value]) => {
            value.length().map(Value::from).ok_or_else(|| error(format!("len of {}", value.display())))
        }
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), |value, key| index(&value, key)),
        ("print", values) => Ok(Value::Text(values.iter().map(Value::display).collect())),
        ("println", values) => {
            Ok(Value::Text(values.iter().map(Value::display).collect::<Vec<_>>().join(" ") + "\n"))
        }
        ("printf", [Value::Text(format), values @ ..]) => printf(format, values),
        ("not", [value]) => Ok(Value::Bool(!value.is_true())),
        ("and", [.., last]) => Ok(arguments.iter().find(|value| !value.is_true()).unwrap_or(last).clone()),
        ("or", [.., last]) => Ok(arguments.iter().find(|value| value.is_true()).unwrap_or(last).clone()),
        ("eq", [value, others @ ..]) if !others.is_empty() => Ok(Value::Bool(others.contains(value))),
        ("ne", [a, b]) => Ok(Value::Bool(a != b)),
        ("lt", [a, b]) => order(a, b).map(|order| Value::Bool(order == Ordering::Less)),
        ("le", [a, b]) => order(a, b).map(|order| Value::Bool(order != Ordering::Greater)),
        ("gt", [a, b]) => order(a, b).map(|order| Value::Bool(order == Ordering::Greater)),
        ("ge", [a, b]) => order(a, b).map(|order| Value::Bool(order != Ordering::Less)),
        (
            "json" | "upper" | "lower" | "title" | "split" | "join" | "truncate" | "pad" | "len" | "index"
            | "printf" | "not" | "and" | "or" | "eq" | "ne" | "lt" | "le" | "gt" | "ge",
            _,
        ) => Err(wrong()),
        _ => Err(error(format!("function {function:?} not defined"))),
    }
}

fn title(text: &str) -> String {
    let mut start = true;
    let capital = |letter: char| {
        let first = start;
        start = letter.is_whitespace();
        if first { letter.to_uppercase().collect::<String>() } else { letter.to_string() }
    };
    text.chars().map(capital).collect()
}

fn index(value: &Value, key: &Value) -> Result<Value, TemplateError> {
    match (value, key) {
        (Value::List(items), Value::Int(at)) => usize::try_from(*at)
            .ok()
            .and_then(|at| items.get(at).cloned())
            .ok_or_else(|| error(format!("error calling index: index out of range: {at}"))),
        (Value::Map(_) | Value::Struct(_), Value::Text(name)) => {
            Ok(value.field(name).cloned().unwrap_or(Value::Null))
        }
        (Value::Null, _) => Err(error("error calling index: index of untyped nil")),
        _ => {
            Err(error(format!("error calling index: can't index {} with {}", value.display(), key.display())))
        }
    }
}

fn order(a: &Value, b: &Value) -> Result<Ordering, TemplateError> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        _ => None,
    }
    .ok_or_else(|| error("incompatible types for comparison"))
}

fn printf(format: &str, values: &[Value]) -> Result<Value, TemplateError> {
    let mut text = String::new();
    let mut values = values.iter();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let verb = letters.next();
        if verb == Some('%') {
            text.push('%');
            continue;
        }
        let value = values.next().ok_or_else(|| error("printf: missing argument"))?;
        match verb {
            Some('s' | 'v' | 'd' | 't') => text.push_str(&value.display()),
            Some('q') => text.push_str(&Value::Text(value.display()).json()),
            other => return Err(error(format!("printf: %{} is not supported", other.unwrap_or(' ')))),
        }
    }
    Ok(Value::Text(text))
}
