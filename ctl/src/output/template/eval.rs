//! Applies a template's tree to a value.

use super::call;
use super::parse::{Command, Kind, Node, Operand, Pipeline};
use super::{Subject, TemplateError};
use crate::output::value::Value;

pub struct Evaluation<'a> {
    text: &'a str,
    root: &'a Value,
    subject: Subject<'a>,
    variables: Vec<(String, Value)>,
    out: String,
}

/// How a block ended.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl<'a> Evaluation<'a> {
    pub fn new(text: &'a str, root: &'a Value, subject: Subject<'a>) -> Evaluation<'a> {
        Evaluation { text, root, subject, variables: Vec::new(), out: String::new() }
    }

    pub fn run(mut self, nodes: &[Node]) -> Result<String, TemplateError> {
        let root = self.root.clone();
        self.block(nodes, &root)?;
        Ok(self.out)
    }

    /// `template: :LINE:COLUMN: executing "" at <NODE>: what`.
    fn error(&self, at: usize, node: impl std::fmt::Display, what: impl AsRef<str>) -> TemplateError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let column = before.rfind('\n').map_or(at, |newline| at - newline - 1);
        TemplateError(format!(
            "template: :{}:{column}: executing \"\" at <{node}>: {}",
            1 + before.matches('\n').count(),
            what.as_ref()
        ))
    }

    /// Variables end with the block that declared them.
    fn block(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        let outer = self.variables.len();
        let mut flow = Flow::On;
        for node in nodes {
            flow = self.node(node, dot)?;
            if flow != Flow::On {
                break;
            }
        }
        self.variables.truncate(outer);
        Ok(flow)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, TemplateError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::Show(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                match pipeline.variables.is_empty() {
                    true => self.out.push_str(&shown(&value)),
                    false => self.declare(pipeline, &[&value]),
                }
            }
            Node::If { condition, then, otherwise } => {
                let outer = self.variables.len();
                let value = self.pipeline(condition, dot)?;
                self.declare(condition, &[&value]);
                let flow = self.block(if value.is_true() { then } else { otherwise }, dot)?;
                self.variables.truncate(outer);
                return Ok(flow);
            }
            Node::With { value, then, otherwise } => {
                let outer = self.variables.len();
                let inner = self.pipeline(value, dot)?;
                self.declare(value, &[&inner]);
                let flow = match inner.is_true() {
                    true => self.block(then, &inner)?,
                    false => self.block(otherwise, dot)?,
                };
                self.variables.truncate(outer);
                return Ok(flow);
            }
            Node::Range { items, body, otherwise } => return self.range(items, body, otherwise, dot),
        }
        Ok(Flow::On)
    }

    fn range(
        &mut self,
        items: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        let pairs: Vec<(Value, Value)> = match self.pipeline(items, dot)? {
            Value::List(items) => {
                items.into_iter().enumerate().map(|(index, item)| (Value::from(index), item)).collect()
            }
            Value::Map(fields) => fields.into_iter().map(|(key, value)| (Value::Text(key), value)).collect(),
            Value::Null => Vec::new(),
            other => {
                let what = format!("range can't iterate over {}", other.display());
                return Err(self.error(items.at, items, what));
            }
        };
        if pairs.is_empty() {
            return self.block(otherwise, dot);
        }
        for (key, value) in &pairs {
            let outer = self.variables.len();
            match items.variables.len() {
                2 => self.declare(items, &[key, value]),
                _ => self.declare(items, &[value]),
            }
            let flow = self.block(body, value)?;
            if !items.assigns {
                self.variables.truncate(outer);
            }
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    /// `:=` makes variables, `=` changes those that there are.
    fn declare(&mut self, pipeline: &Pipeline, values: &[&Value]) {
        for (name, value) in pipeline.variables.iter().zip(values) {
            let known = self.variables.iter_mut().rev().find(|(known, _)| pipeline.assigns && known == name);
            match known {
                Some((_, place)) => *place = (*value).clone(),
                None => self.variables.push((name.clone(), (*value).clone())),
            }
        }
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or(Value::Null))
    }

    fn command(&self, command: &Command, dot: &Value, piped: Option<Value>) -> Result<Value, TemplateError> {
        let Some(function) = &command.function else { return self.plain(command, dot, piped) };
        let count = command.arguments.len() + usize::from(piped.is_some());
        if let Some(what) = call::wrong_count(function, count) {
            return Err(self.error(command.at, function, what));
        }
        let mut arguments = Vec::with_capacity(count);
        for operand in &command.arguments {
            arguments.push(self.operand(operand, dot)?);
            // What decides already keeps the rest from being looked at.
            let decided = match function.as_str() {
                "and" => !arguments[arguments.len() - 1].is_true(),
                "or" => arguments[arguments.len() - 1].is_true(),
                _ => false,
            };
            if decided {
                return Ok(arguments.pop().unwrap_or(Value::Null));
            }
        }
        arguments.extend(piped);
        if matches!(self.subject, Subject::Headings) && call::IN_HEADINGS.contains(&function.as_str()) {
            // `{{upper .Names}}` is a column called NAMES.
            let heading = arguments.into_iter().find(|argument| matches!(argument, Value::Text(_)));
            return Ok(heading.unwrap_or(Value::Text(String::new())));
        }
        if let Some((index, expected)) = call::wrong_type(function, &arguments) {
            let got = self.type_of(&arguments[index]);
            let what = format!("wrong type for value; expected {expected}; got {got}");
            return Err(match command.arguments.get(index) {
                Some(operand) => self.error(operand.at, operand, what),
                None => self.error(command.at, function, what),
            });
        }
        if let ("json", [value @ Value::Struct(_)], Subject::Row { .. }) =
            (function.as_str(), arguments.as_slice(), self.subject)
        {
            return Ok(Value::Text(value.row_json()));
        }
        call::call(function, &arguments)
            .map_err(|what| self.error(command.at, command, format!("error calling {function}: {what}")))
    }

    /// A command that calls nothing: one value; or docker's one method, `.Label "name"`.
    fn plain(&self, command: &Command, dot: &Value, piped: Option<Value>) -> Result<Value, TemplateError> {
        let first = &command.arguments[0];
        let is_label =
            matches!(&first.kind, Kind::Fields(_, names) if names.last().is_some_and(|name| name == "Label"));
        let given = command.arguments.len() - 1 + usize::from(piped.is_some());
        if given == 0 {
            return self.operand(first, dot);
        }
        let argument = match (command.arguments.get(1), piped) {
            (Some(operand), _) => self.operand(operand, dot)?,
            (None, piped) => piped.unwrap_or(Value::Null),
        };
        match (is_label, argument) {
            (true, Value::Text(name)) if given == 1 && matches!(self.subject, Subject::Headings) => {
                let last = name.rsplit('.').next().unwrap_or_default();
                Ok(Value::Text(last.replace(['-', '_'], " ")))
            }
            (true, Value::Text(name)) if given == 1 => {
                Ok(self.operand(first, dot)?.field(&name).cloned().unwrap_or(Value::Text(String::new())))
            }
            (true, _) => {
                let what = format!("wrong number of args for Label: want 1 got {given}");
                Err(self.error(first.at, first, what))
            }
            (false, _) => {
                let name = match &first.kind {
                    Kind::Fields(_, names) => names.last().cloned().unwrap_or_default(),
                    _ => {
                        return Err(self.error(
                            first.at,
                            first,
                            format!("can't give argument to non-function {first}"),
                        ));
                    }
                };
                // A field that is not there is said to be missing first.
                self.operand(first, dot)?;
                Err(self.error(first.at, first, format!("{name} is not a method but has arguments")))
            }
        }
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        match &operand.kind {
            Kind::Dot => Ok(dot.clone()),
            Kind::Literal(value, _) => Ok(value.clone()),
            Kind::Variable(name) if name == "$" => Ok(self.root.clone()),
            Kind::Variable(name) => match self.variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => Ok(value.clone()),
                None => Err(self.error(operand.at, operand, format!("undefined variable: {name}"))),
            },
            Kind::Nested(pipeline) => self.pipeline(pipeline, dot),
            Kind::Function(name) => match call::wrong_count(name, 0) {
                Some(what) => Err(self.error(operand.at, operand, what)),
                None => call::call(name, &[])
                    .map_err(|what| self.error(operand.at, operand, format!("error calling {name}: {what}"))),
            },
            Kind::Fields(base, names) => {
                let mut value = self.operand(base, dot)?;
                for name in names {
                    value = self.field(&value, name).map_err(|what| self.error(operand.at, operand, what))?;
                }
                Ok(value)
            }
        }
    }

    fn field(&self, value: &Value, name: &str) -> Result<Value, String> {
        if let Some(found) = value.field(name) {
            return Ok(found.clone());
        }
        match (value, self.subject) {
            (Value::Map(_), _) => Ok(Value::Null),
            (_, Subject::Headings) => Ok(Value::Text(name.to_uppercase())),
            (Value::Struct(_), Subject::Document) => Err(format!("map has no entry for key {name:?}")),
            (Value::Null, Subject::Document) => Err(format!("nil pointer evaluating interface {{}}.{name}")),
            (Value::Null, _) => Ok(Value::Null),
            (Value::Struct(_), Subject::Row { name: of }) => {
                Err(format!("can't evaluate field {name} in type *formatter.{of}"))
            }
            (_, Subject::Document) => Err(format!("can't evaluate field {name} in type interface {{}}")),
            (value, _) => Err(format!("can't evaluate field {name} in type {}", self.type_of(value))),
        }
    }

    /// Go's name of a value's type, as docker's own values have it.
    fn type_of(&self, value: &Value) -> &'static str {
        match value {
            Value::Int(_) | Value::Float(_) if matches!(self.subject, Subject::Document) => "json.Number",
            Value::Null => "nil",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float64",
            Value::Text(_) => "string",
            Value::List(_) => "[]interface {}",
            Value::Struct(_) | Value::Map(_) => "map[string]interface {}",
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
