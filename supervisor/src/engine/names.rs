//! Container names and ids: what a name may look like, names for containers that got none, and finding a
//! container by name, id or a unique beginning of its id.

use rand::RngExt;

use crate::error::Result;

/// Longest name: it must fit a file name and a hostname column without surprises.
pub const MAX_NAME: usize = 253;

/// Why a text is no container's name, in docker's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    Form(String),
    #[error("Invalid container name: it is longer than {MAX_NAME} bytes")]
    Long,
}

const ADJECTIVES: [&str; 96] = [
    "able", "agile", "amber", "ample", "ardent", "autumn", "azure", "bold", "brave", "breezy", "bright",
    "brisk", "calm", "candid", "careful", "cheery", "clear", "clever", "coastal", "copper", "cosmic",
    "crisp", "curious", "daring", "dawn", "deep", "deft", "eager", "early", "earnest", "easy", "epic",
    "fair", "faithful", "fancy", "fast", "fearless", "fine", "firm", "fleet", "fluent", "frank", "fresh",
    "gallant", "gentle", "glad", "golden", "grand", "happy", "hardy", "hearty", "honest", "humble", "jolly",
    "keen", "kind", "lively", "lucid", "lucky", "mellow", "merry", "mighty", "modest", "neat", "nimble",
    "noble", "patient", "placid", "plucky", "polite", "proud", "quick", "quiet", "rapid", "ready", "regal",
    "robust", "rosy", "serene", "sharp", "silent", "silver", "sleek", "smart", "snug", "solid", "spry",
    "steady", "stout", "sunny", "swift", "tidy", "trusty", "vivid", "warm", "wise",
];

/// Navigators, shipwrights, engineers and people of science.
const SURNAMES: [&str; 96] = [
    "abel",
    "agnesi",
    "ampere",
    "amundsen",
    "babbage",
    "baffin",
    "banach",
    "baret",
    "bering",
    "bernoulli",
    "bessel",
    "boole",
    "bose",
    "brunel",
    "cabot",
    "cantor",
    "cauchy",
    "cavendish",
    "celsius",
    "cook",
    "curie",
    "dalton",
    "davis",
    "diaz",
    "dijkstra",
    "doppler",
    "drake",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "flinders",
    "fourier",
    "franklin",
    "frobisher",
    "galois",
    "gauss",
    "germain",
    "goddard",
    "hamilton",
    "harrison",
    "henson",
    "herschel",
    "hertz",
    "hilbert",
    "hopper",
    "hudson",
    "hypatia",
    "jansson",
    "jenner",
    "joule",
    "kepler",
    "kovalevsky",
    "lagrange",
    "laplace",
    "leibniz",
    "lovelace",
    "magellan",
    "maxwell",
    "mercator",
    "nansen",
    "napier",
    "nautilus",
    "noether",
    "ohm",
    "orellana",
    "pascal",
    "pasteur",
    "peary",
    "perouse",
    "planck",
    "polo",
    "prandtl",
    "ptolemy",
    "raman",
    "riemann",
    "ritchie",
    "ross",
    "rutherford",
    "scott",
    "shackleton",
    "shannon",
    "slocum",
    "somerville",
    "stokes",
    "tasman",
    "tesla",
    "thales",
    "torres",
    "turing",
    "vespucci",
    "volta",
    "watt",
    "weddell",
    "wegener",
    "zheng",
];

/// 64 hexadecimal digits from the system's random source.
pub fn new_id() -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes: [u8; 32] = rand::rng().random();
    let mut id = String::with_capacity(64);
    for byte in bytes {
        id.push(char::from(DIGITS[usize::from(byte >> 4)]));
        id.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    // An id whose first twelve digits are all decimal would pass for a number in tools that take both.
    if id[..12].bytes().all(|b| b.is_ascii_digit()) { new_id() } else { id }
}

/// An `adjective_surname` that `taken` does not know; after a few collisions a digit is added.
pub fn generate(taken: impl Fn(&str) -> bool) -> String {
    let mut rng = rand::rng();
    for attempt in 0_u32.. {
        let adjective = ADJECTIVES[rng.random_range(0..ADJECTIVES.len())];
        let surname = SURNAMES[rng.random_range(0..SURNAMES.len())];
        let name = match attempt {
            0..3 => format!("{adjective}_{surname}"),
            3..12 => format!("{adjective}_{surname}{}", rng.random_range(0..10)),
            _ => format!("{adjective}_{surname}{}", rng.random_range(10..u32::MAX)),
        };
        if !taken(&name) {
            return name;
        }
    }
    new_id()
}

/// Checks a name that a user gave; a leading slash, as the Engine API writes names, is dropped.
pub fn validate(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut bytes = bare.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let mut rest = bytes.clone().count();
    let tail = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    rest += 1;
    if !first || rest < 2 || !tail {
        return Err(NameError::Form(name.chars().take(MAX_NAME).collect()).into());
    }
    if bare.len() > MAX_NAME {
        return Err(NameError::Long.into());
    }
    Ok(bare)
}

/// Whether `text` can be the beginning of an id.
pub fn is_id_prefix(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_hex_digits_and_differ() {
        let (a, b) = (new_id(), new_id());
        assert_eq!(a.len(), 64);
        assert!(is_id_prefix(&a));
        assert_ne!(a, b);
    }

    #[test]
    fn generated_names_are_valid_and_avoid_collisions() {
        for _ in 0..200 {
            let name = generate(|_| false);
            assert_eq!(validate(&name).unwrap(), name);
        }
        let name = generate(|name| !name.ends_with(|c: char| c.is_ascii_digit()));
        assert!(name.ends_with(|c: char| c.is_ascii_digit()), "{name}");
    }

    #[test]
    fn names_that_users_give() {
        for good in ["ab", "/web-1", "a.b_c-D", "0x"] {
            assert!(validate(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "/", "-ab", ".ab", "a b", "a/b", "ä1", "../etc", &"x".repeat(254)] {
            assert!(validate(bad).is_err(), "{bad}");
        }
    }
}
