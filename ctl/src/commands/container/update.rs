//! `longshore update`: other limits, at once; other ports, mounts and environment, at the next start.

use longshore_proto::longshore::engine::v1::{Mount, PortBinding, RestartPolicy, StopRequest, UpdateRequest};

use super::flags::Live;
use crate::cli::{Arguments, Unbuilt, Verb, refused};
use crate::client::Context;
use crate::commands::each;
use crate::failure::Failure;
use crate::output::print;
use crate::parse::volume::Wrong;
use crate::parse::{environment, mount, port, restart, volume};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    limits: Live,
    /// Set or replace environment variables, from the next start on; KEY= empties one
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = environment::variable)]
    env: Vec<String>,
    /// Add or replace a mount, from the next start on
    #[arg(long, value_name = "type=TYPE,source=SOURCE,target=PATH[,…]", value_parser = mount::mount)]
    mount: Vec<Mount>,
    /// Publish one more port, from the next start on
    #[arg(short, long, value_name = "[[ADDRESS:]HOST:]PORT[/PROTOCOL]")]
    publish: Vec<String>,
    /// Restart policy to apply when a container exits
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Restart the containers that run, so that everything counts at once
    #[arg(long)]
    restart_now: bool,
    /// Take the mount at this path away, from the next start on
    #[arg(long, value_name = "PATH")]
    unmount: Vec<String>,
    /// Take a published port away, from the next start on
    #[arg(long, value_name = "[HOST:]PORT[/PROTOCOL]")]
    unpublish: Vec<String>,
    /// Add or replace a mount, as run's -v, from the next start on
    #[arg(short, long, value_name = "[SOURCE:]PATH[:OPTIONS]")]
    volume: Vec<String>,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Update configuration of one or more containers";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);
    const UNBUILT: &'static [Unbuilt] =
        &[refused("kernel-memory", "kernels have no such limit of its own any more; use --memory")];

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let restart_now = self.restart_now;
        let (containers, request) = self.into_request()?;
        let client = context.containers().await?;
        each(&containers, |container| {
            let mut client = client.clone();
            let request = UpdateRequest { container: container.clone(), ..request.clone() };
            async move {
                let updated = client.update(request).await?.into_inner();
                for warning in &updated.warnings {
                    print::note(format!("WARNING: {warning}"));
                }
                match (updated.at_next_start, restart_now) {
                    (true, true) => {
                        client.restart(StopRequest { container, ..StopRequest::default() }).await?;
                    }
                    (true, false) => print::note(format!(
                        "{container} runs on as it was started: its new ports, mounts and variables count from the \
                         next start on ('longshore restart {container}', or update with --restart-now)"
                    )),
                    (false, _) => {}
                }
                Ok(())
            }
        })
        .await
    }
}

impl Args {
    fn into_request(self) -> Result<(Vec<String>, UpdateRequest), Failure> {
        let mut mounts = self.mount;
        for text in &self.volume {
            mounts.push(volume::volume(text).map_err(|wrong| match wrong {
                Wrong::Spec(text) | Wrong::Volume(text) => Failure::message(text),
            })?);
        }
        let restart: Option<RestartPolicy> =
            self.restart.as_deref().map(restart::policy).transpose().map_err(Failure::message)?;
        let request = UpdateRequest {
            container: String::new(),
            resources: Some(self.limits.resources()),
            restart,
            publish: ports(&self.publish)?,
            unpublish: ports(&self.unpublish)?,
            mounts,
            unmount: self.unmount,
            env: self.env,
        };
        let nothing = UpdateRequest { resources: Some(Default::default()), ..UpdateRequest::default() };
        if request == nothing {
            return Err(Failure::message("you must provide one or more flags when using this command"));
        }
        Ok((self.containers, request))
    }
}

fn ports(texts: &[String]) -> Result<Vec<PortBinding>, Failure> {
    let mut all = Vec::new();
    for text in texts {
        all.extend(port::publish(text).map_err(Failure::message)?);
    }
    Ok(all)
}
