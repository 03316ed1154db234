//! Pages of the programs beside the command line, from what they themselves print for `--help`.
//!
//! What always holds: a program that cannot be run, or says nothing, fails the whole; no page is made up.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use crate::NO_DATE;

const PROGRAMS: [&str; 4] =
    ["longshored", "longshore-snapshotter", "containerd-shim-longshore-v1", "longshore-runtime"];

/// Writes a page of section 8 for each of the programs in a folder.
pub fn write(pages: &Path, programs: &Path) -> io::Result<()> {
    fs::create_dir_all(pages)?;
    for name in PROGRAMS {
        let help = ask(programs, name, &[])?;
        let mut roff = Roff::new();
        let (about, rest) = help.split_once('\n').unwrap_or((&help, ""));
        let about = about.strip_prefix(name).map_or(about, |about| about.trim_start_matches(':').trim());
        roff.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
        sections(&mut roff, rest, "SH");
        for verb in verbs(&help) {
            roff.control("SH", [format!("{name} {verb}").as_str()]);
            sections(&mut roff, &ask(programs, name, &[verb])?, "SS");
        }
        let others = PROGRAMS.iter().filter(|other| **other != name).map(|other| format!("{other}(8)"));
        let others: Vec<String> = std::iter::once("longshore(1)".to_owned()).chain(others).collect();
        roff.control("SH", ["SEE ALSO"]).text([italic(others.join(", "))]);
        let mut file = fs::File::create(pages.join(format!("{name}.8")))?;
        let title =
            Man::new(clap::Command::new(name)).title(name).section("8").date(NO_DATE).manual("longshore");
        title.source(format!("longshore {}", env!("CARGO_PKG_VERSION"))).render_title(&mut file)?;
        roff.to_writer(&mut file)?;
    }
    Ok(())
}

/// What `NAME WORDS --help` prints.
fn ask(programs: &Path, name: &str, words: &[&str]) -> io::Result<String> {
    let path = programs.join(name);
    let wrong = |why: String| io::Error::other(format!("the help of {}: {why}", path.display()));
    let output = Command::new(&path)
        .args(words)
        .arg("--help")
        .env_remove("COLUMNS")
        .output()
        .map_err(|error| wrong(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || text.is_empty() {
        return Err(wrong(format!("it ended with {}", output.status)));
    }
    Ok(text)
}

/// The names in a list of commands.
fn verbs(help: &str) -> Vec<&str> {
    let list = help.lines().skip_while(|line| !line.eq_ignore_ascii_case("commands:")).skip(1);
    let list: Vec<&str> = list.take_while(|line| line.starts_with(' ')).collect();
    let depth = |line: &str| line.len() - line.trim_start().len();
    let first = list.first().map_or(0, |line| depth(line));
    let names = list
        .into_iter()
        .filter(|line| depth(line) == first)
        .filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").collect()
}

/// Headings end with a colon; everything else stays as it is printed.
fn sections(roff: &mut Roff, help: &str, heading: &str) {
    for block in help.split("\n\n") {
        let block = block.trim_matches('\n');
        let (first, rest) = block.split_once('\n').unwrap_or((block, ""));
        if let Some(usage) = first.strip_prefix("Usage:") {
            roff.control(heading, ["SYNOPSIS"]);
            verbatim(roff, [usage].into_iter().chain(rest.lines()).map(str::trim), bold);
        } else if let Some(name) = first.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            let name = if name == "USAGE" { "SYNOPSIS".to_owned() } else { name.to_uppercase() };
            roff.control(heading, [name.as_str()]);
            verbatim(roff, rest.lines(), roman);
        } else {
            roff.control("PP", []);
            verbatim(roff, block.lines(), roman);
        }
    }
}

fn verbatim<'a>(
    roff: &mut Roff,
    lines: impl Iterator<Item = &'a str>,
    form: fn(String) -> clap_mangen::roff::Inline,
) {
    roff.control("nf", []);
    for line in lines {
        roff.text([form(line.to_owned())]);
    }
    roff.control("fi", []);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "Does it\n\nUsage: it [OPTIONS]\n\nCommands:\n  run    Runs, and\n         goes on\n  stop   .Stops\n  help   Helps\n\nOptions:\n  -v, --version  Print";

    #[test]
    fn verbs_are_those_of_the_list() {
        assert_eq!(verbs(HELP), ["run", "stop"]);
        assert!(verbs("Usage: it").is_empty());
    }

    #[test]
    fn help_becomes_sections() {
        let mut roff = Roff::new();
        sections(&mut roff, HELP, "SH");
        let page = roff.render();
        for part in [".SH SYNOPSIS\n", ".SH COMMANDS\n.nf\n", ".SH OPTIONS\n", "\\-\\-version"] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(page.lines().all(|line| !line.starts_with(".Stops")), "{page}");
    }
}
