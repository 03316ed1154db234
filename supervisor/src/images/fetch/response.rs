//! What a registry's answer means: its error body, its rate limit, the part of a blob it has sent.

#![forbid(unsafe_code)]

use std::time::Duration;

use http::header::{CONTENT_RANGE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;

const SHOWN: usize = 300;

/// The registry's own words from an error body, short and printable.
pub fn detail(body: &[u8]) -> String {
    let known = serde_json::from_slice::<ErrorBody>(body).ok().and_then(ErrorBody::text);
    let text = known.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    let text: String = text.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    if text.is_empty() { "no reason given".to_owned() } else { text }
}

// The distribution specification's form, and what token servers send instead.
#[derive(Deserialize)]
struct ErrorBody {
    details: Option<String>,
    message: Option<String>,
    error_description: Option<String>,
    error: Option<String>,
    errors: Option<Vec<OneError>>,
}

#[derive(Deserialize)]
struct OneError {
    code: Option<String>,
    message: Option<String>,
}

impl ErrorBody {
    fn text(self) -> Option<String> {
        let first = self.errors.and_then(|errors| errors.into_iter().next()).map(|error| {
            let code = error.code.unwrap_or_default().to_lowercase().replace('_', " ");
            match error.message {
                Some(message) if !message.is_empty() && !code.is_empty() => format!("{code}: {message}"),
                Some(message) if !message.is_empty() => message,
                _ => code,
            }
        });
        first.or(self.details).or(self.message).or(self.error_description).or(self.error)
    }
}

/// Seconds or an HTTP date; `None` if it is not given or not understood.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let when = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let seconds = when.duration_since(jiff::Timestamp::now()).as_secs();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// ` (limit 100 per 21600 s)` from the header that Docker Hub sends, or nothing.
pub fn rate_limit(headers: &HeaderMap) -> String {
    let Some(text) = headers.get("ratelimit-limit").and_then(|value| value.to_str().ok()) else {
        return String::new();
    };
    let (limit, window) = text.split_once(";w=").unwrap_or((text, ""));
    match (limit.trim().parse::<u64>(), window.trim().parse::<u64>()) {
        (Ok(limit), Ok(window)) => format!(" (limit {limit} per {window} s)"),
        (Ok(limit), _) => format!(" (limit {limit})"),
        _ => String::new(),
    }
}

/// First and last byte and the whole size, of `bytes 0-99/1000`.
pub fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes ")?;
    let (range, size) = text.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_registrys_words_are_found() {
        let oci = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#;
        assert_eq!(detail(oci), "manifest unknown: manifest unknown");
        assert_eq!(
            detail(br#"{"details":"incorrect username or password"}"#),
            "incorrect username or password"
        );
        assert_eq!(detail(b"plain\x1b words"), "plain words");
        assert_eq!(detail(b""), "no reason given");
    }

    #[test]
    fn headers_are_read() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        headers.insert(CONTENT_RANGE, HeaderValue::from_static("bytes 5-9/10"));
        headers.insert("ratelimit-limit", HeaderValue::from_static("100;w=21600"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(7)));
        assert_eq!(content_range(&headers), Some((5, 9, 10)));
        assert_eq!(rate_limit(&headers), " (limit 100 per 21600 s)");
        headers.insert(RETRY_AFTER, HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT"));
        assert_eq!(retry_after(&headers), Some(Duration::ZERO));
    }
}
