//! The ends of a device behind the hooks, which somebody may take down or remove: of a line, and of the splitter. Packets would
//! then vanish in it, a partition that nobody asked for, and nothing of the agent's would notice: so each look at the interfaces is
//! a look at the ends, and as long as one is down or gone hooks are told that there is no such device. They pass packets
//! without it then, and count them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fault_abi::line::KERNEL_LIVES;

use super::engine::Heartbeat;
use crate::kernel::Interface;
use crate::locate::Topology;

/// Shown to hooks as long as the line cannot carry packets: no sign of life.
const NONE: u64 = 0;

/// Which device the ends are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The delay line.
    Line,
    /// The splitter.
    Splitter,
}

impl Device {
    const fn name(self) -> &'static str {
        match self {
            Self::Line => "the delay line",
            Self::Splitter => "the splitter",
        }
    }

    /// What becomes of packets without it.
    const fn meanwhile(self) -> &'static str {
        match self {
            Self::Line => "packets pass without their delay",
            Self::Splitter => "packets pass it by",
        }
    }

    /// What is done, or to be done, when it is gone. A line is not made anew: its engine has ended with it.
    const fn remedy(self) -> &'static str {
        match self {
            Self::Line => "start the agent again, which makes the delay line anew",
            Self::Splitter => "it is made anew within ten seconds, or the log says why not",
        }
    }

    /// Why packets cannot go through one with these ends; none: they can. `was_faulty`: they could not before. An end that comes
    /// up again drops what is sent until the kernel has noticed its carrier; the new ends of a device that never failed have theirs,
    /// but the kernel may tell that late.
    fn fault(self, ends: &[Interface], topology: &Topology, was_faulty: bool) -> Option<String> {
        let meanwhile = self.meanwhile();
        ends.iter().find_map(|end| match topology.links.get(&end.index) {
            None => Some(format!("{} is gone, {meanwhile}: {}", end.name, self.remedy())),
            Some(link) if !link.is_up => {
                let name = &link.name;
                Some(format!("{name} is down, {meanwhile}: `ip link set {name} up`"))
            }
            Some(link) if was_faulty && !link.is_running => {
                Some(format!("{} has no carrier yet, {meanwhile}", link.name))
            }
            Some(_) => None,
        })
    }
}

/// Tells hooks whether packets can go through a device.
pub type Tell = Box<dyn FnMut(bool) + Send>;

/// For a line of the engine `fq`, which needs no thread: it lives as long as its ends do.
#[must_use]
pub fn lasting(mut sign: Heartbeat) -> Tell {
    Box::new(move |carries| sign(if carries { KERNEL_LIVES } else { NONE }))
}

/// What an engine shows its life with, but for the time in which packets cannot get to it, and who says when that is.
#[must_use]
pub fn gated(sign: Heartbeat) -> (Heartbeat, Tell) {
    let gate = Arc::new(Mutex::new(Gate { sign, is_open: true, last_ns: NONE }));
    let of_engine = Arc::clone(&gate);
    let beat = move |now_ns| of_engine.lock().unwrap_or_else(PoisonError::into_inner).beat(now_ns);
    let tell = move |carries| gate.lock().unwrap_or_else(PoisonError::into_inner).open(carries);
    (Box::new(beat), Box::new(tell))
}

struct Gate {
    sign: Heartbeat,
    is_open: bool,
    /// The engine's last sign of life, seen by others or not.
    last_ns: u64,
}

impl Gate {
    fn beat(&mut self, now_ns: u64) {
        self.last_ns = now_ns;
        if self.is_open {
            (self.sign)(now_ns);
        }
    }

    fn open(&mut self, is_open: bool) {
        self.is_open = is_open;
        (self.sign)(if is_open { self.last_ns } else { NONE });
    }
}

/// The ends, and whether hooks know the device as one that works.
pub struct Ends {
    device: Device,
    state: Mutex<State>,
}

struct State {
    interfaces: Vec<Interface>,
    /// One of them is not there any more.
    is_gone: bool,
    tell: Tell,
    /// What the interfaces lack.
    shape: Option<String>,
    /// What the programs there do.
    lack: Option<String>,
    /// The first of both, as hooks were told.
    fault: Option<String>,
}

