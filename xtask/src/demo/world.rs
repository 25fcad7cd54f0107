//! Where the demo takes place: a cluster of its own, or one that a context names. Brings it up and removes it; what is
//! installed on it is in [`super::install`].

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use super::layout::Layout;
use super::leader::Weapon;
use super::room::uninstall;
use crate::binaries::{self, Module};
use crate::cluster::{self, Cluster, Options, Use};
use crate::cmd::Cmd;
use crate::images::{self, Image};
use crate::{cleanup, interrupt, lock, paths, tools};

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
    _held: Held,
}

/// One demo at a time on a cluster: they would take each other's for a leftover.
#[derive(Debug)]
enum Held {
    /// A cluster of our own.
    Own { _by_us: Use },
    /// Another, on this machine at least.
    Other { _by_us: File },
    /// The caller sees to it.
    Callers,
}

#[derive(Debug)]
enum Home {
    Own(Cluster),
    Other(String),
}

impl World {
    /// Brings up a cluster of its own, `name`, with the images on its nodes. What an earlier demo left, killed or kept, goes first.
    ///
    /// # Errors
    /// With what is missing or did not start; nothing is left then.
    pub fn own(name: &str) -> Result<Self> {
        // Before minutes of building.
        cluster::can_be_made_here()?;
        binaries::check(Module::ALL.into_iter().flat_map(Module::names))?;
        let held = Held::Own { _by_us: Use::begin(name)? };
        if !cluster::residue(name)?.is_empty() {
            eprintln!("an earlier demo was kept or killed; its cluster goes first");
            Cluster::down_by_name(name)?;
        }
        let archives = images::archives(&Image::INSTALLED)?;
        let cluster = Cluster::up(&Options { name: name.to_owned(), nodes: 2 })?;
        let world = Self { home: Home::Own(cluster.clone()), outside: None, _held: held };
        for archive in archives {
            if let Err(error) = interrupt::check().and_then(|()| cluster.load_image(&archive.path)) {
                return Err(cleanup::after(error, world.remove(&[])));
            }
        }
        Ok(world)
    }

    /// Takes the cluster that `context` of the user's kubeconfig names.
    ///
    /// # Errors
    /// When another demo runs, or signals cannot be watched.
    pub fn other(context: &str) -> Result<Self> {
        interrupt::install()?;
        let path = scratch_of(context).join(".lock");
        let Some(lock) = lock::try_take(&path)? else {
            bail!("another `cargo xtask demo` is running on {context}; wait for it or end it with Ctrl-C");
        };
        let held = Held::Other { _by_us: lock };
        Ok(Self { home: Home::Other(context.to_owned()), outside: None, _held: held })
    }

    /// Takes a cluster that is up with the images on its nodes and belongs to the caller, as the node rung's does.
    #[must_use]
    pub fn on(cluster: Cluster) -> Self {
        Self { home: Home::Own(cluster), outside: None, _held: Held::Callers }
    }

