//! Ctrl-C and friends as a flag that long work looks at, so that it can clean up instead of dying in the middle.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, mpsc};
use std::thread;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static TOLD: Notify = Notify::const_new();
static INSTALL: Once = Once::new();

/// From now on SIGINT, SIGTERM and SIGHUP set the flag; a second one ends the process at once (what it leaves behind
/// is cleaned by the next run).
///
/// # Errors
/// When the signals cannot be watched.
pub fn install() -> Result<()> {
    let (send, receive) = mpsc::sync_channel(1);
    INSTALL.call_once(|| {
        thread::spawn(move || watch(&send));
    });
    // When it was installed before, nobody holds the sender any more.
    receive.recv().unwrap_or(Ok(()))
}

/// Whether a signal came.
#[must_use]
pub fn seen() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Ends when a signal comes.
pub async fn came() {
    let told = TOLD.notified();
    if !seen() {
        told.await;
    }
}

/// Returns early when a signal came.
///
/// # Errors
/// When a signal came.
pub fn check() -> Result<()> {
    if seen() {
        bail!("interrupted");
    }
    Ok(())
}

fn watch(ready: &mpsc::SyncSender<Result<()>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(error).context("starting the watch for signals"));
            return;
        }
    };
    runtime.block_on(async {
        let streams =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()));
        let (Ok(mut int), Ok(mut term), Ok(mut hup)) = streams else {
            let _ = ready.send(Err(anyhow::anyhow!("signals cannot be watched")));
            return;
        };
        let _ = ready.send(Ok(()));
        loop {
            tokio::select! { _ = int.recv() => {} _ = term.recv() => {} _ = hup.recv() => {} }
            if INTERRUPTED.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            TOLD.notify_waiters();
            eprintln!("interrupted: cleaning up (once more ends at once, and the next run cleans up)");
        }
    });
}
