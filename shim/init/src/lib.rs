//! The init that `--init` puts before a container's program, as the bytes of an ELF file of about 2 KiB.
//!
//! What always holds: it is linked statically, with no library at all, so that it runs in any container; whoever executes it
//! does so from a sealed memory file, so that it is no file of the container's.
//!
//! Its source is `program.rs`, which `build.rs` compiles by itself: as part of the workspace it would be linked like all else.
#![forbid(unsafe_code)]

/// The program. Its command line is `NAME -- PROGRAM [ARGUMENT...]`, or `NAME` to run nothing and only reap.
pub static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small_and_needs_no_interpreter() {
        assert!(PROGRAM.starts_with(b"\x7fELF"));
        assert!(PROGRAM.len() < 8192, "{} bytes", PROGRAM.len());
        assert!(!PROGRAM.windows(3).any(|bytes| bytes == b"ld-"), "an interpreter");
    }
}
