//! Names the condition that `cargo fuzz` builds with.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(fuzzing)");
}
