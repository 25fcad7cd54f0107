//! A line in a network namespace of its own, and frames.

use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chaos_agent::line::audit::Audit;
use chaos_agent::line::engine::{Engine, Options};
use chaos_agent::line::pool::Limits;
use chaos_agent::line::tap::{Tap, TapError};
use chaos_agent::locate::netlink::Netlink;
use edge_api::fault_node::Scheduling;
use fault_abi::ticket::{GUARD, TICKET};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use tokio::task::JoinSet;

/// The TAP's name.
pub(crate) const NAME: &str = "edo-line";
/// The magic of the tests' tickets.
pub(crate) const MAGIC: u64 = 0x1122_3344_5566_7788;
/// Room for everything that a test sends.
pub(crate) const LIMITS: Limits = Limits { packets: 5_000, bytes: 5_000_000 };

/// How long a test waits for anything.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(30 * fault_rig::slower())
}

/// Runs `story` on a thread in a network namespace of its own, which ends with it.
pub(crate) fn in_own_namespace(story: impl FnOnce() + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("the kernel rung needs root");
        story();
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs `ip` in this thread's namespace.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is needed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A TAP in this thread's namespace.
pub(crate) fn tap(queue: u32) -> Result<Tap, TapError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let netlink = Netlink::connect(&mut tasks).unwrap();
        Tap::make(NAME, queue, &netlink.handle()).await
    })
}

/// A TAP with its engine, and the heartbeats so far.
pub(crate) struct Line {
    pub(crate) engine: Engine,
    pub(crate) beats: Arc<Mutex<Vec<u64>>>,
}

impl Line {
    pub(crate) fn new(limits: Limits) -> Self {
        let beats = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&beats);
        let heartbeat = Box::new(move |now| heard.lock().unwrap().push(now));
        let options = Options { magic: MAGIC, limits, scheduling: Scheduling::ShortSlice };
        let engine = Engine::start(tap(5_000).unwrap(), &options, heartbeat, Audit::default());
        Self { engine: engine.unwrap(), beats }
    }

    /// Waits until the engine's numbers are as they must be.
    pub(crate) fn eventually(&self, condition: impl Fn(&Engine) -> bool) {
        eventually(|| condition(&self.engine), || format!("{:?}", self.engine));
    }
}

/// Waits for a condition, looking every millisecond.
pub(crate) fn eventually(condition: impl Fn() -> bool, state: impl FnOnce() -> String) {
    let end = Instant::now() + patience();
    while !condition() {
        assert!(Instant::now() < end, "not in time: {}", state());
        let pause = TimeSpec::from_duration(Duration::from_millis(1));
        // A signal only makes a look come early.
        let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::empty(), &pause);
    }
}

/// Takes CAP_NET_ADMIN from this thread (capset(2)).
pub(crate) fn give_up_the_right_to_make_interfaces() {
    const VERSION_3: u32 = 0x2008_0522;
    const NET_ADMIN: u32 = 12;
    let header = [VERSION_3, 0];
    // Effective, permitted and inheritable ones, 32 at a time.
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: header and sets are as version 3 wants them.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    sets[0][0] &= !(1 << NET_ADMIN);
    // SAFETY: as above.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!((got, set), (0, 0), "{}", io::Error::last_os_error());
}

/// CLOCK_BOOTTIME in nanoseconds.
pub(crate) fn boot_ns() -> u64 {
    fault_rig::now_ns().unwrap()
}

/// A frame of `length` bytes with a number in it, and EtherType 0x88b5 (IEEE 802, for local experiments).
pub(crate) fn frame(id: u32, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..249).cycle().take(length).collect();
    bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes[14..18].copy_from_slice(&id.to_be_bytes());
    bytes
}

/// The number in it.
pub(crate) fn id(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().unwrap())
}

/// A ticket that says when.
pub(crate) fn ticket(release_ns: u64) -> [u8; TICKET] {
    let mut bytes = [0x5a; TICKET];
    bytes[..8].copy_from_slice(&MAGIC.to_ne_bytes());
    bytes[12..16].copy_from_slice(&GUARD.to_ne_bytes());
    bytes[16..24].copy_from_slice(&release_ns.to_ne_bytes());
    bytes
}

/// When a frame with its ticket behind was to leave.
pub(crate) fn release_ns(bytes: &[u8]) -> u64 {
    let ticket = &bytes[bytes.len() - TICKET..];
    u64::from_ne_bytes(ticket[16..24].try_into().unwrap())
}
