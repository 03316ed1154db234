//! What the command line says.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: longshore-bench [--rounds N] [--starts N] [--idle N] [--pull-mib N] [--pulls N] [--pods N] [--only NAME[,NAME]…] [--rows WORD[,WORD]…] [--containerd PATH] [--results FILE]
  --rounds N    runs of `true` per contestant (default 30)
  --starts N    containers of a parallel start (default 50, 8 at a time; 3 rounds)
  --idle N      containers for the memory rows (default 100)
  --pull-mib N  compressed size of the image that is pulled (default 460); 0 leaves the row out
  --pulls N     pulls per contestant (default 3)
  --pods N      pods per contestant and kind of network (default 50)
  --only        contestants: longshore floor crun runc ctr docker podman (longshore always takes part)
  --rows        rows: run api start memory pull runtime network pods
  --containerd  the containerd that is measured (default: the host's; for pods: beside the host's)
  --results     default target/bench/results.json";

/// How much is measured, of whom.
pub struct Options {
    pub rounds: usize,
    pub starts: usize,
    pub idle: usize,
    pub pull_mib: usize,
    pub pulls: usize,
    pub pods: usize,
    pub only: Vec<String>,
    pub rows: Vec<String>,
    /// Instead of the host's.
    pub containerd: Option<PathBuf>,
    pub results: PathBuf,
}

impl Options {
    pub fn parse() -> Result<Self> {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let mut options = Self {
            rounds: 30,
            starts: 50,
            idle: 100,
            pull_mib: 460,
            pulls: 3,
            pods: 50,
            only: Vec::new(),
            rows: Vec::new(),
            containerd: None,
            results: target.join("bench/results.json"),
        };
        let mut args = std::env::args().skip(1);
        while let Some(flag) = args.next() {
            if flag == "--help" || flag == "-h" {
                println!("{USAGE}");
                std::process::exit(0);
            }
            let value = args.next().with_context(|| format!("{flag} needs a value\n{USAGE}"))?;
            let number = || value.parse().with_context(|| format!("{flag} {value}: not a number"));
            let list = || value.split(',').map(str::to_owned).collect();
            match flag.as_str() {
                "--rounds" => options.rounds = number()?,
                "--starts" => options.starts = number()?,
                "--idle" => options.idle = number()?,
                "--pull-mib" => options.pull_mib = number()?,
                "--pulls" => options.pulls = number()?,
                "--pods" => options.pods = number()?,
                "--only" => options.only = list(),
                "--rows" => options.rows = list(),
                "--containerd" => options.containerd = Some(PathBuf::from(&value)),
                "--results" => options.results = PathBuf::from(&value),
                _ => bail!("unknown flag {flag}\n{USAGE}"),
            }
        }
        Ok(options)
    }

    /// Whether this contestant takes part.
    pub fn wants(&self, contestant: &str) -> bool {
        self.only.is_empty() || contestant == "longshore" || self.only.iter().any(|name| name == contestant)
    }

    /// Whether this row is measured.
    pub fn wants_row(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|name| name == row)
    }
}
