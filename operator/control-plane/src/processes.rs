//! etcd and kube-apiserver as processes. They live as long as their starter and no longer, however it ends: on
//! drop they are killed by id, and when this process dies the kernel kills them and a keeper removes their folder.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use tempfile::TempDir;

use crate::{Assets, Error};

/// The name in the token file; in `system:masters`, so allowed everything.
const ADMIN: &str = "admin";
/// What stands before the point of a P-256 public key in DER (SubjectPublicKeyInfo, RFC 5480 §2).
const P256_PUBLIC_KEY: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Lines of a log that an error shows.
const TAIL: usize = 15;

/// Both processes and their folder.
pub(crate) struct Processes {
    /// The API server's port on 127.0.0.1.
    pub(crate) port: u16,
    /// The admin's bearer token.
    pub(crate) token: String,
    children: Arc<Mutex<Vec<(&'static str, Child)>>>,
    stop: Option<SyncSender<()>>,
    spawner: Option<JoinHandle<()>>,
    _keeper: Child,
    folder: TempDir,
}

impl Processes {
    /// Starts both, the API server with these flags too; neither is ready yet.
    pub(crate) fn start(assets: &Assets, flags: &[&str]) -> Result<Self, Error> {
        let folder = tempfile::Builder::new()
            .prefix("edge-control-plane-")
            .tempdir()
            .map_err(Error::io("making a folder for the control plane"))?;
        let keeper = keep(folder.path())?;
        let [etcd, peer, port] = free_ports()?;
        let token = write_identity(folder.path())?;
        let mut apiserver = apiserver_command(assets, folder.path(), etcd, port)?;
        apiserver.args(flags);
        let etcd = etcd_command(assets, folder.path(), etcd, peer)?;
        let commands = vec![("etcd", etcd), ("kube-apiserver", apiserver)];
        let (children, stop, spawner) = spawn(commands)?;
        Ok(Self { port, token, children, stop: Some(stop), spawner: Some(spawner), _keeper: keeper, folder })
    }

    /// The API server's certificate with its issuer, which it writes soon after its start.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("pki/apiserver.crt")
    }

    /// The name of a process that has ended, which neither does by itself.
    pub(crate) fn ended(&self) -> Option<&'static str> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.iter_mut().find_map(|(name, child)| (!matches!(child.try_wait(), Ok(None))).then_some(*name))
    }

    /// Where everything of this control plane lies.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Both processes' ids.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.iter().map(|(_, child)| child.id()).collect()
    }

    /// The end of both logs.
    pub(crate) fn logs(&self) -> String {
        let mut text = String::new();
        for name in ["etcd", "kube-apiserver"] {
            let path = self.folder.path().join(name).with_extension("log");
            let log = std::fs::read(path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default();
            text.push_str(&format!("--- {name}\n{}\n", tail.join("\n")));
        }
        text
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // The spawner's thread kills and reaps them; then the folder is nobody's and can be removed.
        drop(self.stop.take());
        if let Some(spawner) = self.spawner.take() {
            let _ = spawner.join();
        }
    }
}

