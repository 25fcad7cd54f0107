//! The epoch: the number that orders one leader's commands after another's. It is the resourceVersion of the
//! write that took the Lease, which rises even when the Lease is deleted and made again ([`crate::leader`] takes it).

use thiserror::Error;

/// Field manager of everything that the operator writes, and name of its Lease.
pub const NAME: &str = "edge-operator";

/// The server gave a resourceVersion that orders nothing. Kubernetes' own ones do since 1.35 (KEP-5504), and did before.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the API server gave the Lease the resourceVersion {0:?}, which is no number: epochs need one")]
pub struct NotANumber(String);

/// Reads a resourceVersion.
///
/// # Errors
/// When it is missing, or no number.
pub fn parse(version: Option<&str>) -> Result<u64, NotANumber> {
    let version = version.unwrap_or_default();
    version.parse().map_err(|_| NotANumber(version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_version_is_a_number_or_refused_as_it_is() {
        assert_eq!(parse(Some("1042")), Ok(1042));
        assert_eq!(parse(Some("0a")), Err(NotANumber("0a".into())));
        assert_eq!(parse(None), Err(NotANumber(String::new())));
    }
}
