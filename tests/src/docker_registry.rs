//! Debian's docker-registry, a real one, on loopback; gone when dropped.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::daemon::eventually;

/// Who may do anything: a name and a password.
pub type User<'a> = (&'a str, &'a str);

/// A running docker-registry.
pub struct DockerRegistry {
    server: Child,
    port: u16,
}

impl DockerRegistry {
    /// Keeps what it is given below `folder`. A user needs htpasswd to be installed.
    pub fn start(folder: &Path, user: Option<User<'_>>) -> Result<DockerRegistry> {
        fs::create_dir_all(folder)?;
        let mut auth = String::new();
        if let Some((name, password)) = user {
            let passwords = folder.join("htpasswd");
            let made =
                Command::new("htpasswd").arg("-Bbc").arg(&passwords).args([name, password]).output()?;
            ensure!(made.status.success(), "htpasswd failed");
            auth = format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", passwords.display());
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{auth}",
            folder.display()
        );
        fs::write(&config, text)?;
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting docker-registry")?;
        let registry = DockerRegistry { server, port };
        eventually("the registry listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Ok(registry)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:PORT/name:tag`.
    pub fn reference(&self, name_and_tag: &str) -> String {
        format!("127.0.0.1:{}/{name_and_tag}", self.port)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
