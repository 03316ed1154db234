//! Compiles `src/program.rs` to a static program without any library.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "src/program.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let variable = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let output = PathBuf::from(variable("OUT_DIR")).join("init");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--edition=2024", "--crate-name=init", "--crate-type=bin"])
        .arg("--target")
        .arg(variable("TARGET"));
    for option in [
        "panic=abort",
        "opt-level=s",
        "strip=symbols",
        "force-unwind-tables=no",
        "relocation-model=static",
        "target-feature=+crt-static",
        "link-arg=-nostartfiles",
        "link-arg=-nostdlib",
        "link-arg=-static",
        // One page holds it all.
        "link-arg=-Wl,-z,noseparate-code,-z,norelro,-z,noexecstack,--build-id=none",
    ] {
        rustc.args(["-C", option]);
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    let status = rustc.arg("-o").arg(&output).arg(SOURCE).status();
    assert!(status.is_ok_and(|status| status.success()), "the init could not be compiled");
}
