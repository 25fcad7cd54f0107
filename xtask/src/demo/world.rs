//! Where the demo takes place: a cluster of its own, or one that a context names. Brings it up and removes it; what is
//! installed on it is in [`super::install`].

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::layout::Layout;
use crate::binaries::{self, Module};
use crate::cluster::{self, Cluster, Options};
use crate::cmd::Cmd;
use crate::images::{self, Image};
use crate::interrupt;
use crate::paths;
use crate::tools;

/// The demo's own cluster.
pub const CLUSTER: &str = "demo";
/// The network namespace of the devices outside of it.
const OUTSIDE: &str = "outside";
/// Their address.
pub const OUTSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
/// The label of nodes whose agent uses XDP in the driver.
const XDP: &str = "edge-operator.dev/xdp";

/// A cluster to run the demo on.
#[derive(Debug)]
pub struct World {
    home: Home,
    outside: Option<Child>,
    /// Held for as long as the demo runs.
    _lock: Option<File>,
}

#[derive(Debug)]
enum Home {
    Own(Cluster),
    Other(String),
}

impl World {
    /// Brings up a cluster of its own with the images on its nodes. What an earlier demo left, killed or kept, goes first.
    ///
    /// # Errors
    /// With what is missing or did not start; nothing is left then.
    pub fn own() -> Result<Self> {
        // Before minutes of building.
        cluster::can_be_made_here()?;
        let lock = lock()?;
        if !cluster::residue(CLUSTER)?.is_empty() {
            eprintln!("an earlier demo was kept or killed; its cluster goes first");
            Cluster::down_by_name(CLUSTER)?;
        }
        let archives = images::archives(&Image::INSTALLED)?;
        let cluster = Cluster::up(&Options { name: CLUSTER.to_owned(), nodes: 2 })?;
        let world = Self { home: Home::Own(cluster.clone()), outside: None, _lock: Some(lock) };
        for archive in archives {
            if let Err(error) = interrupt::check().and_then(|()| cluster.load_image(&archive.path)) {
                world.remove(&[])?;
                return Err(error);
            }
        }
        Ok(world)
    }

    /// Takes the cluster that `context` of the user's kubeconfig names.
    ///
    /// # Errors
    /// When another demo runs, or signals cannot be watched.
    pub fn other(context: &str) -> Result<Self> {
        let lock = lock()?;
        interrupt::install()?;
        Ok(Self { home: Home::Other(context.to_owned()), outside: None, _lock: Some(lock) })
    }

    /// Takes a cluster that is up with the images on its nodes and belongs to the caller, as the node rung's does.
    #[must_use]
    pub fn on(cluster: Cluster) -> Self {
        Self { home: Home::Own(cluster), outside: None, _lock: None }
    }

