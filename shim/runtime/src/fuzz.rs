//! What fuzzers enter the runtime by: a `config.json` of any bytes is read and planned as far as that needs nothing of the
//! host. It answers nothing; it must end, without a panic, and without a system call that names a file.
//!
//! `fuzz/` drives it with libFuzzer, the test below with mutations of a config that has every field.

use crate::init::Step;
use crate::namespaces::Namespaces;
use crate::{
    capabilities, config, devices, hooks, intel_rdt, mounts, net_devices, process, scheduling, seccomp_agent,
};
use oci_spec::runtime::{Linux, Process, Spec};
use std::path::Path;

/// Reads the bytes as a config and plans what can be planned without a host.
pub fn config(bytes: &[u8]) {
    let Ok(spec) = config::load_spec(bytes) else { return };
    if let Some(linux) = spec.linux() {
        plan_linux(&spec, linux);
    }
    if let Some(process) = spec.process() {
        plan_process(process);
    }
    for mount in spec.mounts().iter().flatten() {
        let _ = mounts::in_root(&mount.destination().to_string_lossy());
        let _ = mounts::parse(mount.options().as_deref().unwrap_or_default());
    }
}

fn plan_linux(spec: &Spec, linux: &Linux) {
    let about = hooks::About { id: "fuzz", bundle: Path::new("/"), annotations: spec.annotations().as_ref() };
    let _ = hooks::check_all(spec, &about);
    if let Some(profile) = linux.seccomp() {
        let _ = seccomp_agent::Agent::of(profile, &about);
    }
    if let Some(rdt) = linux.intel_rdt() {
        let _ = intel_rdt::plan_in(Path::new("/"), rdt, "fuzz");
    }
    let _ = (scheduling::memory_policy(linux), scheduling::personality(linux));
    let namespaces = Namespaces::all_new();
    let mut steps: Vec<Step> = Vec::new();
    let _ = net_devices::NetDevices::plan(linux, &namespaces);
    let _ = namespaces.plan_settings(spec, linux, &mut steps);
    let nodes = linux.devices().as_deref().unwrap_or_default();
    let _ = devices::plan(
        spec.mounts().as_deref().unwrap_or_default(),
        nodes,
        devices::Making::Nodes,
        &mut steps,
    );
    let _ = crate::rootfs::final_propagation(linux);
}

fn plan_process(process: &Process) {
    let _ = process::check(process);
    let _ = scheduling::ExecAffinity::of(process);
    let mut warnings = Vec::new();
    let origin = capabilities::Origin::UserNamespace;
    let _ = capabilities::plan(process.capabilities().as_ref(), origin, &mut warnings);
}

#[cfg(test)]
mod tests {
    use crate::init::{Listener, Step};
    use crate::sys::process::{self, Exit, Reap};
    use rustix::fd::AsFd;

    /// A config that has every field.
    const WHOLE: &str = include_str!("../tests/every-field.json");

    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    /// Changes bytes, cuts, doubles, and exchanges numbers and words.
    fn mutate(bytes: &mut Vec<u8>, state: &mut u64) {
        const WORDS: &[&str] = &[
            "null",
            "-1",
            "99999999999999999999",
            "\"\"",
            "[]",
            "{}",
            "\"/..\"",
            "\"\\u0000\"",
            "1e400",
            "true",
            "[[[[",
        ];
        for _ in 0..1 + next(state) % 4 {
            let at = next(state) as usize % bytes.len().max(1);
            match next(state) % 5 {
                0 if !bytes.is_empty() => bytes[at] = next(state) as u8,
                1 => bytes.truncate(at.max(bytes.len() / 2)),
                2 => {
                    let end = (at + next(state) as usize % 64).min(bytes.len());
                    let part = bytes[at.min(end)..end].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => {
                    // In the place of a value.
                    let from = bytes[at.min(bytes.len())..]
                        .iter()
                        .position(|b| *b == b':')
                        .map_or(at, |n| at + n + 1);
                    let end = bytes[from.min(bytes.len())..]
                        .iter()
                        .position(|b| matches!(b, b',' | b'}' | b']'))
                        .map_or(bytes.len(), |n| from + n);
                    let word = WORDS[next(state) as usize % WORDS.len()];
                    bytes.splice(from.min(end)..end, word.bytes());
                }
            }
        }
    }

    #[test]
    fn the_config_with_every_field_is_one() {
        let spec = crate::load_spec(WHOLE.as_bytes()).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert!(
            linux.memory_policy().is_some() && linux.net_devices().is_some() && linux.intel_rdt().is_some()
        );
        super::config(WHOLE.as_bytes());
    }

    /// In a process that the kernel kills at the first system call that is not about memory.
    #[test]
    fn no_config_panics_or_touches_the_host() {
        let harmless = [
            "brk",
            "mmap",
            "munmap",
            "mremap",
            "madvise",
            "mprotect",
            "write",
            "writev",
            "exit",
            "exit_group",
            "futex",
            "rt_sigaction",
            "rt_sigprocmask",
            "sigaltstack",
            "getrandom",
            "gettid",
            "getpid",
            "tgkill",
            "rt_sigreturn",
            "sched_yield",
            "clock_gettime",
            "capget",
        ];
        let profile = serde_json::json!({
            "defaultAction": "SCMP_ACT_KILL_PROCESS",
            "syscalls": [{ "names": harmless, "action": "SCMP_ACT_ALLOW" }],
        });
        let profile = serde_json::from_value(profile).unwrap();
        let Step::Seccomp { program, .. } = crate::seccomp::plan(&profile, None, Listener::None).unwrap()
        else {
            panic!("another step")
        };
        // The expression that oci-spec checks lists of processors with is made once, by a library that counts processors.
        super::config(WHOLE.as_bytes());
        let child = process::spawn(0, None, || {
            if process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).is_err()
                || crate::sys::seccomp::load(&program, 0).is_err()
            {
                return 99;
            }
            let mut state = 42;
            for _ in 0..4000 {
                let mut bytes = WHOLE.as_bytes().to_vec();
                mutate(&mut bytes, &mut state);
                super::config(&bytes);
            }
            0
        })
        .unwrap();
        // 255: it panicked. Signal SIGSYS: it asked the kernel for something.
        assert_eq!(process::wait(child.pidfd.as_fd(), Reap::Take).unwrap(), Exit::Code(0));
    }
}
