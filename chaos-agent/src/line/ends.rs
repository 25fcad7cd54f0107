//! Both ends of a line of the engine `fq`, which somebody may take down or remove. Packets would then vanish in it, and no thread
//! of the agent's would notice: so each look at the interfaces is a look at the ends, and as long as one is down or gone hooks
//! are told that there is no engine. They pass packets undelayed then, and count them.

use std::sync::{Mutex, PoisonError};

use fault_abi::line::KERNEL_LIVES;

use super::engine::Heartbeat;
use crate::kernel::Interface;
use crate::locate::Topology;

/// Shown to hooks as long as the line cannot carry packets: no sign of life.
const NONE: u64 = 0;

/// Why packets cannot go through a line with these ends; none: they can. `was_faulty`: they could not before. An end that comes
/// up again drops what is sent until the kernel has noticed its carrier; the new ends of a line that never failed have theirs, but
/// the kernel may tell that late.
fn fault(ends: &[Interface], topology: &Topology, was_faulty: bool) -> Option<String> {
    ends.iter().find_map(|end| match topology.links.get(&end.index) {
        None => Some(format!(
            "{} is gone, packets pass without their delay: start the agent again, which makes the line anew",
            end.name
        )),
        Some(link) if !link.is_up => {
            let name = &link.name;
            Some(format!("{name} is down, packets pass without their delay: `ip link set {name} up`"))
        }
        Some(link) if was_faulty && !link.is_running => {
            Some(format!("{} has no carrier yet, packets pass without their delay", link.name))
        }
        Some(_) => None,
    })
}

/// The ends, and whether hooks know the line as one that works.
pub struct Ends {
    interfaces: [Interface; 2],
    state: Mutex<State>,
}

struct State {
    sign: Heartbeat,
    fault: Option<String>,
}

impl Ends {
    /// Of a line that works; `sign` tells hooks so, now and whenever that changes.
    #[must_use]
    pub fn new(interfaces: [Interface; 2], mut sign: Heartbeat) -> Self {
        sign(KERNEL_LIVES);
        Self { interfaces, state: Mutex::new(State { sign, fault: None }) }
    }

    /// Tells hooks whether packets can go through the line, by the interfaces that there are.
    pub fn look(&self, topology: &Topology) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = fault(&self.interfaces, topology, state.fault.is_some());
        if now == state.fault {
            return;
        }
        match &now {
            Some(why) => tracing::warn!("the delay line: {why}"),
            None => tracing::info!("the delay line carries packets again"),
        }
        (state.sign)(if now.is_some() { NONE } else { KERNEL_LIVES });
        state.fault = now;
    }

    /// Why packets cannot go through the line, as of the last look; none: they can.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).fault.clone()
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

    fn topology(links: &[(u32, Flags)]) -> Topology {
        let link = |(is_up, is_running)| Link { is_up, is_running, ..Link::default() };
        let links = links.iter().map(|(index, flags)| (*index, link(*flags)));
        Topology { links: links.collect(), ..Topology::default() }
    }

    #[test]
    fn hooks_are_told_when_an_end_is_down_or_gone_and_when_both_carry_packets_again() {
        let signs: Arc<Mutex<Vec<u64>>> = Arc::default();
        let told = Arc::clone(&signs);
        let interfaces = [(7, "edo-line"), (8, "edo-line-end")]
            .map(|(index, name)| Interface { index, name: name.to_owned() });
        let ends = Ends::new(interfaces, Box::new(move |sign| told.lock().unwrap().push(sign)));
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
}
