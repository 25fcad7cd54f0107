//! The FaultNode's status, out of the picture and the kernel's counters. Pure; [`publish`] writes it.

pub mod gap;
pub mod publish;
pub mod strain;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use edge_api::fault_node::{
    ClockOffset, EnforcementGap, Engine, EngineState, EngineStatus, FaultNodeStatus, LimitStatus,
    ProfileOnNode,
};
use fault_abi::counter::{Counter, Global};
use fault_abi::key::Direction;
use fault_abi::verdict::{Effect, Verdict};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::kernel::hooks;
use crate::kernel::{Counters, KernelError};
use crate::table::Uid;
use crate::view::{MAX_PROFILES, ProfileView, StateView, View};
use strain::{Counts, Losses, Rising, Strain};

/// What the kernel's counters show of a profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The rules acted on packets: at least one met its fault.
    pub is_effective: bool,
    /// Super-packets were among the packets.
    pub has_super_packets: bool,
    /// What it meets that nobody asked for.
    pub strain: Option<Strain>,
    /// Packets of its targets outside the cluster pass, and their other end is this node by its own address, and never a peer
    /// that it names.
    pub meets_node_alone: bool,
}

/// Profiles with evidence so far. What was seen stays seen as long as the profile exists.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    effective: BTreeSet<Uid>,
    super_packets: BTreeSet<Uid>,
    /// Those whose targets outside met a peer that they name.
    met_peers: BTreeSet<Uid>,
    /// Those whose targets outside met this node where they name others.
    met_node: BTreeSet<Uid>,
    /// Those that acted at the last look: a last one shows what they did until they ended.
    acting: BTreeSet<Uid>,
    /// Super-packets of the whole node at the last look.
    node_super_packets: u64,
    /// What the whole node counts of each strain.
    node_strained: Counts,
    /// By profile: what is counted of each strain.
    strained: [Rising; Strain::COUNTED.len()],
    /// By profile that delays: packets that the line's device has lost.
    drops: Losses,
    /// By profile that acts: packets that the splitter has lost.
    splitter_drops: Losses,
    /// When the last look was.
    at: Option<Instant>,
}

/// When a look is taken, and what it takes in beside the counters.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The time.
    pub now: Instant,
    /// Packets that the delay line's device has lost since it is there.
    pub line_dropped: u64,
    /// Those that the splitter has lost.
    pub splitter_dropped: u64,
}

impl Seen {
    /// Takes over what an agent before this one has seen.
    pub fn resume(&mut self, old: &FaultNodeStatus) {
        let effective = old.profiles.iter().filter(|one| one.effective);
        self.effective.extend(effective.map(|one| Uid::from(one.uid.as_str())));
    }

