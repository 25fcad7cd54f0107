//! Lookups of DNS names: a few at once, each with a deadline. The system's resolver blocks a thread of its own, and goes
//! on when nobody waits any more; its slot is free only when it has ended.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::Semaphore;
use tokio::task::JoinError;

/// How long one lookup may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Addresses of one name that are used.
const MAX_ADDRESSES: usize = 8;

/// The system's resolver.
#[derive(Clone, Debug)]
pub struct Dns {
    slots: Arc<Semaphore>,
    limit: usize,
    waiting: IntGauge,
}

impl Dns {
    /// At most `limit` lookups at once; `waiting` shows how many wait.
    pub fn new(limit: usize, waiting: IntGauge) -> Self {
        Self { slots: Arc::new(Semaphore::new(limit)), limit, waiting }
    }

    /// Lookups under way.
    pub fn usage(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let (slots, limit) = (self.slots.clone(), self.limit);
        move || limit.saturating_sub(slots.available_permits())
    }

    /// The addresses of a name, sorted; never none.
    ///
    /// # Errors
    /// A sentence, when there is none or none in time.
    pub async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let name = name.to_owned();
        let system = move || Ok((name.as_str(), 0).to_socket_addrs()?.map(|address| address.ip()).collect());
        self.look_up_with(system).await
    }

    async fn look_up_with(
        &self,
        blocking: impl FnOnce() -> io::Result<Vec<IpAddr>> + Send + 'static,
    ) -> Result<Vec<IpAddr>, String> {
        let waiting = Waiting::new(&self.waiting);
        let Ok(slot) = self.slots.clone().acquire_owned().await else {
            return Err("shutting down".to_owned());
        };
        drop(waiting);
        let found = tokio::task::spawn_blocking(move || {
            let _until_it_ends = slot;
            blocking()
        });
        usable(
            tokio::time::timeout(DEADLINE, found)
                .await
                .map_err(|_| format!("no answer within {DEADLINE:?}"))?,
        )
    }
}

/// One that waits, also until it gives up.
struct Waiting<'a>(&'a IntGauge);

impl<'a> Waiting<'a> {
    fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn usable(found: Result<io::Result<Vec<IpAddr>>, JoinError>) -> Result<Vec<IpAddr>, String> {
    let found = found.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    // An IPv4 address in IPv6's clothes is the IPv4 address, also when it is judged.
    let mut addresses: Vec<IpAddr> = found.iter().map(IpAddr::to_canonical).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use futures::FutureExt as _;

    use super::*;

    fn dns(limit: usize) -> Dns {
        Dns::new(limit, IntGauge::new("waiting", "waiting").unwrap())
    }

    #[tokio::test]
    async fn above_the_limit_lookups_wait_and_are_counted_until_they_begin_or_are_given_up() {
        tokio::time::pause();
        let dns = dns(2);
        let (end, ended) = sync_channel::<()>(0);
        let ended = Arc::new(std::sync::Mutex::new(ended));
        let mut lookups: Vec<_> = (0..5)
            .map(|last| {
                let ended = ended.clone();
                Box::pin(dns.look_up_with(move || {
                    let _closed = ended.lock().map(|ended| ended.recv());
                    Ok(vec![IpAddr::from([10, 20, 0, last])])
                }))
            })
            .collect();
        assert!(lookups.iter_mut().all(|lookup| lookup.as_mut().now_or_never().is_none()));
        assert_eq!((dns.usage()(), dns.waiting.get()), (2, 3));
        drop(lookups.pop());
        assert_eq!((dns.usage()(), dns.waiting.get()), (2, 2));
        drop(end);
        for (last, lookup) in (0..).zip(lookups) {
            assert_eq!(lookup.await, Ok(vec![IpAddr::from([10, 20, 0, last])]));
        }
        assert_eq!(dns.waiting.get(), 0);
    }

    #[tokio::test]
    async fn a_lookup_that_is_given_up_keeps_its_slot_until_the_resolver_has_ended() {
        tokio::time::pause();
        let dns = dns(1);
        let (end, ended) = sync_channel::<()>(0);
        let stuck = dns.look_up_with(move || {
            let _closed = ended.recv();
            Ok(Vec::new())
        });
        tokio::pin!(stuck);
        assert!(stuck.as_mut().now_or_never().is_none());
        // A blocking task holds the clock still, so it is moved by hand.
        tokio::time::advance(DEADLINE * 2).await;
        assert_eq!(stuck.await, Err("no answer within 5s".to_owned()));
        let mut next = Box::pin(dns.look_up_with(|| Ok(vec![IpAddr::from([10, 20, 0, 1])])));
        assert!(next.as_mut().now_or_never().is_none());
        assert_eq!(dns.slots.available_permits(), 0, "the resolver's thread still runs");
        drop(end);
        assert_eq!(next.await, Ok(vec![IpAddr::from([10, 20, 0, 1])]));
    }

    #[test]
    fn mapped_addresses_are_what_they_map_and_come_once() {
        let found = ["::ffff:10.244.1.5", "10.244.1.5", "2001:db8::1"].map(|text| text.parse().unwrap());
        let usable = usable(Ok(Ok(found.to_vec()))).unwrap();
        assert_eq!(usable, ["10.244.1.5", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap()));
    }
}
