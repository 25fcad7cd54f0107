//! What stands behind the hooks: the delay line with its engine, and the splitter. Made at the start, each for itself: what
//! cannot be made is told, and faults that need it are not enforced.
//!
//! ```text
//!  Behind::make ─ devices ─▶ AyaKernel::connect ─ engine started ─▶ LineView ─▶ status, metrics
//! ```

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use edge_api::fault_node::{Engine, EngineState, EngineStatus, Lateness, LimitStatus};
use edge_api::quantity::DurationString;
use fault_abi::line::{Held, is_alive};

use rand::Rng as _;
use rtnetlink::Handle;

use crate::args::EngineChoice;
use crate::kernel::{Devices, Interface, KernelError, LineEnds, LineLimits, QueueCounters};
use crate::line;
use crate::line::ends::{Device, Ends, Tell};
use crate::line::fq::{self, Fq};
use crate::line::stats::{Figures, Stats};
use crate::line::tap::{self, Tap};
use crate::locate::Topology;
use crate::splitter::{self, Losses, Splitter};
use crate::view::Lacks;

/// Whether an interface of this name is one of those here.
#[must_use]
pub fn is_ours(interface: &str) -> bool {
    [line::NAME, fq::FAR, splitter::NEAR, splitter::FAR].contains(&interface)
}

/// Whether it is the far end of a pair of ours, which goes with the near one.
#[must_use]
pub fn is_far_end(interface: &str) -> bool {
    [fq::FAR, splitter::FAR].contains(&interface)
}

/// What the delay line is.
#[derive(Debug)]
pub enum LineDevice {
    /// A pair with the kernel's queue.
    Fq(Fq),
    /// A TAP, whose packets the agent holds itself.
    Tap(Tap),
}

/// Devices that were made, and why others were not.
#[derive(Debug, Default)]
pub struct Behind {
    /// The delay line.
    pub line: Option<LineDevice>,
    /// The splitter.
    pub splitter: Option<Splitter>,
    /// Why there is no delay line.
    pub no_line: Option<String>,
    /// Why it is not the one that is tried first.
    pub second_choice: Option<String>,
    /// Why there is no splitter.
    pub no_splitter: Option<String>,
    /// See [`Devices::magic`].
    pub magic: u64,
}

impl Behind {
    /// Makes them in the network namespace of this thread and of `netlink`. Pairs that a killed agent left are removed first.
    pub async fn make(netlink: &Handle, choice: EngineChoice, limits: LineLimits) -> Self {
        let mut behind = Self { magic: magic(), ..Self::default() };
        behind.make_line(netlink, choice, limits.packets).await;
        match splitter::renew(netlink, &[]).await {
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

    async fn make_line(&mut self, netlink: &Handle, choice: EngineChoice, packets: u32) {
        if let Err(error) = fq::remove(netlink).await {
            self.no_line = Some(error.to_string());
            return;
        }
        match choice {
            EngineChoice::None => self.no_line = Some("--engine none: there is no delay line".to_owned()),
            EngineChoice::Fq => self.take(Fq::make(netlink, packets).await.map(LineDevice::Fq)),
            EngineChoice::Userspace => {
                self.take(Tap::make(line::NAME, packets, netlink).await.map(LineDevice::Tap));
            }
            EngineChoice::Auto => match Fq::make(netlink, packets).await {
                Ok(fq) => self.line = Some(LineDevice::Fq(fq)),
                Err(first) => match Tap::make(line::NAME, packets, netlink).await {
                    Ok(tap) => {
                        tracing::info!("the agent holds delayed packets itself: {first}");
                        self.second_choice = Some(first.to_string());
                        self.line = Some(LineDevice::Tap(tap));
                    }
                    Err(second) => self.no_line = Some(format!("{first}; {second}")),
                },
            },
        }
    }

    fn take<E: std::error::Error>(&mut self, made: Result<LineDevice, E>) {
        match made {
            Ok(device) => self.line = Some(device),
            Err(error) => self.no_line = Some(error.to_string()),
        }
    }

    /// As the programs know them.
    #[must_use]
    pub fn devices(&self) -> Devices {
        let line = self.line.as_ref().map(|device| match device {
            LineDevice::Fq(Fq { near, far }) => {
                LineEnds { entry: near.clone(), end: far.clone(), is_fq: true }
            }
            LineDevice::Tap(tap) => {
                let tap = Interface { index: tap.index(), name: tap.name().to_owned() };
                LineEnds { entry: tap.clone(), end: tap, is_fq: false }
            }
        });
        let splitter = self.splitter.as_ref().map(|splitter| (splitter.near.clone(), splitter.far.clone()));
        Devices { magic: self.magic, line, splitter }
    }
}

/// A line of the engine `fq`.
pub struct Queue {
    /// What the programs count of it.
    pub counters: Arc<dyn QueueCounters>,
    /// The programs there, which work until its packets have left.
    pub programs: Box<dyn Any + Send + Sync>,
}

/// The delay line as status and metrics show it. By default there is none.
#[derive(Default)]
pub struct LineView {
    /// What the engine `userspace` counts; none: it is not the one.
    pub stats: Option<Arc<Stats>>,
    /// The line of the engine `fq`; none: it is not the one.
    pub queue: Option<Queue>,
    /// The ends of the line; none: there is no line.
    pub ends: Option<Ends>,
    /// Those of the splitter; none: there is none.
    pub splitter: Option<Ends>,
    /// What that has lost.
    pub splitter_losses: Mutex<Losses>,
    /// The engine's last sign of life, CLOCK_BOOTTIME in nanoseconds.
    pub sign_ns: Arc<AtomicU64>,
    /// Why there is no line, if somebody asked.
    pub no_line: Option<String>,
    /// See [`Behind::second_choice`].
    pub second_choice: Option<String>,
    /// Why there is no splitter.
    pub no_splitter: Option<String>,
    /// How much it may hold.
    pub limits: LineLimits,
}

/// How late packets have left the line so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// By how much.
    pub figures: Figures,
    /// The sum, in nanoseconds.
    pub sum_ns: u64,
}

impl LineView {
    /// How much it may hold and holds; nothing where there is none.
    #[must_use]
    pub fn usage(&self) -> Vec<LimitStatus> {
        let Ok(Some(held)) = self.held() else { return Vec::new() };
        let rows = [
            ("linePackets", u64::from(self.limits.packets), held.packets),
            ("lineBytes", self.limits.bytes, held.bytes),
        ];
        rows.map(|(name, limit, used)| LimitStatus { name: name.to_owned(), limit, used }).to_vec()
    }

