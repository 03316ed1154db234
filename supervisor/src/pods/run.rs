//! Making a pod.

use std::sync::Arc;

use jiff::Timestamp;

use super::config::{PodConfig, Sharing};
use super::events::Happened;
use super::flight::{Claim, Flight, as_text};
use super::namespaces::{self, Files, Wanted};
use super::network::Network;
use super::pod::Pod;
use super::record::{PodNetwork, PodRecord, PodState};
use super::{Pods, etc_files, logs, namespaces::hostname, users};
use crate::content::store::blocking;
use crate::engine::etc::{self, Resolver};
use crate::engine::names::new_id;
use crate::error::{Error, Result};

/// Longest name of a host in the kernel.
const MAX_HOSTNAME: usize = 64;

impl Pods {
    /// Makes a pod and returns its id when containers can be made in it. Whoever asks for the same pod again gets the same.
    pub async fn run(self: &Arc<Self>, config: PodConfig) -> Result<String> {
        self.check_pod(&config)?;
        let name = config.name.to_string();
        let asked = as_text("pod", &name, &config)?;
        match self.pod_names.claim(&name, format!("pod {name}"), asked.clone()) {
            Claim::Join(flight) => flight.join(&asked).await,
            Claim::Made(id) => {
                let pod = self.pod(&id)?;
                if pod.is_ready() && pod.read(|record| is_the_same(&record.config, &config)) {
                    return Ok(id);
                }
                Err(Error::already_exists("pod sandbox", format!("{name} (its id is {id})")))
            }
            Claim::Mine(reservation) => {
                let (pods, flight) = (self.clone(), reservation.flight());
                let made = flight.clone();
                // Carried through whatever becomes of the caller, who may come back for it.
                self.background.spawn(async move {
                    let outcome = pods.make_pod(new_id(), config, &flight).await;
                    reservation.settle(outcome);
                });
                made.landed().await
            }
        }
    }

    pub(super) fn check_pod(&self, config: &PodConfig) -> Result<()> {
        let name = &config.name;
        for (what, text) in [("name", &name.name), ("namespace", &name.namespace)] {
            if text.is_empty() {
                return Err(Error::invalid("pod sandbox", format!("its metadata has no {what}")));
            }
        }
        logs::check_directory(&config.log_directory)?;
        self.check_handler(&config.handler)?;
        namespaces::check_sysctls(config)?;
        etc::check_hostname(&config.hostname)?;
        if config.hostname.len() > MAX_HOSTNAME {
            return Err(Error::invalid(
                format!("hostname {:?}", config.hostname),
                format!("it has more than {MAX_HOSTNAME} characters"),
            ));
        }
        self.check_users(config)
    }

    fn check_handler(&self, handler: &str) -> Result<()> {
        if self.handlers().iter().any(|known| known == handler) {
            return Ok(());
        }
        Err(Error::invalid(
            format!("runtime handler {handler:?}"),
            format!(
                "no runtime handler for it is configured: add [runtime.runtimes.\"{handler}\"] with type = \"{}\"",
                crate::engine::RUNTIME
            ),
        ))
    }

    pub(super) async fn make_pod(
        self: &Arc<Self>,
        id: String,
        config: PodConfig,
        flight: &Flight,
    ) -> Result<String> {
        match self.build_pod(&id, config, flight).await {
            Ok(pod) => {
                self.table().pods.insert(id.clone(), pod.clone());
                self.happened(&id, &id, Happened::Created);
                self.happened(&id, &id, Happened::Started);
                // The news of its end may have come before anybody knew whose it was.
                if self.lost_its_pause(&pod) {
                    let pods = self.clone();
                    self.background.spawn(async move { pods.pause_ended(&pod).await });
                }
                Ok(id)
            }
            Err(error) => {
                flight.at("undoing what failed");
                if let Err(left) = self.clear_pod(&id, &PodNetwork::default()).await {
                    tracing::warn!(pod = %id, error = %left, "something is left of a pod that was not made; the next start removes it");
                }
                Err(error)
            }
        }
    }

