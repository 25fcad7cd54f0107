//! A real control plane for tests: etcd and kube-apiserver on free loopback ports, with this project's
//! CustomResourceDefinitions, and no node. Neither garbage collection nor namespace deletion happens, since
//! there is no controller-manager. For the tests of the `control-plane` rung; no shipped program uses it.
//!
//! ```text
//!  assets.rs    where the binaries are (KUBEBUILDER_ASSETS)
//!  processes.rs etcd and kube-apiserver: their folder, keys and flags
//!  spawner.rs   started, watched, killed with their starter
//!  backup.rs    what etcd held at a moment, to be put back
//!  server.rs    ControlPlane: one a test binary; clients, also as somebody else
//!  space.rs     Space: a namespace a test, and what to print when the test fails
//!  wait.rs      waiting for objects and Events of a test, and reading conditions
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), control_plane::Error> {
//! let space = control_plane::space("device gets in sync").await?;
//! let devices: kube::Api<edge_api::Device> = space.api();
//! # Ok(())
//! # }
//! ```

mod assets;
mod backup;
mod processes;
mod server;
mod space;
mod spawner;
pub mod wait;

pub use assets::Assets;
pub use backup::Backup;
pub use server::{ControlPlane, Somebody, shared};
pub use space::{Space, space};

use std::path::PathBuf;
use std::time::Duration;

/// Why there is no control plane.
#[derive(thiserror::Error)]
pub enum Error {
    /// Nobody said where the binaries are.
    #[error(
        "KUBEBUILDER_ASSETS is not set, and this test needs etcd and kube-apiserver: run `cargo xtask test --rung \
         control-plane`, which builds them once and runs these tests, or set it to a folder that has both"
    )]
    NoAssets,
    /// The folder lacks one.
    #[error(
        "{0} is missing (KUBEBUILDER_ASSETS names its folder): run `cargo xtask test --rung control-plane`, which \
         builds it"
    )]
    NoBinary(PathBuf),
    /// A file or process could not be made.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A key or certificate is none.
    #[error("{0}")]
    Key(String),
    /// It ended or did not become ready.
    #[error("the control plane {what} within {within:?}; the end of its logs:\n{logs}")]
    NotReady {
        /// What it did not do.
        what: String,
        /// How long was waited.
        within: Duration,
        /// The end of both logs.
        logs: String,
    },
    /// The API server answered with an error.
    #[error("{what}: {source}")]
    Kube {
        /// What was asked.
        what: String,
        /// Its answer.
        source: Box<kube::Error>,
    },
    /// What was waited for did not come.
    #[error("{what} within {within:?}, but {now}")]
    NotSo {
        /// What was waited for.
        what: String,
        /// How long was waited.
        within: Duration,
        /// What is there instead.
        now: String,
    },
    /// A CustomResourceDefinition could not be derived.
    #[error("deriving the CustomResourceDefinitions: {0}")]
    Schema(#[from] serde_json::Error),
}

/// As people read it, since a test that fails prints this form.
impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl Error {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    fn kube(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Kube { what, source: Box::new(source) }
    }
}
