//! What a rung needs: prepared before the tests are built, set up around them, and removed again.

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::rung::Rung;
use crate::binaries::{self, Module};
use crate::cluster::{Cluster, Options};
use crate::cmd::Cmd;
use crate::images::{self, Image};
use crate::{build_ebpf, tools};

/// The cluster of the node rung, apart from one that a person has up.
const CLUSTER: &str = "test";
/// What the control plane's tests run, and kubectl for their dumps.
const ASSETS: [&str; 3] = ["etcd", "kube-apiserver", "kubectl"];

/// What the tests of a rung find.
#[derive(Debug, Default)]
pub(super) struct Stage {
    environment: Vec<(String, OsString)>,
    cluster: Option<Cluster>,
    /// Files that last as long as the stage.
    _files: Option<TempDir>,
}

/// Installs and builds what takes long.
///
/// # Errors
/// When this machine cannot run the rung: why, and what would help.
pub(super) fn prepare(rung: Rung) -> Result<()> {
    match rung {
        Rung::Pure => Ok(()),
        Rung::ControlPlane => binaries::ensure_some(Module::Kubernetes, &ASSETS).map(drop),
        Rung::Kernel | Rung::Node => {
            if !tools::is_root() {
                bail!("needs root: it loads programs into the kernel and makes network namespaces");
            }
            build_ebpf::run(&build_ebpf::Args::default())
        }
    }
}

impl Stage {
    /// Sets up what the rung's tests find.
    ///
    /// # Errors
    /// When it cannot be set up; what was made is removed.
    pub(super) fn enter(rung: Rung, context: Option<&str>) -> Result<Self> {
        match rung {
            Rung::Pure | Rung::Kernel => Ok(Self::default()),
            Rung::ControlPlane => assets(),
            Rung::Node => match context {
                Some(context) => existing(context),
                None => own_cluster(),
            },
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

/// One folder with all binaries, as KUBEBUILDER_ASSETS wants it.
fn assets() -> Result<Stage> {
    let binaries = binaries::ensure_some(Module::Kubernetes, &ASSETS)?;
    let folder = tempfile::tempdir().context("making a folder for the binaries")?;
    for name in ASSETS {
        let path = binaries.path(name)?;
        symlink(path, folder.path().join(name)).with_context(|| format!("linking {}", path.display()))?;
    }
    let environment = vec![("KUBEBUILDER_ASSETS".to_owned(), folder.path().as_os_str().to_owned())];
    Ok(Stage { environment, cluster: None, _files: Some(folder) })
}

/// A kubeconfig of a cluster that is there, with that context alone.
fn existing(context: &str) -> Result<Stage> {
    let kubectl = binaries::ensure_some(Module::Kubernetes, &["kubectl"])?;
    let view = ["config", "view", "--minify", "--flatten", "--context", context];
    let text = Cmd::new(kubectl.path("kubectl")?).args(view).read()?;
    let folder = tempfile::tempdir().context("making a folder for a kubeconfig")?;
    let file = folder.path().join("kubeconfig");
    std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    let environment = vec![
        kubeconfig(file),
        ("KUBECTL".to_owned(), kubectl.path("kubectl")?.into()),
        ("EDGE_CONTEXT".to_owned(), context.into()),
    ];
    Ok(Stage { environment, cluster: None, _files: Some(folder) })
}

/// Two nodes with this project's images, for this rung alone.
fn own_cluster() -> Result<Stage> {
    let archives = images::archives(&Image::INSTALLED)?;
    let cluster = Cluster::up(&Options { name: CLUSTER.to_owned(), nodes: 2 })?;
    let loaded = archives.iter().try_for_each(|archive| cluster.load_image(&archive.path));
    let kubectl = loaded.and_then(|()| binaries::ensure_some(Module::Kubernetes, &["kubectl"]));
    let kubectl = match kubectl {
        Ok(kubectl) => kubectl,
        Err(error) => {
            cluster.down()?;
            return Err(error);
        }
    };
    let environment = vec![
        kubeconfig(cluster.kubeconfig()),
        ("KUBECTL".to_owned(), kubectl.path("kubectl")?.into()),
        ("EDGE_CLUSTER".to_owned(), CLUSTER.into()),
    ];
    Ok(Stage { environment, cluster: Some(cluster), _files: None })
}

fn kubeconfig(file: PathBuf) -> (String, OsString) {
    ("KUBECONFIG".to_owned(), file.into_os_string())
}
