//! Writes what is installed beside the command line: manual pages and the shells' completion scripts, all from the
//! definition that `--help` shows. `longshore-pages FOLDER` makes `FOLDER/man1` and `FOLDER/completions`;
//! `longshore-pages FOLDER PROGRAMS` also `FOLDER/man8`, of the other programs in the folder `PROGRAMS`.

#![forbid(unsafe_code)]

mod programs;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

/// The same sources make the same pages. An empty word would be left out, and the others take each other's places.
const NO_DATE: &str = " ";

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let Some(folder) = words.next() else {
        eprintln!("longshore-pages: which folder? Usage: longshore-pages FOLDER [PROGRAMS]");
        return ExitCode::from(2);
    };
    let of_programs = |beside| programs::write(&Path::new(&folder).join("man8"), Path::new(&beside));
    let written = write(Path::new(&folder)).and_then(|()| words.next().map_or(Ok(()), of_programs));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("longshore-pages: writing into {}: {error}", Path::new(&folder).display());
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> io::Result<()> {
    let man = folder.join("man1");
    fs::create_dir_all(&man)?;
    pages(&man, &longshore::tree(), "longshore", &[])?;
    let completions = folder.join("completions");
    fs::create_dir_all(&completions)?;
    for (shell, script) in longshore::COMPLETIONS {
        fs::write(completions.join(format!("longshore.{shell}")), script)?;
    }
    Ok(())
}

/// The page of a command, and those of what is below it. `above` are the names of the pages above.
fn pages(folder: &Path, command: &Command, name: &str, above: &[String]) -> io::Result<()> {
    if command.is_hide_set() || command.get_name() == "help" {
        return Ok(());
    }
    let mut file = fs::File::create(folder.join(format!("{name}.1")))?;
    file.write_all(&page(command, name, above)?)?;
    let mut above = above.to_vec();
    above.push(name.to_string());
    for inner in command.get_subcommands() {
        pages(folder, inner, &format!("{name}-{}", inner.get_name()), &above)?;
    }
    Ok(())
}

fn page(command: &Command, name: &str, above: &[String]) -> io::Result<Vec<u8>> {
    let named = command.clone().name(name.to_string()).display_name(name.to_string());
    let version = format!("longshore {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(named)
        .title(name.to_uppercase())
        .section("1")
        .date(NO_DATE)
        .source(version.clone())
        .manual("longshore");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    roff.control("SH", ["SYNOPSIS"]).text([bold(usage)]);
    roff.to_writer(&mut text)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut text)?;
    }
    let mut roff = Roff::new();
    let below: Vec<&Command> = command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
        .collect();
    if !below.is_empty() {
        roff.control("SH", ["COMMANDS"]);
        for inner in below {
            let about = inner.get_about().map(ToString::to_string).unwrap_or_default();
            roff.control("TP", [])
                .text([bold(format!("{name}-{}(1)", inner.get_name()))])
                .text([roman(about)]);
        }
    }
    if let Some(after) = command.get_after_help().map(ToString::to_string) {
        match after.strip_prefix("Examples:\n") {
            Some(examples) => {
                roff.control("SH", ["EXAMPLES"]).control("nf", []);
                roff.text([roman(examples)]).control("fi", []);
            }
            None => {
                roff.control("SH", ["SEE ALSO"]).text([roman(after)]);
            }
        }
    }
    if !above.is_empty() {
        let others: Vec<String> = above.iter().map(|page| format!("{page}(1)")).collect();
        roff.control("SH", ["SEE ALSO"]).text([italic(others.join(", "))]);
    }
    roff.control("SH", ["VERSION"]).text([roman(version)]);
    roff.to_writer(&mut text)?;
    Ok(text)
}
