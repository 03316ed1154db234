//! A container's namespace on its way to the container, and what is changed of it while the container runs.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::Networks;
use super::cidr::Family;
use super::cni::{Attachment, CniResult, Dns};
use super::endpoint::{Address, EndpointState, Mac};
use super::kernel::Host;
use super::netlink::Netlink;
use super::plug::{self, Plan, failed, gateways, plug, way_out};
use super::ports::Published;
use crate::engine::config::PortBinding;
use crate::error::{Error, Result};

pub use super::plug::{Owner, Wanted};

/// Where a container's interfaces are to be.
#[derive(Clone)]
enum Home {
    New,
    /// In a namespace that is there.
    At(Arc<OwnedFd>),
}

/// A namespace with its interfaces. Given back when it is dropped, unless it was kept.
pub struct Sandbox {
    networks: Arc<Networks>,
    namespace: Arc<OwnedFd>,
    endpoints: Vec<EndpointState>,
    /// The container that ports were published for, and these.
    published: Option<(String, Vec<Published>)>,
    /// The container that CNI plugins have set it up for, and the attachment's number.
    attached: Option<(String, u64)>,
    kept: bool,
}

impl Sandbox {
    pub(super) fn new(
        networks: Arc<Networks>,
        namespace: Arc<OwnedFd>,
        endpoints: Vec<EndpointState>,
    ) -> Sandbox {
        Sandbox { networks, namespace, endpoints, published: None, attached: None, kept: false }
    }

    /// Where another process finds the namespace for as long as this lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    pub fn endpoints(&self) -> &[EndpointState] {
        &self.endpoints
    }

    /// Lets the plugins of a CNI configuration set it up; what they say of names.
    pub async fn attach(&mut self, network: &str, attachment: Attachment) -> Result<Dns> {
        let made = (attachment.container.clone(), attachment.serial);
        let result = self.networks.cni.add(network, attachment).await?;
        self.attached = Some(made);
        self.networks.host_is_a_router().await?;
        self.endpoints = vec![endpoint_of(network, &result)];
        Ok(result.dns)
    }

    /// Finds ports of the host that somebody else leads here.
    pub async fn reserve(&mut self, owner: &Owner, wishes: &[PortBinding]) -> Result<()> {
        let Owner { container, name } = owner;
        let published = self.networks.firewall.publish(container, name, wishes, None, &[]).await?;
        self.published = Some((container.clone(), published));
        Ok(())
    }

    /// Opens ports of the host that lead here.
    pub async fn publish(&mut self, owner: &Owner, wishes: &[PortBinding]) -> Result<()> {
        let leads_out = |endpoint: &&EndpointState| {
            endpoint.ipv4.is_some_and(|v4| v4.gateway.is_some())
                || endpoint.ipv6.is_some_and(|v6| v6.gateway.is_some())
        };
        // Nobody from outside comes to an internal network.
        let Some(endpoint) = self.endpoints.iter().find(leads_out) else { return Ok(()) };
        let binding = self.networks.find(&endpoint.network).ok().and_then(|network| network.host_binding());
        // The default network is said to bind everywhere, which means IPv6, too.
        let binding = binding.filter(|address| !address.is_unspecified());
        let Owner { container, name } = owner;
        let firewall = &self.networks.firewall;
        let published = firewall.publish(container, name, wishes, binding, &self.endpoints).await?;
        self.published = Some((container.clone(), published));
        Ok(())
    }

    pub fn published(&self) -> &[Published] {
        self.published.as_ref().map_or(&[], |(_, published)| published)
    }

    /// The container runs: its processes have the namespace now.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !self.kept {
            self.networks.release(&self.endpoints);
            if let Some((container, _)) = &self.published {
                self.networks.firewall.unpublish(container);
            }
            if let Some((container, serial)) = self.attached.take() {
                let networks = self.networks.clone();
                self.networks.runtime.spawn(async move {
                    if let Err(error) = networks.cni.del_made(&container, CNI_INTERFACE, serial).await {
                        tracing::warn!(%container, "its CNI network is not taken back yet: {error}");
                    }
                });
            }
        }
    }
}

