//! `cargo xtask images`: what runs in a cluster as OCI archives, one static program each, without Docker.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use sha2::{Digest, Sha256};

use crate::binaries::{self, Module};
use crate::cluster::Cluster;
use crate::cmd::Cmd;
use crate::paths;
use crate::progress::Step;
use crate::tools::{self, Need};

pub mod oci;

/// The image that holds each pod's namespaces.
pub const PAUSE: &str = "localhost/pause:dev";
/// What the programs of ours are built for.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Users that own nothing: distroless' "nonroot".
const NOBODY: u32 = 65532;

const AFTER: &str = "\
Each archive is an OCI image layout in a tar file with one static program in it. The same sources give the same digest.

Other clusters take them too:
  kind:      kind load image-archive target/images/edge-operator.tar
  k3s:       k3s ctr images import target/images/edge-operator.tar
  registry:  skopeo copy oci-archive:target/images/edge-operator.tar docker://registry.example/edge-operator:dev
             (or `oras cp --from-oci-layout`, `crane push` of the unpacked layout); then set the name in
             deploy/ with `kustomize edit set image localhost/edge-operator=registry.example/edge-operator`";

/// What `cargo xtask images` takes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = AFTER)]
pub struct Args {
    /// Which images; default: those of this project and the demo's Prometheus
    #[arg(value_enum)]
    images: Vec<Image>,
    /// Where the archives go; default: target/images
    #[arg(long)]
    out: Option<PathBuf>,
    /// Load them into all nodes of this cluster of `cargo xtask cluster`
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = crate::cluster::DEFAULT_NAME)]
    load: Option<String>,
}

/// An image that this project can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Image {
    /// The control half.
    EdgeOperator,
    /// The chaos half; holds the kernel programs.
    ChaosAgent,
    /// Simulated devices.
    DeviceSim,
    /// The demo's Prometheus.
    Prometheus,
    /// The cluster's DNS server.
    Coredns,
    /// What holds a pod's namespaces open.
    Pause,
}

impl Image {
    /// Programs of this project.
    pub const OURS: [Self; 3] = [Self::EdgeOperator, Self::ChaosAgent, Self::DeviceSim];
    /// What an installation and the demo need.
    pub const INSTALLED: [Self; 4] =
        [Self::EdgeOperator, Self::ChaosAgent, Self::DeviceSim, Self::Prometheus];
    /// What a cluster of `cargo xtask cluster` needs itself.
    pub const CLUSTER: [Self; 2] = [Self::Pause, Self::Coredns];