    /// Whether the cluster is one of `cargo xtask cluster`, with a place outside of it.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self.home, Home::Own(_))
    }

    /// kubectl for it, without arguments yet.
    ///
    /// # Errors
    /// When kubectl cannot be found or built.
    pub fn kubectl(&self) -> Result<Cmd> {
        match &self.home {
            Home::Own(cluster) => cluster.kubectl(),
            Home::Other(context) => {
                let program = match tools::find("kubectl") {
                    Some(found) => found,
                    None => binaries::ensure_some(Module::Kubernetes, &["kubectl"])?
                        .path("kubectl")?
                        .to_path_buf(),
                };
                Ok(Cmd::new(program).args(["--context", context]))
            }
        }
    }

    /// A client for it.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read or has no such context.
    pub async fn client(&self) -> Result<Client> {
        let config = match &self.home {
            Home::Own(cluster) => {
                let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig())
                    .context("reading the cluster's kubeconfig")?;
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
            }
            Home::Other(context) => {
                let options =
                    KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
                Config::from_kubeconfig(&options).await
            }
        };
        let config = config.with_context(|| match &self.home {
            Home::Own(_) => "reading the cluster's kubeconfig".to_owned(),
            Home::Other(context) => {
                format!("no usable context {context}; `kubectl config get-contexts` lists them")
            }
        })?;
        Client::try_from(config).context("making a client for the API server")
    }

    /// Labels the first node, so that its agent uses XDP in the driver; the others use TC alone.
    ///
    /// # Errors
    /// When the cluster cannot be reached.
    pub fn choose_hooks(&self) -> Result<()> {
        self.forget_hooks()?;
        let nodes = self.kubectl()?.args(["get", "nodes", "--output", "name"]).read()?;
        let first = nodes.lines().min().context("the cluster has no node")?;
        self.kubectl()?.args(["label", "--overwrite", first, &format!("{XDP}=native")]).run()
    }

    fn forget_hooks(&self) -> Result<()> {
        self.kubectl()?.args(["label", "nodes", "--all", &format!("{XDP}-")]).run()
    }

    /// Starts the devices outside of a cluster of our own: one program in a namespace behind the nodes' bridge.
    ///
    /// # Errors
    /// When the namespace cannot be made or the program does not start.
    pub fn start_outside(&mut self, layout: &Layout, namespace: &str, seed: u64) -> Result<()> {
        let Home::Own(cluster) = &self.home else { return Ok(()) };
        if layout.outside == 0 {
            return Ok(());
        }
        cluster.add_outside_namespace(OUTSIDE, &[OUTSIDE_ADDRESS])?;
        let dir = cluster.plan().dir().join(OUTSIDE);
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let log =
            File::create(dir.join("device-sim.log")).context("making the log of the devices outside")?;
        let mut command = Command::new(images::program_path(Image::DeviceSim));
        command
            .args(["--name-prefix", OUTSIDE, "--namespace", namespace])
            .args([
                "--devices",
                &layout.outside.to_string(),
                "--listen-address",
                &OUTSIDE_ADDRESS.to_string(),
            ])
            .args(["--http", &format!("{OUTSIDE_ADDRESS}:8081"), "--seed", &seed.to_string()])
            .arg("--state-dir")
            .arg(dir.join("state"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing the log of the devices outside")?)
            .stderr(log);
        self.outside = Some(cluster.run_in_netns(OUTSIDE, command)?);
        Ok(())
    }

    /// Shows what a person would look at first after a failure.
    pub fn explain(&self) {
        for arguments in [
            "get pods --all-namespaces --output wide",
            "-n edge-demo get devices,faultprofiles --output wide",
            "-n edge-system logs deployment/edge-operator --tail 15",
            "-n edge-system logs --selector app.kubernetes.io/name=chaos-agent --tail 15 --prefix",
        ] {
            let said = self.kubectl().and_then(|kubectl| kubectl.args(arguments.split(' ')).read());
            let said = said.unwrap_or_else(|error| format!("{error:#}"));
            // Of hundreds of devices the first tell enough.
            let shown: Vec<_> = said.lines().take(30).collect();
            eprintln!("\n--- kubectl {arguments}\n{}", shown.join("\n"));
        }
    }

    /// Removes everything: the cluster of our own, or what was installed on another (`manifests`, last first).
    ///
    /// # Errors
    /// With what could not be removed.
    pub fn remove(mut self, manifests: &[PathBuf]) -> Result<()> {
        if let Some(mut outside) = self.outside.take() {
            // It may have ended; who it was is known either way.
            let _ = outside.kill();
            let _ = outside.wait();
        }
        match &self.home {
            Home::Own(cluster) => cluster.clone().down(),
            Home::Other(_) => {
                self.forget_hooks()?;
                for manifest in manifests.iter().rev() {
                    let delete =
                        self.kubectl()?.args(["delete", "--ignore-not-found", "--timeout=120s", "-f"]);
                    delete.arg(manifest).step("removing what was installed").run()?;
                }
                Ok(())
            }
        }
    }

    /// Leaves everything as it is and says how to use it.
    pub fn keep(self) {
        let (kubectl, remove) = match &self.home {
            Home::Own(cluster) => {
                let verb = format!("cargo xtask cluster --name {}", cluster.plan().name);
                (format!("{verb} kubectl --"), format!("{verb} down"))
            }
            Home::Other(context) => {
                let kubectl = format!("kubectl --context {context}");
                (kubectl.clone(), format!("{kubectl} delete -k deploy/demo"))
            }
        };
        eprintln!("kept. Some things to do with it:");
        eprintln!("  {kubectl} get devices,faultprofiles,faultnodes -A");
        eprintln!("  {kubectl} -n edge-demo describe faultprofile loss");
        eprintln!(
            "  {kubectl} -n edge-system port-forward service/prometheus 9090    # http://127.0.0.1:9090"
        );
        eprintln!("  {remove}    # and it is gone; so does the next demo");
    }
}

/// One demo at a time: they would take each other's cluster for a leftover.
fn lock() -> Result<File> {
    let dir = paths::cache();
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let path = dir.join("demo.lock");
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    if file.try_lock().is_err() {
        bail!("another `cargo xtask demo` is running on this machine; wait for it or end it with Ctrl-C");
    }
    Ok(file)
}
