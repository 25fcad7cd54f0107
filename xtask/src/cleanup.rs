//! What to say when cleaning up after an error fails, too: both, the first one first.

use anyhow::{Error, Result};

/// The error that made the cleaning necessary, with what became of the cleaning.
#[must_use]
pub fn after(error: Error, cleaned: Result<()>) -> Error {
    match cleaned {
        Ok(()) => error,
        Err(left) => {
            let also = format!("{error}; and cleaning up after it failed: {left:#}");
            error.context(also)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn neither_the_cause_nor_what_is_left_is_hidden() {
        let cause = || anyhow!("no such image").context("loading failed");
        assert_eq!(format!("{:#}", after(cause(), Ok(()))), "loading failed: no such image");
        let both = format!("{:#}", after(cause(), Err(anyhow!("a mount is busy"))));
        for part in ["loading failed", "no such image", "a mount is busy"] {
            assert!(both.contains(part), "{part} is missing in: {both}");
        }
    }
}
