//! A true power cut: the machine is killed while it pulls images and creates containers, and switched on again with the disk
//! as it was. What it had acknowledged must be there, whole.

use crate::machine::{self, DIED, Disk, Machine};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// How often the power goes, each time with a fresh disk; how many acknowledgements are waited for, and how long at most afterwards.
const CUTS: u32 = 2;
const ACKNOWLEDGED: usize = 4;
const LATEST: Duration = Duration::from_millis(3000);

fn arguments(test: &str) -> Vec<String> {
    let filter = format!("package(longshore-tests) & test(/^{test}$/)");
    vec!["-E".into(), filter]
}

/// Cuts the power at a moment of its own each time; 0 if everything was found again.
pub fn run(folder: &Path, kernel: &Path, image: &Path) -> Result<i32> {
    let disk = folder.join("power.ext4");
    for cut in 1..=CUTS {
        let copied = Command::new("cp").args(["--sparse=always"]).args([image, &disk]).status();
        ensure!(copied.context("run cp")?.success(), "copying the disk failed");
        let machine = |test: &str| Machine {
            kernel: kernel.into(),
            image: disk.clone(),
            flavour: crate::Flavour::V2,
            disk: Disk::Kept,
            arguments: arguments(test),
        };
        let nanos =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
        let moment = LATEST.mul_f64(f64::from(nanos % 1000) / 1000.0);
        let kept = machine::cut(&machine("works_until_the_power_is_cut"), "KEPT ", ACKNOWLEDGED, moment)?;
        println!(
            "longshore-vm: power cut {cut}, {moment:?} after {ACKNOWLEDGED} of {} acknowledgements",
            kept.len()
        );
        ensure!(kept.len() >= ACKNOWLEDGED, "the machine acknowledged too little: {kept:?}");
        let (code, lines) = machine::hear(&machine("finds_what_was_acknowledged"), "FOUND ")?;
        let found: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
        let lost: Vec<&String> = kept.iter().filter(|line| !found.contains(line.as_str())).collect();
        if code != 0 || !lost.is_empty() || !found.contains("all") {
            eprintln!("longshore-vm: after a power cut these were lost: {lost:?}; found: {lines:?}");
            return Ok(if code == 0 { DIED } else { code });
        }
        println!("longshore-vm: all {} of them were found, whole", kept.len());
    }
    let _ = std::fs::remove_file(&disk);
    Ok(0)
}
