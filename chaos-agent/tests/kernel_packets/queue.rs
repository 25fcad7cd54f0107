//! Somebody removes the queue of the delay line, or puts another one in its place: packets would leave before their time, with a profile that
//! says that they are held. All of it is in a module `fq`, which is skipped where the kernel has no such queue.

mod fq {
    use fault_abi::line::Held;
    use serde_json::json;

    use crate::ends::are_held;
    use crate::support::agent::{Agent, Holds, Hooks};
    use crate::support::fault::Fault;
    use crate::support::space::Namespace;
    use crate::support::stage::{Family, Stage};
    use crate::support::time::{boot_ns, eventually};

    /// Packets in the queue that is harmed.
    const IN_IT: u32 = 10;

    fn shown(node: &Namespace) -> String {
        node.tc("qdisc show dev edo-line root")
    }

    /// An agent whose profile delays what comes from the device.
    fn start(stage: &Stage, time: &str) -> Agent {
        let mut agent = Agent::start(&stage.node, (Hooks::Tcx, Holds::Fq));
        let later = Fault::new("later", json!({"delay": {"time": time}}));
        agent.set(&[later.on(&[Family::V4.host(1, 2)])]);
        agent
    }

    #[test]
    #[ignore = "kernel rung: needs root, the eBPF object and the kernel's queue fq"]
    fn a_queue_that_somebody_removes_replaces_or_changes_is_there_again_and_packets_are_held_as_before() {
        let stage = Stage::new();
        let mut agent = start(&stage, "100ms");
        let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
        are_held(&device, &peer, "at first");
        let options = |shown: &str| shown.split_once(" refcnt").map(|(_, options)| options.to_owned());
        let ours = options(&shown(&stage.node));
        for harm in [
            "qdisc del dev edo-line root",
            "qdisc replace dev edo-line root pfifo limit 10",
            "qdisc change dev edo-line root fq flow_limit 1",
        ] {
            stage.node.tc(harm);
            assert_ne!(options(&shown(&stage.node)), ours, "{harm}");
            agent.follow_until(harm, |_| options(&shown(&stage.node)) == ours);
            let status = agent.line.status(boot_ns());
            assert!(agent.line.is_running(boot_ns()) && status.message.is_none(), "{harm}: {status:?}");
            are_held(&device, &peer, harm);
        }
        assert_eq!((agent.line.dropped(), agent.line.settled()), (0, 0));
    }

    #[test]
    #[ignore = "kernel rung: needs root, the eBPF object and the kernel's queue fq"]
    fn what_a_removed_queue_held_is_counted_as_lost_and_takes_no_room_after_its_time() {
        let stage = Stage::new();
        let mut agent = start(&stage, "1s");
        let (device, peer) = (stage.device_end(Family::V4), stage.peer_end(Family::V4));
        (0..IN_IT).for_each(|number| device.send(&peer, number).unwrap());
        let held = |agent: &Agent| agent.line.held().unwrap().unwrap();
        let all = || (held(&agent).packets == u64::from(IN_IT)).then_some(());
        eventually(all, || format!("{:?}", held(&agent)));
        agent.settle();
        assert_eq!((agent.line.settled(), agent.line.dropped()), (0, 0), "none is late yet");
        assert_eq!(agent.entry().unwrap().reason, None);
        stage.node.tc("qdisc del dev edo-line root");
        agent.follow_until("the queue is back", |agent| {
            shown(&stage.node).contains("qdisc fq") && agent.line.is_running(boot_ns())
        });
        let settled = || {
            agent.settle();
            (agent.line.settled() == u64::from(IN_IT)).then_some(())
        };
        eventually(settled, || "they take room for good".to_owned());
        assert_eq!((held(&agent), agent.line.dropped()), (Held::default(), u64::from(IN_IT)));
        let reason = agent.entry().unwrap().reason;
        assert_eq!(reason.as_deref(), Some("LineDrops"));
        assert!(peer.take().is_empty());
    }
}
