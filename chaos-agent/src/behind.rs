//! What stands behind the hooks: the delay line with its engine, and the splitter. Made at the start, each for itself: what
//! cannot be made is told, and faults that need it are not enforced.
//!
//! ```text
//!  Behind::make ─ devices ─▶ AyaKernel::connect ─ engine started ─▶ LineView ─▶ status, metrics
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use edge_api::fault_node::{Engine, EngineState, EngineStatus, Lateness, LimitStatus};
use edge_api::quantity::DurationString;
use fault_abi::line::is_alive;

use rand::Rng as _;
use rtnetlink::Handle;

use crate::args::EngineChoice;
use crate::kernel::{Devices, Interface, LineLimits};
use crate::line::stats::Stats;
use crate::line::tap::{self, Tap};
use crate::splitter::{self, Splitter};

/// Name of the delay line's device.
pub const LINE: &str = "edo-line";

/// Whether an interface of this name is one of those here.
#[must_use]
pub fn is_ours(interface: &str) -> bool {
    [LINE, splitter::NEAR, splitter::FAR].contains(&interface)
}

/// Devices that were made, and why others were not.
#[derive(Debug, Default)]
pub struct Behind {
    /// The delay line's device.
    pub tap: Option<Tap>,
    /// The splitter.
    pub splitter: Option<Splitter>,
    /// Why there is no delay line.
    pub no_line: Option<String>,
    /// Why there is no splitter.
    pub no_splitter: Option<String>,
    /// See [`Devices::magic`].
    pub magic: u64,
}

impl Behind {
    /// Makes them in the network namespace of this thread and of `netlink`. A splitter that a killed agent left is removed
    /// first.
    pub async fn make(netlink: &Handle, choice: EngineChoice, limits: LineLimits) -> Self {
        let mut behind = Self { magic: magic(), ..Self::default() };
        match choice {
            EngineChoice::None => behind.no_line = Some("--engine none: there is no delay line".to_owned()),
            EngineChoice::Auto | EngineChoice::Userspace => {
                match Tap::make(LINE, limits.packets, netlink).await {
                    Ok(tap) => behind.tap = Some(tap),
                    Err(error) => behind.no_line = Some(error.to_string()),
                }
            }
        }
        let made = match splitter::remove(netlink).await {
            Ok(_) => Splitter::make(netlink).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(splitter) => behind.splitter = Some(splitter),
            Err(error) => behind.no_splitter = Some(error.to_string()),
        }
        for (why, what) in [
            (&behind.no_line, "delay, reorder and rate are not enforced"),
            (&behind.no_splitter, "super-packets have one fate, corrupt and reject are not enforced"),
        ] {
            if let Some(why) = why {
                tracing::warn!("{what}: {why}");
            }
        }
        behind
    }

    /// As the programs know them.
    #[must_use]
    pub fn devices(&self) -> Devices {
        let line = self.tap.as_ref().map(|tap| Interface { index: tap.index(), name: tap.name().to_owned() });
        let splitter = self.splitter.as_ref().map(|splitter| (splitter.near.clone(), splitter.far.clone()));
        Devices { magic: self.magic, line, splitter }
    }
}

/// The delay line as status and metrics show it. By default there is none.
#[derive(Debug, Default)]
pub struct LineView {
    /// What the engine counts; none: there is no line.
    pub stats: Option<Arc<Stats>>,
    /// The engine's last sign of life, CLOCK_BOOTTIME in nanoseconds.
    pub sign_ns: Arc<AtomicU64>,
    /// Why there is no line, if somebody asked.
    pub no_line: Option<String>,
    /// Why there is no splitter.
    pub no_splitter: Option<String>,
    /// How much it may hold.
    pub limits: LineLimits,
}

impl LineView {
    /// How much it may hold and holds; nothing where there is none.
    #[must_use]
    pub fn usage(&self) -> Vec<LimitStatus> {
        let Some(stats) = &self.stats else { return Vec::new() };
        let rows = [
            ("linePackets", u64::from(self.limits.packets), stats.held_packets.get()),
            ("lineBytes", self.limits.bytes, stats.held_bytes.get()),
        ];
        rows.map(|(name, limit, used)| LimitStatus { name: name.to_owned(), limit, used }).to_vec()
    }

    /// Which engine there is.
    #[must_use]
    pub const fn kind(&self) -> Engine {
        if self.stats.is_some() { Engine::Userspace } else { Engine::None }
    }

    /// Packets that were lost at the device or on the way back: must stay 0.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let Some(stats) = &self.stats else { return 0 };
        // The interface is gone only when all of this is.
        tap::dropped(LINE).unwrap_or_default() + stats.write_failures.get()
    }

    /// How the line is at `now_ns` (CLOCK_BOOTTIME).
    #[must_use]
    pub fn status(&self, now_ns: u64) -> EngineStatus {
        let Some(stats) = &self.stats else {
            return EngineStatus { message: self.no_line.clone(), ..EngineStatus::default() };
        };
        let is_running = is_alive(self.sign_ns.load(Ordering::Relaxed), now_ns);
        let figures = stats.lateness.figures();
        let late = |per_mille| figures.quantile(per_mille).map(microseconds);
        EngineStatus {
            kind: self.kind(),
            state: if is_running { EngineState::Running } else { EngineState::Stalled },
            message: self.no_splitter.clone(),
            scheduling: stats.scheduling.get().copied(),
            lateness: late(500).zip(late(990)).map(|(p50, p99)| Lateness { p50, p99 }),
            dropped: self.dropped(),
        }
    }
}

fn microseconds(ns: u64) -> DurationString {
    DurationString::new(format!("{}us", ns.div_ceil(1000)))
}

/// A number whose lower half is not 0 either.
fn magic() -> u64 {
    rand::rng().random::<u64>() | 1
}
