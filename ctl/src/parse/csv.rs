//! One line of comma-separated fields, quoted as Go's encoding/csv reads them: what `--mount` and `--network` take.

/// The fields of a line.
pub fn fields(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Err("EOF".into());
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let column = |rest: &str| text.len() - rest.len() + 1;
        let after = match rest.strip_prefix('"') {
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if let Some(quote) = rest[..end].find('"') {
                    let at = column(rest) + quote;
                    return Err(format!("parse error on line 1, column {at}: bare \" in non-quoted-field"));
                }
                fields.push(rest[..end].to_string());
                &rest[end..]
            }
            Some(quoted) => {
                let (field, after) = until_quote(quoted).ok_or_else(|| {
                    let at = text.len() + 1;
                    format!("parse error on line 1, column {at}: extraneous or missing \" in quoted-field")
                })?;
                if !after.is_empty() && !after.starts_with(',') {
                    let at = column(after);
                    return Err(format!(
                        "parse error on line 1, column {at}: extraneous or missing \" in quoted-field"
                    ));
                }
                fields.push(field);
                after
            }
        };
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}

/// What is before the closing quote, two of which stand for one, and what is after it.
fn until_quote(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let at = rest.find('"')?;
        field.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(fields("a=1,b").unwrap(), ["a=1", "b"]);
        assert_eq!(fields(r#"a,"b=x,""y""",c"#).unwrap(), ["a", r#"b=x,"y""#, "c"]);
        assert_eq!(fields("a,").unwrap(), ["a", ""]);
        assert_eq!(fields("").unwrap_err(), "EOF");
        assert_eq!(
            fields("type=bind,\"a").unwrap_err(),
            "parse error on line 1, column 13: extraneous or missing \" in quoted-field"
        );
        assert!(fields("a\"b").unwrap_err().contains("bare \" in non-quoted-field"));
        assert!(fields("\"a\"b").unwrap_err().contains("extraneous"));
    }
}
