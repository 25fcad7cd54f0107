//! Descriptors that must be closed first. When a process dies, the kernel lets go of its files from the highest
//! descriptor down: the program arrays' go above all others, so that every hook is inert before the kernel
//! starts on the links (200 of those take two seconds).

use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Room for the descriptors below: three links for each interface. A table of so many takes 512 KiB.
const ROOM: u64 = 65_536;

/// Descriptors that are kept free above the moved ones, for more of them.
const SPARE: u64 = 16;

/// Duplicates `fd` above all descriptors that this process is going to have. The original can stay: what counts
/// is when the last one is closed.
pub(super) fn duplicate_high(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let floor = room()?.saturating_sub(SPARE);
    let floor = i32::try_from(floor).unwrap_or(i32::MAX);
    let raw = fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(floor))?;
    // SAFETY: a fresh descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Raises the limit of open files as far as it may be and needs to be; returns it.
fn room() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = ROOM.min(hard);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
        return Ok(wanted);
    }
    Ok(soft.min(ROOM))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn a_duplicate_is_above_what_is_opened_later() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let high = duplicate_high(file.as_fd()).unwrap();
        let later = std::fs::File::open("/dev/null").unwrap();
        assert!(high.as_raw_fd() > later.as_raw_fd());
    }
}