    /// What is in it; none: there is no line.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn held(&self) -> Result<Option<Held>, KernelError> {
        match (&self.stats, &self.queue) {
            (Some(stats), _) => {
                let (packets, bytes) = (stats.held_packets.get(), stats.held_bytes.get());
                Ok(Some(Held { packets, bytes }))
            }
            (None, Some(queue)) => queue.counters.held().map(Some),
            (None, None) => Ok(None),
        }
    }

    /// How late packets have left it; none: there is no line.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn late(&self) -> Result<Option<Late>, KernelError> {
        if let Some(stats) = &self.stats {
            return Ok(Some(Late { figures: stats.lateness.figures(), sum_ns: stats.lateness.sum.get() }));
        }
        let Some(queue) = &self.queue else { return Ok(None) };
        let mut entries = queue.counters.lateness()?;
        // The last one is the sum.
        let sum_ns = entries.pop().unwrap_or_default();
        Ok(Some(Late { figures: Figures::of(entries.into_boxed_slice()), sum_ns }))
    }

    /// Packets that left it; none: there is no line.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn released(&self) -> Result<Option<u64>, KernelError> {
        match &self.stats {
            Some(stats) => Ok(Some(stats.out_packets.get())),
            None => Ok(self.late()?.map(|late| late.figures.count())),
        }
    }

    /// How much before their time packets are sent off, in nanoseconds, so that they are out of the line at it; none: the engine is not `fq`.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn lead_ns(&self) -> Result<Option<u64>, KernelError> {
        self.queue.as_ref().map(|queue| queue.counters.lead_ns()).transpose()
    }

    /// Which engine there is.
    #[must_use]
    pub const fn kind(&self) -> Engine {
        match (&self.stats, &self.queue) {
            (Some(_), _) => Engine::Userspace,
            (None, Some(_)) => Engine::Fq,
            (None, None) => Engine::None,
        }
    }

    /// Whether packets leave it at their time, at `now_ns` (CLOCK_BOOTTIME).
    #[must_use]
    pub fn is_running(&self, now_ns: u64) -> bool {
        self.kind() != Engine::None && is_alive(self.sign_ns.load(Ordering::Relaxed), now_ns)
    }

    /// Takes in the interfaces: a line or a splitter whose ends are not all there and up carries nothing, and hooks then pass
    /// packets without it.
    pub fn look(&self, topology: &Topology) {
        for ends in [&self.ends, &self.splitter].into_iter().flatten() {
            ends.look(topology);
        }
    }

    /// Takes in why packets cannot go through a device whose interfaces are well; nothing: they can.
    pub fn lack(&self, device: Device, why: Option<String>) {
        let ends = match device {
            Device::Line => &self.ends,
            Device::Splitter => &self.splitter,
        };
        if let Some(ends) = ends {
            ends.lack(why);
        }
    }

    /// The ends of the splitter, also where somebody has removed one.
    #[must_use]
    pub fn splitter_ends(&self) -> Vec<Interface> {
        self.splitter.as_ref().map(Ends::interfaces).unwrap_or_default()
    }

    /// Whether somebody has removed the splitter, as of the last look.
    #[must_use]
    pub fn is_splitter_gone(&self) -> bool {
        self.splitter.as_ref().is_some_and(Ends::is_gone)
    }

    /// The splitter was made anew; `tell` tells hooks of it.
    pub fn renew_splitter(&self, Splitter { near, far }: &Splitter, tell: Tell) {
        if let Some(ends) = &self.splitter {
            ends.renew(vec![near.clone(), far.clone()], tell);
        }
    }

    /// Whether one of these is an end of the line or the splitter.
    #[must_use]
    pub fn has_end_among(&self, interfaces: &BTreeSet<u32>) -> bool {
        [&self.ends, &self.splitter].into_iter().flatten().any(|ends| ends.are_among(interfaces))
    }

    /// What is lacking now, as of the last look.
    #[must_use]
    pub fn lacks(&self) -> Lacks {
        Lacks { line: self.no_line.clone(), splitter: self.without_splitter() }
    }

    /// Why packets cannot go through the splitter.
    fn without_splitter(&self) -> Option<String> {
        self.no_splitter.clone().or_else(|| self.splitter.as_ref()?.fault())
    }

    /// Packets that were lost at the device, or on the way into it or back: must stay 0. What the device itself has not counted, such as
    /// what a queue held that was removed, is there once it is settled.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        // The interface may be gone.
        let at_device = tap::dropped(line::NAME).unwrap_or_default();
        match (&self.stats, &self.queue) {
            (Some(stats), _) => (at_device + stats.write_failures.get()).max(self.settled()),
            // The table is there as long as this is. What the queue refuses has never been in the line.
            (None, Some(queue)) => {
                at_device.max(self.settled()) + queue.counters.refused().unwrap_or_default()
            }
            (None, None) => 0,
        }
    }

    /// Packets that the splitter has lost, where more came at once than the kernel lets wait for a veth pair's far end
    /// (`net.core.netdev_max_backlog`): must stay 0.
    #[must_use]
    pub fn splitter_dropped(&self) -> u64 {
        // None while it is gone; what it has lost was seen before.
        let now = tap::dropped(splitter::NEAR).unwrap_or_default();
        self.splitter_losses.lock().unwrap_or_else(PoisonError::into_inner).with(now)
    }

    /// Packets that were lost in the line and have been counted out of it: they take no room any more.
    #[must_use]
    pub fn settled(&self) -> u64 {
        match (&self.stats, &self.queue) {
            (Some(stats), _) => stats.settled.get(),
            // As above.
            (None, Some(queue)) => queue.counters.settled().unwrap_or_default(),
            (None, None) => 0,
        }
    }

    /// How the line is at `now_ns` (CLOCK_BOOTTIME).
    #[must_use]
    pub fn status(&self, now_ns: u64) -> EngineStatus {
        let kind = self.kind();
        if kind == Engine::None {
            return EngineStatus { message: self.no_line.clone(), ..EngineStatus::default() };
        }
        let late = self.late().ok().flatten();
        let late = |per_mille| late.as_ref()?.figures.quantile(per_mille).map(microseconds);
        let fault = self.ends.as_ref().and_then(Ends::fault);
        let no_splitter = self.without_splitter();
        let messages: Vec<&str> =
            [&fault, &no_splitter, &self.second_choice].into_iter().flatten().map(String::as_str).collect();
        EngineStatus {
            kind,
            state: if self.is_running(now_ns) { EngineState::Running } else { EngineState::Stalled },
            message: (!messages.is_empty()).then(|| messages.join("; ")),
            scheduling: self.stats.as_ref().and_then(|stats| stats.scheduling.get().copied()),
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
