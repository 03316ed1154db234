//! What an idle shim costs. Only the static build has the bound: it is measured where that exists.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::{Shim, Want, memory};

/// The bound of an idle shim, in KiB.
const PRIVATE_DIRTY: u64 = 256;

/// The static build: named by the environment, or in the target folder of this build.
fn static_build() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("LONGSHORE_STATIC_SHIM") {
        return Some(path.into());
    }
    let target = Path::new(env!("CARGO_BIN_EXE_containerd-shim-longshore-v1")).parent()?.parent()?;
    ["x86_64-unknown-linux-gnu/shim", "shim"]
        .into_iter()
        .map(|folder| target.join(folder).join("containerd-shim-longshore-v1"))
        .find(|path| path.exists())
}

#[test]
fn an_idle_shim_is_small() {
    let Some(binary) = static_build() else {
        eprintln!("skipped: no static build of the shim (make build makes one)");
        return;
    };
    // Pages of a file that was just linked count as dirty until they are written back.
    rustix::fs::sync();
    let mut shim = Shim::with_binary(&binary);
    shim.assign().unwrap();
    let log = format!("log://{}/log", shim.dir.path().display());
    shim.create(&Want { stdout: log, ..Want::sh("echo hello; sleep 100") }).unwrap();
    shim.start().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let dirty = memory(shim.child.id(), "smaps_rollup", "Private_Dirty");
    let pss = memory(shim.child.id(), "smaps_rollup", "Pss:");
    eprintln!("idle shim: Private_Dirty {dirty} KiB, PSS {pss} KiB");
    assert!(dirty <= PRIVATE_DIRTY, "{dirty} KiB of Private_Dirty");
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}