    /// A folder for what is to be applied. What a killed demo leaves in it, the next one writes over or removes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<PathBuf> {
        let folder = match &self.home {
            Home::Own(cluster) => cluster.plan().dir().join("manifests"),
            Home::Other(context) => scratch_of(context),
        };
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    /// Whether the cluster is one of `cargo xtask cluster`, with a place outside of it.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self.home, Home::Own(_))
    }

    /// How the leading operator can be killed there.
    #[must_use]
    pub fn weapon(&self) -> Weapon {
        match &self.home {
            Home::Own(cluster) => Weapon::Signal(cluster.plan().cgroup()),
            Home::Other(_) => Weapon::Deletion,
        }
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
        let mut config = config.with_context(|| match &self.home {
            Home::Own(_) => "reading the cluster's kubeconfig".to_owned(),
            Home::Other(context) => {
                format!("no usable context {context}; `kubectl config get-contexts` lists them")
            }
        })?;
        // Else a server that accepts and says nothing holds the demo for ever.
        config.read_timeout = Some(Duration::from_secs(30));
        Client::try_from(config).context("making a client for the API server")
    }

    /// Labels the first node that devices can be on, so that its agent uses XDP in the driver; the others use TC alone.
    ///
    /// # Errors
    /// When the cluster cannot be reached.
    pub fn choose_hooks(&self) -> Result<()> {
        self.forget_hooks()?;
        let nodes = self.kubectl()?.args(["get", "nodes", "--output", "json"]).read()?;
        let nodes = serde_json::from_str(&nodes).context("reading the nodes")?;
        let first = first_node(&nodes).context("the cluster has no node that takes pods")?;
        self.kubectl()?.args(["label", "--overwrite", "node", &first, &format!("{XDP}=native")]).run()
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
            "-n edge-demo get devicefleets,devices,faultprofiles --output wide",
            "-n edge-system logs --selector app.kubernetes.io/name=edge-operator --tail 15 --prefix",
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
                self.release_devices()?;
                for manifest in manifests.iter().rev() {
                    let delete =
                        self.kubectl()?.args(["delete", "--ignore-not-found", "--timeout=120s", "-f"]);
                    delete.arg(manifest).step("removing what was installed").run()?;
                }
                // Before the first manifest nothing was changed.
                if manifests.is_empty() { Ok(()) } else { self.forget_hooks() }
            }
        }
    }

    /// Deletes the demo's Devices while there is an operator that releases them: with both gone at once nobody would
    /// take their finalizers away. Where none runs any more they are taken away here, since the devices go, too.
    pub(super) fn release_devices(&self) -> Result<()> {
        let asked = self.kubectl()?.args([
            "get",
            "crd",
            "devices.edge-operator.dev",
            "--ignore-not-found",
            "-o",
            "name",
        ]);
        if asked.read()?.trim().is_empty() {
            return Ok(());
        }
        // Whoever simulates them would declare them anew.
        let simulator = [
            "-n",
            "edge-demo",
            "delete",
            "statefulset",
            "device-sim",
            "--ignore-not-found",
            "--cascade=foreground",
            "--timeout=60s",
        ];
        self.kubectl()?.args(simulator).step("stopping the simulated devices").run()?;
        let devices = ["-n", "edge-demo", "delete", "devices", "--all", "--timeout=60s"];
        if self.kubectl()?.args(devices).step("releasing the demo's devices").run().is_ok() {
            return Ok(());
        }
        let names = self.kubectl()?.args(["-n", "edge-demo", "get", "devices", "-o", "name"]).read()?;
        for name in names.lines() {
            let patch = [
                "-n",
                "edge-demo",
                "patch",
                name,
                "--type=merge",
                "-p",
                r#"{"metadata":{"finalizers":null}}"#,
            ];
            self.kubectl()?.args(patch).step("giving a device up that nobody releases").run()?;
        }
        Ok(())
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
                let labels = format!("{kubectl} label nodes --all {XDP}-");
                (kubectl.clone(), format!("{} && {labels}", uninstall(&kubectl, "deploy/demo")))
            }
        };
        eprintln!("kept. Some things to do with it:");
        eprintln!("  {kubectl} get devicefleets,devices,faultprofiles,faultnodes -A");
        eprintln!("  {kubectl} -n edge-demo describe faultprofile loss");
        eprintln!(
            "  {kubectl} -n edge-system port-forward service/prometheus 9090    # http://127.0.0.1:9090"
        );
        eprintln!("  {remove}    # and it is gone; so does the next demo");
    }
}

/// Where a demo on a user's cluster keeps its manifests: who runs it need not be root.
fn scratch_of(context: &str) -> PathBuf {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    paths::cache().join("demo").join(context.chars().map(safe).collect::<String>())
}

/// The first node by name that takes any pod: a control plane's usually does not.
fn first_node(nodes: &Value) -> Option<String> {
    let keeps_away =
        |taint: &Value| taint["effect"].as_str().is_some_and(|effect| effect != "PreferNoSchedule");
    let takes_pods =
        |node: &&Value| !node["spec"]["taints"].as_array().is_some_and(|all| all.iter().any(keeps_away));
    let nodes = nodes["items"].as_array()?.iter().filter(takes_pods);
    nodes.filter_map(|node| node["metadata"]["name"].as_str()).min().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn on_kind_the_first_node_is_the_first_worker() {
        let node =
            |name: &str, taints: Value| json!({"metadata": {"name": name}, "spec": {"taints": taints}});
        let control_plane = node(
            "kind-control-plane",
            json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]),
        );
        let preferred = json!([{"key": "x", "effect": "PreferNoSchedule"}]);
        let items = [control_plane, node("kind-worker2", json!(null)), node("kind-worker", preferred)];
        assert_eq!(first_node(&json!({"items": items})).as_deref(), Some("kind-worker"));
        assert_eq!(first_node(&json!({"items": items[..1]})), None);
    }
}
