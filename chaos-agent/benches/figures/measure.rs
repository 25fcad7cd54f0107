//! Clocks, quantiles, and conversations that are measured.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};

use crate::support::space::Namespace;
use crate::support::traffic::BUFFER;

/// Nanoseconds of a clock.
pub(crate) fn clock(id: ClockId) -> u64 {
    u64::try_from(Duration::from(clock_gettime(id).unwrap()).as_nanos()).unwrap()
}

/// What all threads of this process have spent on a processor, with what the kernel did there for their packets.
pub(crate) fn cpu_ns() -> u64 {
    clock(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// What this thread has spent on a processor, with what the kernel did there in its stead.
pub(crate) fn thread_cpu_ns() -> u64 {
    clock(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// The time.
pub(crate) fn now_ns() -> u64 {
    clock(ClockId::CLOCK_MONOTONIC)
}

/// A number for a figure.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a benchmark are far below 2^53")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

/// The value that so many of a thousand do not exceed. There is one at least.
pub(crate) fn quantile(values: &[u64], per_mille: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) * per_mille / 1000]
}

/// The middle one.
pub(crate) fn median(values: &[u64]) -> u64 {
    quantile(values, 500)
}

/// Two UDP sockets in two namespaces, and packets from the first to the second.
pub(crate) struct Datagrams {
    from: UdpSocket,
    to: UdpSocket,
    target: SocketAddr,
    /// So many may be under way.
    window: u32,
}

/// So many may be under way: fewer than the kernel has room for (`netdev_max_backlog`, 1,000 by default), beyond which it drops.
const WINDOW: u32 = 992;
/// So many where a veth has native XDP, which has room for 256 (`VETH_RING_SIZE` of drivers/net/veth.c).
const XDP_WINDOW: u32 = 192;
/// So many are sent in one go.
const BURST: u32 = 32;
/// Bytes of a packet's payload.
const PAYLOAD: [u8; 64] = [0; 64];

impl Datagrams {
    /// Opens both ends.
    pub(crate) fn open(from: (&Namespace, IpAddr), to: (&Namespace, SocketAddr)) -> Self {
        let source = from.0.run(|| UdpSocket::bind((from.1, 0)).unwrap());
        let sink = to.0.run(|| UdpSocket::bind(to.1).unwrap());
        setsockopt(&sink, sockopt::RcvBufForce, &BUFFER).unwrap();
        sink.set_nonblocking(true).unwrap();
        Self { from: source, to: sink, target: to.1, window: WINDOW }
    }

    /// The same through a veth with native XDP.
    pub(crate) fn through_xdp(self) -> Self {
        Self { window: XDP_WINDOW, ..self }
    }

    /// Sends so many as fast as they arrive, and takes them.
    pub(crate) fn flow(&self, count: u32) {
        let (mut sent, mut taken) = (0, 0);
        let end = now_ns() + 20_000_000_000;
        while taken < count {
            let burst = BURST.min(count - sent).min(self.window.saturating_sub(sent - taken));
            (0..burst).for_each(|_| self.send());
            sent += burst;
            let before = taken;
            taken += self.take();
            if burst == 0 && taken == before {
                thread::yield_now();
                assert!(now_ns() < end, "{taken} of {count} packets arrived");
            }
        }
    }

    /// Sends so many as fast as they are counted somewhere on the way, and takes none: they need not arrive. As `counted` costs something,
    /// it is asked only when nothing else is to be done. It may count somebody else's few as well, such as the end of an earlier
    /// connection.
    pub(crate) fn flow_until_counted(&self, count: u32, counted: impl Fn() -> u64) {
        let (begin, mut sent, mut done) = (counted(), 0, 0);
        let end = now_ns() + 20_000_000_000;
        while done < count {
            let burst = BURST.min(count - sent).min(self.window.saturating_sub(sent.saturating_sub(done)));
            (0..burst).for_each(|_| self.send());
            sent += burst;
            if burst == 0 {
                let before = done;
                done = u32::try_from(counted() - begin).unwrap();
                if done == before {
                    thread::yield_now();
                    assert!(now_ns() < end, "{done} of {count} packets were counted");
                }
            }
        }
    }

    /// Sends one.
    pub(crate) fn send(&self) {
        assert_eq!(self.from.send_to(&PAYLOAD, self.target).unwrap(), PAYLOAD.len());
    }

    /// Takes what has come; returns how many.
    pub(crate) fn take(&self) -> u32 {
        let mut buffer = [0; 2048];
        let mut taken = 0;
        loop {
            match self.to.recv(&mut buffer) {
                Ok(_) => taken += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
                Err(error) => panic!("receiving: {error}"),
            }
        }
    }
}

/// Bytes of a write by TCP.
const BLOCK: usize = 1 << 16;

/// A TCP connection between two namespaces.
pub(crate) struct Stream {
    from: TcpStream,
    to: TcpStream,
}

impl Stream {
    /// Connects.
    pub(crate) fn open(from: &Namespace, to: (&Namespace, IpAddr)) -> Self {
        let listener = to.0.run(|| TcpListener::bind((to.1, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let from = from.run(|| TcpStream::connect(address).unwrap());
        let to = listener.accept().unwrap().0;
        Self { from, to }
    }

    /// Sends so many bytes in blocks, each of which is read before the next is sent: it is the same packets each time, and nobody waits
    /// for anybody to run.
    pub(crate) fn in_step(&mut self, bytes: u64) {
        let Self { from, to } = self;
        let mut block = vec![0; BLOCK];
        for _ in 0..bytes / BLOCK as u64 {
            from.write_all(&block).unwrap();
            to.read_exact(&mut block).unwrap();
        }
    }

    /// Sends so many bytes and waits until they are read.
    pub(crate) fn flow(&mut self, bytes: u64) {
        let Self { from, to } = self;
        thread::scope(|scope| {
            scope.spawn(move || {
                let block = vec![0; BLOCK];
                let mut left = bytes;
                while left > 0 {
                    let now = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
                    from.write_all(&block[..now]).unwrap();
                    left -= now as u64;
                }
            });
            let mut block = vec![0; BLOCK];
            let mut left = bytes;
            while left > 0 {
                let read = to.read(&mut block).unwrap();
                assert!(read > 0, "the connection ended");
                left -= read as u64;
            }
        });
    }
}
