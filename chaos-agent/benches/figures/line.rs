//! What the delay line's userspace engine takes, and how late packets leave it: `cargo xtask bench --line`.
//!
//! Frames with tickets are put into a TAP by a packet socket, in a network namespace of their own, and go nowhere behind it:
//! the figures are those of the engine and the TAP, without the kernel programs at either end.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chaos_agent::line::audit::Audit;
use chaos_agent::line::engine::{Engine, Options};
use chaos_agent::line::pool::Limits;
use chaos_agent::line::stats::Stats;
use chaos_agent::line::tap::{self, Tap};
use chaos_agent::locate::netlink::Netlink;
use edge_api::fault_node::Scheduling;
use fault_abi::ticket::{GUARD, TICKET};
use fault_rig::figures::{Aim, Figure, Report};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use tokio::task::JoinSet;

use crate::measure::float;

const NAME: &str = "edo-bench";
const MAGIC: u64 = 0x6265_6e63_685f_6c6e;
const LIMITS: Limits = Limits { packets: 50_000, bytes: 100_000_000 };
/// Bytes of a frame.
const FRAME: usize = 500;
/// What the project wants: packets a second on one core, and microseconds of lateness at a modest load.
const AIM_RATE: f64 = 100_000.0;
const AIM_LATE_US: f64 = 300.0;
/// What the line may take beyond the time to give out what it has: delays are 15 ms at most.
const DRAIN: Duration = Duration::from_secs(20);
/// Packets a second.
const MODEST: u64 = 10_000;

/// What goes in.
#[derive(Clone, Copy)]
enum Load {
    /// So many packets a second, whatever becomes of them.
    Rate(u64),
    /// As many as come out, with so many in the line.
    Most(u64),
}

/// As the table has them; the aims are about the second and the last.
const LOADS: [Load; 4] = [Load::Rate(1_000), Load::Rate(MODEST), Load::Rate(50_000), Load::Most(2_000)];

/// What came of a load.
struct Row {
    sent_per_second: u64,
    out_per_second: u64,
    /// What a whole core of the engine's thread would take.
    out_per_core_second: u64,
    /// Quantiles at 50, 99 and 99.9 %.
    late_ns: [u64; 3],
    lost: u64,
}

/// Measures, for so many seconds a load, beside so many threads that do nothing but take CPU time.
pub(crate) fn measure(seconds: u64, busy: u32) -> Report {
    let figures = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root: it makes a network namespace of its own");
        let _busy: Vec<Busy> = (0..busy).map(|_| Busy::start()).collect();
        // Before the engine's threads, which are as they are asked to be.
        become_realtime().expect("needs CAP_SYS_NICE: a sender that is late makes packets late");
        let method = format!("delay line, userspace, {seconds} s each, {busy} busy threads beside it");
        let mut report = Report::new(method).unwrap();
        for scheduling in [Scheduling::Ordinary, Scheduling::ShortSlice, Scheduling::RealTime] {
            let rows = LOADS.map(|load| {
                eprintln!("{scheduling:?}, {}", name(load));
                run(load, Duration::from_secs(seconds), scheduling)
            });
            add(&mut report, scheduling, &rows);
        }
        report
    });
    figures.join().unwrap()
}

fn add(report: &mut Report, scheduling: Scheduling, rows: &[Row; LOADS.len()]) {
    let group = format!("{scheduling:?}");
    for (load, row) in LOADS.into_iter().zip(rows) {
        let mut figure = |what: &str, value: u64, unit: &str| {
            let name = format!("{}, {what}", name(load));
            report.figures.push(Figure::alone(&group, &name, float(value), unit));
        };
        figure("in", row.sent_per_second, "packets/s");
        figure("out", row.out_per_second, "packets/s");
        figure("out for a core", row.out_per_core_second, "packets/s");
        for (what, late) in ["late p50", "late p99", "late p99.9"].into_iter().zip(row.late_ns) {
            figure(what, late / 1000, "µs");
        }
        figure("lost", row.lost, "packets");
    }
    let [_, modest, _, most] = rows;
    let rate = format!("{group}: on one core");
    report.aims.push(Aim::at_least(&rate, float(most.out_per_core_second), "packets/s", AIM_RATE));
    let late = format!("{group}: lateness p99, {}", name(LOADS[1]));
    report.aims.push(Aim::at_most(&late, float(modest.late_ns[1]) / 1e3, "µs", AIM_LATE_US));
}

fn name(load: Load) -> String {
    match load {
        Load::Rate(rate) => format!("{rate} packets/s"),
        Load::Most(held) => format!("most, {held} held"),
    }
}

