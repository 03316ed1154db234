//! Image references: docker's short forms, made canonical, and back.
//!
//! What always holds: a [`Reference`] is valid. Its registry, repository, tag and digest have passed the grammar, so they can
//! become parts of a URL or a key as they are. The grammar and the error texts are docker's, which scripts grep.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

const DEFAULT_REGISTRY: &str = "docker.io";
const LEGACY_REGISTRY: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Of registry and repository together, in bytes.
const MAX_NAME: usize = 255;
/// Nothing longer can be a reference: name, tag (128) and the longest digest (sha512) with their separators.
const MAX_REFERENCE: usize = MAX_NAME + 1 + 128 + 1 + 7 + 128;

/// Why a text is no reference. The messages are those of docker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("repository name must have at least one component")]
    Empty,
    #[error("repository name must not be more than {MAX_NAME} characters")]
    TooLong,
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    #[error("unsupported digest algorithm")]
    DigestAlgorithm,
    #[error("invalid checksum digest length")]
    DigestLength,
    #[error("invalid checksum digest format")]
    DigestFormat,
}

/// A canonical reference: `registry/repository` with a tag, a digest, or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

// (registry) (repository) (tag) (digest), of the form in which the registry is always named.
static GRAMMAR: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let label = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
    let host = format!(r"(?:{label}(?:\.{label})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?");
    let component = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
    let tag = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}";
    let digest = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
    Regex::new(&format!(r"\A({host})/({component}(?:/{component})*)(?::({tag}))?(?:@({digest}))?\z")).ok()
});

impl Reference {
    /// Reads a reference as docker does: `hello-world` is `docker.io/library/hello-world:latest`. The tag
    /// `latest` is added where neither a tag nor a digest is given.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        let mut reference = Reference::parse_untagged(text)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some(DEFAULT_TAG.to_owned());
        }
        Ok(reference)
    }

    /// As [`Reference::parse`], but without the default tag, for callers to whom its absence means something.
    pub fn parse_untagged(text: &str) -> Result<Reference, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Format);
        }
        if text.len() > MAX_REFERENCE {
            // Longer than any reference: decide without running the grammar over it.
            return Err(if text.contains(['/', ':', '@']) {
                ReferenceError::Format
            } else {
                ReferenceError::TooLong
            });
        }
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (registry, remainder) = split_registry(text);
        let path = remainder.split([':', '@']).next().unwrap_or_default();
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(path.to_owned()));
        }
        let canonical = format!("{registry}/{remainder}");
        let Some(parts) = GRAMMAR.as_ref().and_then(|grammar| grammar.captures(&canonical)) else {
            return Err(ReferenceError::Format);
        };
        let part = |index: usize| parts.get(index).map(|m| m.as_str().to_owned());
        let (registry, repository) = (part(1).unwrap_or_default(), part(2).unwrap_or_default());
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        let digest = part(4);
        if let Some(digest) = &digest {
            check_digest(digest)?;
        }
        Ok(Reference { registry, repository, tag: part(3), digest })
    }

    /// Host and port of the registry as it is written in names, e.g. `docker.io` or `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry, e.g. `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `algorithm:hex`.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Without a digest or beside it.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// `registry/repository`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What the registry is asked for: the digest if there is one, else the tag.
    pub fn object(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or(DEFAULT_TAG)
    }

    /// The name under which the image is kept: a digest makes a tag beside it meaningless.
    pub fn canonical(&self) -> String {
        match &self.digest {
            Some(digest) => format!("{}@{digest}", self.name()),
            None => format!("{}:{}", self.name(), self.tag.as_deref().unwrap_or(DEFAULT_TAG)),
        }
    }

    /// Docker's short form of the name: `docker.io/library/x` becomes `x`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        match self.repository.strip_prefix(OFFICIAL_PREFIX) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.repository.clone(),
        }
    }

    /// Docker's short form, with what the reference names in the repository.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest);
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text)
    }
}

// The first component is a registry only if it could not be a repository's: it has a dot or a port, or is `localhost`.
fn split_registry(text: &str) -> (&str, String) {
    let (registry, remainder) = match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DEFAULT_REGISTRY, text),
    };
    let registry = if registry == LEGACY_REGISTRY { DEFAULT_REGISTRY } else { registry };
    if registry == DEFAULT_REGISTRY && !remainder.contains('/') {
        return (registry, format!("{OFFICIAL_PREFIX}{remainder}"));
    }
    (registry, remainder.to_owned())
}

