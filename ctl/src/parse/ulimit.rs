//! `--ulimit NAME=SOFT[:HARD]`.

use longshore_proto::longshore::engine::v1::Ulimit;

use super::number;

const NAMES: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// One limit.
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    let (name, values) = text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let mut parts = values.split(':');
    let soft = number::integer(parts.next().unwrap_or_default())?;
    let hard = match parts.next() {
        Some(hard) if parts.next().is_none() => number::integer(hard)?,
        Some(_) => {
            return Err(format!(
                "too many limit value arguments - {values}, can only have up to two, `soft[:hard]`"
            ));
        }
        None => soft,
    };
    let order = "ulimit soft limit must be less than or equal to hard limit";
    if hard != -1 && soft == -1 {
        return Err(format!("{order}: soft: -1 (unlimited), hard: {hard}"));
    }
    if hard != -1 && soft > hard {
        return Err(format!("{order}: {soft} > {hard}"));
    }
    Ok(Ulimit { name: name.to_string(), soft, hard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let parts = |text: &str| ulimit(text).map(|limit| (limit.name, limit.soft, limit.hard));
        assert_eq!(parts("nofile=5"), Ok(("nofile".into(), 5, 5)));
        assert_eq!(parts("nofile=5:-1"), Ok(("nofile".into(), 5, -1)));
        assert_eq!(parts("core=-1"), Ok(("core".into(), -1, -1)));
        for (text, words) in [
            ("", "invalid ulimit argument: "),
            ("x", "invalid ulimit argument: x"),
            ("NOFILE=5", "invalid ulimit type: NOFILE"),
            ("nofile=x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
            ("nofile=", "strconv.ParseInt: parsing \"\": invalid syntax"),
            (
                "nofile=1:2:3",
                "too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`",
            ),
            ("nofile=5:2", "ulimit soft limit must be less than or equal to hard limit: 5 > 2"),
            (
                "nofile=-1:5",
                "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: 5",
            ),
        ] {
            assert_eq!(ulimit(text).unwrap_err(), words);
        }
    }
}