/// A thread that does nothing but take CPU time, until it is dropped.
struct Busy {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    fn start() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_over);
        let spin = move || {
            while !until.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        Self { is_over, thread: Some(std::thread::spawn(spin)) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A number in so much time, as one a second.
fn per_second(number: u64, time: Duration) -> u64 {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap().max(1);
    u64::try_from(u128::from(number) * 1_000_000_000 / u128::from(nanoseconds)).unwrap()
}

fn run(load: Load, time: Duration, scheduling: Scheduling) -> Row {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tap = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let netlink = Netlink::connect(&mut tasks).unwrap();
        Tap::make(NAME, 50_000, &netlink.handle()).await.unwrap()
    });
    let mut socket = open(NAME).unwrap();
    let options = Options { magic: MAGIC, limits: LIMITS, scheduling };
    let engine = Engine::start(tap, &options, Box::new(|_| {}), Audit::default()).unwrap();
    let stats = Arc::clone(engine.stats());
    let started = Instant::now();
    let sent = send(&mut socket, load, time, &stats);
    let through =
        || stats.out_packets.get() + stats.write_failures.get() + tap::dropped(engine.tap().name()).unwrap();
    while through() < sent {
        assert!(started.elapsed() < time + DRAIN, "of {sent} packets {} came through", through());
        pause(1_000_000);
    }
    let (elapsed, busy) = (started.elapsed(), cpu_time());
    assert_eq!(
        stats.scheduling.get(),
        Some(&scheduling),
        "the engine is not scheduled as it was asked to be"
    );
    let late = stats.lateness.figures();
    let out = stats.out_packets.get();
    let row = Row {
        sent_per_second: per_second(sent, elapsed),
        out_per_second: per_second(out, elapsed),
        out_per_core_second: per_second(out, busy),
        late_ns: [500, 990, 999].map(|per_mille| late.quantile(per_mille).unwrap()),
        lost: sent - out,
    };
    engine.stop().unwrap();
    row
}

/// Sends for so long, with delays of 5 to 15 ms (1 ms at the most the engine takes); returns how many.
fn send(socket: &mut File, load: Load, time: Duration, stats: &Stats) -> u64 {
    let mut bytes = vec![0; TICKET + FRAME];
    bytes[..8].copy_from_slice(&MAGIC.to_ne_bytes());
    bytes[12..16].copy_from_slice(&GUARD.to_ne_bytes());
    bytes[TICKET + 12..TICKET + 14].copy_from_slice(&[0x88, 0xb5]);
    let (start, length) = (boot_ns(), u64::try_from(time.as_nanos()).unwrap());
    let mut sent = 0;
    loop {
        let now = boot_ns();
        if now - start > length {
            return sent;
        }
        let wanted = match load {
            Load::Rate(rate) => rate * (now - start) / 1_000_000_000,
            Load::Most(held) => stats.out_packets.get() + held,
        };
        while sent < wanted {
            let delay = match load {
                Load::Rate(_) => 5_000_000 + sent.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 10_000_000,
                Load::Most(_) => 1_000_000,
            };
            bytes[16..24].copy_from_slice(&(boot_ns() + delay).to_ne_bytes());
            assert_eq!(socket.write(&bytes).unwrap(), bytes.len());
            sent += 1;
        }
        pause(100_000);
    }
}

fn pause(nanoseconds: u64) {
    let time = TimeSpec::from_duration(Duration::from_nanos(nanoseconds));
    let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::empty(), &time);
}

fn boot_ns() -> u64 {
    fault_rig::now_ns().unwrap()
}

/// What the engine's thread has spent on a CPU.
fn cpu_time() -> Duration {
    let mut tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let task = tasks.find(|task| fs::read_to_string(task.join("comm")).unwrap().trim() == "delay-line");
    let schedule = fs::read_to_string(task.unwrap().join("schedstat")).unwrap();
    Duration::from_nanos(schedule.split(' ').next().unwrap().parse().unwrap())
}

/// Gives this thread the lowest real-time priority: packets that their sender sends late would count as late.
fn become_realtime() -> io::Result<()> {
    // SAFETY: plain numbers, zero is valid.
    let mut parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    parameter.sched_priority = 1;
    // SAFETY: 0 is this thread, and the parameter lives.
    let set = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameter)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A packet socket that sends by an interface.
fn open(interface: &str) -> io::Result<File> {
    // Protocol 0: it receives nothing.
    // SAFETY: plain numbers.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor.
    let socket = unsafe { File::from_raw_fd(raw) };
    let name = CString::new(interface)?;
    // SAFETY: plain numbers, zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    // SAFETY: the name ends with zero.
    address.sll_ifindex = i32::try_from(unsafe { libc::if_nametoindex(name.as_ptr()) }).unwrap();
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
    // SAFETY: the address is as long as said.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}
