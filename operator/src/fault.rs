//! The fault controller: what a FaultProfile selects, when it starts and ends, and what the nodes say of it.

use std::sync::Arc;

use anyhow::Result;

use crate::runtime::Shared;

/// Runs until `shared.shutdown`.
///
/// # Errors
/// When it cannot start.
pub async fn run(shared: Arc<Shared>) -> Result<()> {
    shared.shutdown.cancelled().await;
    Ok(())
}
