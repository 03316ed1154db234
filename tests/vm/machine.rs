//! One machine: qemu with an emulated processor, its serial line copied to our output, and its time limits.

use crate::{Flavour, guest};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longest life of a machine, and longest silence on its serial line.
const LIFE_MAX: Duration = Duration::from_secs(480);
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How long a machine may be silent after it was switched on, and how often it is switched on if it stays so: emulated
/// processors of a busy host sometimes miss each other in the kernel's first moments.
const BOOT_MAX: Duration = Duration::from_secs(60);
const BOOT_TRIES: u32 = 4;
/// What is said if a machine does not say how its tests ended.
pub const DIED: i32 = 124;

pub struct Machine {
    pub kernel: PathBuf,
    pub image: PathBuf,
    pub flavour: Flavour,
    pub disk: Disk,
    /// For nextest; the flavour's own if there are none.
    pub arguments: Vec<String>,
}

/// What becomes of what is written to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// It is forgotten.
    Untouched,
    /// It is there the next time.
    Kept,
}

/// A machine that is on; dropped, it loses its power.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots it, waits for its tests, and answers their exit code. A machine that falls silent is given one more try: tests that hang
/// are said to be slow before that, and ended, so it is the emulated machine that has stopped.
pub fn run(machine: &Machine) -> Result<i32> {
    let (mut code, _) = hear(machine, "")?;
    if code == DIED && machine.disk == Disk::Untouched {
        eprintln!("longshore-vm: once more");
        (code, _) = hear(machine, "")?;
    }
    Ok(code)
}

/// As [`run`], with the rest of all lines that begin with this word; with an empty one none are kept.
pub fn hear(machine: &Machine, word: &str) -> Result<(i32, Vec<String>)> {
    for _ in 0..BOOT_TRIES {
        let mut said = Vec::new();
        let hear = |line: &str| {
            let rest = line.strip_prefix(word).filter(|_| !word.is_empty());
            said.extend(rest.map(str::to_owned));
            Then::GoOn
        };
        if let Some(code) = boot(machine, hear)? {
            return Ok((code, said));
        }
    }
    Ok((DIED, Vec::new()))
}

/// Boots it, and takes its power away `moment` after the `count`th line that begins with this word; the rest of these lines.
pub fn cut(machine: &Machine, word: &str, count: usize, moment: Duration) -> Result<Vec<String>> {
    for _ in 0..BOOT_TRIES {
        let (mut said, mut end) = (Vec::new(), None);
        let hear = |line: &str| {
            said.extend(line.strip_prefix(word).map(str::to_owned));
            if said.len() >= count && end.is_none() {
                end = Some(Instant::now() + moment);
            }
            end.map_or(Then::GoOn, Then::CutAt)
        };
        match boot(machine, hear)? {
            Some(DIED) => return Ok(said),
            Some(code) => bail!("what ran until the power was cut ended by itself, with {code}"),
            None => {}
        }
    }
    Ok(Vec::new())
}

/// What comes after a line of the machine.
enum Then {
    GoOn,
    /// The power goes at this moment.
    CutAt(Instant),
}

/// `None` if the kernel does not come up.
fn boot(machine: &Machine, hear: impl FnMut(&str) -> Then) -> Result<Option<i32>> {
    let mut child = command(machine)?.spawn().context("run qemu-system-x86_64 (Debian's qemu-system-x86)")?;
    let output = child.stdout.take();
    let _running = Running(child);
    let (send, lines) = channel();
    let output = BufReader::new(output.context("no output of qemu")?);
    std::thread::spawn(move || {
        for line in output.split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let code = follow(&lines, hear)?;
    if code.is_none() {
        eprintln!("longshore-vm: the kernel did not come up in {} s", BOOT_MAX.as_secs());
    }
    Ok(code)
}

fn follow(lines: &Receiver<String>, mut hear: impl FnMut(&str) -> Then) -> Result<Option<i32>> {
    let deadline = Instant::now() + LIFE_MAX;
    let mut cut: Option<Instant> = None;
    let mut booted = false;
    let mut code = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).min(if booted {
            SILENCE_MAX
        } else {
            BOOT_MAX
        });
        let left = cut.map_or(left, |cut| cut.saturating_duration_since(Instant::now()));
        match lines.recv_timeout(left) {
            Ok(line) => {
                booted = true;
                code = guest::exit_code(&line).or(code);
                if let Then::CutAt(moment) = hear(&line) {
                    cut = Some(moment);
                }
                let mut out = std::io::stdout().lock();
                let _ = writeln!(out, "  {line}").and_then(|()| out.flush());
            }
            Err(RecvTimeoutError::Disconnected) => {
                if code.is_none() {
                    eprintln!("longshore-vm: the machine went off before its tests were over");
                }
                return Ok(Some(code.unwrap_or(DIED)));
            }
            Err(RecvTimeoutError::Timeout) if cut.is_some() => return Ok(Some(code.unwrap_or(DIED))),
            // Its tests are over, it only does not go off by itself.
            Err(RecvTimeoutError::Timeout) if code.is_some() => return Ok(code),
            Err(RecvTimeoutError::Timeout) if !booted => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("longshore-vm: the machine hangs, or takes longer than {} s", LIFE_MAX.as_secs());
                return Ok(Some(DIED));
            }
        }
    }
}

fn command(machine: &Machine) -> Result<Command> {
    let init = match machine.flavour {
        Flavour::V2 | Flavour::Power => "init=/longshore/longshore-vm -- guest init",
        Flavour::Systemd => "systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all",
        Flavour::Legacy => "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1",
        Flavour::Hybrid => "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0",
    };
    let init = match machine.flavour {
        Flavour::V2 | Flavour::Power => format!("cgroup_no_v1=all {init}"),
        _ => format!("systemd.unit=longshore-tests.service systemd.show_status=no {init}"),
    };
    let arguments = guest::wrap(&machine.arguments);
    let line = format!(
        "root=/dev/nvme0n1 rootfstype=ext4 rw console=ttyS0 quiet loglevel=3 panic=-1 oops=panic mitigations=off \
         random.trust_cpu=on no_timer_check tsc=reliable longshore={arguments} {init}"
    );
    let snapshot = match machine.disk {
        Disk::Untouched => "on",
        Disk::Kept => "off",
    };
    // What the machine has written is with the host, whose power stays.
    let drive = format!(
        "file={},if=none,id=disk,format=raw,snapshot={snapshot},cache=unsafe",
        machine.image.display()
    );
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-accel",
            "tcg,thread=multi",
            "-machine",
            "q35",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "1536",
            "-nodefaults",
        ])
        .args(["-display", "none", "-serial", "stdio", "-no-reboot", "-kernel"])
        .arg(&machine.kernel)
        .args(["-drive", &drive, "-device", "nvme,drive=disk,serial=longshore", "-append", &line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    // SAFETY: prctl with integers only, between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    Ok(command)
}
