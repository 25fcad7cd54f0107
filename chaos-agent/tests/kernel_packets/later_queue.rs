//! The delay line of the engine `fq`, beside netem and without its agent. All of it is in a module of that name, which is
//! skipped where the kernel has no such queue.

mod fq {
    use std::collections::BTreeMap;
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    use fault_abi::counter::Global;
    use fault_abi::key::Direction;
    use fault_abi::line::{Held, STALLED_NS};
    use fault_abi::verdict::Effect;
    use nix::sys::socket::{setsockopt, sockopt};
    use serde_json::json;

    use crate::later::is_held;
    use crate::support::agent::{Agent, Holds, Hooks, sweep};
    use crate::support::child::{AgentProcess, play};
    use crate::support::fault::Fault;
    use crate::support::space::Namespace;
    use crate::support::stage::{ETH, Family, Stage, TO_DEVICE};
    use crate::support::time::{Beat, boot_ns, eventually, ms, wall};
    use crate::support::traffic::End;

    fn delay(milliseconds: u64) -> Fault {
        let faults = json!({"delay": {"time": format!("{milliseconds}ms")}});
        Fault::new("later", faults).on(&[Family::V4.host(1, 2)])
    }

    /// Packets that were sent, and came, by number.
    #[derive(Default)]
    struct Traffic {
        sent_ns: BTreeMap<u32, u64>,
        came_ns: BTreeMap<u32, u64>,
    }

    impl Traffic {
        /// Sends every two milliseconds until then.
        fn send_until(&mut self, end_ns: u64, from: &End, to: &End) {
            let mut beat = Beat::new(Duration::from_millis(2));
            while boot_ns() < end_ns {
                let number = u32::try_from(self.sent_ns.len()).unwrap();
                self.sent_ns.insert(number, boot_ns());
                from.send(to, number).unwrap();
                self.take(to);
                beat.wait();
            }
        }

        fn take(&mut self, to: &End) {
            let numbers = to.take();
            let now = boot_ns();
            self.came_ns.extend(numbers.into_iter().map(|number| (number, now)));
        }

        /// Waits until all have come, each so late at least.
        fn all_come(&mut self, to: &End, delay_ns: u64) {
            let all = || {
                self.take(to);
                (self.came_ns.len() == self.sent_ns.len()).then_some(())
            };
            eventually(all, || "packets are lost".to_owned());
            for (number, came) in &self.came_ns {
                let took = came - self.sent_ns[number];
                assert!(is_held(took, delay_ns), "packet {number} took {took} ns");
            }
        }
    }

    #[test]
    #[ignore = "kernel rung: needs root, the eBPF object and the kernel's queue fq"]
    fn a_stopped_agent_goes_on_delaying_since_the_kernel_does() {
        play();
        let story = a_stopped_agent_goes_on_delaying_since_the_kernel_does;
        let stage = Stage::new();
        let mut agent = AgentProcess::with(story, &stage.node, Hooks::Tcx, Holds::Fq);
        let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
        agent.set(&[delay(50)]);
        agent.stop();
        let mut traffic = Traffic::default();
        // Twice as long as an engine that lives in the agent may be silent.
        traffic.send_until(boot_ns() + 2 * STALLED_NS, &device, &peer);
        traffic.all_come(&peer, ms(50));
        agent.go_on();
        let counted = agent.counted()[Direction::FromDevice as usize];
        assert_eq!((counted.delayed, counted.stalled), (traffic.sent_ns.len() as u64, 0), "{counted:?}");
    }

    #[test]
    #[ignore = "kernel rung: needs root, the eBPF object and the kernel's queue fq"]
    fn what_the_line_of_a_killed_agent_holds_leaves_at_its_time_and_then_it_is_removed() {
        play();
        let story = what_the_line_of_a_killed_agent_holds_leaves_at_its_time_and_then_it_is_removed;
        let stage = Stage::new();
        let mut agent = AgentProcess::with(story, &stage.node, Hooks::Tcx, Holds::Fq);
        let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
        // The next start waits for what is held for two seconds at most.
        agent.set(&[delay(1_500)]);
        let mut ways = [(Traffic::default(), &device, &peer), (Traffic::default(), &peer, &device)];
        for (traffic, from, to) in &mut ways {
            traffic.send_until(boot_ns() + ms(100), from, to);
        }
        for (traffic, _, to) in &mut ways {
            traffic.take(to);
            let [sent, came] = [&traffic.sent_ns, &traffic.came_ns].map(BTreeMap::len);
            assert!(came < sent, "nothing is held any more when the agent is killed");
        }
        drop(agent);
        // It waits until the line is empty, so all that was held comes.
        let (found, left) = sweep(&stage.node);
        let line = found.iter().filter(|leftover| leftover.to_string() == "interface edo-line").count();
        assert_eq!((line, left), (1, Vec::new()), "{found:?}");
        for (traffic, _, to) in &mut ways {
            traffic.all_come(to, ms(1_500));
        }
        Agent::start(&stage.node, (Hooks::Tcx, Holds::Fq));
    }

