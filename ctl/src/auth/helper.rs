//! Credential helpers: programs `docker-credential-NAME` that keep secrets, by docker's protocol: the verb is the argument, JSON or the
//! server's name is the input, JSON the answer; what goes wrong is told on the output.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use longshore_proto::longshore::engine::v1::RegistryAuth;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, errno_text};

/// Of a helper's answer, in bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// Stands for the name where the secret is an identity token.
const TOKEN: &str = "<token>";
/// What helpers say when they have nothing.
const NOTHING: [&str; 2] = ["credentials not found", "no credentials server URL"];

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

/// What the helper has for a server.
pub fn get(helper: &str, server: &str) -> Result<Option<RegistryAuth>, Failure> {
    let answer = match run(helper, "get", server.as_bytes()) {
        Ok(answer) => answer,
        Err(Refusal::Said(text)) if NOTHING.iter().any(|words| text.contains(words)) => return Ok(None),
        Err(refusal) => return Err(refusal.into_failure(helper)),
    };
    let found: Credentials = serde_json::from_slice(&answer)
        .map_err(|error| Failure::message(format!("docker-credential-{helper}: its answer: {error}")))?;
    Ok(Some(match found.username.as_str() {
        TOKEN => RegistryAuth { identity_token: found.secret, ..RegistryAuth::default() },
        _ => RegistryAuth { username: found.username, password: found.secret, identity_token: String::new() },
    }))
}

pub fn store(helper: &str, server: &str, auth: &RegistryAuth) -> Result<(), Failure> {
    let (username, secret) = match auth.identity_token.as_str() {
        "" => (auth.username.clone(), auth.password.clone()),
        token => (TOKEN.to_owned(), token.to_owned()),
    };
    let credentials = Credentials { server_url: server.to_owned(), username, secret };
    let input = serde_json::to_vec(&credentials).map_err(|error| Failure::message(error.to_string()))?;
    run(helper, "store", &input).map(drop).map_err(|refusal| refusal.into_failure(helper))
}

pub fn erase(helper: &str, server: &str) -> Result<(), Failure> {
    match run(helper, "erase", server.as_bytes()) {
        Ok(_) => Ok(()),
        Err(Refusal::Said(text)) if NOTHING.iter().any(|words| text.contains(words)) => Ok(()),
        Err(refusal) => Err(refusal.into_failure(helper)),
    }
}

enum Refusal {
    /// It does not run.
    Broken(std::io::Error),
    /// What it told.
    Said(String),
}

impl Refusal {
    fn into_failure(self, helper: &str) -> Failure {
        let why = match self {
            Refusal::Broken(error) => errno_text(&error),
            Refusal::Said(text) => text,
        };
        Failure::message(format!(
            "docker-credential-{helper}: {why}: see credsStore and credHelpers in docker's config.json"
        ))
    }
}

fn run(helper: &str, verb: &str, input: &[u8]) -> Result<Vec<u8>, Refusal> {
    // The name is part of a program's: it must not lead elsewhere.
    if helper.contains(['/', '\0']) {
        return Err(Refusal::Said("a helper's name has no slash".to_owned()));
    }
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(Refusal::Broken)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input says why.
        let _ = stdin.write_all(input);
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER).read_to_end(&mut answer).map_err(Refusal::Broken)?;
    }
    let status = child.wait().map_err(Refusal::Broken)?;
    if status.success() {
        return Ok(answer);
    }
    let text = String::from_utf8_lossy(&answer).trim().to_owned();
    Err(Refusal::Said(if text.is_empty() { format!("it ended with {status}") } else { text }))
}