/// Checks `algorithm:hex` before it may become a path or part of a URL.
pub fn check_digest(digest: &str) -> Result<(), ReferenceError> {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return Err(ReferenceError::DigestFormat);
    };
    let length = match algorithm {
        "sha256" => 64,
        "sha512" => 128,
        _ => return Err(ReferenceError::DigestAlgorithm),
    };
    if hex.len() != length {
        return Err(ReferenceError::DigestLength);
    }
    if !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(ReferenceError::DigestFormat);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> String {
        Reference::parse(text).unwrap().canonical()
    }

    #[test]
    fn short_forms_become_canonical() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        for (short, long) in [
            ("hello-world", "docker.io/library/hello-world:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("me/app", "docker.io/me/app:latest".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/app:v1", "localhost:5000/app:v1".to_owned()),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest".to_owned()),
            ("[::1]:5000/app", "[::1]:5000/app:latest".to_owned()),
            ("quay.io/a/b_c__d-e.f:T.a-g_", "quay.io/a/b_c__d-e.f:T.a-g_".to_owned()),
            ("HOST:80/app", "HOST:80/app:latest".to_owned()),
        ] {
            assert_eq!(canonical(short), long, "{short}");
        }
        assert_eq!(canonical(&format!("busybox@{digest}")), format!("docker.io/library/busybox@{digest}"));
        let both = Reference::parse(&format!("busybox:1@{digest}")).unwrap();
        assert_eq!(both.canonical(), format!("docker.io/library/busybox@{digest}"));
        assert_eq!(both.object(), digest);
        assert_eq!(both.familiar(), format!("busybox:1@{digest}"));
    }

    #[test]
    fn canonical_forms_become_short() {
        for (long, short) in [
            ("docker.io/library/hello-world:latest", "hello-world:latest"),
            ("docker.io/me/app:1", "me/app:1"),
            ("localhost:5000/app:1", "localhost:5000/app:1"),
            ("docker.io/library/a/b:1", "library/a/b:1"),
        ] {
            assert_eq!(Reference::parse(long).unwrap().familiar(), short);
        }
    }

    #[test]
    fn errors_are_dockers() {
        let error = |text: &str| Reference::parse(text).unwrap_err().to_string();
        for bad in [
            "", "a b", ":tag", "/app", "app:", "app@", "app:ta g", "a//b", "-a", "a-", "a/-b", "app:.x",
            "a\nb", "a:b:c", "../x", "é",
        ] {
            assert_eq!(error(bad), "invalid reference format", "{bad}");
        }
        assert_eq!(
            error("Busybox"),
            "invalid reference format: repository name (library/Busybox) must be lowercase"
        );
        assert_eq!(
            error("quay.io/A/b:T"),
            "invalid reference format: repository name (A/b) must be lowercase"
        );
        assert_eq!(
            error("UPPER/case"),
            "invalid reference format: repository name (UPPER/case) must be lowercase"
        );
        assert_eq!(error(&"a".repeat(300)), "repository name must not be more than 255 characters");
        assert_eq!(
            error(&"ab".repeat(32)),
            format!(
                "invalid repository name ({}), cannot specify 64-byte hexadecimal strings",
                "ab".repeat(32)
            )
        );
        assert_eq!(error(&format!("a@md5:{}", "0".repeat(32))), "unsupported digest algorithm");
        assert_eq!(error(&format!("a@sha256:{}", "0".repeat(63))), "invalid checksum digest length");
        assert_eq!(error(&format!("a@sha256:{}", "A".repeat(64))), "invalid checksum digest format");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,300}") {
            if let Ok(reference) = Reference::parse(&text) {
                // A canonical name means itself.
                prop_assert_eq!(Reference::parse(&reference.canonical()).unwrap().canonical(), reference.canonical());
            }
        }

        #[test]
        fn familiar_form_names_the_same_image(
            host in "(docker\\.io|localhost|[a-z]{1,5}\\.[a-z]{2,3}(:[0-9]{1,4})?)",
            path in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,3}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let reference = Reference::parse(&format!("{host}/{path}:{tag}")).unwrap();
            prop_assert_eq!(Reference::parse(&reference.familiar()).unwrap(), reference);
        }
    }
}
