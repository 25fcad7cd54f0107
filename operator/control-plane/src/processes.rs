//! etcd and kube-apiserver as processes. They live as long as their starter and no longer, however it ends: on
//! drop they are killed by id, and when this process dies the kernel kills them and a keeper removes their folder.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use tempfile::TempDir;
use tied_child::Tie as _;

use crate::backup::{Backup, DATA};
use crate::spawner::Spawner;
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
    assets: Assets,
    etcd: [u16; 2],
    flags: Vec<String>,
    /// Before the folder: whoever writes to it is killed first.
    spawner: Spawner,
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
        let (assets, flags) = (assets.clone(), flags.iter().map(ToString::to_string).collect());
        let (etcd, spawner) = ([etcd, peer], Spawner::begin());
        let processes = Self { port, token, assets, etcd, flags, spawner, _keeper: keeper, folder };
        processes.spawner.starts(processes.commands()?)?;
        Ok(processes)
    }

    fn commands(&self) -> Result<Vec<(&'static str, Command)>, Error> {
        let (assets, folder, [client, peer]) = (&self.assets, self.folder.path(), self.etcd);
        let mut apiserver = apiserver_command(assets, folder, client, self.port)?;
        apiserver.args(&self.flags);
        Ok(vec![("etcd", etcd_command(assets, folder, client, peer)?), ("kube-apiserver", apiserver)])
    }

    /// What etcd holds at this moment.
    pub(crate) fn back_up(&self) -> Result<Backup, Error> {
        self.spawner.paused("etcd", || Backup::of(self.folder.path()))?
    }

    /// Kills both, puts this in the place of what etcd holds, and starts both again, on the ports that they had; neither is ready yet.
    pub(crate) fn restore(&self, backup: Backup) -> Result<(), Error> {
        self.spawner.ends()?;
        backup.put_back(self.folder.path())?;
        self.spawner.starts(self.commands()?)
    }

    /// The API server's certificate with its issuer, which it writes soon after its start.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("pki/apiserver.crt")
    }

    /// The name of a process that has ended, which neither does by itself.
    pub(crate) fn ended(&self) -> Option<&'static str> {
        self.spawner.ended()
    }

    /// Where everything of this control plane lies.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Both processes' ids.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.spawner.ids()
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
    let open = File::options().create(true).append(true).open(&log);
    let log = open.map_err(Error::io(format!("making {}", log.display())))?;
    let errors = log.try_clone().map_err(Error::io("sharing a log"))?;
    let mut command = Command::new(binary);
    command.current_dir(folder).stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
    command.tie(Signal::SIGKILL);
    Ok(command)
}

fn etcd_command(assets: &Assets, folder: &Path, client: u16, peer: u16) -> Result<Command, Error> {
    let mut etcd = command(&assets.etcd(), folder, "etcd")?;
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    etcd.args(["--name", "test", "--data-dir", DATA, "--unsafe-no-fsync", "--log-level", "warn"]);
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
