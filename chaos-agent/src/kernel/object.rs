//! The kernel programs that were built in.

use super::KernelError;

/// The object, or nothing where the agent was built without.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fault.o"));

/// The object that `cargo xtask build-ebpf` made.
///
/// # Errors
/// [`KernelError::Stub`] when this program was built without.
pub fn built_in() -> Result<&'static [u8], KernelError> {
    if OBJECT.is_empty() { Err(KernelError::Stub) } else { Ok(OBJECT) }
}
