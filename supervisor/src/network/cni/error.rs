//! Why a CNI network could not be had.

use std::io;
use std::path::PathBuf;

pub type Result<T, E = CniError> = std::result::Result<T, E>;

/// Every variant names the plugin or file that it is about.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error(
        "no CNI configuration named \"{name}\" in {}{}{}",
        list(folders),
        said(" (there are: ", known),
        said(" (not understood: ", broken)
    )]
    NoNetwork { name: String, folders: Vec<PathBuf>, known: Vec<String>, broken: Vec<String> },
    #[error("none of the CNI configurations can be used: {}", broken.join("; "))]
    NoneUsable { broken: Vec<String> },
    #[error("CNI plugin \"{plugin}\" of network \"{network}\" is not in {}", list(folders))]
    NoPlugin { plugin: String, network: String, folders: Vec<PathBuf> },
    /// In the plugin's own words.
    #[error("CNI plugin \"{plugin}\" of network \"{network}\" failed at {command}: {message}")]
    Plugin { plugin: String, network: String, command: &'static str, code: u64, message: String },
    #[error("CNI plugin \"{plugin}\" of network \"{network}\" did not finish {command} within {seconds} s")]
    Late { plugin: String, network: String, command: &'static str, seconds: u64 },
    #[error("running CNI plugin \"{plugin}\": {source}")]
    Run { plugin: String, source: io::Error },
    #[error(
        "CNI plugin \"{plugin}\" of network \"{network}\" answers {command} with what is no result: {why}"
    )]
    NoResult { plugin: String, network: String, command: &'static str, why: String },
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("record of a CNI attachment {} is damaged: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
    /// As the plugin says.
    #[error("CNI network \"{network}\" is not ready: {why}")]
    NotReady { network: String, why: String },
    #[error("work on the files of CNI networks was lost; try again")]
    Lost,
    #[error("\"{0}\" cannot be part of a CNI attachment's name")]
    BadName(String),
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn said(what: &str, items: &[String]) -> String {
    if items.is_empty() { String::new() } else { format!("{what}{})", items.join(", ")) }
}
