//! Moments as RFC 3339 has them, in UTC.

use std::time::{Duration, SystemTime};

/// How exact.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Seconds,
    Nanoseconds,
}

/// Now.
pub fn now(precision: Precision) -> String {
    format(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(), precision)
}

fn format(since_epoch: Duration, precision: Precision) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let fraction = match precision {
        Precision::Seconds => String::new(),
        Precision::Nanoseconds => format!(".{:09}", since_epoch.subsec_nanos()),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Year, month and day of so many days after 1970-01-01, in eras of 400 years that begin in March.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let days = days + 719_468;
    let (era, day_of_era) = (days / ERA, days % ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        let at = |seconds| format(Duration::from_secs(seconds), Precision::Seconds);
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(at(1_795_341_911), "2026-11-22T10:05:11Z");
        let nanos = format(Duration::new(1, 5), Precision::Nanoseconds);
        assert_eq!(nanos, "1970-01-01T00:00:01.000000005Z");
    }
}