impl Networks {
    /// A namespace for a container with an interface of each network that it wants.
    pub async fn sandbox(self: &Arc<Self>, owner: &Owner, wanted: &[Wanted]) -> Result<Sandbox> {
        if !wanted.is_empty() {
            self.firewall.ensure().await?;
        }
        if let [one] = wanted
            && let Some(sandbox) = self.take_ready(owner, one)
        {
            return Ok(sandbox);
        }
        self.sandbox_by_plans(owner, wanted, &Home::New).await
    }

    /// As [`Networks::sandbox`], in a namespace that is there already and empty.
    pub async fn sandbox_in(
        self: &Arc<Self>,
        owner: &Owner,
        wanted: &[Wanted],
        namespace: Arc<OwnedFd>,
    ) -> Result<Sandbox> {
        if !wanted.is_empty() {
            self.firewall.ensure().await?;
        }
        self.sandbox_by_plans(owner, wanted, &Home::At(namespace)).await
    }

    async fn sandbox_by_plans(
        self: &Arc<Self>,
        owner: &Owner,
        wanted: &[Wanted],
        home: &Home,
    ) -> Result<Sandbox> {
        match self.try_plans(owner, wanted, home).await {
            Err(_) if self.forget_lost(wanted).await? => self.try_plans(owner, wanted, home).await,
            made => made,
        }
    }

    async fn try_plans(self: &Arc<Self>, owner: &Owner, wanted: &[Wanted], home: &Home) -> Result<Sandbox> {
        let mut plans = Vec::with_capacity(wanted.len());
        for (number, one) in wanted.iter().enumerate() {
            let bridge = match self.up(&one.network).await {
                Ok(bridge) => bridge,
                Err(error) => {
                    self.unplan_all(&plans);
                    return Err(error);
                }
            };
            match self.plan(one, format!("eth{number}"), bridge, Some(owner)) {
                Ok(plan) => plans.push(plan),
                Err(error) => {
                    self.unplan_all(&plans);
                    return Err(error);
                }
            }
        }
        let sandbox = self.build(owner, plans, home.clone()).await?;
        sandbox.endpoints.iter().for_each(|endpoint| self.names_changed(&endpoint.network));
        Ok(sandbox)
    }

    fn unplan_all(&self, plans: &[Plan]) {
        plans.iter().for_each(|plan| self.unplan(&plan.state));
    }

