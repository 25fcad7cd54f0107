//! Lines that the kernel programs write about packets of targets, for a person who asked for them (`--kernel-log`).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use super::{AyaKernel, chain};
use crate::kernel::KernelError;

/// Lines that are taken at once: more than the kernel's 128 KiB hold, as each takes more than 32 bytes there. While they are read
/// more may come.
const AT_ONCE: usize = 4_096;

/// The lines, as they come. Where more come than are read some are lost: there is room for 128 KiB of them in the kernel, and for
/// [`AT_ONCE`] here.
pub struct KernelLines {
    logger: EbpfLogger<Lines>,
    read: Lines,
}

impl KernelLines {
    /// Takes what has come, [`AT_ONCE`] lines at most; a last one says how many were left out.
    pub fn take(&mut self) -> Vec<String> {
        self.logger.flush();
        self.read.take()
    }

    /// Hands lines on to the agent's log, as `kernel`, until `shutdown`.
    ///
    /// # Errors
    /// When the runtime refuses to watch for lines.
    pub async fn follow(self, shutdown: CancellationToken) -> Result<()> {
        // SAFETY: the descriptor is that of the ring buffer, which the lines keep as long as they live.
        let watched = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        let mut lines = watched.map_err(io::Error::from).context("the lines of the kernel programs")?;
        loop {
            let mut ready = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                ready = lines.readable_mut() => ready.context("the lines of the kernel programs")?,
            };
            // Whoever asks for lines wants to see them whatever else is logged.
            ready.get_inner_mut().take().iter().for_each(|line| tracing::info!(target: "kernel", "{line}"));
            ready.clear_ready();
        }
    }
}

impl AsRawFd for KernelLines {
    fn as_raw_fd(&self) -> RawFd {
        self.logger.as_raw_fd()
    }
}

impl AyaKernel {
    /// The lines of its programs, for the first who asks; none unless it was loaded with them.
    ///
    /// # Errors
    /// When the programs have no place for lines.
    pub fn lines(&mut self) -> Result<Option<KernelLines>, KernelError> {
        if !std::mem::take(&mut self.has_lines) {
            return Ok(None);
        }
        let read = Lines::default();
        let logger = EbpfLogger::init_with_logger(&mut self.programs, read.clone());
        logger
            .map(|logger| Some(KernelLines { logger, read }))
            .map_err(|error| KernelError::Load(chain(&error)))
    }
}

/// Lines that were read and not yet taken.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Read>>);

#[derive(Default)]
struct Read {
    lines: Vec<String>,
    /// So many came when there was no room.
    left_out: u64,
}

impl Lines {
    fn take(&self) -> Vec<String> {
        let Read { mut lines, left_out } =
            std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if left_out > 0 {
            lines.push(format!(
                "{left_out} more lines were left out: they came faster than they were written"
            ));
        }
        lines
    }
}

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if read.lines.len() < AT_ONCE {
            read.lines.push(record.args().to_string());
        } else {
            read.left_out += 1;
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use log::Log as _;

    use super::*;

    fn write(lines: &Lines, count: usize) {
        (0..count).for_each(|_| lines.log(&log::Record::builder().args(format_args!("a line")).build()));
    }

    #[test]
    fn what_there_is_no_room_for_is_left_out_and_its_number_told() {
        let lines = Lines::default();
        write(&lines, AT_ONCE);
        assert_eq!(lines.take(), vec!["a line"; AT_ONCE]);
        write(&lines, AT_ONCE + 7);
        let taken = lines.take();
        assert_eq!(taken.len(), AT_ONCE + 1);
        assert!(taken[AT_ONCE].starts_with("7 more lines were left out"), "{}", taken[AT_ONCE]);
        assert_eq!(lines.take(), [""; 0]);
    }
}
