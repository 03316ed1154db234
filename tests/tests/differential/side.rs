//! One of the two that play the scripts.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use longshore_tests::daemon::{program, run};
use longshore_tests::docker::Dockerd;
use longshore_tests::{Daemon, leaks};

use super::script::Scenario;

/// Debian's, also where another docker comes first.
const DEBIANS_DOCKER: &str = "/usr/bin/docker";

/// What a line left.
#[derive(Clone, Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    /// The files of the scenario's folder afterwards, with what is in them.
    pub files: BTreeMap<String, String>,
}

pub struct Side {
    folder: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Side {
    pub fn docker(dockerd: &Dockerd, registry: SocketAddr) -> Side {
        let docker = if Path::new(DEBIANS_DOCKER).exists() { DEBIANS_DOCKER } else { "docker" };
        let host = format!("unix://{}", dockerd.socket().display());
        Side::new(Path::new(docker), vec![("DOCKER_HOST", host)], registry)
    }

    pub fn longshore(daemon: &Daemon, registry: SocketAddr) -> Side {
        let host = format!("unix://{}", daemon.socket().display());
        Side::new(&program("longshore"), vec![("LONGSHORE_HOST", host)], registry)
    }

    fn new(program: &Path, more: Vec<(&'static str, String)>, registry: SocketAddr) -> Side {
        let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).expect("a folder");
        let docker = bin.join("docker");
        fs::write(&docker, format!("#!/bin/sh\nexec {} \"$@\"\n", program.display())).expect("a script");
        fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).expect("its mode");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let home = folder.path().display().to_string();
        let mut environment = vec![
            ("PATH", path),
            ("HOME", home.clone()),
            ("DOCKER_CONFIG", home.clone()),
            ("LONGSHORE_CONFIG", home),
            ("REGISTRY", registry.to_string()),
            ("TZ", "UTC".into()),
            ("LC_ALL", "C".into()),
        ];
        environment.extend(more);
        Side { folder, environment }
    }

    /// Plays everything; the answers stand in the scripts' order.
    pub fn play(&self, scenarios: &[Scenario]) -> Vec<Vec<Said>> {
        for image in ["busybox:latest", "settings:1.0", "entry:latest"] {
            let line = format!(
                "docker pull -q $REGISTRY/library/{image} && docker tag $REGISTRY/library/{image} {image}"
            );
            let said = self.line(&line, self.folder.path());
            assert_eq!(said.code, 0, "{said:?}");
        }
        scenarios
            .iter()
            .enumerate()
            .map(|(number, scenario)| {
                let place = self.folder.path().join(format!("work-{number}"));
                fs::create_dir(&place).expect("a folder");
                let said = scenario.commands.iter().map(|command| self.line(&command.run, &place)).collect();
                self.line("docker ps -aq | xargs -r docker rm -f -v", self.folder.path());
                said
            })
            .collect()
    }

    fn line(&self, line: &str, place: &Path) -> Said {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(place).env(leaks::MARK, "1");
        command.env_remove("DOCKER_CONTEXT").envs(self.environment.iter().cloned());
        let output = run(&mut command).unwrap_or_else(|error| panic!("{line}: {error:#}"));
        let mut files = BTreeMap::new();
        if place != self.folder.path() {
            collect(place, place, &mut files);
        }
        // Its own folder has another name on the other side.
        let own = |text: String| text.replace(&place.display().to_string(), "<here>");
        Said { code: output.code, stdout: own(output.stdout), stderr: own(output.stderr), files }
    }
}

/// Names, kinds, modes and contents.
fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    let entries: Vec<PathBuf> =
        fs::read_dir(folder).map(|dir| dir.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    for path in entries {
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let mode = metadata.permissions().mode() & 0o7777;
        let text = match () {
            () if metadata.is_symlink() => {
                format!("link to {}", fs::read_link(&path).unwrap_or_default().display())
            }
            () if metadata.is_dir() => {
                collect(root, &path, files);
                format!("folder {mode:o}")
            }
            // Archives have the times and ids of what is in them: what is in them is compared by other lines.
            () if name.ends_with(".tar") => format!("archive {mode:o}"),
            () => format!("file {mode:o} {}", String::from_utf8_lossy(&fs::read(&path).unwrap_or_default())),
        };
        files.insert(name, text);
    }
}
