//! The grammar, by example and by property.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

struct Subject(BTreeMap<String, String>);

impl Adaptor for Subject {
    fn field(&self, path: &[&str]) -> Option<String> {
        self.0.get(&path.join("/")).cloned()
    }
}

fn subject() -> Subject {
    let fields = [
        ("name", "foo"),
        ("namespace", "moby"),
        ("topic", "/tasks/exit"),
        ("labels/foo", "omg"),
        ("labels/very complex", "what,ever"),
        ("labels/a.b", "dots"),
        ("empty", ""),
    ];
    Subject(fields.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

fn matches(filter: &str) -> bool {
    Filter::parse_all(&[filter]).unwrap_or_else(|error| panic!("{filter}: {error}")).matches(&subject())
}

#[test]
fn the_grammar_by_example() {
    for filter in [
        "",
        "  ",
        "name==foo",
        "name == foo",
        "name!=bar",
        "name==foo,namespace==moby",
        "name==foo, namespace==moby",
        "namespace==moby,topic~=|^/tasks/|",
        "topic~=/^\\/tasks\\//",
        "topic~=\"^/tasks/e\"",
        "labels.foo",
        "labels.\"very complex\"",
        "labels.\"very complex\"==\"what,ever\"",
        "labels.\"a.b\"==dots",
        "labels.foo==omg",
        "labels.missing!=x",
        "empty",
        "name==\"f\\x6fo\"",
        "name==\"f\\157\\u006f\"",
        "topic==/tasks/exit",
        "name~=f.o",
    ] {
        if filter == "topic==/tasks/exit" {
            // A slash begins a quote in a value, which ends at the next one.
            assert!(Filter::parse_all(&[filter]).is_err());
            continue;
        }
        assert!(matches(filter), "{filter}");
    }
    for filter in ["name==bar", "labels.missing", "missing==\"\"", "name==foo,namespace==x", "topic~=|^/x|"] {
        assert!(!matches(filter), "{filter}");
    }
}

#[test]
fn several_filters_are_alternatives() {
    let filter = Filter::parse_all(&["name==bar", "namespace==moby"]).unwrap();
    assert!(filter.matches(&subject()));
    assert!(Filter::parse_all::<&str>(&[]).unwrap().matches(&subject()));
}

#[test]
fn malformed_filters_are_refused_with_their_place() {
    for filter in [
        "name==",
        "==foo",
        "name=foo",
        "name~foo",
        ",",
        "name==foo,",
        "name==\"foo",
        "name==\"\\q\"",
        "a..b",
        "name~=(",
        "name==foo bar",
        "labels.==x",
        "name==\"\\xzz\"",
        "name==\"\\ud800\"",
        "name==|a",
        "name==|foo|",
        "name==/foo/",
        "name==.foo",
        "name===foo",
        "|name|==foo",
        "\"\\xff\"==a",
    ] {
        let error = Filter::parse_all(&[filter]).unwrap_err().to_string();
        assert!(error.contains("at byte"), "{filter}: {error}");
    }
    let long = "a".repeat(MAX_FILTER + 1);
    assert!(Filter::parse_all(&[long]).is_err());
}

/// Quotes any text as the grammar has it.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

proptest! {
    #[test]
    fn any_quoted_value_matches_itself_alone(key in "\\PC{1,20}", value in "\\PC{1,40}", other in "\\PC{0,40}") {
        let subject = Subject([(format!("labels/{key}"), value.clone())].into());
        let path = format!("labels.{}", quote(&key));
        let equal = Filter::parse_all(&[format!("{path}=={}", quote(&value))]).unwrap();
        prop_assert!(equal.matches(&subject));
        let unequal = Filter::parse_all(&[format!("{path}!={}", quote(&value))]).unwrap();
        prop_assert!(!unequal.matches(&subject));
        let different = Filter::parse_all(&[format!("{path}=={}", quote(&other))]).unwrap();
        prop_assert_eq!(different.matches(&subject), other == value);
        prop_assert!(Filter::parse_all(&[path]).unwrap().matches(&subject));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
        let _ = Filter::parse_all(&[text]);
    }

    #[test]
    fn filters_made_of_the_grammars_parts_never_panic(
        parts in proptest::collection::vec(
            prop_oneof!["name", "labels", "\\.", ",", "==", "!=", "~=", "\"", "\\|", "/", "\\\\", "x[0-9]", " "],
            0..20,
        )
    ) {
        let _ = Filter::parse_all(&[parts.concat()]);
    }
}
