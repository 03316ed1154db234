//! The table and the file.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One comparison. `ratio` is ours / theirs, whatever is better.
#[derive(Serialize)]
pub struct Row {
    pub name: String,
    pub ours: f64,
    pub peer: String,
    pub theirs: Option<f64>,
    pub unit: &'static str,
    pub ratio: Option<f64>,
}

#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    /// Who did not take part in what, and why.
    missing: Vec<String>,
}

impl Report {
    /// A comparison with a peer.
    pub fn compare(&mut self, name: &str, unit: &'static str, ours: f64, peer: &str, theirs: f64) {
        let ratio = (theirs > 0.0).then(|| round(ours / theirs));
        let row = Row {
            name: name.to_owned(),
            ours: round(ours),
            peer: peer.to_owned(),
            theirs: Some(round(theirs)),
            unit,
            ratio,
        };
        self.rows.push(row);
    }

    /// A figure of ours that nobody else has.
    pub fn alone(&mut self, name: &str, unit: &'static str, ours: f64) {
        let name = name.to_owned();
        self.rows.push(Row { name, ours: round(ours), peer: String::new(), theirs: None, unit, ratio: None });
    }

    pub fn missing(&mut self, who: &str, what: &str, why: impl std::fmt::Display) {
        let line = format!("{who}: {what}: {why}");
        eprintln!("not measured: {line}");
        self.missing.push(line);
    }

    pub fn print(&self) {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        println!(
            "\n{:width$}  {:>10}  {:<22} {:>10}  {:<8} {:>7}",
            "", "ours", "peer", "theirs", "unit", "ratio"
        );
        let mut last = "";
        for row in &self.rows {
            let name = if row.name == last { "" } else { &row.name };
            last = &row.name;
            let number =
                |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value}"));
            println!(
                "{name:width$}  {:>10}  {:<22} {:>10}  {:<8} {:>7}",
                row.ours,
                row.peer,
                number(row.theirs),
                row.unit,
                number(row.ratio)
            );
        }
        if !self.missing.is_empty() {
            println!("\nnot measured:");
            self.missing.iter().for_each(|line| println!("  {line}"));
        }
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let text = serde_json::to_string_pretty(&self.rows)?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }
}

/// Three significant figures.
fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10f64.powf(2.0 - value.abs().log10().floor());
    if scale < 1.0 { value.round() } else { (value * scale).round() / scale }
}
