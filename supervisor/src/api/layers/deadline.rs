//! The header `grpc-timeout`: how long a client waits for the head of its answer.

use std::time::Duration;

use http::HeaderMap;
use tonic::Status;

use crate::error::Error;

const HEADER: &str = "grpc-timeout";
/// Digits at most, by gRPC's specification.
const MAX_DIGITS: usize = 8;

/// What the client allows; nothing if it says nothing, or what nobody understands.
pub fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > MAX_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The outcome of `work`, which is dropped when the time is over.
pub async fn within<R>(
    deadline: Duration,
    path: &str,
    work: impl Future<Output = Result<R, Status>>,
) -> Result<R, Status> {
    tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
        let seconds = deadline.as_secs() + u64::from(deadline.subsec_nanos() > 0);
        Err(Error::Timeout { what: format!("request {path}"), seconds }.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &'static str) -> Option<Duration> {
        of(&HeaderMap::from_iter([(
            http::HeaderName::from_static(HEADER),
            http::HeaderValue::from_static(text),
        )]))
    }

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        assert_eq!(parsed("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parsed("99999999M"), Some(Duration::from_secs(99_999_999 * 60)));
        assert_eq!(parsed("15m"), Some(Duration::from_millis(15)));
        assert_eq!(parsed("7u"), Some(Duration::from_micros(7)));
        for nonsense in ["", "S", "5", "5x", "-1S", "+1S", "999999999S", "5 S"] {
            assert_eq!(parsed(nonsense), None, "{nonsense:?}");
        }
    }

    #[tokio::test]
    async fn what_takes_longer_is_answered_with_the_code_for_it() {
        let never = std::future::pending::<Result<(), Status>>();
        let outcome = within(Duration::from_millis(1), "/a.B/C", never).await;
        assert_eq!(outcome.map_err(|status| status.code()), Err(tonic::Code::DeadlineExceeded));
    }
}
