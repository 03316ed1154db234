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

/// docker's types of rows, which its errors name, each by a field that only it has.
const TYPES: &[(&str, &str)] = &[
    ("RunningFor", "ContainerContext"),
    ("Repository", "imageContext"),
    ("CPUPerc", "statsContext"),
    ("CreatedBy", "historyContext"),
    ("Mountpoint", "volumeContext"),
    ("IPv6", "networkContext"),
    ("Reclaimable", "diskUsageContext"),
    ("DockerEndpoint", "clientContextContext"),
];

impl Layout<'_> {
    fn type_name(&self) -> &'static str {
        let has = |name: &str| self.headings.iter().any(|(field, _)| *field == name);
        TYPES.iter().find(|(field, _)| has(field)).map_or("Context", |(_, name)| name)
    }
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
        (Some(quiet), "" | "table") => lines(quiet, layout, rows),
        (_, "" | "table") => columns(layout.table, layout, rows),
        (_, "json") => Ok(rows.iter().map(|row| row.row_json() + "\n").collect()),
        (_, format) => match format.strip_prefix("table ") {
            Some(template) => columns(&unescape(template), layout, rows),
            None => lines(&unescape(format), layout, rows),
        },
    }
}

fn lines(template: &str, layout: &Layout<'_>, rows: &[Value]) -> Result<String, Failure> {
    let template = parse(template)?;
    let mut text = String::new();
    for row in rows {
        text.push_str(&template.render_row(row, layout.type_name()).map_err(execution)?);
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
        cells.push(split(template.render_row(row, layout.type_name()).map_err(execution)?));
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
