//! Runs the phases on a cluster where everything is ready: declares, applies, watches, and hands what it saw to
//! [`super::measure`]. Decides nothing about the result.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use edge_api::{Device, DevicePhase, FaultPhase, FaultProfile};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::install::DEVICES;
use super::leader::{self, Succession, Weapon};
use super::measure::{self, Span, packets, whole};
use super::prometheus::Prometheus;
use super::rollout::{self, Rollout, Watched};
use super::timeline::{Ends, Phase};
use super::view::{Moment, View};
use crate::{interrupt, wait};

/// How often devices are listed and counters read.
const TICK: Duration = Duration::from_millis(500);
/// A profile is accepted, or refused, within this; and over so long after its duration.
const SLACK: Duration = Duration::from_secs(15);
/// All devices must stay in sync for so long.
const HOLD: Duration = Duration::from_secs(3);

/// A run under way.
pub struct Experiment {
    client: Client,
    prometheus: Prometheus,
    /// How many devices there are.
    total: u32,
    seed: u64,
    clock: Clock,
    view: View,
    /// All of them, in their order.
    rollouts: Vec<Watched>,
    firmware: &'static str,
    /// When the first phase began, Unix seconds.
    zero: f64,
    weapon: Weapon,
    /// When the leader was killed, Unix seconds.
    killed: Option<f64>,
    /// What comes of that.
    succession: JoinSet<Result<Succession>>,
}

/// What a run was.
pub struct Run {
    /// Its phases.
    pub spans: Vec<Span>,
    /// What was rolled out.
    pub rollouts: Vec<Watched>,
    /// When Prometheus had seen all of it, Unix seconds.
    pub end: f64,
    /// When the leader was killed, Unix seconds, and what came of it.
    pub succession: Option<(f64, Succession)>,
    /// How often the holder of the operator's Lease changed.
    pub changes: u32,
}

/// Prometheus' time, so that this machine's clock and the cluster's may differ.
#[derive(Clone, Copy)]
struct Clock {
    at: f64,
    read: Instant,
}

impl Clock {
    fn now(&self) -> f64 {
        self.at + self.read.elapsed().as_secs_f64()
    }
}

/// What became of all devices at one moment.
struct Seen {
    phases: BTreeMap<String, u32>,
    in_sync: u32,
}

impl Experiment {
    /// Prepares a run, in which the leading operator is killed with `weapon`.
    ///
    /// # Errors
    /// When Prometheus cannot be asked.
    pub async fn new(client: Client, total: u32, seed: u64, weapon: Weapon) -> Result<Self> {
        let prometheus = Prometheus::new(client.clone());
        let clock = Clock { at: prometheus.now().await?, read: Instant::now() };
        Ok(Self {
            client,
            prometheus,
            total,
            seed,
            zero: clock.now(),
            clock,
            view: View::start(),
            rollouts: Vec::new(),
            firmware: "",
            weapon,
            killed: None,
            succession: JoinSet::new(),
        })
    }

    /// Runs the phases, one after the other, and waits until Prometheus has seen the last one's end.
    ///
    /// # Errors
    /// When a profile is refused, the API server or Prometheus cannot be asked, nobody follows a killed leader, or on Ctrl-C.
    pub async fn run(mut self, phases: Vec<Phase>) -> Result<Run> {
        let first = leader::holder(&self.client).await?;
        self.zero = self.clock.now();
        let mut spans = Vec::new();
        for phase in phases {
            self.view.say(&format!(
                "{:>6.1} s  {}: {}",
                self.clock.now() - self.zero,
                phase.name,
                phase.title
            ));
            let earlier = spans.last().map(|span: &Span| span.to);
            spans.push(self.phase(phase, earlier).await?);
        }
        let end = self.clock.now();
        let scraped = wait::until_async("the last scrape", SLACK, TICK, async || {
            let last = self.prometheus.sum("min(timestamp(edge_devices))", self.clock.now()).await?;
            Ok((last >= end).then_some(()))
        });
        scraped.await.context(
            "Prometheus scrapes the operator no more; `kubectl -n edge-system get pods` shows why",
        )?;
        let came = match self.succession.join_next().await {
            Some(came) => Some(came.context("waiting for the next leader")??),
            None => None,
        };
        let succession = self.killed.zip(came);
        let changes = leader::holder(&self.client).await?.transitions.saturating_sub(first.transitions);
        Ok(Run { spans, rollouts: self.rollouts, end, succession, changes })
    }

