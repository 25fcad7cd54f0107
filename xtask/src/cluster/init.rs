//! The first process of a machine: gives it file systems of its own, then keeps its services running until it is killed,
//! and with it everything in its pid namespace.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::wait::waitpid;

use super::machine::{self, BIN, ETC, LOG, Machine, PKI, Service};
use super::mounts;

/// The kubelet insists on these values and would write them: the machine's own must not change, so the kubelet sees
/// files in their place. (`setupKernelTunables` in pkg/kubelet/cm/container_manager_linux.go.)
const TUNABLES: [(&str, &str); 6] = [
    ("/proc/sys/vm/overcommit_memory", "1"),
    ("/proc/sys/vm/panic_on_oom", "0"),
    ("/proc/sys/kernel/panic", "10"),
    ("/proc/sys/kernel/panic_on_oops", "1"),
    ("/proc/sys/kernel/keys/root_maxkeys", "1000000"),
    ("/proc/sys/kernel/keys/root_maxbytes", "25000000"),
];

/// How often a service that waits for a path looks for it, and how long one that keeps ending waits at most.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// Runs a machine; returns only when it cannot be set up.
///
/// # Errors
/// When a mount fails or the services cannot be watched.
pub(super) fn run(description: &Path) -> Result<()> {
    let machine = machine::read(description)?;
    nix::unistd::sethostname(&machine.name).context("naming the machine")?;
    file_systems(&machine)?;
    let path =
        (0..machine.programs.len()).map(|index| format!("{BIN}/{index}")).collect::<Vec<_>>().join(":");
    let path = format!("{path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    Supervisor::start(&machine.services, path).run()
}

/// Own `/run`, `/tmp`, `/var`, `/proc` and, for containers, `/sys`, so that nothing that runs here writes to the real
/// machine's. Sources are held open, since a mount may hide the path to the next.
fn file_systems(machine: &Machine) -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("taking the mounts for ourselves")?;
    forget_namespaces()?;
    let hold = |path: PathBuf| File::open(&path).with_context(|| format!("opening {}", path.display()));
    let var = hold(machine.var())?;
    let mut folders = vec![(hold(machine.etc())?, ETC.to_owned()), (hold(machine.log())?, LOG.to_owned())];
    folders.push((hold(machine.pki.clone())?, PKI.to_owned()));
    for (index, programs) in machine.programs.iter().enumerate() {
        folders.push((hold(programs.clone())?, format!("{BIN}/{index}")));
    }
    fresh("tmpfs", "/run")?;
    for (source, target) in &folders {
        fs::create_dir_all(target).with_context(|| format!("making {target}"))?;
        bind(source, target)?;
    }
    bind(&var, "/var")?;
    fs::create_dir_all("/var/tmp").context("making /var/tmp")?;
    fresh("tmpfs", "/tmp")?;
    if machine.runs_containers {
        own_sys()?;
    }
    fresh("proc", "/proc")?;
    for (tunable, value) in TUNABLES.iter().filter(|(path, _)| Path::new(path).exists()) {
        let shown = Path::new("/run/edge").join(tunable.replace('/', "_"));
        fs::write(&shown, format!("{value}\n")).with_context(|| format!("writing {}", shown.display()))?;
        bind(&File::open(&shown).context("opening a tunable")?, tunable)?;
    }
    // What a component thinks of writing elsewhere on the root file system fails here, instead of staying on the real machine.
    // Others that are mounted below it stay as they are.
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, "/", None::<&str>, read_only, None::<&str>)
        .context("protecting the real machine's files")?;
    // As on any machine, so that mounts reach containers that ask for it; the group is new and ends here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .context("sharing the mounts among the machine's containers")
}

/// Named network namespaces are mounts, and a copy of such a mount would keep a namespace alive, with its interfaces,
/// after its owner deleted it.
fn forget_namespaces() -> Result<()> {
    for namespace in mounts::all()?.iter().filter(|mount| mount.kind == "nsfs") {
        // One that was deleted meanwhile is what is wanted.
        let _ = umount2(&namespace.point, MntFlags::MNT_DETACH);
    }
    Ok(())
}

/// `/sys` shows the network namespace that it was mounted in; the cgroups move over from the old one.
fn own_sys() -> Result<()> {
    let cgroups = File::open("/sys/fs/cgroup").context("opening /sys/fs/cgroup")?;
    fresh("sysfs", "/sys")?;
    let recursively = MsFlags::MS_BIND | MsFlags::MS_REC;
    let source = format!("/proc/self/fd/{}", cgroups.as_raw_fd());
    mount(Some(source.as_str()), "/sys/fs/cgroup", None::<&str>, recursively, None::<&str>)
        .context("keeping the cgroups")?;
    if Path::new("/sys/fs/bpf").is_dir() {
        fresh("bpf", "/sys/fs/bpf")?;
    }
    Ok(())
}