impl State {
    /// Tells hooks what has changed for them.
    fn settle(&mut self, device: Device) {
        let now = self.shape.clone().or_else(|| {
            let lack = self.lack.as_ref()?;
            Some(format!("{lack}, {}", device.meanwhile()))
        });
        if now == self.fault {
            return;
        }
        let device = device.name();
        match &now {
            Some(why) => tracing::warn!("{device}: {why}"),
            None => tracing::info!("{device} carries packets again"),
        }
        (self.tell)(now.is_none());
        self.fault = now;
    }
}

impl Ends {
    /// Of a device that works; `tell` tells hooks so, now and whenever that changes.
    #[must_use]
    pub fn new(device: Device, interfaces: Vec<Interface>, mut tell: Tell) -> Self {
        tell(true);
        let state = State { interfaces, is_gone: false, tell, shape: None, lack: None, fault: None };
        Self { device, state: Mutex::new(state) }
    }

    /// The device was made anew, and works; `tell` tells hooks of this one.
    pub fn renew(&self, interfaces: Vec<Interface>, mut tell: Tell) {
        tracing::info!("{} is made anew", self.device.name());
        let mut state = self.lock();
        tell(true);
        *state = State { interfaces, is_gone: false, tell, shape: None, lack: None, fault: None };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells hooks whether packets can go through the device, by the interfaces that there are.
    pub fn look(&self, topology: &Topology) {
        let mut state = self.lock();
        state.is_gone = state.interfaces.iter().any(|end| !topology.links.contains_key(&end.index));
        state.shape = self.device.fault(&state.interfaces, topology, state.shape.is_some());
        state.settle(self.device);
    }

    /// Tells hooks that packets cannot go through the device since its programs lack something, or that they no longer do.
    pub fn lack(&self, why: Option<String>) {
        let mut state = self.lock();
        state.lack = why;
        state.settle(self.device);
    }

    /// What its ends are, or were.
    #[must_use]
    pub fn interfaces(&self) -> Vec<Interface> {
        self.lock().interfaces.clone()
    }

    /// Whether one of these is an interface of the device.
    #[must_use]
    pub fn are_among(&self, interfaces: &BTreeSet<u32>) -> bool {
        self.lock().interfaces.iter().any(|end| interfaces.contains(&end.index))
    }

    /// Whether somebody has removed one of its interfaces, as of the last look.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.lock().is_gone
    }

    /// Why packets cannot go through it, as of the last look; none: they can.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.lock().fault.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::locate::Link;

    /// Up, and running.
    type Flags = (bool, bool);

    const DOWN: Flags = (false, false);
    const UP: Flags = (true, false);
    const RUNNING: Flags = (true, true);

    /// What hooks were told, and what tells them.
    fn signs() -> (Arc<Mutex<Vec<u64>>>, Heartbeat) {
        let signs: Arc<Mutex<Vec<u64>>> = Arc::default();
        let told = Arc::clone(&signs);
        (signs, Box::new(move |sign| told.lock().unwrap().push(sign)))
    }

    fn topology(links: &[(u32, Flags)]) -> Topology {
        let link = |(is_up, is_running)| Link { is_up, is_running, ..Link::default() };
        let links = links.iter().map(|(index, flags)| (*index, link(*flags)));
        Topology { links: links.collect(), ..Topology::default() }
    }

