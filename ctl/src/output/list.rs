//! `--format` of the lists: a table, a table of the user's columns, JSON lines, or a template for each row.

use crate::failure::Failure;
use crate::output::print;
use crate::output::table::{self, LIST_WIDTH};
use crate::output::template::{Template, TemplateError};
use crate::output::value::Value;

/// What a list can show.
pub struct Layout<'a> {
    /// The columns without `--format`.
    pub table: &'a str,
    /// What `-q` shows of each row, if `-q` was given.
    pub quiet: Option<&'a str>,
    /// Headings of the fields.
    pub headings: &'a [(&'a str, &'a str)],
}

/// Refuses a format that cannot be read, before anything is asked of the daemon.
pub fn check(format: Option<&str>) -> Result<(), Failure> {
    match format.unwrap_or_default() {
        "" | "table" | "json" => Ok(()),
        format => parse(&unescape(format.strip_prefix("table ").unwrap_or(format))).map(drop),
    }
}

/// Prints `rows`, each a struct whose fields templates may name.
pub fn print(format: Option<&str>, layout: &Layout<'_>, rows: &[Value]) -> Result<(), Failure> {
    print::out(&render(format, layout, rows)?)
}

/// What `print` prints.
pub fn render(format: Option<&str>, layout: &Layout<'_>, rows: &[Value]) -> Result<String, Failure> {
    let format = format.unwrap_or_default();
    match (layout.quiet, format) {
        (Some(quiet), "" | "table") => lines(quiet, rows),
        (_, "" | "table") => columns(layout.table, layout, rows),
        (_, "json") => Ok(rows.iter().map(|row| sorted(row).json() + "\n").collect()),
        (_, format) => match format.strip_prefix("table ") {
            Some(template) => columns(&unescape(template), layout, rows),
            None => lines(&unescape(format), rows),
        },
    }
}

fn lines(template: &str, rows: &[Value]) -> Result<String, Failure> {
    let template = parse(template)?;
    let mut text = String::new();
    for row in rows {
        text.push_str(&template.render(row).map_err(execution)?);
        text.push('\n');
    }
    Ok(text)
}

fn columns(template: &str, layout: &Layout<'_>, rows: &[Value]) -> Result<String, Failure> {
    let template = parse(template)?;
    let headings = Value::Struct(
        layout.headings.iter().map(|(field, heading)| (field.to_string(), Value::from(*heading))).collect(),
    );
    let split = |line: String| line.split('\t').map(str::to_string).collect::<Vec<_>>();
    let mut cells = vec![split(template.render_headings(&headings).map_err(execution)?)];
    for row in rows {
        cells.push(split(template.render(row).map_err(execution)?));
    }
    Ok(table::lay_out(cells, LIST_WIDTH))
}

fn parse(template: &str) -> Result<Template, Failure> {
    Template::parse(template).map_err(|error| Failure::message(format!("failed to parse template: {error}")))
}

fn execution(error: TemplateError) -> Failure {
    Failure::message(format!("failed to execute template: {error}"))
}

/// `\t` and `\n` may be written as two characters on a shell's command line.
pub fn unescape(format: &str) -> String {
    format.replace("\\t", "\t").replace("\\n", "\n")
}

/// JSON lines have their keys in alphabetical order.
fn sorted(row: &Value) -> Value {
    match row {
        Value::Struct(fields) => {
            let mut fields = fields.clone();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Struct(fields)
        }
        other => other.clone(),
    }
}