type Children = Arc<Mutex<Vec<(&'static str, Child)>>>;

/// Starts the commands from a thread of their own: the kernel's parent-death signal goes by the thread that
/// forked, and a test's thread ends before its siblings.
fn spawn(
    commands: Vec<(&'static str, Command)>,
) -> Result<(Children, SyncSender<()>, JoinHandle<()>), Error> {
    let children = Children::default();
    let (stop, stopped) = sync_channel::<()>(1);
    let (tell, told) = sync_channel(1);
    let shared = Arc::clone(&children);
    let spawner = thread::spawn(move || live(commands, &shared, &tell, &stopped));
    match told.recv() {
        Ok(Ok(())) => Ok((children, stop, spawner)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Key("the thread that starts the control plane died".to_owned())),
    }
}

fn live(
    commands: Vec<(&'static str, Command)>,
    children: &Children,
    tell: &SyncSender<Result<(), Error>>,
    stopped: &Receiver<()>,
) {
    let mut outcome = Ok(());
    for (name, mut command) in commands {
        match command.spawn() {
            Ok(child) => children.lock().unwrap_or_else(PoisonError::into_inner).push((name, child)),
            Err(source) => outcome = Err(Error::Io { what: format!("starting {name}"), source }),
        }
    }
    let all_started = outcome.is_ok();
    let _ = tell.send(outcome);
    if all_started {
        // Ends when the sender is dropped.
        let _ = stopped.recv();
    }
    for (_, child) in children.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
        // An API server that lost its etcd hangs on SIGTERM.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A shell that waits for this process's end (its stdin closes then, also on SIGKILL) and removes the folder.
fn keep(folder: &Path) -> Result<Child, Error> {
    let mut command = Command::new("sh");
    command.args(["-c", "cat >/dev/null; for i in 1 2 3 4 5 6 7 8 9; do rm -rf -- \"$0\" && exit; done"]);
    command.arg(folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Out of the terminal's group, so that Ctrl-C leaves it to clean up.
    command.process_group(0);
    command.spawn().map_err(Error::io("starting the shell that removes the control plane's folder"))
}

fn free_ports() -> Result<[u16; 3], Error> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::io("looking for a free port"));
    // All bound at once, so that they differ.
    let listeners = [bind()?, bind()?, bind()?];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr().map_err(Error::io("looking for a free port"))?.port();
    }
    Ok(ports)
}

/// Writes the key that signs service account tokens and the file of bearer tokens; returns the admin's.
fn write_identity(folder: &Path) -> Result<String, Error> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
        .map_err(|_| Error::Key("making a key for service accounts".to_owned()))?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.as_ref(), &random)
        .map_err(|error| Error::Key(format!("reading a key just made: {error}")))?;
    let public = [P256_PUBLIC_KEY.as_slice(), pair.public_key().as_ref()].concat();
    let secret: [u8; 16] = ring::rand::generate(&random)
        .map_err(|_| Error::Key("making a token for the admin".to_owned()))?
        .expose();
    let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).map_err(Error::io(format!("writing {name}")))
    };
    write("service-accounts.key", &pem::encode(&pem::Pem::new("PRIVATE KEY", key.as_ref())))?;
    write("service-accounts.pub", &pem::encode(&pem::Pem::new("PUBLIC KEY", public)))?;
    write("tokens.csv", &format!("{token},{ADMIN},{ADMIN},system:masters\n"))?;
    Ok(token)
}

fn command(binary: &Path, folder: &Path, name: &str) -> Result<Command, Error> {
    let log = folder.join(name).with_extension("log");
    let log = File::create(&log).map_err(Error::io(format!("making {}", log.display())))?;
    let errors = log.try_clone().map_err(Error::io("sharing a log"))?;
    let mut command = Command::new(binary);
    command.current_dir(folder).stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
    // SAFETY: prctl is async-signal-safe, and the closure touches nothing of this process.
    unsafe {
        command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from));
    }
    Ok(command)
}

fn etcd_command(assets: &Assets, folder: &Path, client: u16, peer: u16) -> Result<Command, Error> {
    let mut etcd = command(&assets.etcd(), folder, "etcd")?;
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    etcd.args(["--name", "test", "--data-dir", "etcd", "--unsafe-no-fsync", "--log-level", "warn"]);
    etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    etcd.args(["--initial-cluster", &format!("test={peer}")]);
    Ok(etcd)
}

fn apiserver_command(assets: &Assets, folder: &Path, etcd: u16, port: u16) -> Result<Command, Error> {
    let mut apiserver = command(&assets.apiserver(), folder, "kube-apiserver")?;
    apiserver.args([
        &format!("--etcd-servers=http://127.0.0.1:{etcd}"),
        &format!("--secure-port={port}"),
        "--bind-address=127.0.0.1",
        "--cert-dir=pki",
        "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--allow-privileged=true",
        "--authorization-mode=RBAC",
        // Pods' service accounts are made by the controller-manager, which there is none of.
        "--disable-admission-plugins=ServiceAccount",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-account-key-file=service-accounts.pub",
        "--service-account-signing-key-file=service-accounts.key",
        "--token-auth-file=tokens.csv",
    ]);
    Ok(apiserver)
}