    /// Kills the leader when its time has come, once, and goes on meanwhile.
    fn kill_leader(&mut self, phase: &Phase, spent: Duration) {
        if self.killed.is_none() && phase.kills_leader.is_some_and(|after| spent >= after) {
            self.succession.spawn(leader::kill(self.client.clone(), self.weapon.clone()));
            self.killed = Some(self.clock.now());
            self.view.say(&format!(
                "{:>6.1} s  {}: the leading operator is killed",
                self.clock.now() - self.zero,
                phase.name
            ));
        }
    }

    /// Runs one phase. It begins where the one before ended, or with its profile.
    async fn phase(&mut self, phase: Phase, earlier: Option<f64>) -> Result<Span> {
        let mut from = earlier.unwrap_or_else(|| self.clock.now());
        if let Some(profile) = phase.profile(self.seed) {
            self.start(profile).await?;
            from = self.clock.now();
        }
        if let Some(rollout) = phase.rollout {
            self.begin(rollout).await?;
        }
        let mut convergence = Convergence::default();
        loop {
            interrupt::check()?;
            let seen = self.devices().await?;
            let now = self.clock.now();
            let spent = Duration::from_secs_f64((now - from).max(0.0));
            self.watch_rollout(now).await?;
            convergence.see(spent, seen.in_sync == self.total);
            self.kill_leader(&phase, spent);
            // A query that fails costs one picture, not the run.
            if let Ok(moment) = self.moment(&phase, now, &seen).await {
                self.view.show(&moment);
            }
            let over = match phase.ends {
                Ends::WithFault(length) => self.expired(phase.name, spent, length).await?,
                Ends::InSync(limit) => convergence.held(spent) >= HOLD || spent >= limit,
            };
            if over {
                let converged_after = convergence.after.map(|after| after.as_secs_f64());
                return Ok(Span {
                    phase,
                    from,
                    to: self.clock.now(),
                    in_sync: seen.in_sync,
                    converged_after,
                });
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Begins a rollout; one before it that has not ended goes on as a part of it.
    async fn begin(&mut self, rollout: Rollout) -> Result<()> {
        self.firmware = rollout.firmware;
        let generation = rollout::begin(&self.client, rollout, self.total).await?;
        self.rollouts.push(Watched::begins(rollout, generation, self.clock.now()));
        Ok(())
    }

    async fn watch_rollout(&mut self, now: f64) -> Result<()> {
        let Some(watched) = self.rollouts.last_mut() else { return Ok(()) };
        if let Some(status) = rollout::status(&self.client).await? {
            watched.see(now, &status);
        }
        Ok(())
    }

    /// Creates a profile, instead of one of an earlier run, and waits until it has started.
    async fn start(&self, profile: FaultProfile) -> Result<()> {
        let api = Api::<FaultProfile>::namespaced(self.client.clone(), DEVICES);
        let name = profile.metadata.name.clone().unwrap_or_default();
        if api.get_opt(&name).await.context("asking for an earlier FaultProfile")?.is_some() {
            api.delete(&name, &DeleteParams::default()).await.context("deleting an earlier FaultProfile")?;
        }
        api.create(&PostParams::default(), &profile)
            .await
            .with_context(|| format!("creating the FaultProfile {name}"))?;
        let mut told = String::new();
        let started = wait::until_async("its start", SLACK, TICK / 10, async || {
            let status =
                api.get_status(&name).await.context("asking for a FaultProfile")?.status.unwrap_or_default();
            let said = status.conditions.iter().map(|c| format!("; {}: {}", c.type_, c.message));
            told = format!("it is {}{}", status.phase.as_str(), said.collect::<String>());
            if status.phase == FaultPhase::Rejected {
                bail!("it was rejected");
            }
            Ok(status.started_at.map(drop))
        });
        let started = started.await;
        started.with_context(|| format!("the FaultProfile {name} did not start; {told}"))
    }

    async fn expired(&self, name: &str, spent: Duration, length: Duration) -> Result<bool> {
        if spent < length {
            return Ok(false);
        }
        let api = Api::<FaultProfile>::namespaced(self.client.clone(), DEVICES);
        let status =
            api.get_status(name).await.context("asking for a FaultProfile")?.status.unwrap_or_default();
        is_over(name, status.phase, spent, length)
    }

    async fn devices(&self) -> Result<Seen> {
        let api = Api::<Device>::namespaced(self.client.clone(), DEVICES);
        let devices = api.list(&ListParams::default()).await.context("listing the Devices")?.items;
        let mut seen = Seen { phases: BTreeMap::new(), in_sync: 0 };
        for device in devices {
            let status = device.status.clone().unwrap_or_default();
            *seen.phases.entry(status.phase.as_str().to_owned()).or_default() += 1;
            let current = status.observed_generation == device.metadata.generation;
            let running = status.reported.and_then(|reported| reported.firmware);
            let in_sync = status.phase == DevicePhase::InSync && current;
            seen.in_sync += u32::from(in_sync && running.as_deref() == Some(self.firmware));
        }
        Ok(seen)
    }

    async fn moment(&self, phase: &Phase, now: f64, seen: &Seen) -> Result<Moment> {
        let mut counted = BTreeMap::new();
        if phase.fault.is_some() {
            for direction in ["ToDevice", "FromDevice"] {
                let all = self.prometheus.sum(&packets(phase.name, direction, false), now).await?;
                let lost = self.prometheus.sum(&packets(phase.name, direction, true), now).await?;
                counted.insert(direction.to_owned(), (whole(all), whole(lost)));
            }
        }
        let ask = async |query: &str| self.prometheus.sum(query, now).await;
        let unanswered = whole(ask(&measure::sends("unanswered")).await?);
        let answered = whole(ask(&measure::sends("answered")).await?);
        Ok(Moment {
            seconds: now - self.zero,
            title: phase.title.to_owned(),
            devices: seen.phases.clone(),
            in_sync: seen.in_sync,
            total: self.total,
            rollout: self.rollouts.last().map(Watched::line),
            packets: counted,
            sends: (unanswered + answered, unanswered),
            retransmissions: whole(ask(&measure::retransmissions()).await?),
            queue: whole(ask("max(workqueue_depth)").await?),
            unconverged: ask("max(edge_device_unconverged_seconds)").await?,
        })
    }
}

/// Whether a profile of this length has ended, `spent` after its start. However late one looks, an end is an end.
fn is_over(name: &str, phase: FaultPhase, spent: Duration, length: Duration) -> Result<bool> {
    if phase == FaultPhase::Expired {
        return Ok(true);
    }
    if spent > length + SLACK {
        bail!("the FaultProfile {name} is {} {} s after its start", phase.as_str(), spent.as_secs());
    }
    Ok(false)
}

/// When all devices came in sync, and for how long they are.
#[derive(Default)]
struct Convergence {
    /// Not all were in sync at some moment, so that there was something to converge to.
    disturbed: bool,
    /// The first moment after that when all were.
    after: Option<Duration>,
    /// Since when all have been without a break.
    since: Option<Duration>,
}

impl Convergence {
    fn see(&mut self, at: Duration, all: bool) {
        self.disturbed |= !all;
        if !all {
            self.since = None;
            return;
        }
        self.since = self.since.or(Some(at));
        if self.disturbed {
            self.after = self.after.or(Some(at));
        }
    }

    /// How long all have been in sync at `now`.
    fn held(&self, now: Duration) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_profile_that_ended_is_over_however_late_one_looks_and_one_that_did_not_end_is_an_error() {
        assert!(is_over("loss", FaultPhase::Expired, at(99), at(20)).unwrap());
        assert!(!is_over("loss", FaultPhase::Active, at(21), at(20)).unwrap());
        assert!(is_over("loss", FaultPhase::Active, at(99), at(20)).is_err());
    }

    #[test]
    fn devices_have_converged_when_all_are_in_sync_for_the_first_time() {
        let mut convergence = Convergence::default();
        for (second, all) in [(0, false), (2, true), (3, false), (5, true), (8, true)] {
            convergence.see(at(second), all);
        }
        assert_eq!(convergence.after, Some(at(2)));
        assert_eq!(convergence.held(at(8)), at(3), "and they are held to it anew after each break");
    }

    #[test]
    fn who_was_in_sync_all_the_time_did_not_converge() {
        let mut convergence = Convergence::default();
        convergence.see(at(0), true);
        convergence.see(at(9), true);
        assert_eq!(convergence.after, None);
        assert_eq!(convergence.held(at(9)), at(9));
    }

    #[test]
    fn who_falls_out_of_sync_and_stays_so_did_not_converge() {
        let mut convergence = Convergence::default();
        convergence.see(at(0), true);
        convergence.see(at(1), false);
        assert_eq!(convergence.after, None);
        assert_eq!(convergence.held(at(2)), Duration::ZERO);
    }
}