    #[test]
    #[ignore = "kernel rung: needs root, the eBPF object and the kernel's queue fq"]
    fn what_the_queue_refuses_is_counted_and_held_no_longer() {
        let stage = Stage::new();
        let mut agent = Agent::start(&stage.node, (Hooks::Tcx, Holds::Fq));
        agent.set(&[delay(20)]);
        let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
        let room = |packets: &str| {
            let change = ["qdisc", "change", "dev", "edo-line", "root", "fq", "limit", packets];
            let ran = stage.node.run(|| Command::new("tc").args(change).output()).unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        };
        room("0");
        for number in 0..20 {
            device.send(&peer, number).unwrap();
        }
        let refused = || agent.global(Global::LineRefused);
        eventually(|| (refused() == 20).then_some(()), || format!("{} were refused", refused()));
        assert_eq!((agent.line.dropped(), agent.line.held().unwrap()), (20, Some(Held::default())));
        room("1000");
        device.send(&peer, 20).unwrap();
        let came = || Some(peer.take()).filter(|came| !came.is_empty());
        assert_eq!(eventually(came, || "nothing comes any more".to_owned()), [20]);
        assert_eq!((refused(), agent.line.held().unwrap()), (20, Some(Held::default())));
    }

    /// A netem on a device's interface or the node's, both of which are the story's own.
    struct Netem<'a> {
        space: &'a Namespace,
        interface: &'static str,
    }

    impl<'a> Netem<'a> {
        fn new(space: &'a Namespace, interface: &'static str, milliseconds: u64) -> Self {
            let netem = Self { space, interface };
            let delay = format!("{milliseconds}ms");
            netem.tc(&["add", "dev", interface, "root", "netem", "delay", &delay, "limit", "100000"]);
            netem
        }

        fn tc(&self, arguments: &[&str]) {
            let ran = self.space.run(|| Command::new("tc").arg("qdisc").args(arguments).output()).unwrap();
            assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        }
    }

    impl Drop for Netem<'_> {
        fn drop(&mut self) {
            self.tc(&["del", "dev", self.interface, "root"]);
        }
    }

    /// How far delays are from what was asked, in microseconds.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Off {
        half: u128,
        mean: u128,
        most: u128,
    }

    /// Measures it with numbered packets.
    fn off(from: &End, to: &End, asked: Duration) -> Off {
        const COUNT: u32 = 150;
        let mut times = to.times_of_arrival();
        let mut beat = Beat::new(Duration::from_millis(3));
        let (mut sent, mut came) = (Vec::new(), Vec::new());
        for number in 0..COUNT {
            sent.push(wall());
            from.send(to, number).unwrap();
            came.extend(std::iter::from_fn(&mut times));
            beat.wait();
        }
        let all = || {
            came.extend(std::iter::from_fn(&mut times));
            (came.len() == sent.len()).then_some(())
        };
        eventually(all, || "packets are lost".to_owned());
        let took = sent.iter().zip(&came).map(|(sent, came)| came.duration_since(*sent).unwrap());
        let mut off: Vec<u128> = took.map(|took| took.abs_diff(asked).as_micros()).collect();
        off.sort_unstable();
        let mean = off.iter().sum::<u128>() / u128::from(COUNT);
        Off { half: off[off.len() / 2], mean, most: off[off.len() * 99 / 100] }
    }

    /// The same packets, the same way, the same delay: the queue is no worse than what everybody uses. An emulated machine stands
    /// still at times, on whoever's packets: what half of them are off by is judged, of the best of three turns.
    #[test]
    #[ignore = "kernel rung: needs root, the eBPF object and the kernel's queue fq"]
    fn delays_are_within_a_fifth_of_a_millisecond_of_those_of_netem() {
        let stage = Stage::new();
        let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
        let asked = Duration::from_millis(20);
        let mut agent = Agent::start(&stage.node, (Hooks::Tcx, Holds::Fq));
        let turn = |_| {
            agent.set(&[]);
            let netem = {
                let _netem = Netem::new(&stage.device, ETH, 20);
                off(&device, &peer, asked)
            };
            agent.set(&[delay(20).direction("FromDevice")]);
            [off(&device, &peer, asked), netem]
        };
        let turns = [0, 1, 2].map(turn);
        let [ours, netem] = [0, 1].map(|i| turns.iter().map(|turn| turn[i]).min().unwrap());
        println!("off by µs: ours {ours:?}, netem {netem:?}; all turns (ours, netem): {turns:?}");
        assert!(ours.half <= 2 * netem.half + 200, "ours {ours:?}, netem {netem:?}");
        assert_eq!(agent.line.late().unwrap().unwrap().figures.count(), 450, "each was measured");
    }

    /// How long bytes are counted.
    const A_WHILE: Duration = Duration::from_secs(1);

    /// Bytes that arrive within a while, with a window of so many bytes, if any.
    fn transfer(from: &Namespace, to: &Namespace, address: SocketAddr, window: Option<usize>) -> u64 {
        let listener = to.run(|| TcpListener::bind(address)).unwrap();
        if let Some(window) = window {
            setsockopt(&listener, sockopt::RcvBuf, &window).unwrap();
        }
        let mut stream = from.run(|| TcpStream::connect(address)).unwrap();
        let (mut came, _) = listener.accept().unwrap();
        came.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        stream.set_nonblocking(true).unwrap();
        let end_ns = boot_ns() + u64::try_from(A_WHILE.as_nanos()).unwrap();
        let sender = thread::spawn(move || {
            let bytes = vec![7; 64 << 10];
            let mut beat = Beat::new(Duration::from_millis(1));
            while boot_ns() < end_ns {
                match stream.write(&bytes) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => beat.wait(),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let mut sum = 0;
        let mut bytes = vec![0; 256 << 10];
        while boot_ns() < end_ns {
            match came.read(&mut bytes) {
                Ok(count) => sum += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        sender.join().unwrap();
        sum
    }

    /// Who sends, and where netem holds what a profile of this direction does.
    #[derive(Clone, Copy, Debug)]
    enum Sender {
        /// Its packets come in with their socket, and lose it behind the hook.
        Device,
        /// Its packets go out with their socket.
        Node,
        /// Its packets were forwarded, and have none.
        Peer,
    }

    impl Sender {
        const fn direction(self) -> Direction {
            match self {
                Self::Device => Direction::FromDevice,
                Self::Node | Self::Peer => Direction::ToDevice,
            }
        }

        fn netem(self, stage: &Stage) -> Netem<'_> {
            match self {
                Self::Device => Netem::new(&stage.device, ETH, 25),
                Self::Node | Self::Peer => Netem::new(&stage.node, TO_DEVICE, 25),
            }
        }

        fn transfer(self, stage: &Stage, window: Option<usize>) -> u64 {
            let (from, to, network) = match self {
                Self::Device => (&stage.device, &stage.peer, 2),
                Self::Node => (&stage.node, &stage.device, 1),
                Self::Peer => (&stage.peer, &stage.device, 1),
            };
            transfer(from, to, SocketAddr::new(Family::V4.ip(network, 2), 7_001), window)
        }
    }

    /// A sender whose socket stays on a packet that is held sends no more than two of them: TCP then gets a fraction of what its
    /// window allows. Super-packets are held as they are, as netem does. With a window of 64 KiB the delay bounds both; without, an
    /// emulated processor does, so that is only shown. Both have three turns each, one after the other, so that whatever else the
    /// machine does meets both.
    #[test]
    #[ignore = "kernel rung: needs root, the eBPF object and the kernel's queue fq"]
    fn tcp_under_25_ms_is_as_fast_as_under_netem_where_a_window_bounds_it_and_not_throttled_by_its_own_socket()
     {
        let (stage, without) = (Stage::new(), Stage::new());
        let mut agent = Agent::start(&stage.node, (Hooks::Tcx, Holds::Fq));
        let held = |agent: &Agent| agent.line.late().unwrap().unwrap().figures.count();
        for sender in [Sender::Device, Sender::Node, Sender::Peer] {
            agent.set(&[delay(25).direction(sender.direction().name())]);
            let before = held(&agent);
            let _netem = sender.netem(&without);
            let turn = |window| [&without, &stage].map(|stage| sender.transfer(stage, window));
            let mut turns = [0, 1, 2].map(|_| turn(Some(64 << 10)));
            let unbounded = turn(None);
            println!(
                "{sender:?} at 25 ms, bytes in {A_WHILE:?} under netem and here: {turns:?} with a window of 64 KiB, {unbounded:?} without"
            );
            let sum = turns.iter().map(|[_, ours]| ours).sum::<u64>() + unbounded[1];
            let [netem, ours] = [0, 1].map(|who| {
                turns.sort_unstable_by_key(|bytes| bytes[who]);
                turns[1][who]
            });
            assert!(
                ours * 10 >= netem * 8,
                "{sender:?}: {ours} of netem's {netem} bytes: does a socket wait for what is held?"
            );
            let counter = agent.total(sender.direction());
            let segments = sum / 1_448;
            assert!(counter.seen() >= segments, "{} packets for {segments} segments", counter.seen());
            assert_eq!(counter.effects[Effect::Delay as usize], counter.seen(), "{counter:?}");
            // More packets than the line let go: some went through it together.
            let held = held(&agent) - before;
            assert!(held < counter.seen() / 2, "{held} of {} were held one by one", counter.seen());
        }
        for what in [Global::Stray, Global::LineRefused, Global::LineFull, Global::Unsplit] {
            assert_eq!(agent.global(what), 0, "{what:?}");
        }
        assert_eq!(agent.line.dropped(), 0);
    }
}