    #[test]
    fn hooks_are_told_when_an_end_is_down_or_gone_and_when_both_carry_packets_again() {
        let (signs, sign) = signs();
        let interfaces = [(7, "edo-line"), (8, "edo-line-end")]
            .map(|(index, name)| Interface { index, name: name.to_owned() });
        let ends = Ends::new(Device::Line, interfaces.into(), lasting(sign));
        let look = |links: &[(u32, Flags)]| {
            ends.look(&topology(links));
            (signs.lock().unwrap().drain(..).collect::<Vec<_>>(), ends.fault().unwrap_or_default())
        };
        let well = (Vec::new(), String::new());
        assert_eq!(look(&[(7, UP), (8, UP), (1, DOWN)]).0, [KERNEL_LIVES], "somebody else's may be down");
        for (links, sentence) in [
            ([(7, DOWN), (8, UP)], "is down"),
            ([(7, UP), (1, RUNNING)], "edo-line-end is gone"),
            ([(7, UP), (8, DOWN)], "is down"),
        ] {
            let (signs, why) = look(&links);
            assert_eq!(signs, [NONE], "{links:?}");
            assert!(why.contains(sentence), "{links:?}: {why}");
            assert!(look(&[(7, UP), (8, RUNNING)]).1.contains("no carrier yet"), "{links:?}");
            let running = [(7, RUNNING), (8, RUNNING)];
            assert_eq!(look(&running), (vec![KERNEL_LIVES], String::new()), "{links:?}");
            assert_eq!(look(&running), well, "nothing has changed");
        }
        assert_eq!(look(&[(7, UP), (8, UP)]), well, "what is told late is no failure");
    }

    #[test]
    fn hooks_are_told_as_long_as_a_program_at_an_end_is_missing_whatever_the_interfaces_are() {
        let (signs, sign) = signs();
        let near = Interface { index: 7, name: "edo-line".to_owned() };
        let ends = Ends::new(Device::Line, vec![near], lasting(sign));
        let told = || (signs.lock().unwrap().drain(..).collect::<Vec<_>>(), ends.fault().unwrap_or_default());
        assert_eq!(told(), (vec![KERNEL_LIVES], String::new()));
        ends.lack(Some("it has no program".to_owned()));
        let missing = "it has no program, packets pass without their delay".to_owned();
        assert_eq!(told(), (vec![NONE], missing.clone()));
        ends.look(&topology(&[(7, RUNNING)]));
        assert_eq!(told(), (Vec::new(), missing), "all interfaces are well");
        ends.look(&topology(&[(7, DOWN)]));
        assert!(told().1.contains("is down"), "that is to be mended first");
        ends.lack(None);
        assert!(told().1.contains("is down"));
        ends.look(&topology(&[(7, RUNNING)]));
        assert_eq!(told(), (vec![KERNEL_LIVES], String::new()));
        assert!(ends.are_among(&BTreeSet::from([3, 7])) && !ends.are_among(&BTreeSet::from([3])));
    }

    #[test]
    fn while_its_device_is_down_an_engine_that_lives_is_not_heard_and_then_at_once() {
        let (signs, sign) = signs();
        let (mut beat, tell) = gated(sign);
        let tap = Interface { index: 7, name: "edo-line".to_owned() };
        let ends = Ends::new(Device::Line, vec![tap], tell);
        let told = || signs.lock().unwrap().drain(..).collect::<Vec<_>>();
        assert_eq!(told(), [NONE], "it has not begun");
        beat(100);
        ends.look(&topology(&[(7, DOWN)]));
        beat(200);
        assert_eq!(told(), [100, NONE]);
        ends.look(&topology(&[(7, RUNNING)]));
        beat(300);
        assert_eq!(told(), [200, 300], "it was alive all the time");
    }

    #[test]
    fn a_splitter_that_is_gone_says_what_is_done_and_works_again_when_it_is_made_anew() {
        let told: Arc<Mutex<Vec<(u32, bool)>>> = Arc::default();
        let tell = |index| -> Tell {
            let told = Arc::clone(&told);
            Box::new(move |carries| told.lock().unwrap().push((index, carries)))
        };
        let near = |index| vec![Interface { index, name: "edo-split".to_owned() }];
        let ends = Ends::new(Device::Splitter, near(7), tell(7));
        assert!(!ends.is_gone());
        ends.look(&topology(&[]));
        assert_eq!(*told.lock().unwrap(), [(7, true), (7, false)]);
        assert!(ends.is_gone() && ends.fault().unwrap().contains("it is made anew"), "{:?}", ends.fault());
        ends.renew(near(9), tell(9));
        ends.look(&topology(&[(9, UP)]));
        assert!(!ends.is_gone() && ends.fault().is_none(), "{:?}", ends.fault());
        ends.look(&topology(&[(9, DOWN)]));
        assert_eq!(told.lock().unwrap()[2..], [(9, true), (9, false)], "the old one is never told of again");
    }
}
