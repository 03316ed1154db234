//! Platforms: what the host runs, and which entry of a multi-platform index fits best.
//!
//! What always holds: a [`Platform`] is normalized (`x86_64` is `amd64`, `aarch64` is `arm64/v8`, `arm` is `arm/v7`), so that
//! equal platforms compare equal.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

/// A normalized platform.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    /// Empty where the architecture has none.
    pub variant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\": {why}: write it as os/arch[/variant], for example linux/amd64")]
pub struct PlatformError {
    text: String,
    why: &'static str,
}

impl Platform {
    pub fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
            ("x86_64" | "x86-64", other) => ("amd64", other),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0" | "") => ("arm64", "v8"),
            ("aarch64", other) => ("arm64", other),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        Platform { os, architecture: architecture.to_owned(), variant: variant.to_owned() }
    }

    /// The platform that this daemon was built for, which is the host's.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            other => other,
        };
        Platform::new("linux", architecture, "")
    }

    /// How well an image for `offered` runs where `self` is wanted: `None` not at all, lower is better. A CPU also runs the
    /// code of its older variants, and 64-bit ones that of their 32-bit predecessors where that was asked of docker too (arm).
    pub fn rank(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os {
            return None;
        }
        if self == offered {
            return Some(0);
        }
        let wanted = version(&self.variant);
        let has = version(&offered.variant);
        match (self.architecture.as_str(), offered.architecture.as_str()) {
            ("amd64", "amd64") => {
                let (wanted, has) = (wanted.max(1), has.max(1));
                (has <= wanted).then(|| wanted - has)
            }
            ("arm" | "arm64", "arm") if self.architecture == "arm64" => {
                (has <= 8).then(|| 100 + (8 - has.min(8)))
            }
            ("arm", "arm") | ("arm64", "arm64") => (has <= wanted).then(|| wanted - has),
            (a, b) if a == b && (self.variant.is_empty() || offered.variant.is_empty()) => Some(50),
            _ => None,
        }
    }
}

fn version(variant: &str) -> u32 {
    let digits = variant.trim_start_matches('v');
    digits.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Platform, PlatformError> {
        let error = |why| PlatformError { text: text.chars().take(100).collect(), why };
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| {
            part.is_empty() || !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        }) {
            return Err(error("not a platform"));
        }
        match parts.as_slice() {
            [os, architecture] => Ok(Platform::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Platform::new(os, architecture, variant)),
            [_] => Err(error("operating system or architecture is missing")),
            _ => Err(error("too many parts")),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        // arm64's only variant is not written out, as everywhere else.
        let implied = self.architecture == "arm64" && self.variant == "v8";
        if !self.variant.is_empty() && !implied {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_normalized() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("Linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i686", "linux/386"),
        ] {
            assert_eq!(platform(text).to_string(), normal);
        }
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/a md"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn older_variants_run_and_newer_do_not() {
        let v3 = platform("linux/amd64/v3");
        assert_eq!(v3.rank(&platform("linux/amd64/v3")), Some(0));
        assert!(v3.rank(&platform("linux/amd64/v2")) < v3.rank(&platform("linux/amd64")));
        assert_eq!(v3.rank(&platform("linux/amd64/v4")), None);
        assert_eq!(platform("linux/amd64").rank(&platform("linux/amd64/v2")), None);
        assert_eq!(platform("linux/amd64").rank(&platform("linux/386")), None);
        let v7 = platform("linux/arm/v7");
        assert!(v7.rank(&platform("linux/arm/v6")).is_some());
        assert_eq!(v7.rank(&platform("linux/arm64")), None);
        let arm64 = platform("linux/arm64");
        assert!(arm64.rank(&platform("linux/arm/v7")) < arm64.rank(&platform("linux/arm/v6")));
        assert_eq!(platform("windows/amd64").rank(&platform("linux/amd64")), None);
    }
}
