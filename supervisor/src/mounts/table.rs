//! What a list of mounts (`/proc/PID/mountinfo`) says.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A path of the list: space, tab, newline and backslash are written as `\` and three octal digits.
pub fn path(field: impl AsRef<[u8]>) -> PathBuf {
    let mut rest = field.as_ref();
    let mut plain = Vec::with_capacity(rest.len());
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|digits| first == b'\\' && digits.iter().all(u8::is_ascii_digit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_list_of_mounts_are_read() {
        for (field, name) in [
            ("/a\\040b\\134c", "/a b\\c"),
            ("/a\\011b\\012c", "/a\tb\nc"),
            ("/a\\134040", "/a\\040"),
            ("/a\\04", "/a\\04"),
            ("/\\999\\+12", "/\\999\\+12"),
        ] {
            assert_eq!(path(field), PathBuf::from(name));
        }
    }
}
