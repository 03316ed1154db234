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

/// CPUs as a decimal number: thousand-millionths of one.
pub fn nano_cpus(text: &str) -> Result<i64, String> {
    let wrong = || format!("failed to parse {text} as a rational number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 {
        return Err(wrong());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("value is too precise".into());
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
    let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    whole.checked_mul(1_000_000_000).and_then(|whole| whole.checked_add(nanos)).ok_or_else(wrong)
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
        for wrong in ["", ".", "abc", "-1", "1.2.3", "1e3", "99999999999", "9999999999999999999999"] {
            assert!(nano_cpus(wrong).is_err(), "{wrong}");
        }
        assert_eq!(nano_cpus("0.0000000001").unwrap_err(), "value is too precise");
        assert_eq!(boolean("T"), Ok(true));
        assert!(boolean("yes").is_err());
    }
}
