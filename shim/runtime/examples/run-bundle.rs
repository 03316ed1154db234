//! Runs a bundle to completion, once or many times: for trying the runtime and for measuring it.
//!
//! `run-bundle BUNDLE ID [--times N] [--overlay LOWER UPPER WORK] [--seccomp-cache DIR]`
//! With `--times` it prints the medians of its phases in milliseconds; the exit code is the container's.

use longshore_runtime::{Container, CreateOptions, RootfsMount, Stdio};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

fn main() {
    match run() {
        Ok(code) => std::process::exit(code),
        Err(error) => {
            eprintln!("run-bundle: {error}");
            std::process::exit(125)
        }
    }
}

struct Args {
    bundle: PathBuf,
    id: String,
    times: usize,
    mounts: Vec<RootfsMount>,
    cache: Option<PathBuf>,
}

fn parse() -> Option<Args> {
    let mut words = std::env::args().skip(1);
    let mut args =
        Args { bundle: words.next()?.into(), id: words.next()?, times: 1, mounts: Vec::new(), cache: None };
    while let Some(flag) = words.next() {
        match flag.as_str() {
            "--times" => args.times = words.next()?.parse().ok()?,
            "--seccomp-cache" => args.cache = Some(words.next()?.into()),
            "--overlay" => {
                let options =
                    [("lowerdir", words.next()?), ("upperdir", words.next()?), ("workdir", words.next()?)];
                args.mounts.push(RootfsMount {
                    kind: "overlay".into(),
                    source: "overlay".into(),
                    target: String::new(),
                    options: options.iter().map(|(key, value)| format!("{key}={value}")).collect(),
                });
            }
            _ => return None,
        }
    }
    Some(args)
}

fn run() -> Result<i32, Box<dyn std::error::Error>> {
    let args =
        parse().ok_or("usage: run-bundle BUNDLE ID [--times N] [--overlay L U W] [--seccomp-cache DIR]")?;
    let text = std::fs::read(args.bundle.join("config.json"))?;
    let mut code = 0;
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..args.times {
        let spec: oci_spec::runtime::Spec = serde_json::from_slice(&text)?;
        let duplicate = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned();
        let stdio: Result<[OwnedFd; 3], std::io::Error> = (|| {
            Ok([
                duplicate(&std::io::stdin())?,
                duplicate(&std::io::stdout())?,
                duplicate(&std::io::stderr())?,
            ])
        })();
        let [stdin, stdout, stderr] = stdio?;
        let start = Instant::now();
        let mut marks = Vec::new();
        let mut container = Container::create(CreateOptions {
            id: &args.id,
            bundle: &args.bundle,
            spec: &spec,
            rootfs_mounts: &args.mounts,
            stdio: Stdio::Fds { stdin, stdout, stderr },
            console_size: None,
            seccomp_cache: args.cache.as_deref(),
            no_pivot: false,
            no_new_keyring: false,
            hand_over: None,
            preserve_fds: 0,
            init: None,
            systemd_cgroup: false,
            note_cgroups: None,
        })?;
        marks.push(start.elapsed());
        container.start()?;
        marks.push(start.elapsed());
        code = wait(container.pid())?;
        marks.push(start.elapsed());
        container.delete()?;
        marks.push(start.elapsed());
        let mut before = std::time::Duration::ZERO;
        for (slot, mark) in times.iter_mut().zip(&marks) {
            slot.push((*mark - before).as_secs_f64() * 1e3);
            before = *mark;
        }
        times[4].push(start.elapsed().as_secs_f64() * 1e3);
    }
    if args.times > 1 {
        let median = |list: &mut Vec<f64>| {
            list.sort_by(f64::total_cmp);
            list[list.len() / 2]
        };
        let [create, start, wait, delete, total] = &mut times;
        let (create, start) = (median(create), median(start));
        let (wait, delete, total) = (median(wait), median(delete), median(total));
        println!("create {create:.3} start {start:.3} wait {wait:.3} delete {delete:.3} total {total:.3} ms");
    }
    Ok(code)
}

fn wait(pid: i32) -> Result<i32, Box<dyn std::error::Error>> {
    let pid = rustix::process::Pid::from_raw(pid);
    let status =
        rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?.ok_or("not waited for")?.1;
    Ok(status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0)))
}