    /// Its program's and archive's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EdgeOperator => "edge-operator",
            Self::ChaosAgent => "chaos-agent",
            Self::DeviceSim => "device-sim",
            Self::Prometheus => "prometheus",
            Self::Coredns => "coredns",
            Self::Pause => "pause",
        }
    }

    /// Its full name, as manifests have it.
    #[must_use]
    pub fn reference(self) -> String {
        format!("localhost/{}:dev", self.name())
    }

    /// The default user: root only where ports below 1024 or capabilities ask for it.
    fn user(self) -> Option<u32> {
        match self {
            Self::EdgeOperator | Self::DeviceSim | Self::Prometheus | Self::Pause => Some(NOBODY),
            Self::ChaosAgent | Self::Coredns => None,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// When a build fails or a node refuses an image.
pub fn run(args: &Args) -> Result<()> {
    let images = if args.images.is_empty() { Image::INSTALLED.to_vec() } else { args.images.clone() };
    let out = args.out.clone().unwrap_or_else(|| paths::root().join("target/images"));
    fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    let cluster = args.load.as_deref().map(Cluster::open).transpose()?;
    for (image, kept) in images.iter().zip(archives(&images)?) {
        let archive = out.join(format!("{}.tar", image.name()));
        fs::copy(&kept.path, &archive).with_context(|| format!("writing {}", archive.display()))?;
        println!("{}  {}  {}", kept.digest, image.reference(), archive.display());
        if let Some(cluster) = &cluster {
            cluster.load_image(&archive)?;
        }
    }
    Ok(())
}

/// An archive in the cache.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Which image it holds.
    pub image: Image,
    /// Where it lies.
    pub path: PathBuf,
    /// The digest of its manifest.
    pub digest: String,
}

/// Builds what is missing and returns an archive for each image, in their order.
///
/// # Errors
/// When a build fails.
pub fn archives(images: &[Image]) -> Result<Vec<Archive>> {
    let ours: Vec<_> = images.iter().copied().filter(|image| Image::OURS.contains(image)).collect();
    let built = if ours.is_empty() { PathBuf::new() } else { build_ours(&ours)? };
    images.iter().map(|image| archive(*image, &program(*image, &built)?)).collect()
}

fn program(image: Image, built: &Path) -> Result<PathBuf> {
    match image {
        Image::Prometheus => Ok(binaries::ensure(Module::Prometheus)?.path("prometheus")?.to_path_buf()),
        Image::Coredns => Ok(binaries::ensure(Module::Coredns)?.path("coredns")?.to_path_buf()),
        Image::Pause => build_pause(),
        Image::EdgeOperator | Image::ChaosAgent | Image::DeviceSim => Ok(built.join(image.name())),
    }
}

/// Packs `program`, unless that very file was packed before.
fn archive(image: Image, program: &Path) -> Result<Archive> {
    let meta = fs::metadata(program).with_context(|| format!("{} was not built", program.display()))?;
    let state = format!("{} {} {} {}", program.display(), meta.len(), meta.mtime(), meta.mtime_nsec());
    let key = Sha256::digest(format!("{} {state}", oci::FORMAT));
    let key: String = key.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let dir = paths::cache().join("images");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let path = dir.join(format!("{}-{key}.tar", image.name()));
    let note = path.with_extension("digest");
    if let (true, Ok(digest)) = (path.is_file(), fs::read_to_string(&note)) {
        return Ok(Archive { image, path, digest });
    }
    let step = Step::start(format!("packing {}", image.name()));
    forget_older(&dir, image);
    let unfinished = tempfile::NamedTempFile::new_in(&dir).context("making an archive")?;
    let reference = image.reference();
    let described = oci::Image {
        reference: &reference,
        program: image.name(),
        user: image.user(),
        version: env!("CARGO_PKG_VERSION"),
    };
    let digest = oci::write(&described, program, unfinished.path())?;
    fs::set_permissions(unfinished.path(), fs::Permissions::from_mode(0o644))
        .context("letting others read it")?;
    unfinished.persist(&path).with_context(|| format!("naming {}", path.display()))?;
    fs::write(&note, &digest).with_context(|| format!("writing {}", note.display()))?;
    step.done(&digest[..19]);
    Ok(Archive { image, path, digest })
}

/// Archives of earlier builds only take space.
fn forget_older(dir: &Path, image: Image) {
    let prefix = format!("{}-", image.name());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let key = name.strip_prefix(&prefix).and_then(|rest| rest.split('.').next());
        if key.is_some_and(|key| key.len() == 16 && !key.contains('-')) {
            // One that stays is found unused the next time.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn build_pause() -> Result<PathBuf> {
    let source = paths::root().join("xtask/src/images/pause.c");
    let text = fs::read(&source).with_context(|| format!("reading {}", source.display()))?;
    let key: String = Sha256::digest(&text).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let dir = paths::cache().join("bin").join(format!("pause-{key}"));
    let program = dir.join("pause");
    if program.is_file() {
        return Ok(program);
    }
    tools::program("cc", Need { purpose: "to build pause", packages: &["gcc", "libc6-dev"] })?;
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let unfinished = dir.join(".building");
    Cmd::new("cc")
        .args(["-static", "-O2", "-s", "-Wl,--build-id=none", "-o"])
        .arg(&unfinished)
        .arg(&source)
        .run()?;
    fs::rename(&unfinished, &program).with_context(|| format!("naming {}", program.display()))?;
    Ok(program)
}

/// Where the program of one of our images lies, once [`archives`] has built it: it runs outside of a cluster too.
#[must_use]
pub fn program_path(image: Image) -> PathBuf {
    paths::cache().join("target").join(TARGET).join("release").join(image.name())
}

/// Builds the programs of ours, static, and returns the folder that they lie in. All of them each time, since cargo
/// unites the features of what is built together, and the same sources must give the same program. The folder is in the
/// cache and not in `target`, so that a fresh clone builds only what differs; paths of the machine stay out of them.
fn build_ours(wanted: &[Image]) -> Result<PathBuf> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        bail!("images are built on Linux on x86-64 only");
    }
    if wanted.contains(&Image::ChaosAgent) {
        crate::build_ebpf::run(&crate::build_ebpf::Args::default())?;
    }
    let target = paths::cache().join("target");
    let home =
        std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")));
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    // Nothing of this clone's place: cargo compiles our own crates by relative paths, and other flags would build every
    // dependency anew in each clone. The last that fits wins, so the widest comes first.
    for (from, to) in [(home.unwrap_or_default(), "/cargo"), (target.display().to_string(), "/target")] {
        flags.push(format!("--remap-path-prefix={from}={to}"));
    }
    let packages = Image::OURS.iter().flat_map(|image| ["--package", image.name()]);
    Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--locked", "--target", TARGET])
        .args(packages)
        .dir(paths::root())
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .step("building edge-operator, chaos-agent, device-sim")
        .run()?;
    Ok(target.join(TARGET).join("release"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_asks_for_the_pause_image_by_the_name_that_it_has() {
        assert_eq!(Image::Pause.reference(), PAUSE);
    }
}
