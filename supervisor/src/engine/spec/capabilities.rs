//! Which capabilities a container has: docker's fourteen, what `--cap-add` and `--cap-drop` make of them, or all
//! that this kernel knows when privileged. The inheritable and ambient sets are always empty.

use std::str::FromStr;
use std::sync::OnceLock;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use crate::error::{Error, Result};

const DEFAULTS: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Every capability in the order of the kernel's numbers, from 0.
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The set of a container that was not told otherwise.
pub fn defaults() -> Capabilities {
    DEFAULTS.into_iter().collect()
}

/// Everything that this daemon could give away: its own bounding set, so that a restricted host degrades to what
/// it has.
pub fn available() -> &'static Capabilities {
    static SET: OnceLock<Capabilities> = OnceLock::new();
    SET.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("CapBnd:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(u64::MAX);
        ALL.into_iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, cap)| cap).collect()
    })
}

/// Applies `--cap-add` and `--cap-drop` to the defaults. `ALL` in one of them starts from everything or from
/// nothing; a capability that the host lacks is left out.
pub fn resolve(add: &[String], drop: &[String], privileged: bool) -> Result<Capabilities> {
    let added = parse(add, "cap-add")?;
    let dropped = parse(drop, "cap-drop")?;
    if privileged {
        return Ok(available().clone());
    }
    let mut set = match (&added, &dropped) {
        (List::All(_), List::All(_)) => available().clone(),
        (List::All(_), List::Some(out)) => available().difference(out).copied().collect(),
        (List::Some(_), List::All(_)) => Capabilities::new(),
        (List::Some(_), List::Some(out)) => defaults().difference(out).copied().collect(),
    };
    let (List::Some(extra) | List::All(extra)) = added;
    set.extend(extra);
    Ok(set.intersection(available()).copied().collect())
}

/// The five sets of a process: the bounding set is `set`; a process that is not root gets nothing effective.
pub fn sets(set: &Capabilities, uid: u32) -> Result<LinuxCapabilities> {
    let own = if uid == 0 { set.clone() } else { Capabilities::new() };
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(own.clone())
        .permitted(own)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
        .map_err(Error::oci)
}

enum List {
    /// `ALL`, and what was named besides.
    All(Capabilities),
    Some(Capabilities),
}

fn parse(names: &[String], flag: &str) -> Result<List> {
    let mut set = Capabilities::new();
    let mut all = false;
    for name in names {
        let upper = name.trim().to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" {
            all = true;
            continue;
        }
        let capability = Capability::from_str(bare).map_err(|_| {
            Error::invalid(flag, format!("unknown capability {name:?}; see capabilities(7) for the names"))
        })?;
        set.insert(capability);
    }
    Ok(if all { List::All(set) } else { List::Some(set) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn every_way_to_write_a_name() {
        for name in ["net_admin", "NET_ADMIN", "CAP_NET_ADMIN", "cap_net_admin"] {
            let List::Some(set) = parse(&names(&[name]), "cap-add").unwrap() else { panic!("{name}") };
            assert!(set.contains(&Capability::NetAdmin), "{name}");
        }
        assert!(parse(&names(&["NET_ADMINS"]), "cap-add").is_err());
    }

    #[test]
    fn all_starts_from_everything_or_from_nothing() {
        assert!(resolve(&[], &names(&["ALL"]), false).unwrap().is_empty());
        let one = resolve(&names(&["chown"]), &names(&["all"]), false).unwrap();
        assert_eq!(one, [Capability::Chown].into_iter().collect());
        let less = resolve(&names(&["ALL"]), &names(&["chown"]), false).unwrap();
        assert!(!less.contains(&Capability::Chown));
        assert_eq!(less.len(), available().len() - usize::from(available().contains(&Capability::Chown)));
    }

    #[test]
    fn only_root_has_effective_capabilities() {
        let set = sets(&defaults(), 1000).unwrap();
        assert_eq!(set.bounding().as_ref().unwrap().len(), 14);
        assert!(set.effective().as_ref().unwrap().is_empty());
        assert!(set.inheritable().as_ref().unwrap().is_empty());
    }
}
