//! Numbers and booleans as Go's flag package reads them.

/// A whole number.
pub fn integer(text: &str) -> Result<i64, String> {
    text.parse().map_err(|error: std::num::ParseIntError| match error.kind() {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
            format!("strconv.ParseInt: parsing {text:?}: value out of range")
        }
        _ => format!("strconv.ParseInt: parsing {text:?}: invalid syntax"),
    })
}

/// A whole number of seconds; -1: for ever.
pub fn seconds(text: &str) -> Result<i32, String> {
    let number = integer(text)?;
    match i32::try_from(number) {
        Ok(number) if number >= -1 => Ok(number),
        _ => Err("must be -1 (wait for ever), 0 or a number of seconds".into()),
    }
}

/// What Go takes for a boolean.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// A whole number of sixteen bits.
pub fn small(text: &str) -> Result<u16, String> {
    let syntax = || format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(syntax());
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: value out of range"))
}

/// CPUs as a rational number (`1.5`, `1/2`, `15e-1`): thousand-millionths of one.
pub fn nano_cpus(text: &str) -> Result<i64, String> {
    let wrong = || format!("failed to parse {text} as a rational number");
    let (above, below) = match text.split_once('/') {
        Some((above, below)) => (decimal(above).ok_or_else(wrong)?, decimal(below).ok_or_else(wrong)?),
        None => (decimal(text).ok_or_else(wrong)?, (1, 0)),
    };
    if below.0 == 0 {
        return Err(wrong());
    }
    // above / below, in 10⁻⁹: whatever is left over is too precise.
    let power = 9 + above.1 - below.1;
    let ten = |power: i32| 10_i128.checked_pow(power.unsigned_abs());
    let (above, below) = match power {
        0.. => (ten(power).and_then(|ten| above.0.checked_mul(ten)).ok_or_else(wrong)?, below.0),
        _ => (above.0, ten(power).and_then(|ten| below.0.checked_mul(ten)).ok_or_else(wrong)?),
    };
    if above % below != 0 {
        return Err("value is too precise".into());
    }
    i64::try_from(above / below).map_err(|_| wrong())
}

/// `-1.25e3` as its digits and the power of ten that they are multiplied with.
fn decimal(text: &str) -> Option<(i128, i32)> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok().filter(|e| e.abs() < 20)?),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let all = format!("{whole}{fraction}");
    let sound = !digits.is_empty() && digits != "." && all.len() <= 24;
    if !sound || !all.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: i128 = if all.is_empty() { 0 } else { all.parse().ok()? };
    Some((if negative { -number } else { number }, exponent - i32::try_from(fraction.len()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(integer("-1"), Ok(-1));
        assert_eq!(integer("x").unwrap_err(), "strconv.ParseInt: parsing \"x\": invalid syntax");
        assert!(integer("99999999999999999999").unwrap_err().contains("out of range"));
        assert_eq!(seconds("-1"), Ok(-1));
        assert!(seconds("-2").is_err() && seconds("3000000000").is_err());
        assert_eq!(nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(nano_cpus(".25"), Ok(250_000_000));
        assert_eq!(nano_cpus("2"), Ok(2_000_000_000));
        assert_eq!(nano_cpus("1/2"), Ok(500_000_000));
        assert_eq!(nano_cpus("15e-1"), Ok(1_500_000_000));
        assert_eq!(nano_cpus("-1"), Ok(-1_000_000_000), "the daemon says which are sound");
        assert_eq!(nano_cpus("1/3").unwrap_err(), "value is too precise");
        assert_eq!(small("7"), Ok(7));
        assert!(small("x").unwrap_err().contains("invalid syntax"));
        assert!(small("70000").unwrap_err().contains("out of range"));
        for wrong in ["", ".", "abc", "1.2.3", "1/0", "1/", "99999999999", "9999999999999999999999"] {
            assert!(nano_cpus(wrong).is_err(), "{wrong}");
        }
        assert_eq!(nano_cpus("0.0000000001").unwrap_err(), "value is too precise");
        assert_eq!(boolean("T"), Ok(true));
        assert!(boolean("yes").is_err());
    }
}
