//! `-e`, `--env-file` and `--label-file`.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A longer file is not a list of variables.
const MAX_FILE: u64 = 4 << 20;

/// `KEY=value`, or `KEY` to take the value from our own environment; a KEY that is not set there stays bare, which
/// removes the variable from the container's.
pub fn variable(text: &str) -> Result<String, String> {
    let key = text.split('=').next().unwrap_or_default();
    if key.is_empty() {
        return Err(format!("invalid environment variable: {text}"));
    }
    if text.contains('=') {
        return Ok(text.to_string());
    }
    match std::env::var_os(text).map(std::ffi::OsString::into_string) {
        Some(Ok(value)) => Ok(format!("{text}={value}")),
        Some(Err(_)) => Err(format!("the environment variable {text} is not UTF-8")),
        None => Ok(text.to_string()),
    }
}

/// The variables of the files, then those of the flags: later ones win.
pub fn variables(files: &[PathBuf], flags: Vec<String>) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    for file in files {
        for line in lines(file)? {
            // A bare name in a file stands for nothing when it is not set.
            match std::env::var(&line) {
                _ if line.contains('=') => all.push(line),
                Ok(value) => all.push(format!("{line}={value}")),
                Err(_) => {}
            }
        }
    }
    all.extend(flags);
    Ok(all)
}

/// The labels of `--label-file`.
pub fn labels(files: &[PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let mut all = Vec::new();
    for file in files {
        for line in lines(file)? {
            all.push(super::pairs::label(&line).map_err(Failure::usage)?);
        }
    }
    Ok(all)
}

/// The lines of a file that are neither empty nor comments, their names checked.
fn lines(path: &Path) -> Result<Vec<String>, Failure> {
    let failed = |error: &std::io::Error| Failure::file("open", path, error);
    let size = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
    if size > MAX_FILE {
        return Err(Failure::message(format!("{} is longer than {MAX_FILE} bytes", path.display())));
    }
    let bytes = std::fs::read(path).map_err(|error| failed(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Failure::message(format!("invalid env file ({}): invalid utf8 bytes", path.display()))
    })?;
    let mut lines = Vec::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line.split('=').next().unwrap_or_default();
        let poorly = |why: String| Failure::message(format!("invalid env file ({}): {why}", path.display()));
        if key.is_empty() {
            return Err(poorly(format!("no variable name on line '{line}'")));
        }
        if key.contains(char::is_whitespace) {
            return Err(poorly(format!("variable '{key}' contains whitespaces")));
        }
        lines.push(line.to_string());
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_from_flags_and_files() {
        assert_eq!(variable("A=b=c").unwrap(), "A=b=c");
        assert_eq!(variable("A=").unwrap(), "A=");
        assert_eq!(variable("LONGSHORE_SURELY_UNSET").unwrap(), "LONGSHORE_SURELY_UNSET");
        assert!(variable("PATH").unwrap().starts_with("PATH=/"));
        assert_eq!(variable("=x").unwrap_err(), "invalid environment variable: =x");

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        std::fs::write(&file, "\u{feff}# comment\nA=1\n\n  B=two words \nLONGSHORE_SURELY_UNSET\nPATH\n")
            .unwrap();
        let all = variables(std::slice::from_ref(&file), vec!["A=2".into()]).unwrap();
        assert_eq!(all[..2], ["A=1", "B=two words "]);
        assert!(all[2].starts_with("PATH="));
        assert_eq!(all[3..], ["A=2"]);
        for (text, words) in [("=x\n", "no variable name"), ("A B=1\n", "contains whitespaces")] {
            std::fs::write(&file, text).unwrap();
            assert!(variables(std::slice::from_ref(&file), vec![]).unwrap_err().to_string().contains(words));
        }
        std::fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(variables(&[file], vec![]).unwrap_err().to_string().contains("invalid utf8"));
    }
}