    /// Fills a namespace by its plans, which are taken back if it fails or nobody waits any more.
    async fn build(self: &Arc<Self>, owner: &Owner, plans: Vec<Plan>, home: Home) -> Result<Sandbox> {
        let (networks, container) = (self.clone(), owner.container.clone());
        self.kernel
            .run("making a network namespace", move |host| {
                let endpoints: Vec<EndpointState> = plans.iter().map(|plan| plan.state.clone()).collect();
                let fill = |host: &mut Host, namespace: BorrowedFd<'_>| {
                    plug::prepare_namespace();
                    let mut inner = Netlink::open()?;
                    for plan in &plans {
                        plug(host, &mut inner, namespace, plan, &gateways(&plan.state, &endpoints))?;
                    }
                    if plans.is_empty() {
                        inner.set_up(1)?;
                    }
                    Ok(())
                };
                let made = match home {
                    Home::New => host.make_namespace(fill).map(|(namespace, ())| Arc::new(namespace)),
                    Home::At(namespace) => host
                        .enter(namespace.as_fd(), |host| fill(host, namespace.as_fd()))
                        .map(|()| namespace),
                };
                match made {
                    Ok(namespace) => Ok(Sandbox::new(networks, namespace, endpoints)),
                    Err(source) => {
                        networks.release(&endpoints);
                        Err(failed(&container)(source))
                    }
                }
            })
            .await
    }

    /// Connects a running container to one more network; all of its endpoints are returned.
    pub async fn connect(
        self: &Arc<Self>,
        owner: &Owner,
        namespace: OwnedFd,
        wanted: &Wanted,
        others: &[EndpointState],
    ) -> Result<Vec<EndpointState>> {
        let bridge = self.up(&wanted.network).await?;
        let free = (0..).map(|n| format!("eth{n}"));
        let interface = free.take(others.len() + 1).find(|name| others.iter().all(|o| o.interface != *name));
        let plan = self.plan(wanted, interface.unwrap_or_default(), bridge, Some(owner))?;
        let mut all = others.to_vec();
        all.push(plan.state.clone());
        let (networks, container, network) = (self.clone(), owner.container.clone(), wanted.network.clone());
        let connected = self
            .kernel
            .run("connecting a container", move |host| {
                let done = host.enter(namespace.as_fd(), |host| {
                    let mut inner = Netlink::open()?;
                    plug(host, &mut inner, namespace.as_fd(), &plan, &gateways(&plan.state, &all))
                });
                match done {
                    Ok(()) => Ok(all),
                    Err(source) => {
                        let left = host.netlink.delete_named(&plan.state.host_interface);
                        networks.unplan(&plan.state);
                        left.map_err(failed(&container))?;
                        Err(failed(&container)(source))
                    }
                }
            })
            .await?;
        self.names_changed(&network);
        Ok(connected)
    }

    /// Takes a running container off a network. The way out goes on by the best of the others.
    pub async fn disconnect(
        self: &Arc<Self>,
        namespace: OwnedFd,
        endpoint: &EndpointState,
        others: &[EndpointState],
    ) -> Result<()> {
        let (gone, others) = (endpoint.clone(), others.to_vec());
        self.kernel
            .run("disconnecting a container", move |host| {
                let failed = |source| Error::network("removing the interface", &gone.host_interface, source);
                host.netlink.delete_named(&gone.host_interface).map_err(failed)?;
                host.enter(namespace.as_fd(), |_| route_by(&others)).map_err(failed)
            })
            .await?;
        if let Some(place) = self.table().places.get_mut(&endpoint.network) {
            place.members.remove(&endpoint.id);
            place.give_back(&EndpointState { host_interface: String::new(), ..endpoint.clone() });
        }
        self.names_changed(&endpoint.network);
        Ok(())
    }

    /// Does something on the thread of the kernel's.
    pub(super) async fn on_kernel<T: Send + 'static>(
        &self,
        doing: &'static str,
        job: impl FnOnce(&mut Host) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.kernel.run(doing, job).await
    }
}

/// The thread is in the namespace.
fn route_by(endpoints: &[EndpointState]) -> std::io::Result<()> {
    let mut inner = Netlink::open()?;
    for family in [Family::V4, Family::V6] {
        if let Some((endpoint, gateway)) = way_out(endpoints, family) {
            let index = inner.index(&endpoint.interface)?;
            inner.set_default_route(index, gateway)?;
        }
    }
    Ok(())
}

/// The interface that CNI plugins make.
pub const CNI_INTERFACE: &str = "eth0";

/// What a CNI network has given, in the form of our own networks.
fn endpoint_of(network: &str, result: &CniResult) -> EndpointState {
    let (mut ipv4, mut ipv6) = (None, None);
    for given in &result.addresses {
        let prefix = given.prefix;
        match (given.address, given.gateway) {
            (IpAddr::V4(address), gateway) => {
                let gateway = gateway.and_then(|g| if let IpAddr::V4(g) = g { Some(g) } else { None });
                ipv4 = ipv4.or(Some(Address { address, prefix, gateway }));
            }
            (IpAddr::V6(address), gateway) => {
                let gateway = gateway.and_then(|g| if let IpAddr::V6(g) = g { Some(g) } else { None });
                ipv6 = ipv6.or(Some(Address { address, prefix, gateway }));
            }
        }
    }
    EndpointState {
        id: super::new_id(),
        // It is none of ours.
        network: String::new(),
        name: format!("cni:{network}"),
        interface: CNI_INTERFACE.to_owned(),
        host_interface: String::new(),
        mac: result.mac.parse().unwrap_or(Mac([0; 6])),
        ipv4,
        ipv6,
        aliases: Vec::new(),
        links: Vec::new(),
        priority: 0,
        driver_options: Default::default(),
    }
}
