//! How full each bounded thing is, read when it is scraped, beside its limit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts};
use tokio::sync::mpsc;

use crate::lock::lock;

type Reader = Arc<dyn Fn() -> usize + Send + Sync>;

/// All bounded things of a process, by name.
#[derive(Clone)]
pub struct Usage {
    readers: Arc<Mutex<BTreeMap<String, Reader>>>,
    desc: Arc<[Desc]>,
}

impl Usage {
    /// # Errors
    /// When the name is no name, which a test excludes.
    pub fn new() -> Result<Self, prometheus::Error> {
        let desc = gauge()?.desc().into_iter().cloned().collect();
        Ok(Self { readers: Arc::default(), desc })
    }

    /// From now on `read` tells how many of `name` there are.
    pub fn show(&self, name: String, read: impl Fn() -> usize + Send + Sync + 'static) {
        lock(&self.readers).insert(name, Arc::new(read));
    }
}

/// What waits in a queue; the queue may end meanwhile.
pub fn waiting<T: Send + 'static>(queue: &mpsc::Sender<T>) -> impl Fn() -> usize + Send + Sync + 'static {
    let queue = queue.downgrade();
    move || queue.upgrade().map_or(0, |queue| queue.max_capacity() - queue.capacity())
}

fn gauge() -> Result<GaugeVec, prometheus::Error> {
    GaugeVec::new(
        Opts::new(
            "edge_usage",
            "How many of each bounded thing there are, by name; edge_limit has the limits.",
        ),
        &["name"],
    )
}

impl Collector for Usage {
    fn desc(&self) -> Vec<&Desc> {
        self.desc.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(gauge) = gauge() else { return Vec::new() };
        // A reader takes locks of its own: none is held meanwhile.
        let readers = lock(&self.readers).clone();
        for (name, read) in readers {
            let number = u32::try_from(read()).unwrap_or(u32::MAX);
            gauge.with_label_values(&[&name]).set(f64::from(number));
        }
        gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_queue_shows_what_waits_in_it_until_it_ends() {
        let (sender, mut receiver) = mpsc::channel(3);
        let read = waiting(&sender);
        assert_eq!(read(), 0);
        sender.try_send(1).unwrap();
        sender.try_send(2).unwrap();
        assert_eq!(read(), 2);
        receiver.recv().await.unwrap();
        assert_eq!(read(), 1);
        drop((sender, receiver));
        assert_eq!(read(), 0);
    }
}
