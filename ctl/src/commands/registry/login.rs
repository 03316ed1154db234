//! `longshore login`: try credentials at a registry, and keep them if it takes them.

use std::io::{BufRead, IsTerminal, Read};

use longshore_proto::longshore::engine::v1::{LoginRequest, RegistryAuth};

use crate::auth::file::File;
use crate::auth::{self, Kept};
use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;
use crate::terminal::secret;

/// Of a password, in bytes.
const MAX_PASSWORD: u64 = 64 * 1024;
const NO_TERMINAL: &str = "Error: Cannot perform an interactive login from a non TTY device";

#[derive(clap::Args)]
pub struct Args {
    /// Password or Personal Access Token (PAT)
    #[arg(short, long, value_name = "PASSWORD")]
    password: Option<String>,
    /// Take the Password or Personal Access Token (PAT) from stdin
    #[arg(long)]
    password_stdin: bool,
    /// Username
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// The registry; docker's own if none is named
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Authenticate to a registry";
    const USAGE: &'static str = "[OPTIONS] [SERVER]";
    const ARGUMENTS: Arguments = Arguments::AtMost(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let key = auth::key_of(self.server.as_deref().unwrap_or_default());
        let username = self.username.clone().unwrap_or_default();
        let password = self.password()?;
        let mut file = File::load()?;
        let mut before = auth::get(&file, &key)?.unwrap_or_default();
        if username.is_empty() && password.is_empty() && is_enough(&before) {
            let named = match before.username.as_str() {
                "" => String::new(),
                name => format!(" [Username: {name}]"),
            };
            print::note(format!(
                "Authenticating with existing credentials...{named}\n\n Info -> To login with a different account, run 'longshore logout' followed by 'longshore login'\n\n"
            ));
            match check(context, &key, &before).await {
                Ok(()) => return succeed(),
                Err(failure @ (Failure::Unreachable { .. } | Failure::Lost { .. })) => return Err(failure),
                Err(failure) => print::note(format!("Login did not succeed, error: {failure}")),
            }
        }
        let asked = ask(username, password, &before.username)?;
        before = RegistryAuth { username: asked.0, password: asked.1, identity_token: String::new() };
        check_and_keep(context, &mut file, &key, before).await
    }
}

impl Args {
    fn password(&self) -> Result<String, Failure> {
        if self.password_stdin {
            if self.password.is_some() {
                return Err(Failure::message(
                    "conflicting options: cannot specify both --password and --password-stdin",
                ));
            }
            if self.username.as_deref().unwrap_or_default().is_empty() {
                return Err(Failure::message("the --password-stdin option requires --username to be set"));
            }
            let mut text = String::new();
            std::io::stdin().lock().take(MAX_PASSWORD).read_to_string(&mut text)?;
            return Ok(text.trim_end_matches('\n').trim_end_matches('\r').to_owned());
        }
        if self.password.is_some() {
            print::note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        }
        Ok(self.password.clone().unwrap_or_default())
    }
}

fn is_enough(auth: &RegistryAuth) -> bool {
    !auth.identity_token.is_empty() || (!auth.username.is_empty() && !auth.password.is_empty())
}

/// Asks at the terminal for what is missing.
fn ask(username: String, password: String, before: &str) -> Result<(String, String), Failure> {
    if !username.is_empty() && !password.is_empty() {
        return Ok((username, password));
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::message(NO_TERMINAL));
    }
    let mut username = username;
    if username.is_empty() {
        let offered = if before.is_empty() { String::new() } else { format!(" ({before})") };
        print::out(&format!("Username{offered}: "))?;
        std::io::stdin().lock().read_line(&mut username)?;
        username = username.trim().to_owned();
        if username.is_empty() {
            username = before.to_owned();
        }
    }
    if username.is_empty() {
        return Err(Failure::message("Error: Non-null Username Required"));
    }
    let mut password = password;
    if password.is_empty() {
        print::out("Password: ")?;
        password = secret::read()?;
        print::line("")?;
    }
    if password.is_empty() {
        return Err(Failure::message("Error: Password Required"));
    }
    Ok((username, password))
}

async fn check(context: &Context, key: &str, auth: &RegistryAuth) -> Result<(), Failure> {
    login(context, key, auth).await.map(drop)
}

async fn login(context: &Context, key: &str, auth: &RegistryAuth) -> Result<String, Failure> {
    let request = LoginRequest { registry: auth::registry_of(key).to_owned(), auth: Some(auth.clone()) };
    Ok(context.images().await?.login(request).await?.into_inner().identity_token)
}

async fn check_and_keep(
    context: &Context,
    file: &mut File,
    key: &str,
    mut auth: RegistryAuth,
) -> Result<u8, Failure> {
    let token = login(context, key, &auth).await?;
    if !token.is_empty() {
        // It stands for the password, which need not be kept.
        auth.password.clear();
        auth.identity_token = token;
    }
    let kept = auth::store(file, key, &auth)
        .map_err(|failure| Failure::message(format!("Error saving credentials: {failure}")))?;
    if kept == Kept::InFile {
        print::note(format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n",
            file.path().display()
        ));
    }
    succeed()
}

fn succeed() -> Result<u8, Failure> {
    print::line("Login Succeeded")?;
    Ok(0)
}
