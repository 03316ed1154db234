//! Names in layers: what may be written where, and what a whiteout's name means.
//!
//! What always holds: a normalized name is relative, free of `.`, `..`, empty components and NUL, and within the limits, so
//! that joining it to a directory can lead out of it only through links, which the tree refuses on its own.

#![forbid(unsafe_code)]

use super::MAX_PATH;
use super::error::Rule;

pub const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that aufs kept for itself; layers of its time still have them.
const AUFS: &[u8] = b".wh..wh.";

/// Checks a name and joins its components by single slashes. Empty: the root itself.
pub fn normalize(raw: &[u8], max_depth: usize) -> Result<Vec<u8>, Rule> {
    if raw.is_empty() {
        return Err(Rule::EmptyName);
    }
    if raw[0] == b'/' && raw.iter().any(|&b| b != b'/') {
        return Err(Rule::AbsoluteName);
    }
    join(raw, max_depth)
}

fn join(raw: &[u8], max_depth: usize) -> Result<Vec<u8>, Rule> {
    if raw.contains(&0) {
        return Err(Rule::NulInName);
    }
    if raw.len() > MAX_PATH {
        return Err(Rule::LongName);
    }
    let mut name = Vec::with_capacity(raw.len());
    let mut depth = 0;
    for component in raw.split(|&b| b == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(Rule::DotDot),
            long if long.len() > 255 => return Err(Rule::LongComponent),
            _ => {}
        }
        depth += 1;
        if depth > max_depth {
            return Err(Rule::TooDeep(max_depth));
        }
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(component);
    }
    Ok(name)
}

/// A hard link's target is a name in the image, whether or not it starts with a slash.
pub fn hard_link_target(raw: &[u8], max_depth: usize) -> Result<Vec<u8>, Rule> {
    let start = raw.iter().position(|&b| b != b'/').unwrap_or(raw.len());
    match join(&raw[start..], max_depth) {
        Ok(name) if name.is_empty() => Err(Rule::HardLinkToDirectory),
        Err(Rule::DotDot) => Err(Rule::HardLinkEscapes),
        other => other,
    }
}

pub fn symlink_target(target: Vec<u8>) -> Result<Vec<u8>, Rule> {
    if target.is_empty() || target.len() > 4095 || target.contains(&0) {
        Err(Rule::BadSymlinkTarget)
    } else {
        Ok(target)
    }
}

/// Attributes with which an image could speak to overlayfs or to the host.
pub fn check_xattr(name: &[u8]) -> Result<(), Rule> {
    if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") {
        return Err(Rule::ReservedXattr(String::from_utf8_lossy(name).escape_debug().to_string()));
    }
    Ok(())
}

/// Parent and last component.
pub fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (&[], name),
    }
}

/// What an entry's name stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// The entry itself.
    Plain,
    /// The directory hides what the layers below have in it.
    Opaque,
    /// The layers below lose this name.
    Whiteout(&'a [u8]),
    /// Book-keeping of aufs, without meaning to us.
    Ignored,
}

pub fn meaning(name: &[u8]) -> Result<Meaning<'_>, Rule> {
    let (parent, leaf) = split(name);
    for component in parent.split(|&b| b == b'/') {
        if component.starts_with(AUFS) {
            return Ok(Meaning::Ignored);
        }
        if component.starts_with(WHITEOUT) {
            return Err(Rule::WhiteoutDirectory);
        }
    }
    if leaf == OPAQUE {
        return Ok(Meaning::Opaque);
    }
    match leaf.strip_prefix(WHITEOUT) {
        None => Ok(Meaning::Plain),
        Some(b"" | b"." | b"..") => Err(Rule::EmptyWhiteout),
        Some(_) if leaf.starts_with(AUFS) => Ok(Meaning::Ignored),
        Some(hidden) => Ok(Meaning::Whiteout(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalized_or_refused() {
        let normal = |raw: &[u8]| normalize(raw, 8).map(|name| String::from_utf8(name).unwrap());
        assert_eq!(normal(b"./a//b/./c/").unwrap(), "a/b/c");
        for root in [&b"."[..], b"./", b"/", b"//"] {
            assert_eq!(normal(root).unwrap(), "");
        }
        assert_eq!(normal(b"a/../b"), Err(Rule::DotDot));
        assert_eq!(normal(b"/etc/passwd"), Err(Rule::AbsoluteName));
        assert_eq!(normal(b"a\0b"), Err(Rule::NulInName));
        assert_eq!(normal(b""), Err(Rule::EmptyName));
        assert_eq!(normal(&[b'a'; 256]), Err(Rule::LongComponent));
        assert_eq!(normal(&b"a/".repeat(9)), Err(Rule::TooDeep(8)));
        assert_eq!(hard_link_target(b"/usr/x", 8).unwrap(), b"usr/x");
        assert_eq!(hard_link_target(b"../x", 8), Err(Rule::HardLinkEscapes));
    }

    #[test]
    fn whiteout_names() {
        assert_eq!(meaning(b"a/.wh.b").unwrap(), Meaning::Whiteout(b"b"));
        assert_eq!(meaning(b"a/.wh..wh..opq").unwrap(), Meaning::Opaque);
        assert_eq!(meaning(b".wh..wh.plnk/1").unwrap(), Meaning::Ignored);
        assert_eq!(meaning(b".wh..wh.aufs").unwrap(), Meaning::Ignored);
        assert_eq!(meaning(b"a/b").unwrap(), Meaning::Plain);
        for bad in [&b"a/.wh."[..], b".wh..", b".wh..."] {
            assert_eq!(meaning(bad), Err(Rule::EmptyWhiteout));
        }
        assert_eq!(meaning(b".wh.a/b"), Err(Rule::WhiteoutDirectory));
    }
}
