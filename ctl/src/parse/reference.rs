//! Just enough about image references to print them and to find their registry; the daemon alone decides what is
//! valid.

const HUB: &str = "docker.io";

/// A reference in its parts, as docker would complete them.
#[derive(Debug, PartialEq)]
pub struct Reference<'a> {
    pub registry: &'a str,
    /// `library/busybox`.
    pub path: String,
    /// What comes after the name: a tag, or a digest.
    pub tag: Option<&'a str>,
    pub digest: Option<&'a str>,
}

/// Takes a reference apart; anything is accepted.
pub fn split(text: &str) -> Reference<'_> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let is_registry = |first: &str| {
        first.contains(['.', ':']) || first == "localhost" || first.contains(|c: char| c.is_uppercase())
    };
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (first, path),
        _ => (HUB, name),
    };
    let registry = if registry == "index.docker.io" { HUB } else { registry };
    let path =
        if registry == HUB && !path.contains('/') { format!("library/{path}") } else { path.to_string() };
    Reference { registry, path, tag, digest }
}

/// docker's short form: `docker.io/library/busybox:latest` is `busybox:latest`.
pub fn familiar(canonical: &str) -> &str {
    let short = canonical.strip_prefix("docker.io/").unwrap_or(canonical);
    short.strip_prefix("library/").unwrap_or(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_split_as_docker_splits_them() {
        for (text, registry, path, tag, digest) in [
            ("busybox", HUB, "library/busybox", None, None),
            ("busybox:1", HUB, "library/busybox", Some("1"), None),
            ("a/b:1", HUB, "a/b", Some("1"), None),
            ("localhost/b", "localhost", "b", None, None),
            ("127.0.0.1:5000/x/y:t", "127.0.0.1:5000", "x/y", Some("t"), None),
            ("localhost:5000/x", "localhost:5000", "x", None, None),
            ("x@sha256:ab", HUB, "library/x", None, Some("sha256:ab")),
            ("r.io/x:1@sha256:ab", "r.io", "x", Some("1"), Some("sha256:ab")),
        ] {
            assert_eq!(split(text), Reference { registry, path: path.into(), tag, digest }, "{text}");
        }
        assert_eq!(familiar("docker.io/library/x:1"), "x:1");
        assert_eq!(familiar("docker.io/a/x:1"), "a/x:1");
        assert_eq!(familiar("r.io/a/x:1"), "r.io/a/x:1");
    }
}