fn fresh(kind: &str, target: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mounting {kind} on {target}"))
}

fn bind(source: &File, target: &str) -> Result<()> {
    let path = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount(Some(path.as_str()), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("binding {target}"))
}

enum State {
    Waiting { not_before: Instant },
    Running { pid: i32, since: Instant },
}

struct Supervisor<'a> {
    services: Vec<(&'a Service, State, u32)>,
    path: String,
    ended: Receiver<i32>,
}

impl<'a> Supervisor<'a> {
    fn start(services: &'a [Service], path: String) -> Self {
        let (report, ended) = sync_channel(64);
        thread::spawn(move || reap(&report));
        let now = Instant::now();
        let waiting = |service| (service, State::Waiting { not_before: now }, 0);
        Self { services: services.iter().map(waiting).collect(), path, ended }
    }

    fn run(mut self) -> Result<()> {
        loop {
            self.start_what_can()?;
            let waits = self.services.iter().any(|(_, state, _)| matches!(state, State::Waiting { .. }));
            match self.ended.recv_timeout(if waits { LOOK_EVERY } else { LONGEST_BACKOFF }) {
                Ok(pid) => self.note_end(pid)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    anyhow::bail!("ended processes are no longer collected")
                }
            }
        }
    }

    fn start_what_can(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut changed = false;
        for (service, state, starts) in &mut self.services {
            let State::Waiting { not_before } = state else { continue };
            let ready = service.after.as_ref().is_none_or(|path| path.exists());
            if !ready || now < *not_before {
                continue;
            }
            *starts += 1;
            *state = match spawn(service, &self.path) {
                Ok(pid) => State::Running { pid, since: now },
                Err(error) => {
                    eprintln!("{}: {error:#}", service.name);
                    State::Waiting { not_before: now + LONGEST_BACKOFF }
                }
            };
            changed = true;
        }
        if changed { self.show() } else { Ok(()) }
    }

    /// A service that ran for a while starts again at once, one that ends soon waits twice as long each time.
    fn note_end(&mut self, ended: i32) -> Result<()> {
        let now = Instant::now();
        let is_it = |state: &State| matches!(state, State::Running { pid, .. } if *pid == ended);
        let Some((service, state, starts)) = self.services.iter_mut().find(|(_, state, _)| is_it(state))
        else {
            // Left to us by a container.
            return Ok(());
        };
        let backoff = match state {
            State::Running { since, .. } if now.duration_since(*since) < LONGEST_BACKOFF => {
                LONGEST_BACKOFF.min(FIRST_BACKOFF * 2u32.pow((*starts).min(7)))
            }
            _ => Duration::ZERO,
        };
        eprintln!("{} ended; it starts again after {} ms", service.name, backoff.as_millis());
        *state = State::Waiting { not_before: now + backoff };
        self.show()
    }

    /// Keeps `services.json` in the log folder true, for `cluster status`.
    fn show(&self) -> Result<()> {
        let shown: BTreeMap<_, _> = self
            .services
            .iter()
            .map(|(service, state, starts)| {
                let state = match state {
                    State::Waiting { .. } => "waiting",
                    State::Running { .. } => "running",
                };
                (service.name.as_str(), (state, starts))
            })
            .collect();
        let unfinished = format!("{LOG}/.services.json");
        fs::write(&unfinished, serde_json::to_vec(&shown)?).context("noting the services' state")?;
        fs::rename(unfinished, format!("{LOG}/services.json")).context("noting the services' state")
    }
}

fn spawn(service: &Service, path: &str) -> Result<i32> {
    let (program, arguments) = service.command.split_first().context("a service without a program")?;
    let log = File::options().create(true).append(true).open(format!("{LOG}/{}.log", service.name));
    let log = log.context("opening its log")?;
    let program = std::env::split_paths(path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
        .with_context(|| format!("{program} is not there"))?;
    let child = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("sharing its log")?)
        .stderr(log)
        .spawn()
        .context("starting it")?;
    i32::try_from(child.id()).context("its process number")
}

/// Collects every process that ends: services, and what containers leave behind to the first process.
fn reap(report: &SyncSender<i32>) {
    loop {
        match waitpid(None, None) {
            Ok(status) => {
                let Some(pid) = status.pid() else { continue };
                if report.send(pid.as_raw()).is_err() {
                    return;
                }
            }
            // Nothing to wait for yet.
            Err(Errno::ECHILD) => thread::park_timeout(LOOK_EVERY),
            Err(_) => {}
        }
    }
}