    /// Looks at the counters of acting profiles without evidence, and forgets profiles that are gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn look(&mut self, view: &View, counters: &dyn Counters, moment: Moment) -> Result<(), KernelError> {
        let told = view.profiles.iter().map(|profile| &profile.uid);
        let exist: BTreeSet<&Uid> = told.chain(view.states.iter().map(|state| &state.uid)).collect();
        for seen in [&mut self.effective, &mut self.super_packets, &mut self.met_peers, &mut self.met_node] {
            seen.retain(|uid| exist.contains(uid));
        }
        let acting: BTreeSet<Uid> =
            view.profiles.iter().filter(|one| one.is_acting).map(|one| one.uid.clone()).collect();
        let node_super_packets = counters.global(Global::GsoFrames)?;
        let has_moved = node_super_packets != self.node_super_packets;
        let mut node_strained = Counts::default();
        for (count, strain) in node_strained.iter_mut().zip(Strain::COUNTED) {
            *count = strain.event().map(|event| counters.global(event)).transpose()?.unwrap_or_default();
        }
        let is_strained = node_strained != self.node_strained;
        let mut strained: BTreeMap<&Uid, Counts> = BTreeMap::new();
        for state in &view.states {
            let is_awaited = |seen: &BTreeSet<Uid>| !seen.contains(&state.uid);
            let has_acted = acting.contains(&state.uid) || self.acting.contains(&state.uid);
            let is_by_peers = view.peers_outside.contains(&state.state);
            let asks = is_awaited(&self.effective)
                || has_moved && is_awaited(&self.super_packets)
                || is_strained
                || is_by_peers && is_awaited(&self.met_peers);
            if !has_acted || !asks {
                continue;
            }
            for direction in Direction::ALL {
                let counter = counters.counter(state.state, direction)?.unwrap_or_default();
                self.take(state, &counter, is_by_peers);
                let counts = strained.entry(&state.uid).or_default();
                for (count, strain) in counts.iter_mut().zip(Strain::COUNTED) {
                    *count += strain.count(&counter);
                }
            }
        }
        for (uid, counts) in strained.into_iter().filter(|_| is_strained) {
            for (rising, count) in self.strained.iter_mut().zip(counts) {
                rising.take(uid, count, moment.now);
            }
        }
        self.look_at_devices(view, moment);
        for rising in &mut self.strained {
            rising.retain(&exist);
        }
        (self.acting, self.node_super_packets, self.node_strained) =
            (acting, node_super_packets, node_strained);
        Ok(())
    }

    /// Takes in what a profile's counter on a target shows.
    fn take(&mut self, state: &StateView, counter: &Counter, is_by_peers: bool) {
        if acted_on(counter) > 0 {
            self.effective.insert(state.uid.clone());
        }
        if counter.gso_frames > 0 {
            self.super_packets.insert(state.uid.clone());
        }
        if is_by_peers && counter.seen() > 0 {
            self.met_peers.insert(state.uid.clone());
        }
        if is_by_peers && counter.node_misses > 0 {
            self.met_node.insert(state.uid.clone());
        }
    }

    /// Neither device says whose packets it loses: all that send some there now may have lost them. Super-packets of any profile may pass the
    /// splitter.
    fn look_at_devices(&mut self, view: &View, moment: Moment) {
        let acting = || view.profiles.iter().filter(|one| one.is_acting);
        let delaying = acting().filter(|one| one.delays()).map(|one| &one.uid).collect();
        self.drops.take(&delaying, moment.line_dropped, moment.now);
        let acting = acting().map(|one| &one.uid).collect();
        self.splitter_drops.take(&acting, moment.splitter_dropped, moment.now);
        self.at = Some(moment.now);
    }

    fn strain(&self, uid: &Uid) -> Option<Strain> {
        let now = self.at?;
        let lost = [(&self.drops.of, Strain::Drops), (&self.splitter_drops.of, Strain::SplitterDrops)];
        let mut all = lost.into_iter().chain(self.strained.iter().zip(Strain::COUNTED));
        all.find(|(rising, _)| rising.lasts(uid, now)).map(|(_, strain)| strain)
    }

    fn of(&self, uid: &Uid) -> Evidence {
        Evidence {
            is_effective: self.effective.contains(uid),
            has_super_packets: self.super_packets.contains(uid),
            strain: self.strain(uid),
            meets_node_alone: self.met_node.contains(uid) && !self.met_peers.contains(uid),
        }
    }
}

/// Packets that a rule did something to.
fn acted_on(counter: &Counter) -> u64 {
    let dropping = Verdict::ALL.into_iter().filter(|verdict| verdict.drops());
    let dropped = dropping.filter_map(|verdict| counter.packets.get(verdict as usize));
    let asked = Effect::ALL.into_iter().filter(|effect| effect.is_asked());
    dropped.chain(asked.filter_map(|effect| counter.effects.get(effect as usize))).sum()
}

/// What the status says apart from the picture.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`.
    pub kernel: String,
    /// The API server's time.
    pub server_time: Timestamp,
    /// The clock, where known.
    pub clock_offset: Option<ClockOffset>,
    /// When hooks and rules were first all in the kernel.
    pub installed_at: Option<Timestamp>,
    /// The time without faults before this agent.
    pub gap: Option<EnforcementGap>,
    /// The delay line.
    pub engine: EngineStatus,
    /// How full it is.
    pub line: Vec<LimitStatus>,
}

/// Makes the status.
#[must_use]
pub fn make(view: &View, seen: &Seen, facts: &Facts) -> FaultNodeStatus {
    let of_node = view.has_unprotected.then_some(Strain::Unprotected);
    let evidence = |uid: &Uid| {
        let evidence = seen.of(uid);
        Evidence { strain: evidence.strain.or(of_node), ..evidence }
    };
    FaultNodeStatus {
        renewed_at: Some(MicroTime(facts.server_time)),
        installed_at: facts.installed_at.map(MicroTime),
        stopped_at: None,
        gap: facts.gap.clone(),
        engine: facts.engine.clone(),
        hooks: hooks::statuses(&view.hooked),
        limits: view.limits.iter().chain(&facts.line).cloned().collect(),
        kernel: facts.kernel.clone(),
        clock_offset: facts.clock_offset,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        profiles: told(view).map(|one| entry(one, evidence(&one.uid), &facts.engine)).collect(),
    }
}

