//! `argv` and `envp`: strings and the null-terminated array of pointers to them, built before the fork.

use std::ffi::{CString, NulError};

/// A null-terminated array of C strings with room for one more that is filled in by the child.
#[derive(Debug)]
pub(crate) struct CStrings {
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
    slot: Vec<u8>,
}

// SAFETY: the pointers lead into this value's own heap memory, which moves with it and is changed through `&mut self` only.
unsafe impl Send for CStrings {}

impl CStrings {
    /// Copies the strings and leaves room for one more of up to `slot` bytes; fails if one contains a NUL byte.
    pub(crate) fn new<S: AsRef<str>>(
        items: impl IntoIterator<Item = S>,
        slot: usize,
    ) -> Result<CStrings, NulError> {
        let strings = items.into_iter().map(|s| CString::new(s.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.extend([std::ptr::null(), std::ptr::null()]);
        Ok(CStrings { strings, pointers, slot: vec![0; slot + 1] })
    }

    /// Fills the room left by [`CStrings::new`] with the parts put together, without allocating. Answers whether they fit.
    pub(crate) fn fill_slot(&mut self, parts: &[&[u8]]) -> bool {
        let length: usize = parts.iter().map(|p| p.len()).sum();
        if length >= self.slot.len() || parts.iter().any(|p| p.contains(&0)) {
            return false;
        }
        let mut at = 0;
        for part in parts {
            self.slot[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        self.slot[at] = 0;
        self.pointers[self.strings.len()] = self.slot.as_ptr().cast();
        true
    }

    pub(crate) fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }
}
