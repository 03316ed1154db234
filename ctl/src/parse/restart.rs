//! `--restart no|always|unless-stopped|on-failure[:RETRIES]`.

use longshore_proto::longshore::engine::v1::{RestartCondition, RestartPolicy};

/// A policy; empty text is none, as `no` is.
pub fn policy(text: &str) -> Result<RestartPolicy, String> {
    let (name, count) = match text.split_once(':') {
        Some(("", _)) => return Err("invalid restart policy format: no policy provided before colon".into()),
        Some((name, count)) => (name, count),
        None => (text, ""),
    };
    let count: i64 = match count {
        "" => 0,
        count => count.parse().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_string()
        })?,
    };
    let condition = match name {
        "" | "no" => RestartCondition::No,
        "always" => RestartCondition::Always,
        "unless-stopped" => RestartCondition::UnlessStopped,
        "on-failure" => RestartCondition::OnFailure,
        other => {
            return Err(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or \
                 'unless-stopped'"
            ));
        }
    };
    let negative = if count < 0 { " and cannot be negative" } else { "" };
    if count != 0 && condition != RestartCondition::OnFailure {
        return Err(format!(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'{negative}"
        ));
    }
    let max_retries = u32::try_from(count)
        .map_err(|_| "invalid restart policy: maximum retry count cannot be negative".to_string())?;
    Ok(RestartPolicy { condition: condition.into(), max_retries, on_unhealthy: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let parts = |text: &str| policy(text).map(|policy| (policy.condition(), policy.max_retries));
        assert_eq!(parts(""), Ok((RestartCondition::No, 0)));
        assert_eq!(parts("on-failure:3"), Ok((RestartCondition::OnFailure, 3)));
        assert_eq!(parts("on-failure:"), Ok((RestartCondition::OnFailure, 0)));
        assert_eq!(parts("unless-stopped"), Ok((RestartCondition::UnlessStopped, 0)));
        for (text, words) in [
            (":3", "no policy provided before colon"),
            ("on-failure:x", "maximum retry count must be an integer"),
            ("on-failure:1:2", "maximum retry count must be an integer"),
            ("on-failure:-1", "maximum retry count cannot be negative"),
            ("always:3", "maximum retry count can only be used with 'on-failure'"),
            ("x", "unknown policy 'x'"),
        ] {
            assert!(policy(text).unwrap_err().contains(words), "{text}");
        }
    }
}
