//! OCI image archives (image-spec v1.1, image-layout.md): one layer, one program. The same content gives the same bytes:
//! entries are in a fixed order, owned by root, of the year 1970.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Changes with the bytes that the same content gives, so that kept archives are written anew.
pub const FORMAT: u32 = 1;

/// Folders that programs and container runtimes expect.
const FOLDERS: [(&str, u32); 6] =
    [("dev", 0o755), ("etc", 0o755), ("proc", 0o755), ("sys", 0o755), ("tmp", 0o1777), ("var", 0o755)];

/// An image of one static program.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// Its name in full, such as `localhost/pause:dev`: a short one would be looked up at docker.io.
    pub reference: &'a str,
    /// The program's name: it lies at `/NAME` and is the entrypoint.
    pub program: &'a str,
    /// Numeric user and group that it runs as by default.
    pub user: Option<u32>,
    /// The version of what is inside, as a label.
    pub version: &'a str,
}

/// Writes the archive of `image` with the program at `program`, and returns the digest of its manifest.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write(image: &Image<'_>, program: &Path, archive: &Path) -> Result<String> {
    let folder = archive.parent().context("an archive without a folder")?;
    let layer_file = tempfile::tempfile_in(folder).context("making a file for the layer")?;
    let mut layer = BufWriter::new(Hashing { inner: layer_file, hash: Sha256::new(), length: 0 });
    write_layer(image, program, &mut layer).with_context(|| format!("packing {}", program.display()))?;
    let Hashing { inner: mut layer, hash, length } =
        layer.into_inner().map_err(io::IntoInnerError::into_error).context("writing the layer")?;
    let layer_digest = hex(hash);
    layer.seek(SeekFrom::Start(0)).context("rewinding the layer")?;

    let config =
        serde_json::to_vec(&config(image, &layer_digest)).context("writing the image's configuration")?;
    let descriptor = |kind: &str, digest: &str, size: u64| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{digest}"),
            "size": size,
        })
    };
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &digest(&config), config.len() as u64),
        "layers": [descriptor("layer.v1.tar", &layer_digest, length)],
    }))
    .context("writing the manifest")?;
    let index = index(image, descriptor("manifest.v1+json", &digest(&manifest), manifest.len() as u64));

    let mut out = Builder::new(BufWriter::new(File::create(archive).context("making the archive")?));
    let mut small: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    small.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    small.insert("index.json".to_owned(), serde_json::to_vec(&index).context("writing the index")?);
    small.insert(blob(&digest(&config)), config);
    small.insert(blob(&digest(&manifest)), manifest.clone());
    for (path, data) in &small {
        append(&mut out, path, 0o644, data.len() as u64, data.as_slice())?;
    }
    append(&mut out, &blob(&layer_digest), 0o644, length, BufReader::new(layer))?;
    out.into_inner().and_then(|mut file| file.flush()).context("writing the archive")?;
    Ok(format!("sha256:{}", digest(&manifest)))
}

fn write_layer(image: &Image<'_>, program: &Path, layer: &mut impl Write) -> Result<()> {
    let mut tar = Builder::new(layer);
    for (folder, mode) in FOLDERS {
        let mut header = header(mode, 0);
        header.set_entry_type(EntryType::Directory);
        tar.append_data(&mut header, format!("{folder}/"), io::empty()).context("adding a folder")?;
    }
    let file = File::open(program).context("opening the program")?;
    let size = file.metadata().context("asking for the program's size")?.len();
    append(&mut tar, image.program, 0o755, size, BufReader::new(file))?;
    tar.into_inner().and_then(|layer| layer.flush()).context("ending the layer")
}

fn append(tar: &mut Builder<impl Write>, path: &str, mode: u32, size: u64, data: impl Read) -> Result<()> {
    tar.append_data(&mut header(mode, size), path, data).with_context(|| format!("adding {path}"))
}

fn header(mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn config(image: &Image<'_>, layer: &str) -> Value {
    let mut inner = json!({
        "Entrypoint": [format!("/{}", image.program)],
        "Env": ["PATH=/"],
        "WorkingDir": "/",
        "Labels": {
            "org.opencontainers.image.title": image.program,
            "org.opencontainers.image.version": image.version,
        },
    });
    if let Some(user) = image.user {
        inner["User"] = json!(format!("{user}:{user}"));
    }
    json!({
        "architecture": "amd64",
        "os": "linux",
        "config": inner,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        "history": [{"created_by": "cargo xtask images"}],
    })
}

fn index(image: &Image<'_>, mut manifest: Value) -> Value {
    let tag = image.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    manifest["annotations"] = json!({
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": tag,
    });
    manifest["platform"] = json!({"architecture": "amd64", "os": "linux"});
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    })
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn digest(data: &[u8]) -> String {
    hex(Sha256::new_with_prefix(data))
}

fn hex(hash: Sha256) -> String {
    crate::digest::hex(&hash.finalize())
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hash.update(&data[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: Image<'static> =
        Image { reference: "localhost/thing:dev", program: "thing", user: Some(65532), version: "1.2.3" };

    fn entries(archive: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut tar = tar::Archive::new(File::open(archive).unwrap());
        let read = |entry: io::Result<tar::Entry<'_, File>>| {
            let mut entry = entry.unwrap();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            (entry.path().unwrap().display().to_string(), data)
        };
        tar.entries().unwrap().map(read).collect()
    }

    #[test]
    fn the_same_program_gives_the_same_bytes_whenever_it_is_packed() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("built");
        std::fs::write(&program, b"a program").unwrap();
        let first = write(&IMAGE, &program, &dir.path().join("1.tar")).unwrap();
        File::open(&program).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let second = write(&IMAGE, &program, &dir.path().join("2.tar")).unwrap();
        assert_eq!(first, second);
        let bytes = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(bytes("1.tar"), bytes("2.tar"));
        std::fs::write(&program, b"another program").unwrap();
        assert_ne!(write(&IMAGE, &program, &dir.path().join("3.tar")).unwrap(), first);
    }

    #[test]
    fn each_blob_is_named_by_its_digest_and_the_index_leads_to_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let (program, archive) = (dir.path().join("built"), dir.path().join("a.tar"));
        std::fs::write(&program, b"a program").unwrap();
        let told = write(&IMAGE, &program, &archive).unwrap();
        let entries = entries(&archive);
        for (path, data) in entries.iter().filter(|(path, _)| path.starts_with("blobs/")) {
            assert_eq!(path, &blob(&digest(data)));
        }
        let read = |path: &str| -> Value { serde_json::from_slice(&entries[path]).unwrap() };
        let follow = |descriptor: &Value| {
            let name = descriptor["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
            assert_eq!(entries[&name].len() as u64, descriptor["size"].as_u64().unwrap());
            name
        };
        let index = read("index.json");
        let entry = &index["manifests"][0];
        assert_eq!(entry["digest"], told);
        assert_eq!(entry["annotations"]["io.containerd.image.name"], "localhost/thing:dev");
        let manifest = read(&follow(entry));
        let config = read(&follow(&manifest["config"]));
        assert_eq!(config["config"]["Entrypoint"][0], "/thing");
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        follow(&manifest["layers"][0]);
    }
}
