//! The small virtual machines that test what this host cannot show: a pure cgroup v2 host, one with a booted systemd, an
//! older kernel, and losing power.
//!
//! What always holds: the host is left as it was (everything happens in one folder below the target folder and in
//! processes of our own, which end with us); every machine has a time limit; a machine that does not say how its tests
//! ended has failed.

mod guest;
mod image;
mod machine;
mod packages;
mod power;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::Instant;

const USAGE: &str = "usage: longshore-vm FOLDER BINARIES.json CARGO.json [FLAVOUR]
  FOLDER         where packages are kept and images are made (target/vm)
  BINARIES.json  of `cargo nextest list --list-type binaries-only --message-format json`
  CARGO.json     of `cargo metadata --format-version 1`
  FLAVOUR        v2, systemd, legacy, hybrid or power; all without it
  -- ARGUMENTS   for nextest in the machine instead of the flavour's usual ones";

/// What a machine boots into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Nothing but our own init, on a unified hierarchy that we have for ourselves.
    V2,
    /// systemd, with a system bus, on a unified hierarchy.
    Systemd,
    /// The same with a v1 hierarchy for each controller, and one for systemd itself.
    Legacy,
    /// The same with a unified hierarchy beside them, which systemd keeps its units in.
    Hybrid,
    /// As v2, and its power is cut while it works.
    Power,
}

impl Flavour {
    pub fn name(self) -> &'static str {
        match self {
            Flavour::V2 => "v2",
            Flavour::Systemd => "systemd",
            Flavour::Legacy => "legacy",
            Flavour::Hybrid => "hybrid",
            Flavour::Power => "power",
        }
    }

    fn parse(name: &str) -> Result<Flavour> {
        match name {
            "v2" => Ok(Flavour::V2),
            "systemd" => Ok(Flavour::Systemd),
            "legacy" => Ok(Flavour::Legacy),
            "hybrid" => Ok(Flavour::Hybrid),
            "power" => Ok(Flavour::Power),
            other => bail!("{other:?} is no flavour\n{USAGE}"),
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.first().map(String::as_str) {
        Some("guest") => guest::main(&words[1..]),
        _ => host(&words),
    };
    match outcome {
        Ok(code) => std::process::exit(code),
        Err(error) => {
            eprintln!("longshore-vm: {error:#}");
            std::process::exit(125)
        }
    }
}

fn host(words: &[String]) -> Result<i32> {
    let at = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let (words, extra) = (&words[..at], words.get(at + 1..).unwrap_or_default());
    let (folder, binaries, cargo, flavours) = match words {
        [folder, binaries, cargo] => (
            folder,
            binaries,
            cargo,
            vec![Flavour::V2, Flavour::Systemd, Flavour::Legacy, Flavour::Hybrid, Flavour::Power],
        ),
        [folder, binaries, cargo, flavour] => (folder, binaries, cargo, vec![Flavour::parse(flavour)?]),
        _ => bail!("{USAGE}"),
    };
    std::fs::create_dir_all(folder).with_context(|| format!("make {folder:?}"))?;
    let folder = std::fs::canonicalize(folder).with_context(|| format!("find {folder:?}"))?;
    let start = Instant::now();
    let base = packages::prepare(&folder)?;
    let image = image::make(&folder, &base, Path::new(binaries), Path::new(cargo))?;
    println!("longshore-vm: kernel and image ready after {:.1} s", start.elapsed().as_secs_f32());
    let mut worst = 0;
    for flavour in flavours {
        let start = Instant::now();
        let code = match flavour {
            Flavour::Power => power::run(&folder, &base.kernel, &image)?,
            Flavour::V2 | Flavour::Systemd | Flavour::Legacy | Flavour::Hybrid => {
                machine::run(&machine::Machine {
                    kernel: base.kernel.clone(),
                    image: image.clone(),
                    flavour,
                    disk: machine::Disk::Untouched,
                    arguments: extra.to_vec(),
                })?
            }
        };
        let seconds = start.elapsed().as_secs_f32();
        println!("longshore-vm: {} ended with {code} after {seconds:.1} s", flavour.name());
        worst = worst.max(code);
    }
    Ok(worst)
}

/// What the packages give.
pub struct Base {
    pub kernel: PathBuf,
    /// A folder that looks like a Debian system.
    pub tree: PathBuf,
}
