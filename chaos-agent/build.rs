//! Puts the kernel programs into the agent: what `cargo xtask build-ebpf` left in `target/ebpf`, or nothing, so that
//! the agent builds and is linted on a machine without a compiler for them.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let need = |name: &str| env::var(name).map_err(io::Error::other);
    let folder = Path::new(&need("CARGO_MANIFEST_DIR")?).join("../target/ebpf");
    // The folder must be there to be watched: cargo runs this again each time while a watched path is missing.
    fs::create_dir_all(&folder)?;
    println!("cargo::rerun-if-changed={}", folder.display());
    let object = fs::read(folder.join("fault.o")).unwrap_or_default();
    fs::write(Path::new(&need("OUT_DIR")?).join("fault.o"), object)
}
