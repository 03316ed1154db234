//! The part of Go's templates that people use in `--format`: fields, pipelines, `if`, `with`, `range`, variables,
//! comparisons and docker's functions (`json`, `join`, `split`, `upper`, `lower`, `title`, `println`, `table` cells).
//! What is outside of it is refused by name. Nesting and output are bounded by the template's own length.

mod eval;
mod lex;
mod parse;

use std::fmt;

use crate::output::value::Value;

/// Why a template could not be read or applied, in the words of Go's text/template.
#[derive(Debug, PartialEq)]
pub struct TemplateError(String);

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "template: :1: {}", self.0)
    }
}

/// A template that has been read.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<parse::Node>,
}

impl Template {
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        Ok(Template { nodes: parse::parse(lex::split(text)?)? })
    }

    /// The template's text for one value.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        eval::Evaluation::new(value, eval::Mode::Values).run(&self.nodes)
    }

    /// The heading of a table's columns: `.Field` shows its heading, `.Label "x"` the label's name.
    pub fn render_headings(&self, headings: &Value) -> Result<String, TemplateError> {
        eval::Evaluation::new(headings, eval::Mode::Headings).run(&self.nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields;

    fn sample() -> Value {
        fields! {
            "ID" => "abc", "Names" => "web", "Count" => 3_i64, "Running" => true, "Empty" => "",
            "Labels" => Value::Map(vec![("a.b".into(), "one".into()), ("c".into(), "two".into())]),
            "Cmd" => vec!["sh", "-c", "exit 7"],
            "State" => fields! { "ExitCode" => 7_i64, "Status" => "exited" },
            "Mounts" => Value::List(vec![fields! { "Source" => "/a" }, fields! { "Source" => "/b" }]),
        }
    }

    fn show(template: &str) -> String {
        match Template::parse(template).and_then(|template| template.render(&sample())) {
            Ok(text) => text,
            Err(error) => format!("ERROR {error}"),
        }
    }

    #[test]
    fn what_people_write_works() {
        for (template, text) in [
            ("{{.ID}}", "abc"),
            ("{{ .ID }}: {{.Names}}", "abc: web"),
            ("{{.State.ExitCode}}", "7"),
            ("{{json .State}}", r#"{"ExitCode":7,"Status":"exited"}"#),
            ("{{.Cmd}}", "[sh -c exit 7]"),
            ("{{join .Cmd \",\"}}", "sh,-c,exit 7"),
            ("{{index .Labels \"a.b\"}}", "one"),
            ("{{index .Cmd 2}}", "exit 7"),
            ("{{.Labels.c}}", "two"),
            ("{{.Labels.nothing}}", "<no value>"),
            ("{{range .Mounts}}{{.Source}} {{end}}", "/a /b "),
            ("{{range $i, $m := .Mounts}}{{$i}}={{$m.Source}};{{end}}", "0=/a;1=/b;"),
            ("{{range $k, $v := .Labels}}{{$k}}:{{$v}} {{end}}", "a.b:one c:two "),
            ("{{if .Running}}up{{else}}down{{end}}", "up"),
            ("{{if .Empty}}x{{else if eq .Count 3}}three{{else}}y{{end}}", "three"),
            ("{{if and .Running (eq .State.Status \"exited\")}}odd{{end}}", "odd"),
            ("{{with .State}}{{.Status}}{{end}}", "exited"),
            ("{{len .Cmd}}", "3"),
            ("{{.Names | upper | printf \"%s!\"}}", "WEB!"),
            ("{{printf \"%d/%v/%q\" .Count .Running .ID}}", "3/true/\"abc\""),
            ("a {{- .ID -}} b", "aabcb"),
            ("{{/* nothing */}}x", "x"),
            ("{{$x := .ID}}{{$x}}{{$x}}", "abcabc"),
            ("{{println .ID}}", "abc\n"),
            ("{{not .Running}} {{or .Empty .ID}}", "false abc"),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{`raw`}}", "raw"),
            ("{{truncate .Names 2}}", "we"),
            ("{{(index .Mounts 1).Source}}", "/b"),
            ("{{range .Cmd}}{{$.ID}}{{end}}", "abcabcabc"),
        ] {
            assert_eq!(show(template), text, "{template}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (template, text) in [
            ("{{", "unclosed action"),
            ("{{.ID", "unclosed action"),
            ("{{if .ID}}x", "unexpected EOF"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{.Foo}}", "can't evaluate field Foo"),
            ("{{.ID.Foo}}", "can't evaluate field Foo"),
            ("{{foo .ID}}", "function \"foo\" not defined"),
            ("{{$nope}}", "undefined variable \"$nope\""),
            ("{{index .Cmd 9}}", "out of range"),
            ("{{define \"x\"}}{{end}}", "\"define\" is not supported"),
            ("{{}}", "missing value for command"),
            ("{{\"abc}}", "unterminated quoted string"),
        ] {
            let shown = show(template);
            assert!(shown.starts_with("ERROR template: :1:") && shown.contains(text), "{template}: {shown}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        let deep = format!("{{{{{}.ID{}}}}}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(show(&deep).starts_with("ERROR"));
        assert!(show(&"{{if .ID}}".repeat(100_000)).starts_with("ERROR"));
    }
}
