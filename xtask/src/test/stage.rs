//! What a rung needs: prepared before the tests are built, set up around them, and removed again.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::fuzz;
use super::program::Program;
use super::rung::Rung;
use crate::binaries::{self, Binaries, Module};
use crate::cluster::{self, Cluster, Options, Use};
use crate::images::{self, Image};
use crate::{build_ebpf, cleanup, digest, paths, tools, vm};

/// Programs of the node rung that find a cluster with our images, named by EDGE_CLUSTER.
const ON_A_CLUSTER: &str = "node_installation";
/// That cluster, apart from one that a person has up.
const CLUSTER: &str = "test";
/// What the control plane's tests run, and kubectl for their dumps.
const ASSETS: [&str; 3] = ["etcd", "kube-apiserver", "kubectl"];

/// What the tests of a rung find.
#[derive(Debug, Default)]
pub(super) struct Stage {
    environment: Vec<(String, OsString)>,
    cluster: Option<Cluster>,
    /// The rung's clusters are no other run's.
    _held: Option<Use>,
}

/// Whether a rung can run here.
#[derive(Debug)]
pub(super) enum Ability {
    /// All it needs is there.
    Able,
    /// This machine lacks something: what, and what would help. Its tests are skipped.
    Lacks(anyhow::Error),
    /// What it needs should be here, and is broken. That is a failure.
    Broken(anyhow::Error),
}

/// Installs and builds what takes long.
pub(super) fn prepare(rung: Rung) -> Ability {
    let (lack, build): (Result<()>, fn() -> Result<()>) = match rung {
        Rung::Pure | Rung::Sim => (Ok(()), || Ok(())),
        Rung::ControlPlane => {
            (lack_of(ASSETS), || binaries::ensure_some(Module::Kubernetes, &ASSETS).map(drop))
        }
        Rung::Kernel => (lack_of_root().and_then(|()| build_ebpf::check_machine()), build_programs),
        // A machine that cannot fetch a kernel lacks it.
        Rung::Kernels => {
            let lack = build_ebpf::check_machine().and_then(|()| vm::ensure_tools());
            (lack.and_then(|()| fetch_kernels()), build_programs)
        }
        Rung::Node => {
            let programs = Module::ALL.into_iter().flat_map(Module::names);
            let lack = lack_of_root().and_then(|()| lack_of(programs));
            let lack = lack.and_then(|()| cluster::can_be_made_here());
            (lack.and_then(|()| build_ebpf::check_machine()), build_installation)
        }
        // Built when it runs, since no other run may build in its place then.
        Rung::Fuzz => (fuzz::check_machine(), || Ok(())),
    };
    match lack.map(|()| build()) {
        Err(lack) => Ability::Lacks(lack),
        Ok(Err(error)) => Ability::Broken(error),
        Ok(Ok(())) => Ability::Able,
    }
}

fn build_programs() -> Result<()> {
    build_ebpf::run(&build_ebpf::Args::default())
}

fn fetch_kernels() -> Result<()> {
    let ends = vm::kernel::ends(&vm::kernel::offered()?);
    ends.iter().try_for_each(|offer| vm::kernel::ensure(offer).map(drop))
}

/// All that nodes and an installation consist of, so that no test of the rung waits for a build.
fn build_installation() -> Result<()> {
    build_programs()?;
    Module::ALL.into_iter().try_for_each(|module| binaries::ensure(module).map(drop))?;
    images::archives(&[&Image::INSTALLED[..], &Image::CLUSTER].concat()).map(drop)
}

fn lack_of_root() -> Result<()> {
    if !tools::is_root() {
        bail!("needs root: it loads programs into the kernel and makes network namespaces");
    }
    Ok(())
}

/// Neither Go nor a folder of binaries.
fn lack_of(programs: impl IntoIterator<Item = &'static str>) -> Result<()> {
    let programs: Vec<_> = programs.into_iter().collect();
    binaries::check(programs.iter().copied()).with_context(|| format!("needs {}", programs.join(", ")))
}

impl Stage {
    /// Sets up what the program's tests find.
    ///
    /// # Errors
    /// When it cannot be set up; what was made is removed.
    pub(super) fn enter(rung: Rung, program: &Program) -> Result<Self> {
        match rung {
            Rung::ControlPlane => assets(),
            Rung::Node if program.target.starts_with(ON_A_CLUSTER) => own_cluster(),
            // The others of the node rung make clusters themselves.
            Rung::Node => Ok(Self { _held: Some(Use::begin(CLUSTER)?), ..Self::default() }),
            Rung::Pure | Rung::Sim | Rung::Kernel | Rung::Kernels | Rung::Fuzz => Ok(Self::default()),
        }
    }

    /// Variables for the test programs.
    pub(super) fn environment(&self) -> &[(String, OsString)] {
        &self.environment
    }

    /// Removes what was set up.
    ///
    /// # Errors
    /// With what could not be removed.
    pub(super) fn leave(self) -> Result<()> {
        self.cluster.map_or(Ok(()), Cluster::down)
    }
}

/// Variables by which a program finds the control plane's binaries, which are built where they are missing.
///
/// # Errors
/// When they cannot be built.
pub(crate) fn control_plane() -> Result<Vec<(String, OsString)>> {
    Ok(assets()?.environment)
}

/// One folder with all binaries, as KUBEBUILDER_ASSETS wants it.
fn assets() -> Result<Stage> {
    let binaries = binaries::ensure_some(Module::Kubernetes, &ASSETS)?;
    let folder = match &binaries.folders()[..] {
        [one] => one.clone(),
        several => {
            let folder = paths::cache().join("assets").join(key(several));
            link(&binaries, &folder)?;
            folder
        }
    };
    let environment = vec![("KUBEBUILDER_ASSETS".to_owned(), folder.into_os_string())];
    Ok(Stage { environment, ..Stage::default() })
}

fn key(folders: &[PathBuf]) -> String {
    let mut hasher = Sha256::new();
    for folder in folders {
        hasher.update(folder.as_os_str().as_encoded_bytes());
        hasher.update([0]);
    }
    digest::short(hasher)
}

fn link(binaries: &Binaries, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    for name in ASSETS {
        match symlink(binaries.path(name)?, folder.join(name)) {
            // The folder is named after what it links to.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            linked => linked.with_context(|| format!("linking {name} into {}", folder.display()))?,
        }
    }
    Ok(())
}

/// Two nodes with this project's images.
fn own_cluster() -> Result<Stage> {
    let held = Use::begin(CLUSTER)?;
    let archives = images::archives(&Image::INSTALLED)?;
    // One that a killed run left has that run's installation on it.
    if !cluster::residue(CLUSTER)?.is_empty() {
        Cluster::down_by_name(CLUSTER)?;
    }
    let cluster = Cluster::up(&Options { name: CLUSTER.to_owned(), nodes: 2 })?;
    if let Err(error) = archives.iter().try_for_each(|archive| cluster.load_image(&archive.path)) {
        return Err(cleanup::after(error, cluster.down()));
    }
    let environment = vec![
        ("KUBECONFIG".to_owned(), cluster.kubeconfig().into_os_string()),
        ("EDGE_CLUSTER".to_owned(), CLUSTER.into()),
    ];
    Ok(Stage { environment, cluster: Some(cluster), _held: Some(held) })
}
