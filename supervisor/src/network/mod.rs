//! Networks of containers: what there is of them, whose addresses are taken, and the kernel's side of it: bridges, and
//! namespaces with an interface of each network.
//!
//! What always holds:
//! - A network's record is on disk before its interface is made, and goes after it, so that no interface is without an owner.
//! - A container's namespace lives by its processes alone: nothing pins it, so the kernel removes it and its interfaces
//!   when they have ended, whatever became of the daemon.
//! - No lock is held over I/O; the kernel is spoken to by one thread ([`kernel`]).

pub mod addresses;
pub mod choose;
pub mod cidr;
pub mod cni;
pub mod create;
pub mod dns;
pub mod endpoint;
pub mod firewall;
pub mod kernel;
mod links;
mod netlink;
mod plug;
pub mod ports;
mod ready;
pub mod record;
mod recover;
pub mod refusal;
mod remove;
pub mod sandbox;
mod sweep;
mod up;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Config;
use crate::error::Result;
use crate::metadata::Db;
use crate::namespaces::Namespace;
use addresses::Addresses;
use cidr::Family;
use cni::Cni;
use dns::Dns;
use endpoint::EndpointState;
use firewall::Firewall;
use kernel::Kernel;
use record::Network;
use refusal::Refusal;

/// The group of all of our bridges, by which the packet filter knows them from interfaces of others: `ls`.
const GROUP: u32 = 0x6c73;

/// All networks.
pub struct Networks {
    namespace: Namespace,
    config: Arc<Config>,
    db: Arc<Db>,
    kernel: Kernel,
    pub firewall: Arc<Firewall>,
    pub dns: Dns,
    pub cni: Cni,
    /// First bits of IPv6 subnets of the daemon's choice: its own for as long as its root is.
    prefix: cidr::Cidr,
    runtime: tokio::runtime::Handle,
    table: Mutex<Table>,
}

/// A container on a network.
#[derive(Clone, Debug)]
pub struct Member {
    /// Id of the container.
    pub container: String,
    /// Its name.
    pub name: String,
    pub endpoint: EndpointState,
}

#[derive(Default)]
struct Table {
    /// By id.
    places: BTreeMap<String, Place>,
    /// Namespaces on the default bridge that wait for a container.
    ready: Vec<ready::Ready>,
    /// Whether more of them are being made.
    filling: bool,
    /// Whether somebody looks after addresses that rest.
    sweeping: bool,
    /// Nothing is made in advance any more.
    closing: bool,
}

/// What is known of one network.
struct Place {
    network: Arc<Network>,
    v4: Option<Addresses>,
    v6: Option<Addresses>,
    /// By endpoint id.
    members: BTreeMap<String, Member>,
    /// Index of the interface, once it is there. Locked while it is being made or removed.
    interface: Arc<tokio::sync::Mutex<Option<u32>>>,
    /// Being removed: takes no more containers.
    doomed: bool,
}

impl Place {
    fn new(network: Arc<Network>) -> Place {
        Place {
            v4: network.ipv4.as_ref().map(Addresses::new),
            v6: network.ipv6.as_ref().map(Addresses::new),
            network,
            members: BTreeMap::new(),
            interface: Arc::default(),
            doomed: false,
        }
    }

    fn addresses(&mut self, family: Family) -> Option<&mut Addresses> {
        match family {
            Family::V4 => self.v4.as_mut(),
            Family::V6 => self.v6.as_mut(),
        }
    }

    fn give_back(&mut self, endpoint: &EndpointState) {
        for address in endpoint.addresses() {
            if let Some(addresses) = self.addresses(Family::of(&address)) {
                addresses.give_back(&address, &endpoint.host_interface);
            }
        }
    }
}

impl Networks {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network that `text` names: its name, its id, or a beginning that no other id shares.
    pub fn find(&self, text: &str) -> Result<Arc<Network>> {
        let table = self.table();
        if let Some(place) = table.places.get(text) {
            return Ok(place.network.clone());
        }
        if let Some(place) = table.places.values().find(|place| place.network.name == text) {
            return Ok(place.network.clone());
        }
        let hexadecimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hexadecimal {
            let mut matches =
                table.places.range(text.to_owned()..).take_while(|(id, _)| id.starts_with(text));
            match (matches.next(), matches.next()) {
                (Some((_, place)), None) => return Ok(place.network.clone()),
                (Some(_), Some(_)) => return Err(Refusal::Ambiguous(text.to_owned()).into()),
                _ => {}
            }
        }
        Err(Refusal::NotFound(text.to_owned()).into())
    }

    /// All, in no order that means anything.
    pub fn all(&self) -> Vec<Arc<Network>> {
        self.table().places.values().map(|place| place.network.clone()).collect()
    }

    /// The running containers of a network.
    pub fn members(&self, id: &str) -> Vec<Member> {
        let table = self.table();
        table.places.get(id).map(|place| place.members.values().cloned().collect()).unwrap_or_default()
    }

    /// A container has another name.
    pub fn renamed(&self, container: &str, name: &str) {
        let mut touched = Vec::new();
        for place in self.table().places.values_mut() {
            for member in place.members.values_mut().filter(|member| member.container == container) {
                name.clone_into(&mut member.name);
                touched.push(place.network.id.clone());
            }
        }
        touched.iter().for_each(|id| self.names_changed(id));
    }

    /// The names or addresses of a network's containers are others than before.
    pub(crate) fn names_changed(&self, network: &str) {
        let (network, members) = {
            let table = self.table();
            let Some(place) = table.places.get(network).filter(|place| place.network.has_names()) else {
                return;
            };
            (place.network.clone(), place.members.values().cloned().collect::<Vec<_>>())
        };
        let names = members.into_iter().map(|member| {
            let short = member.container.get(..12).unwrap_or(&member.container).to_owned();
            let mut names = vec![member.name.clone(), short];
            names.extend(member.endpoint.aliases);
            dns::Name {
                names,
                canonical: member.name,
                ipv4: member.endpoint.ipv4.map(|v4| v4.address),
                ipv6: member.endpoint.ipv6.map(|v6| v6.address),
            }
        });
        if let Err(error) = self.dns.network(&network.id, &network.name, names.collect()) {
            tracing::error!(network = network.name, %error, "names of the network are not what they should be");
        }
    }

    /// Gives back what a container had; the kernel removes the interfaces with its namespace.
    pub fn release(self: &Arc<Self>, endpoints: &[EndpointState]) {
        if endpoints.is_empty() {
            return;
        }
        {
            let mut table = self.table();
            for endpoint in endpoints {
                if let Some(place) = table.places.get_mut(&endpoint.network)
                    && place.members.remove(&endpoint.id).is_some()
                {
                    place.give_back(endpoint);
                }
            }
        }
        endpoints.iter().for_each(|endpoint| self.names_changed(&endpoint.network));
        self.sweep_soon();
    }
}

/// 64 hexadecimal digits.
fn new_id() -> String {
    crate::hex::encode(&rand::random::<[u8; 32]>())
}

/// A name for the host's end of a pair: short enough for the kernel, and in the form that tools for networks know.
fn new_interface() -> String {
    let digits = crate::hex::encode(&rand::random::<[u8; 4]>());
    format!("veth{}", &digits[..7])
}
