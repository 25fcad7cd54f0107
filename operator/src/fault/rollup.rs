//! Rolls up the agents' words on one profile: how many of its targets kernels hold, and what is wrong where.

use std::fmt::Write as _;

use edge_api::condition::reasons::STRAINED;
use edge_api::{NodeProblem, ProfileOnNode};
use tokio::time::Instant;

use super::agents::{Agents, Word};
use super::choice::Chosen;

/// An agent is needed that does not live.
pub(crate) const AGENT_LOST: &str = "AgentLost";
/// An agent lives and does not speak of the profile, for too long.
const NO_ANSWER: &str = "NoAnswer";
/// An agent holds fewer rules than it should and does not say why.
const NOT_INSTALLED: &str = "NotInstalled";

/// All agents' words on one profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RollUp {
    /// Chosen targets with rules in a kernel.
    pub(crate) enforced: u32,
    /// Chosen targets without.
    pub(crate) missing: u32,
    /// Some kernel's counters show that the rules acted on packets.
    pub(crate) effective: bool,
    /// Nodes with a problem that waiting will not solve, in order of name.
    pub(crate) problems: Vec<NodeProblem>,
    /// Nodes whose agents have not caught up, in order of name.
    pub(crate) waiting: Vec<NodeProblem>,
    /// Among the problems that keep targets without rules: is there a lost agent?
    pub(crate) lost: bool,
    /// … and one that an agent gave a reason for? The first one.
    pub(crate) refused: Option<NodeProblem>,
    /// Packets of targets with rules meet what nobody asked for: a limit of a node's, say. The first one.
    pub(crate) strained: Option<NodeProblem>,
}

/// Which words count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// The profile's uid.
    pub(crate) uid: &'a str,
    /// The generation that agents must speak of; none: whatever they hold counts, as when faults are being lifted.
    pub(crate) generation: Option<i64>,
}

/// Rolls up. A target outside the cluster is enforced when one node enforces it, so the largest number counts.
pub(crate) fn roll_up(chosen: &Chosen, agents: &Agents, subject: Subject<'_>, now: Instant) -> RollUp {
    let mut sum = RollUp::default();
    let word = |node: &str| agents.word(node, subject.uid, subject.generation, now);
    let outside = agents
        .nodes()
        .filter_map(|node| match word(node) {
            Word::Says(entry) => Some(held(entry).1),
            _ => None,
        })
        .max()
        .unwrap_or(0);
    let missing_outside = chosen.external.saturating_sub(outside);
    sum.missing = missing_outside;
    let mut nodes: Vec<&str> = agents.nodes().chain(chosen.on.keys().map(String::as_str)).collect();
    nodes.sort_unstable();
    nodes.dedup();
    for node in nodes {
        let here = chosen.on.get(node).copied().unwrap_or(0);
        sum.add(node, word(node), here, missing_outside);
    }
    if missing_outside > 0 && agents.nodes().next().is_none() {
        sum.lose("*", "no agent reports from any node: is the chaos-agent DaemonSet there?".to_owned());
    }
    sum.enforced = chosen.total.saturating_sub(sum.missing);
    sum
}

impl RollUp {
    /// Adds one node that shall hold rules for `here` targets of its own, and for those outside that nobody holds.
    fn add(&mut self, node: &str, word: Word<'_>, here: u32, missing_outside: u32) {
        let needed = here > 0 || missing_outside > 0;
        match word {
            Word::NoAgent if here > 0 => {
                self.missing += here;
                self.lose(node, format!("no agent reports from {node}: is a chaos-agent pod running there?"));
            }
            Word::Lost { since } if needed => {
                self.missing += here;
                let since = since.map_or_else(|| "ever".to_owned(), |at| format!("since {at:.0}"));
                let message = format!(
                    "the agent of {node} has not been heard {since}: look at its pod, and at the node"
                );
                self.lose(node, message);
            }
            Word::Silent if needed => {
                self.missing += here;
                let message =
                    format!("the agent of {node} lives and has not spoken of this profile's generation");
                self.waiting.push(problem(node, NO_ANSWER, message));
            }
            Word::Says(entry) => self.hear(node, entry, here, missing_outside),
            Word::NoAgent | Word::Lost { .. } | Word::Silent => {}
        }
    }

    fn hear(&mut self, node: &str, entry: &ProfileOnNode, here: u32, missing_outside: u32) {
        self.effective |= entry.effective;
        let (enforced, external_enforced) = held(entry);
        let missing_here = here.saturating_sub(enforced);
        self.missing += missing_here;
        let lacks = missing_here > 0 || missing_outside > 0;
        // Without a route to what another node enforces all is well.
        let only_outside = enforced >= entry.targets && external_enforced < entry.external_targets;
        match &entry.reason {
            Some(reason) if STRAINED.contains(&reason.as_str()) => {
                let problem = problem(node, reason, entry.message.clone().unwrap_or_default());
                self.strained.get_or_insert_with(|| problem.clone());
                self.problems.push(problem);
            }
            Some(_) if !lacks && only_outside => {}
            Some(reason) => {
                let problem = problem(node, reason, entry.message.clone().unwrap_or_default());
                if lacks {
                    self.refused.get_or_insert_with(|| problem.clone());
                }
                self.problems.push(problem);
            }
            None if missing_here > 0 => {
                let message =
                    format!("{missing_here} of {here} targets on {node} have no rules in its kernel yet");
                self.waiting.push(problem(node, NOT_INSTALLED, message));
            }
            None => {}
        }
    }

    fn lose(&mut self, node: &str, message: String) {
        self.lost = true;
        self.problems.push(problem(node, AGENT_LOST, message));
    }

    /// The problems as one line: the first, and how many more.
    pub(crate) fn summary(&self) -> String {
        let mut problems = self.problems.iter().chain(&self.waiting);
        let Some(first) = problems.next() else { return String::new() };
        let mut line = format!("{}: {}", first.name, first.message);
        match problems.count() {
            0 => {}
            more => drop(write!(line, " (and {more} more nodes, see status.nodes)")),
        }
        line
    }
}

/// Its own targets and those outside that the kernel holds: none, as long as the agent does not say `installed`.
fn held(entry: &ProfileOnNode) -> (u32, u32) {
    if entry.installed { (entry.enforced, entry.external_enforced) } else { (0, 0) }
}

fn problem(node: &str, state: &str, message: String) -> NodeProblem {
    NodeProblem { name: node.to_owned(), state: state.to_owned(), message }
}