/// The profiles that are told, in their order.
fn told(view: &View) -> impl Iterator<Item = &ProfileView> {
    let acting = view.profiles.iter().filter(|one| one.is_acting).count();
    let mut room = usize::try_from(MAX_PROFILES).unwrap_or(usize::MAX);
    let mut room_for_others = room.saturating_sub(acting);
    view.profiles.iter().filter(move |one| {
        let left = if one.is_acting { &mut room } else { &mut room_for_others };
        let is_told = *left > 0;
        *left = left.saturating_sub(1);
        is_told
    })
}

/// What to know of a profile that is well.
const SUPER_PACKETS: &str = "super-packets (GSO) of TCP count once, with one fate for all their segments";
/// What the counters show, and the two reasons that there are for it.
const MASQUERADED: &str = "packets pass between targets outside the cluster and this node's own address, and none with a peer that match.peers names: where this node masquerades what pods send out, name its address as a peer, too; else it is that only the node itself has talked to them so far";

fn entry(view: &ProfileView, evidence: Evidence, engine: &EngineStatus) -> ProfileOnNode {
    let delays = view.is_acting && view.delays();
    let is_stalled = delays && engine.state == EngineState::Stalled;
    let stalled = || {
        let line = match engine.kind {
            Engine::Fq => {
                "an end of the delay line is down or gone (status.engine says which): packets pass without their delay"
            }
            _ => {
                "the delay line's engine has not been heard for 500 ms, or its interface is down or gone (status.engine says which): packets pass without their delay"
            }
        };
        (Some("EngineStalled"), line.to_owned())
    };
    let trouble = view.trouble.clone().map(|(reason, sentence)| (Some(reason), sentence));
    let is_masqueraded = view.is_acting && evidence.meets_node_alone;
    let masqueraded = || is_masqueraded.then(|| (Some("PeersMasqueraded"), MASQUERADED.to_owned()));
    let strain = evidence.strain.filter(|_| view.is_acting).map(Strain::told);
    let told = match (strain, trouble) {
        // What this node has no way to may well be another one's work.
        (Some((reason, line)), Some((Some("NoRoute"), besides)))
            if !is_stalled && view.holds_what_it_can() =>
        {
            Some((Some(reason), format!("{line}; besides, {besides}")))
        }
        (_, trouble) => is_stalled.then(stalled).or(trouble).or_else(masqueraded),
    };
    let strain = || strain.map(|(reason, line)| (Some(reason), line.to_owned()));
    let remark = || evidence.has_super_packets.then(|| (None, SUPER_PACKETS.to_owned()));
    let (reason, message) = told.or_else(strain).or_else(remark).unzip();
    let enforced = |count: u32| if is_stalled { 0 } else { count };
    ProfileOnNode {
        namespace: view.name.namespace.clone(),
        name: view.name.name.clone(),
        uid: view.uid.to_string(),
        observed_generation: view.generation,
        targets: view.local.0,
        enforced: enforced(view.local.1),
        external_targets: view.external.0,
        external_enforced: if is_masqueraded { 0 } else { enforced(view.external.1) },
        engine: if delays { engine.kind } else { Engine::None },
        hooks: view.hooks.iter().copied().collect(),
        installed: view.is_installed(),
        effective: evidence.is_effective,
        reason: reason.flatten().map(str::to_owned),
        message: message.as_deref().map(cut),
    }
}

/// At most as long as the schema allows.
fn cut(sentence: &str) -> String {
    const LONGEST: usize = 1000;
    sentence.chars().take(LONGEST).collect()
}

/// Whether two statuses differ in more than what every heartbeat brings.
#[must_use]
pub fn differs(old: &FaultNodeStatus, new: &FaultNodeStatus) -> bool {
    let bare = |status: &FaultNodeStatus| FaultNodeStatus {
        renewed_at: None,
        limits: Vec::new(),
        clock_offset: None,
        engine: EngineStatus { lateness: None, dropped: 0, ..status.engine.clone() },
        ..status.clone()
    };
    bare(old) != bare(new)
}
#[cfg(test)]
mod tests;
