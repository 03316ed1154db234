//! Namespaces on the default bridge that wait for a container, so that its start need not wait for the kernel. They are
//! made after the first container has come, and again after each that took one.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::EndpointState;
use super::record::BRIDGE;
use super::sandbox::{Owner, Sandbox, Wanted};
use super::{Member, Networks};
use crate::error::Result;

/// Time for the container that took one to start, before the next is made.
const REST: Duration = Duration::from_millis(30);

/// One that waits.
pub struct Ready {
    namespace: OwnedFd,
    endpoint: EndpointState,
}

impl Networks {
    /// One for this container, if one waits and it wants nothing special.
    pub(super) fn take_ready(self: &Arc<Self>, owner: &Owner, wanted: &Wanted) -> Option<Sandbox> {
        let default = self.find(BRIDGE).ok()?;
        if wanted.network != default.id {
            return None;
        }
        self.fill_soon();
        if !wanted.is_plain() {
            return None;
        }
        let mut table = self.table();
        let place = table.places.get(&default.id).filter(|place| !place.doomed)?;
        if place.members.values().any(|member| member.container == owner.container) {
            return None;
        }
        let Ready { namespace, mut endpoint } = table.ready.pop()?;
        endpoint.aliases.clone_from(&wanted.aliases);
        endpoint.links.clone_from(&wanted.links);
        endpoint.priority = wanted.priority;
        endpoint.driver_options.clone_from(&wanted.driver_options);
        let member = Member {
            container: owner.container.clone(),
            name: owner.name.clone(),
            endpoint: endpoint.clone(),
        };
        table.places.get_mut(&default.id)?.members.insert(endpoint.id.clone(), member);
        drop(table);
        Some(Sandbox::new(self.clone(), Arc::new(namespace), vec![endpoint]))
    }

    fn fill_soon(self: &Arc<Self>) {
        {
            let mut table = self.table();
            let enough = table.ready.len() > self.config.network.pool_size;
            if self.config.network.pool_size == 0 || enough || table.filling || table.closing {
                return;
            }
            table.filling = true;
        }
        let networks = self.clone();
        tokio::spawn(async move {
            let filled = networks.fill().await;
            networks.table().filling = false;
            if let Err(error) = filled {
                tracing::debug!("no network namespace was made in advance: {error}");
            }
        });
    }

    async fn fill(self: &Arc<Self>) -> Result<()> {
        loop {
            tokio::time::sleep(REST).await;
            {
                let table = self.table();
                if table.closing || table.ready.len() >= self.config.network.pool_size {
                    return Ok(());
                }
            }
            let default = self.find(BRIDGE)?;
            let bridge = self.up(&default.id).await?;
            let wanted = Wanted { network: default.id.clone(), ..Wanted::default() };
            let plan = self.plan(&wanted, "eth0".to_owned(), bridge, None)?;
            let endpoint = plan.state.clone();
            let made = self.make_ready(plan).await;
            let mut table = self.table();
            match made {
                Ok(namespace) if !table.closing => table.ready.push(Ready { namespace, endpoint }),
                other => {
                    drop(table);
                    self.unplan(&endpoint);
                    return other.map(drop);
                }
            }
        }
    }

    async fn make_ready(self: &Arc<Self>, plan: super::plug::Plan) -> Result<OwnedFd> {
        self.on_kernel("making a network namespace", move |host| {
            let all = [plan.state.clone()];
            let made = host.make_namespace(|host, namespace| {
                super::plug::prepare_namespace();
                let mut inner = super::netlink::Netlink::open()?;
                let gateways = super::plug::gateways(&plan.state, &all);
                super::plug::plug(host, &mut inner, namespace, &plan, &gateways)
            });
            made.map(|(namespace, ())| namespace).map_err(super::plug::failed("that comes next"))
        })
        .await
    }

    /// Gives back those that wait; the interfaces that have to go.
    pub(super) fn empty(&self) -> Vec<String> {
        let mut table = self.table();
        table.closing = true;
        let ready = std::mem::take(&mut table.ready);
        let mut interfaces = Vec::new();
        for one in &ready {
            interfaces.push(one.endpoint.host_interface.clone());
            if let Some(place) = table.places.get_mut(&one.endpoint.network) {
                place.give_back(&one.endpoint);
            }
        }
        interfaces
    }
}