    async fn build_pod(self: &Arc<Self>, id: &str, config: PodConfig, flight: &Flight) -> Result<Arc<Pod>> {
        // The folder is there before anything that has to be taken back: the next start sees it.
        let folder = self.folder(id);
        let etc = folder.join("etc");
        blocking(move || etc_files::mount_at(&etc)).await?;
        flight.at("making the folder of its logs");
        self.make_log_directory(&config).await?;
        let files = Files::of(&folder);
        let made = match config.namespaces.users.clone() {
            Some(users) => {
                flight.at("making its user namespace");
                let (files, config) = (files.clone(), config.clone());
                Some(blocking(move || users::make(&files, &config, &users)).await?)
            }
            None => None,
        };
        flight.at("setting up its network");
        let network = self.join_network(id, &config, &files, made.as_ref()).await?;
        flight.at("making its namespaces");
        self.fill_pod(id, &config, files, &network).await?;
        let pause = config.namespaces.pid == Sharing::Pod;
        if pause {
            flight.at("starting its first process");
            self.start_pause(id, &config).await?;
        }
        flight.at("recording it");
        let record = PodRecord {
            config,
            created_at: Timestamp::now(),
            state: PodState::Ready,
            network: network.record.clone(),
            pause,
        };
        let pod = Pod::new(id.to_owned(), record);
        self.keep_pod(&pod).await?;
        network.keep();
        Ok(pod)
    }

    /// The namespaces besides the network's, and the files of /etc.
    async fn fill_pod(&self, id: &str, config: &PodConfig, files: Files, network: &Network) -> Result<()> {
        let wanted = Wanted::of(config);
        let etc = self.folder(id).join("etc");
        let mut of_root = vec![];
        if wanted.ipc {
            of_root.push(self.engine.make_shm(id, 0)?);
        }
        let users = wanted.users.clone();
        let of_host = config.namespaces.network == Sharing::Node;
        let (hostname, dns, given) = (hostname(config), config.dns.clone(), network.dns.clone());
        let mut lines: Vec<String> = Vec::new();
        if !of_host {
            lines.extend(network.record.addresses.iter().map(|address| format!("{address}\t{hostname}")));
        }
        blocking(move || {
            let mut resolver = Resolver {
                of_host,
                own: false,
                servers: &dns.servers,
                search: &dns.searches,
                options: &dns.options,
            };
            resolver.or_else(&given);
            etc::write(&etc, &hostname, &lines, &resolver)?;
            if let Some(users) = &users {
                of_root.extend(["hosts", "hostname", "resolv.conf"].map(|name| etc.join(name)));
                users::give(&of_root, users)?;
            }
            namespaces::make(files, wanted)
        })
        .await
    }

    /// Takes away all that a pod has besides its record.
    pub(super) async fn clear_pod(self: &Arc<Self>, id: &str, network: &PodNetwork) -> Result<()> {
        self.stop_pause(id).await?;
        let folder = self.folder(id);
        let files = Files::of(&folder);
        self.leave_network(id, network, &files).await;
        self.engine.drop_shm(id);
        blocking(move || {
            files.release()?;
            etc_files::release(&folder.join("etc"));
            super::image_volumes::release(&folder.join("images"))?;
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io("removing", &folder, error))
                }
                _ => Ok(()),
            }
        })
        .await
    }
}

/// Whether a pod is what is asked for. What it is given as a whole changes while it is there.
pub(super) fn is_the_same(made: &PodConfig, asked: &PodConfig) -> bool {
    let plain = |config: &PodConfig| PodConfig { overhead: None, resources: None, ..config.clone() };
    plain(made) == plain(asked)
}

#[cfg(test)]
mod tests {
    use super::super::config::Resources;
    use super::*;

    #[test]
    fn a_pod_that_was_given_more_meanwhile_is_still_the_one_that_was_asked_for() {
        let asked = PodConfig { hostname: "web".to_owned(), ..PodConfig::default() };
        let mut made = asked.clone();
        made.resources = Some(Resources { memory: 1 << 30, ..Resources::default() });
        assert!(is_the_same(&made, &asked));
        made.hostname = "other".to_owned();
        assert!(!is_the_same(&made, &asked));
    }
}
