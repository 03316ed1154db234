//! The same configs run by Debian's runc and by `longshore-runtime`: what becomes of the container, what its process sees,
//! and its exit code must agree. Differences that are meant are listed, with their reason, in `compare`.
//!
//! `LONGSHORE_LONG=1` runs 500 configs, `LONGSHORE_SEED=N` starts elsewhere; a failure names its seed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod compare;
mod generate;
mod run;

use std::path::Path;

const USUAL: u64 = 40;
const LONG: u64 = 500;

#[test]
fn generated_configs_look_the_same_to_their_processes() {
    if !Path::new("/usr/sbin/runc").exists() {
        eprintln!("skipped: there is no runc to compare with");
        return;
    }
    let count = if std::env::var_os("LONGSHORE_LONG").is_some() { LONG } else { USUAL };
    let first: u64 = std::env::var("LONGSHORE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let count = if std::env::var_os("LONGSHORE_ONE").is_some() { 1 } else { count };
    let bench = run::Bench::new();
    let mut ran = 0;
    let mut different = Vec::new();
    for seed in first..first + count {
        let config = generate::config(seed, bench.dir());
        if count == 1 {
            eprintln!("{config:#}");
        }
        let theirs = bench.run(Path::new("/usr/sbin/runc"), &config);
        let ours = bench.run(Path::new(env!("CARGO_BIN_EXE_longshore-runtime")), &config);
        ran += usize::from(theirs.ran());
        if let Some(difference) = compare::difference(&theirs, &ours) {
            eprintln!("seed {seed}: {difference}");
            different.push(seed.to_string());
        }
    }
    assert!(
        different.is_empty(),
        "{} of {count} differ, from these seeds: {}",
        different.len(),
        different.join(" ")
    );
    assert!(ran as u64 * 10 >= count * 7, "only {ran} of {count} configs make a container");
}
