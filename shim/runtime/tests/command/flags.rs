//! Every verb and flag of runc's command line, as of its main branch in August 2026.

use crate::bundle::Bundle;

const RUNC: &[(&str, &str)] = &[
    (
        "checkpoint",
        "image-path work-path parent-path leave-running tcp-established tcp-skip-in-flight link-remap ext-unix-sk shell-job \
         lazy-pages status-fd page-server file-locks pre-dump manage-cgroups-mode empty-ns auto-dedup",
    ),
    (
        "restore",
        "console-socket image-path work-path tcp-established ext-unix-sk shell-job file-locks manage-cgroups-mode bundle detach \
         pid-file no-subreaper no-pivot empty-ns auto-dedup lazy-pages lsm-profile lsm-mount-context",
    ),
    ("create", "bundle console-socket pidfd-socket pid-file no-pivot no-new-keyring preserve-fds"),
    (
        "run",
        "bundle console-socket pidfd-socket detach keep pid-file no-subreaper no-pivot no-new-keyring preserve-fds",
    ),
    (
        "exec",
        "console-socket pidfd-socket cwd env tty user additional-gids process detach pid-file process-label apparmor \
         no-new-privs cap preserve-fds cgroup ignore-paused",
    ),
    ("kill", "all"),
    ("delete", "force"),
    ("list", "format quiet"),
    ("ps", "format"),
    ("events", "interval stats"),
    (
        "update",
        "resources blkio-weight cpu-period cpu-quota cpu-burst cpu-share cpu-rt-period cpu-rt-runtime cpuset-cpus cpuset-mems \
         kernel-memory kernel-memory-tcp memory cpu-idle memory-reservation memory-swap pids-limit l3-cache-schema mem-bw-schema",
    ),
    ("pause", ""),
    ("resume", ""),
    ("state", ""),
    ("start", ""),
    ("spec", "bundle rootless"),
    ("features", ""),
];

#[test]
fn every_flag_of_runc_is_known() {
    let bundle = Bundle::new("true");
    for (verb, flags) in RUNC {
        let help = bundle.ok(&[verb, "--help"]);
        for flag in flags.split_whitespace() {
            let is_it = |word: &str| word.trim_end_matches([',', '=']) == format!("--{flag}");
            assert!(help.split_whitespace().any(is_it), "{verb} --{flag}:\n{help}");
        }
    }
    let help = bundle.ok(&["--help"]);
    for flag in ["debug", "log", "log-format", "root", "systemd-cgroup", "rootless"] {
        assert!(help.contains(&format!("--{flag}")), "--{flag}:\n{help}");
    }
}

#[test]
fn what_criu_decides_is_not_taken_as_a_wish() {
    let bundle = Bundle::new("true");
    bundle.fails(&["restore", "--no-pivot", "c"], "pivot_root");
}
