//! What the targets share: each is one function of bytes, which libFuzzer drives (`cargo +nightly fuzz run fuzz-filter`), or
//! which is run once on each file that the command line names, to see again what was found.

#[cfg(fuzzing)]
pub use libfuzzer_sys;

/// Runs `target` on each file of the command line.
pub fn replay(target: impl Fn(&[u8])) -> std::io::Result<()> {
    for file in std::env::args_os().skip(1) {
        target(&std::fs::read(file)?);
    }
    Ok(())
}

/// The program of a target.
#[macro_export]
macro_rules! target {
    ($target:path) => {
        #[cfg(fuzzing)]
        $crate::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $target(bytes));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            $crate::replay($target)
        }
    };
}
