//! The programs of a cluster, built from Go modules that `xtask/go` pins (go.mod, go.sum), and kept by content: the same
//! pins, flags and compiler never build twice. `KUBEBUILDER_ASSETS` is looked into first, as envtest's users expect.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::cmd::Cmd;
use crate::progress::Step;
use crate::tools::{self, Need};
use crate::{digest, lock, paths};

/// Where envtest and its users keep such programs.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// What `kube-apiserver --version` and the nodes say; the version that `xtask/go/kubernetes/go.mod` requires.
pub const KUBERNETES_VERSION: &str = "v1.37.2";

/// A Go module under `xtask/go`, whose programs are built and kept together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Module {
    /// etcd and Kubernetes.
    Kubernetes,
    /// containerd, runc and the CNI plugins.
    Node,
    /// The cluster's DNS server.
    Coredns,
    /// The demo's Prometheus.
    Prometheus,
}

/// One program.
#[derive(Clone, Copy, Debug)]
struct Program {
    name: &'static str,
    package: &'static str,
    tags: &'static str,
    /// Whether it has C in it (runc does, for entering namespaces).
    cgo: bool,
}

const fn go(name: &'static str, package: &'static str) -> Program {
    Program { name, package, tags: "", cgo: false }
}

const KUBERNETES: &[Program] = &[
    go("etcd", "go.etcd.io/etcd/server/v3"),
    go("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    go("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    go("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    go("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    go("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    go("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
];

const NODE: &[Program] = &[
    go("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    go("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
    go("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
    go("ptp", "github.com/containernetworking/plugins/plugins/main/ptp"),
    go("loopback", "github.com/containernetworking/plugins/plugins/main/loopback"),
    go("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
    go("portmap", "github.com/containernetworking/plugins/plugins/meta/portmap"),
    // Without seccomp no pod with the default profile starts.
    Program { name: "runc", package: "github.com/opencontainers/runc", tags: "seccomp", cgo: true },
];

/// A program of our own in the module's folder, since the stock one has every plugin there is.
const COREDNS: &[Program] = &[go("coredns", ".")];

const PROMETHEUS: &[Program] = &[Program {
    name: "prometheus",
    package: "github.com/prometheus/prometheus/cmd/prometheus",
    tags: "remove_all_sd,enable_kubernetes_sd",
    cgo: false,
}];

impl Module {
    /// All modules.
    pub const ALL: [Self; 4] = [Self::Kubernetes, Self::Node, Self::Coredns, Self::Prometheus];

    /// Its folder's name under `xtask/go`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Node => "node",
            Self::Coredns => "coredns",
            Self::Prometheus => "prometheus",
        }
    }

    fn programs(self) -> &'static [Program] {
        match self {
            Self::Kubernetes => KUBERNETES,
            Self::Node => NODE,
            Self::Coredns => COREDNS,
            Self::Prometheus => PROMETHEUS,
        }
    }

    /// The names of its programs.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.programs().iter().map(|program| program.name)
    }

    fn source(self) -> PathBuf {
        paths::root().join("xtask/go").join(self.name())
    }
}

/// Programs that are there, by name.
#[derive(Clone, Debug, Default)]
pub struct Binaries(BTreeMap<&'static str, PathBuf>);

impl Binaries {
    /// Where `name` lies.
    ///
    /// # Errors
    /// When it was not asked for.
    pub fn path(&self, name: &str) -> Result<&Path> {
        self.0
            .get(name)
            .map(PathBuf::as_path)
            .with_context(|| format!("{name} is not among the programs built"))
    }

    /// The folders that they lie in, each once, in the order of PATH: what the user gave comes before what the cache has
    /// of the same name.
    #[must_use]
    pub fn folders(&self) -> Vec<PathBuf> {
        let mut folders: Vec<_> =
            self.0.values().filter_map(|path| path.parent()).map(Path::to_path_buf).collect();
        folders.sort_by_key(|folder| (folder.starts_with(paths::cache()), folder.clone()));
        folders.dedup();
        folders
    }

    /// These and others.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }
}

/// Makes sure that all programs of `module` are built.
///
/// # Errors
/// When Go or a library is missing, or a build fails.
pub fn ensure(module: Module) -> Result<Binaries> {
    let names: Vec<_> = module.names().collect();
    ensure_some(module, &names)
}

/// Makes sure that `names` of `module` are built: those that `KUBEBUILDER_ASSETS` holds are taken from there, the rest is
/// built, one after the other, and kept in the cache.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_some(module: Module, names: &[&str]) -> Result<Binaries> {
    let assets = env::var_os(ASSETS).map(PathBuf::from);
    let mut found = BTreeMap::new();
    let mut missing = Vec::new();
    for program in module.programs().iter().filter(|program| names.contains(&program.name)) {
        match assets.as_ref().map(|dir| dir.join(program.name)).filter(|file| file.is_file()) {
            Some(file) => {
                found.insert(program.name, file);
            }
            None => missing.push(program),
        }
    }
    if !missing.is_empty() {
        let dir = folder(module)?;
        build_missing(module, &missing, &dir)?;
        found.extend(missing.iter().map(|program| (program.name, dir.join(program.name))));
    }
    Ok(Binaries(found))
}

/// The folder of the cache for `module` as it is pinned now.
fn folder(module: Module) -> Result<PathBuf> {
    let source = module.source();
    let mut hash = Sha256::new();
    for path in files(&source)? {
        hash.update(fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    for program in module.programs() {
        hash.update(arguments(program).join(" "));
        hash.update([u8::from(program.cgo)]);
    }
    hash.update(go_version(&source)?);
    Ok(paths::cache().join("bin").join(format!("{}-{}", module.name(), digest::short(hash))))
}

fn files(source: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(source).with_context(|| format!("reading {}", source.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn go_version(source: &Path) -> Result<String> {
    check_go()?;
    Cmd::new("go").args(["env", "GOVERSION"]).dir(source).read()
}

/// Whether these programs can be had here, be it from a folder of the user's. Builds and fetches nothing.
///
/// # Errors
/// When they must be built and cannot: what to install.
pub fn check<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let assets = env::var_os(ASSETS).map(PathBuf::from);
    let is_given = |name: &str| assets.as_ref().is_some_and(|dir| dir.join(name).is_file());
    if names.into_iter().all(is_given) { Ok(()) } else { check_go() }
}

/// Whether this machine has a Go that builds what the modules pin, itself or by fetching a newer one.
///
/// # Errors
/// When it has none or one that is too old: what to install.
fn check_go() -> Result<()> {
    let wanted = format!(
        "needed to build Kubernetes and containerd from their sources. Install Go 1.26 or newer: https://go.dev/dl, or a \
         package such as Debian's golang-1.26; 1.21 and newer fetch what they need by themselves. Or let {ASSETS} name a \
         folder that holds the programs."
    );
    if tools::find("go").is_none() {
        bail!("Go is missing, {wanted}");
    }
    // Its own version, whatever a go.mod asks for.
    let version = Cmd::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").dir("/").read()?;
    if !switches(&version) {
        bail!("{version} is too old, and a Go that fetches a newer one by itself is {wanted}");
    }
    Ok(())
}

/// Whether a Go of this version, such as `go1.21.3`, fetches the one that a go.mod asks for (since 1.21: go.dev/doc/toolchain).
/// Development versions have no number and are new.
fn switches(version: &str) -> bool {
    let Some(numbers) = version.strip_prefix("go") else { return true };
    let leading = |part: &str| part.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok();
    let mut parts = numbers.split('.').map(leading);
    let version = (parts.next().flatten().unwrap_or(0), parts.next().flatten().unwrap_or(0));
    version >= (1, 21)
}

fn build_missing(module: Module, programs: &[&Program], dir: &Path) -> Result<()> {
    let absent = || programs.iter().filter(|program| !dir.join(program.name).is_file());
    if absent().next().is_none() {
        return Ok(());
    }
    let _lock = lock::take(&dir.join(".lock"), &format!("another build of {}", module.name()))?;
    let absent: Vec<_> = absent().collect();
    for (index, program) in absent.iter().enumerate() {
        if program.cgo {
            needs_of_cgo()?;
        }
        let title = format!("building {} ({}/{})", program.name, index + 1, absent.len());
        build(module, program, dir, title)?;
    }
    Ok(())
}

fn needs_of_cgo() -> Result<()> {
    let need = |packages| Need { purpose: "to build runc", packages };
    tools::program("cc", need(&["gcc", "libc6-dev"]))?;
    tools::program("pkg-config", need(&["pkg-config"]))?;
    tools::ensure("the library libseccomp", need(&["libseccomp-dev"]), || {
        Cmd::new("pkg-config").args(["--exists", "libseccomp"]).succeeds()
    })
}

fn arguments(program: &Program) -> Vec<String> {
    let version = "k8s.io/component-base/version";
    let mut ldflags = "-s -w".to_owned();
    if program.package.starts_with("k8s.io/kubernetes/") {
        // Else the server calls itself v0.0.0.
        ldflags += &format!(
            " -X {version}.gitVersion={KUBERNETES_VERSION} -X {version}.gitMajor=1 -X {version}.gitMinor=37 \
             -X {version}.gitTreeState=clean"
        );
    }
    let mut arguments = vec!["-trimpath".to_owned(), "-ldflags".to_owned(), ldflags];
    if program.package == "." {
        // Its source is in this repository, whose commit would end in the program.
        arguments.push("-buildvcs=false".to_owned());
    }
    if !program.tags.is_empty() {
        arguments.extend(["-tags".to_owned(), program.tags.to_owned()]);
    }
    arguments.push(program.package.to_owned());
    arguments
}

/// Builds into a temporary name and renames, so that a killed build leaves nothing that looks finished.
fn build(module: Module, program: &Program, dir: &Path, title: String) -> Result<()> {
    let cgo = if program.cgo { "1" } else { "0" };
    let go = || Cmd::new("go").dir(module.source()).env("CGO_ENABLED", cgo).env("GOFLAGS", "-mod=readonly");
    let listed = go().args(["list", "-deps", "-tags", program.tags, program.package]).read()?;
    let mut step = Step::of(title, listed.lines().count() as u64);
    let unfinished = dir.join(format!(".{}.building", program.name));
    let building = go().args(["build", "-v", "-o"]).arg(&unfinished).args(arguments(program));
    let mut compiled = 0;
    building.lines(|package| {
        compiled += 1;
        step.at(compiled, package);
    })?;
    let finished = dir.join(program.name);
    fs::rename(&unfinished, &finished).with_context(|| format!("naming {}", finished.display()))?;
    let megabytes = fs::metadata(&finished).map_or(0, |meta| meta.len() / 1_000_000);
    step.done(&format!("{megabytes} MB"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_pinned_by_its_module() {
        for module in Module::ALL {
            let source = module.source();
            let pinned = |program: &Program| match program.package {
                "." => source.join("main.go").is_file(),
                package => {
                    let tools = fs::read_to_string(source.join("tools.go")).unwrap();
                    tools.contains(&format!("\"{package}\""))
                }
            };
            for program in module.programs() {
                assert!(pinned(program), "{} is not pinned", program.name);
            }
        }
    }

    #[test]
    fn a_go_that_cannot_fetch_a_newer_one_is_too_old() {
        for old in ["go1.19", "go1.20.14", "go1.9rc1"] {
            assert!(!switches(old), "{old}");
        }
        for new in ["go1.21rc2", "go1.21.0", "go1.26.8", "devel go1.27-abc"] {
            assert!(switches(new), "{new}");
        }
    }

    #[test]
    fn no_program_holds_the_commit_that_it_was_built_at() {
        let vcs = |program: &Program| arguments(program).contains(&"-buildvcs=false".to_owned());
        assert!(COREDNS.iter().all(vcs) && !KUBERNETES.iter().any(vcs));
    }

    #[test]
    fn given_programs_come_before_built_ones() {
        let built = paths::cache().join("bin/kubernetes-1/kubelet");
        let all = Binaries([("kubelet", built.clone()), ("etcd", "/zz/etcd".into())].into());
        assert_eq!(all.folders(), [Path::new("/zz"), built.parent().unwrap()]);
    }

    #[test]
    fn the_version_told_is_the_version_pinned() {
        let pins = fs::read_to_string(Module::Kubernetes.source().join("go.mod")).unwrap();
        assert!(pins.contains(&format!("k8s.io/kubernetes {KUBERNETES_VERSION}")), "{pins}");
    }
}
