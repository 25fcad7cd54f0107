//! `cargo xtask images`: what runs in a cluster as OCI archives, one static program each, without Docker.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::ValueEnum;
use sha2::{Digest, Sha256};

use crate::binaries::{self, Module};
use crate::cluster::Cluster;
use crate::cmd::Cmd;
use crate::progress::Step;
use crate::tools::{self, Need};
use crate::{build_ebpf, digest, lock, paths};

pub mod oci;
mod ours;
mod verify;

/// The image that holds each pod's namespaces.
pub const PAUSE: &str = "localhost/pause:dev";
/// Users that own nothing: distroless' "nonroot".
const NOBODY: u32 = 65532;
const A_DAY: Duration = Duration::from_hours(24);

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
    /// Build ours a second time, from a copy of the sources and without the cache, and fail when a digest differs; takes
    /// minutes
    #[arg(long)]
    verify: bool,
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
    let archives = archives(&images)?;
    for (image, kept) in images.iter().zip(&archives) {
        let archive = out.join(format!("{}.tar", image.name()));
        fs::copy(&kept.path, &archive).with_context(|| format!("writing {}", archive.display()))?;
        println!("{}  {}  {}", kept.digest, image.reference(), archive.display());
        if let Some(cluster) = &cluster {
            cluster.load_image(&archive)?;
        }
    }
    if args.verify { verify::run(&archives) } else { Ok(()) }
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
    let dir = paths::cache().join("images");
    let any_of_ours = images.iter().any(|image| Image::OURS.contains(image));
    // Until all is packed: another clone's build would put its programs in the place of ours. What is nobody's own waits for no such build.
    let lock = if any_of_ours { ".lock" } else { ".others.lock" };
    let _lock = lock::take(&dir.join(lock), "another build of images")?;
    if images.contains(&Image::ChaosAgent) {
        build_ebpf::run(&build_ebpf::Args::default())?;
    }
    let built = if any_of_ours { ours::build(&paths::root(), &target())? } else { PathBuf::new() };
    images.iter().map(|image| archive(*image, &program(*image, &built)?, &dir)).collect()
}

fn program(image: Image, built: &Path) -> Result<PathBuf> {
    match image {
        Image::Prometheus => Ok(binaries::ensure(Module::Prometheus)?.path("prometheus")?.to_path_buf()),
        Image::Coredns => Ok(binaries::ensure(Module::Coredns)?.path("coredns")?.to_path_buf()),
        Image::Pause => build_pause(),
        Image::EdgeOperator | Image::ChaosAgent | Image::DeviceSim => Ok(built.join(image.name())),
    }
}

/// Packs `program` into `dir`, unless that very file was packed before.
fn archive(image: Image, program: &Path, dir: &Path) -> Result<Archive> {
    let meta = fs::metadata(program).with_context(|| format!("{} was not built", program.display()))?;
    let state = format!("{} {} {} {}", program.display(), meta.len(), meta.mtime(), meta.mtime_nsec());
    let key = digest::short(Sha256::new_with_prefix(format!("{} {state}", oci::FORMAT)));
    let path = dir.join(format!("{}-{key}.tar", image.name()));
    let note = path.with_extension("digest");
    if let (true, Ok(digest)) = (path.is_file(), fs::read_to_string(&note)) {
        // One in use is not old.
        let _ = File::open(&path).and_then(|file| file.set_modified(now()));
        return Ok(Archive { image, path, digest });
    }
    let step = Step::start(format!("packing {}", image.name()));
    forget_older(dir, now());
    let unfinished = tempfile::NamedTempFile::new_in(dir).context("making an archive")?;
    let digest = pack(image, program, unfinished.path())?;
    fs::set_permissions(unfinished.path(), fs::Permissions::from_mode(0o644))
        .context("letting others read it")?;
    unfinished.persist(&path).with_context(|| format!("naming {}", path.display()))?;
    fs::write(&note, &digest).with_context(|| format!("writing {}", note.display()))?;
    step.done(&digest[..19]);
    Ok(Archive { image, path, digest })
}

/// Writes the archive of `image` with this program and returns its digest.
fn pack(image: Image, program: &Path, to: &Path) -> Result<String> {
    let reference = image.reference();
    let described = oci::Image {
        reference: &reference,
        program: image.name(),
        user: image.user(),
        version: env!("CARGO_PKG_VERSION"),
    };
    oci::write(&described, program, to)
}

/// Archives that nobody used for a day only take space, as do unfinished ones of killed builds. Younger ones may be in use
/// by another clone.
fn forget_older(dir: &Path, now: SystemTime) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_archive = name.ends_with(".tar") || name.ends_with(".digest") || name.starts_with(".tmp");
        let modified = entry.metadata().and_then(|meta| meta.modified());
        let age = modified.ok().and_then(|modified| now.duration_since(modified).ok());
        if is_archive && age.is_some_and(|age| age > A_DAY) {
            // One that stays is found unused the next time.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the cache's archives have an age")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn build_pause() -> Result<PathBuf> {
    let source = paths::root().join("xtask/src/images/pause.c");
    let text = fs::read(&source).with_context(|| format!("reading {}", source.display()))?;
    let key = digest::short(Sha256::new_with_prefix(&text));
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
    ours::folder(&target()).join(image.name())
}

/// What cargo builds of ours, for all clones.
fn target() -> PathBuf {
    paths::cache().join("target")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_asks_for_the_pause_image_by_the_name_that_it_has() {
        assert_eq!(Image::Pause.reference(), PAUSE);
    }

    #[test]
    fn an_archive_that_another_clone_may_use_stays_and_one_of_yesterday_goes() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["pause-0123456789abcdef.tar", "pause-0123456789abcdef.digest", ".tmpAbC", ".lock"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let count = || fs::read_dir(dir.path()).unwrap().count();
        forget_older(dir.path(), now());
        assert_eq!(count(), 4);
        forget_older(dir.path(), now() + A_DAY * 2);
        assert_eq!(count(), 1, "only the lock stays");
    }
}
