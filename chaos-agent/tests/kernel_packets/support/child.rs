//! An agent in a process of its own, to be stopped and killed: the test program again, at the same story.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use edge_api::fault_profile::FaultProfile;
use fault_abi::key::Direction;
use fault_abi::verdict::{Effect, Verdict};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tied_child::Tie as _;

use super::agent::{Agent, Holds, Hooks};
use super::fault::Fault;
use super::space::Namespace;

/// Holds the child's [`Role`].
const ROLE: &str = "CHAOS_AGENT_STORY_ROLE";
/// Begins each line that is meant for the parent.
const ANSWER: &str = "story> ";

/// What a child does.
#[derive(Serialize, Deserialize)]
struct Role {
    node: String,
    hooks: Hooks,
    holds: Holds,
}

/// What it is told; it answers with what its kernel has counted by then.
#[derive(Serialize, Deserialize)]
enum Question {
    Count,
    Set(Vec<FaultProfile>),
}

/// What the child's kernel counted in a direction.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) last_seen_ns: u64,
    pub(crate) passed: u64,
    pub(crate) partitioned: u64,
    pub(crate) delayed: u64,
    pub(crate) stalled: u64,
    pub(crate) line_full: u64,
    /// Of the whole line: packets that were lost in it and have been counted out.
    pub(crate) settled: u64,
}

/// Plays the role, if this process has one, and then ends; to be called first in a story that has children.
pub(crate) fn play() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let role: Role = serde_json::from_str(&role).unwrap();
    let mut agent = Agent::start(&Namespace::open(&role.node), (role.hooks, role.holds));
    println!("\n{ANSWER}{}", agent.hooked().len());
    for question in std::io::stdin().lines().map_while(Result::ok) {
        if let Question::Set(profiles) = serde_json::from_str(&question).unwrap() {
            agent.set_objects(&profiles);
        }
        let counted = Direction::ALL.map(|direction| {
            let counter = agent.total(direction);
            Counted {
                last_seen_ns: counter.last_seen_ns,
                passed: counter.packets[Verdict::Pass as usize],
                partitioned: counter.packets[Verdict::Partition as usize],
                delayed: counter.effects[Effect::Delay as usize],
                stalled: counter.effects[Effect::Stalled as usize],
                line_full: counter.effects[Effect::LineFull as usize],
                settled: agent.line.settled(),
            }
        });
        println!("\n{ANSWER}{}", serde_json::to_string(&counted).unwrap());
    }
    std::process::exit(0);
}

/// Starts the test program again at `story`, with a variable set; it dies with this thread.
pub(crate) fn again<F: Fn()>(_story: F, variable: &str, value: &str) -> Child {
    // The test's name is its path without that of the crate.
    let name = std::any::type_name::<F>().split_once("::").unwrap().1;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(variable, value).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.tie(Signal::SIGKILL).spawn().unwrap()
}

/// The child; dropping it kills it, and so does the end of this process.
pub(crate) struct AgentProcess {
    process: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// Interfaces that it hooked.
    pub(crate) interfaces: usize,
}

impl AgentProcess {
    /// Starts `story` again as an agent, and waits until its hooks are in place.
    pub(crate) fn start(story: impl Fn(), node: &Namespace, hooks: Hooks) -> Self {
        Self::with(story, node, hooks, Holds::Best)
    }

    /// The same, with this engine.
    pub(crate) fn with(story: impl Fn(), node: &Namespace, hooks: Hooks, holds: Holds) -> Self {
        let role = Role { node: node.path(), hooks, holds };
        let mut process = again(story, ROLE, &serde_json::to_string(&role).unwrap());
        let questions = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut child = Self { process, questions, answers, interfaces: 0 };
        child.interfaces = child.answer().parse().unwrap();
        child
    }

    /// Replaces all profiles, and waits until their faults are in the kernel.
    pub(crate) fn set(&mut self, faults: &[Fault]) {
        self.ask(&Question::Set(faults.iter().map(Fault::object).collect()));
    }

    /// Asks for the counters of both directions.
    pub(crate) fn counted(&mut self) -> [Counted; 2] {
        self.ask(&Question::Count)
    }

    fn ask(&mut self, question: &Question) -> [Counted; 2] {
        writeln!(self.questions, "{}", serde_json::to_string(question).unwrap()).unwrap();
        serde_json::from_str(&self.answer()).unwrap()
    }

    fn answer(&mut self) -> String {
        for line in self.answers.by_ref() {
            if let Some(answer) = line.unwrap().strip_prefix(ANSWER) {
                return answer.to_owned();
            }
        }
        panic!("the agent's process has ended; its reason is above");
    }

    /// Stops it, and returns when it no longer runs.
    pub(crate) fn stop(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
        let status = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(status, WaitStatus::Stopped(..)), "{status:?}");
    }

    /// Lets it run again.
    pub(crate) fn go_on(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    /// Kills it; does not wait for its end.
    pub(crate) fn kill(&self) {
        kill(self.pid(), Signal::SIGKILL).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap())
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
