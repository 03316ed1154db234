//! What is done inside the container's network namespace: the way from port 53 to the ports that we have got there, so that a
//! container can have its port 53 for itself.

use std::net::Ipv4Addr;

use longshore_proto::nfnetlink::{Batch, Family, Hook, socket};
use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};

/// Ours, in the container's namespace.
const TABLE: &str = "longshore_dns";
const CHAIN: &str = "output";
/// Of destination NAT.
const PRIORITY: i32 = -100;
const UDP: u8 = 17;
const TCP: u8 = 6;

/// Runs a closure in the network namespace of a process; what it opens stays there.
pub fn inside<T>(pid: i32, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let open = |path: &str| {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(Error::file("open the network namespace", path))
    };
    let enter = |namespace| {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Error::System { doing: "enter a network namespace", source: errno.into() })
    };
    let own = open("/proc/thread-self/ns/net")?;
    let theirs = open(&format!("/proc/{pid}/ns/net"))?;
    enter(theirs)?;
    let result = work();
    enter(own)?;
    result
}

/// Leads what goes to this address and port to other ports of the address, in this thread's namespace.
pub fn lead((address, port): (Ipv4Addr, u16), udp: u16, tcp: u16) -> Result<()> {
    let mut batch = Batch::default();
    batch.add_table(Family::Ipv4, TABLE);
    batch.add_nat_chain(Family::Ipv4, TABLE, CHAIN, Hook::Output, PRIORITY);
    for (protocol, to) in [(UDP, udp), (TCP, tcp)] {
        batch.redirect_port(TABLE, CHAIN, protocol, (address.octets(), port), to);
    }
    socket::commit(&batch.finish()).map_err(|source| Error::System {
        doing: "lead port 53 of 127.0.0.11 to the names of the network (nftables with NAT is needed)",
        source,
    })
}
