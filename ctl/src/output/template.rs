//! Go's templates as docker's `--format` has them: fields, pipelines, `if`, `with`, `range`, `break`, `continue`,
//! variables, comparisons, Go's functions and docker's (`json`, `join`, `split`, `upper`, `lower`, `title`, `pad`,
//! `truncate`). What always holds: errors are Go's, with their place; nesting and output are bounded by the template's
//! own length.

mod call;
mod eval;
mod lex;
mod parse;
mod printf;

use std::fmt;

use crate::output::value::Value;

/// Why a template could not be read or applied, in the words of Go's text/template.
#[derive(Debug, PartialEq)]
pub struct TemplateError(String);

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a template is applied to, which is what errors are about.
#[derive(Clone, Copy)]
enum Subject<'a> {
    /// A row of a list; docker's name of the type is in the errors.
    Row { name: &'a str },
    /// What `inspect`, `info` and `version` show.
    Document,
    /// Names of columns: docker's functions pass their field's heading on.
    Headings,
}

/// A template that has been read.
#[derive(Debug)]
pub struct Template {
    text: String,
    nodes: Vec<parse::Node>,
}

impl Template {
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        Ok(Template { text: text.to_string(), nodes: parse::parse(text, lex::split(text)?)? })
    }

    /// The template's text for a document.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        eval::Evaluation::new(&self.text, value, Subject::Document).run(&self.nodes)
    }

    /// The template's text for a row of a list, of the type that docker calls `name`.
    pub fn render_row(&self, value: &Value, name: &str) -> Result<String, TemplateError> {
        eval::Evaluation::new(&self.text, value, Subject::Row { name }).run(&self.nodes)
    }

    /// The heading of a table's columns: `.Field` shows its heading, `.Label "x"` the label's name.
    pub fn render_headings(&self, headings: &Value) -> Result<String, TemplateError> {
        eval::Evaluation::new(&self.text, headings, Subject::Headings).run(&self.nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields;

    fn sample() -> Value {
        fields! {
            "ID" => "abc", "Names" => "web", "Count" => 3_i64, "Running" => true, "Empty" => "", "Nothing" => Value::List(Vec::new()),
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
            ("{{range .Nothing}}x{{else}}none{{end}}", "none"),
            ("{{`raw`}}", "raw"),
            ("{{truncate .Names 2}}", "we"),
            ("{{(index .Mounts 1).Source}}", "/b"),
            ("{{range .Cmd}}{{if eq . \"-c\"}}{{break}}{{end}}{{.}}{{end}}", "sh"),
            ("{{range .Cmd}}{{if eq . \"-c\"}}{{continue}}{{end}}{{.}};{{end}}", "sh;exit 7;"),
            ("{{$x := 1}}{{range .Cmd}}{{$x = .}}{{end}}{{$x}}", "exit 7"),
            ("{{slice .ID 1}} {{slice .ID 0 2}} {{slice .Cmd 1 2}}", "bc ab [-c]"),
            ("{{pad .ID 1 2}}|{{title \"ab cd\"}}|{{index .ID 0}}", " abc  |Ab Cd|97"),
            (
                "{{printf \"%5s|%-5d|%05d|%x|%X|%T|%.1f|%t\" .ID 3 7 255 .ID .Count 1.25 true}}",
                "  abc|3    |00007|ff|616263|int|1.2|true",
            ),
            (
                "{{printf \"%d\" .ID}}{{printf \"%s\"}}{{printf \"x\" 1}}{{printf \"%\"}}",
                "%!d(string=abc)%!s(MISSING)x%!(EXTRA int=1)%!(NOVERB)",
            ),
            (
                "{{print 1 2 \"a\" \"b\" 3}}|{{html \"<a>\"}}|{{js \"a\\\"b\"}}|{{urlquery \"a b\"}}",
                "1 2ab3|&lt;a&gt;|a\\\"b|a+b",
            ),
            (
                "{{eq .Count 1 2 3}} {{ne .ID \"x\"}} {{ge 3 3}} {{lt 1.5 2.5}} {{eq 0x10 16}} {{'a'}}",
                "true true true true true 97",
            ),
            ("{{and .Empty .Nope}}{{or .ID .Nope}}", "abc"),
            ("{{with $x := .State}}{{$x.Status}}{{else}}no{{end}}", "exited"),
            ("{{- /* c */ -}} x", "x"),
            ("{{range .Cmd}}{{$.ID}}{{end}}", "abcabcabc"),
        ] {
            assert_eq!(show(template), text, "{template}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let at = |place: &str, what: &str| format!("template: :1:{place}: executing \"\" at <{what}");
        for (template, text) in [
            ("{{", "template: :1: unclosed action".to_string()),
            ("{{.ID", "template: :1: unclosed action".into()),
            ("{{if .ID}}x", "template: :1: unexpected EOF".into()),
            ("{{end}}", "template: :1: unexpected {{end}}".into()),
            ("a\nb{{end}}", "template: :2: unexpected {{end}}".into()),
            ("{{.ID}", "template: :1: bad character U+007D '}'".into()),
            ("{{foo .ID}}", "template: :1: function \"foo\" not defined".into()),
            ("{{$nope}}", "template: :1: undefined variable \"$nope\"".into()),
            ("{{define \"x\"}}{{end}}", "template: :1: \"define\" is not supported in --format".into()),
            ("{{}}", "template: :1: missing value for command".into()),
            ("{{if}}{{end}}", "template: :1: missing value for if".into()),
            ("{{\"abc}}", "template: :1: unterminated quoted string".into()),
            ("{{break}}", "template: :1: {{break}} outside {{range}}".into()),
            ("{{.Foo}}", at("2", ".Foo>: map has no entry for key \"Foo\"")),
            ("{{.State.Foo}}", at("8", ".State.Foo>: map has no entry for key \"Foo\"")),
            ("{{.ID.Foo}}", at("5", ".ID.Foo>: can't evaluate field Foo in type interface {}")),
            ("{{index .Cmd 9}}", at("2", "index .Cmd 9>: error calling index: index out of range: 9")),
            ("{{join .Cmd}}", at("2", "join>: wrong number of args for join: want 2 got 1")),
            (
                "{{join .Labels \",\"}}",
                at("7", ".Labels>: wrong type for value; expected []string; got map[string]interface {}"),
            ),
            (
                "{{upper .State.ExitCode}}",
                at("14", ".State.ExitCode>: wrong type for value; expected string; got json.Number"),
            ),
            ("{{eq 1 \"a\"}}", at("2", "eq 1 \"a\">: error calling eq: incompatible types for comparison")),
            ("{{range .ID}}{{end}}", at("8", ".ID>: range can't iterate over abc")),
        ] {
            assert_eq!(show(template), format!("ERROR {text}"), "{template}");
        }
        let row = Template::parse("{{.Foo}}").unwrap().render_row(&sample(), "ContainerContext").unwrap_err();
        assert_eq!(
            row.to_string(),
            at("2", ".Foo>: can't evaluate field Foo in type *formatter.ContainerContext")
        );
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        let deep = format!("{{{{{}.ID{}}}}}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(show(&deep).starts_with("ERROR"));
        assert!(show(&"{{if .ID}}".repeat(100_000)).starts_with("ERROR"));
    }
}
