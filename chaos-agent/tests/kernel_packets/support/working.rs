//! The parts of an agent that look after hooks, line and splitter, at work as on a node: one task follows netlink, one thread enforces.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use chaos_agent::behind::LineView;
use chaos_agent::enforce::Enforcer;
use chaos_agent::index::Index;
use chaos_agent::kernel::aya::AyaKernel;
use chaos_agent::locate::netlink::Netlink;
use chaos_agent::shared::{Bounds, Shared};
use chaos_agent::{follow, round};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Subscriber;

/// Ended when dropped.
pub(crate) struct Working {
    pub(crate) shared: Arc<Shared>,
    shutdown: CancellationToken,
    parts: Vec<JoinHandle<()>>,
}

impl Working {
    /// Starts them in the network namespace of this thread. `noting` is told what the enforcer says.
    pub(crate) fn start(
        enforcer: Enforcer<AyaKernel>,
        line: LineView,
        noting: impl Subscriber + Send + Sync + 'static,
    ) -> Self {
        Self::knowing(Index::default(), enforcer, line, noting)
    }

    /// The same with what they know of the cluster.
    pub(crate) fn knowing(
        index: Index,
        enforcer: Enforcer<AyaKernel>,
        line: LineView,
        noting: impl Subscriber + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared::new(index, enforcer.counters(), Arc::new(line), Bounds::default());
        let mut working = Self { shared, shutdown: CancellationToken::new(), parts: Vec::new() };
        let shared = Arc::clone(&working.shared);
        working.also(move |_| {
            tracing::subscriber::with_default(noting, || round::run(enforcer, &shared)).unwrap();
        });
        let shared = Arc::clone(&working.shared);
        working.also(move |until| {
            alone(async move {
                let mut tasks = JoinSet::new();
                let netlink = Netlink::connect(&mut tasks).unwrap();
                follow::run(netlink, shared, until).await.unwrap();
            });
        });
        working
    }

    /// Another part, on a thread of its own, until the shutdown.
    pub(crate) fn also(&mut self, part: impl FnOnce(CancellationToken) + Send + 'static) {
        let until = self.shutdown.clone();
        self.parts.push(thread::spawn(move || part(until)));
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.shared.stop();
        for part in self.parts.drain(..) {
            let ended = part.join();
            assert!(ended.is_ok() || thread::panicking(), "a part of the agent panicked");
        }
    }
}

/// Runs this on the present thread alone.
pub(crate) fn alone<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
