//! What the kernel itself sends by the ends of the delay line: it is nobody's packet, and none that was lost.

mod fq {
    use chaos_agent::args::EngineChoice;
    use chaos_agent::behind::Behind;
    use chaos_agent::line;
    use chaos_agent::locate::netlink::Netlink;
    use tokio::task::JoinSet;

    use crate::support::agent::LINE_LIMITS;
    use crate::support::space::Namespace;
    use crate::support::time::eventually;

    /// Packets that the line's beginning sent, and those that it dropped.
    fn sent_and_dropped() -> [u64; 2] {
        let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let row =
            table.lines().find_map(|line| line.trim().strip_prefix(line::NAME)?.strip_prefix(':')).unwrap();
        let numbers: Vec<u64> = row.split_whitespace().map(|number| number.parse().unwrap()).collect();
        // Eight columns of what was received, then bytes, packets, errors, and what was dropped.
        [numbers[9], numbers[11]]
    }

    /// A router says of each interface that comes up which multicast groups it is in there, within some milliseconds.
    #[test]
    #[ignore = "kernel rung: needs root, the eBPF object and the kernel's queue fq"]
    fn what_the_kernel_says_of_itself_where_the_line_comes_up_does_not_count_as_lost() {
        for turn in 0..100 {
            let node = Namespace::new();
            let _inside = node.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut tasks = JoinSet::new();
            let netlink = runtime.block_on(async { Netlink::connect(&mut tasks) }).unwrap();
            let behind = runtime.block_on(Behind::make(&netlink.handle(), EngineChoice::Fq, LINE_LIMITS));
            assert_eq!(behind.no_line, None);
            let says = || Some(sent_and_dropped()).filter(|[sent, dropped]| sent + dropped > 0);
            let [sent, dropped] = eventually(says, || "the kernel says nothing of itself".to_owned());
            assert_eq!(dropped, 0, "beside {sent} that were sent, in turn {turn}");
        }
    }
}
