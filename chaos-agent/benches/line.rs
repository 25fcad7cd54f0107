//! What the delay line's userspace engine takes, and how late packets leave it: `cargo xtask bench --line`.
//!
//! Frames with tickets are put into a TAP by a packet socket, in a network namespace of their own, and go nowhere behind it:
//! the figures are those of the engine and the TAP, without the kernel programs at either end.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark: what fails ends it")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::path::PathBuf;
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
use clap::Parser;
use edge_api::fault_node::Scheduling;
use fault_abi::ticket::{GUARD, TICKET};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use serde::Serialize;
use tokio::task::JoinSet;

const NAME: &str = "edo-bench";
const MAGIC: u64 = 0x6265_6e63_685f_6c6e;
const LIMITS: Limits = Limits { packets: 50_000, bytes: 100_000_000 };
/// Bytes of a frame.
const FRAME: usize = 500;
/// What the project wants: packets a second on one core, and nanoseconds of lateness at a modest load.
const AIM_RATE: u64 = 100_000;
const AIM_LATE_NS: u64 = 300_000;
/// Packets a second.
const MODEST: u64 = 10_000;

#[derive(Parser)]
struct Args {
    /// Write the figures as JSON to this file, too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Seconds for each load
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Threads that do nothing but take CPU time meanwhile
    #[arg(long, default_value_t = 0)]
    busy: u32,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// What goes in.
#[derive(Clone, Copy)]
enum Load {
    /// So many packets a second, whatever becomes of them.
    Rate(u64),
    /// As many as come out, with so many in the line.
    Most(u64),
}

#[derive(Serialize)]
struct Row {
    /// What the engine's thread had.
    scheduling: Option<Scheduling>,
    load: String,
    sent_per_second: u64,
    out_per_second: u64,
    /// What a whole core of the engine's thread would take.
    out_per_core_second: u64,
    late_p50_ns: u64,
    late_p99_ns: u64,
    late_p999_ns: u64,
    lost: u64,
}

fn main() {
    let args = Args::parse();
    let figures = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root: it makes a network namespace of its own");
        let _busy: Vec<Busy> = (0..args.busy).map(|_| Busy::start()).collect();
        // Before the engine's threads, which are as they are asked to be.
        become_realtime().expect("needs CAP_SYS_NICE: a sender that is late makes packets late");
        let time = Duration::from_secs(args.seconds);
        let mut rows = Vec::new();
        for scheduling in [Scheduling::Ordinary, Scheduling::ShortSlice, Scheduling::RealTime] {
            let loads = [Load::Rate(1_000), Load::Rate(MODEST), Load::Rate(50_000), Load::Most(2_000)];
            rows.extend(loads.map(|load| measure(load, time, scheduling)));
        }
        rows
    });
    let rows = figures.join().unwrap();
    print!("{}", table(&rows, args.busy));
    if let Some(file) = args.json {
        fs::write(file, serde_json::to_string_pretty(&rows).unwrap()).unwrap();
    }
}

fn table(rows: &[Row], busy: u32) -> String {
    let mut text = format!(
        "delay line, userspace; {busy} busy threads beside it\n{:<12} {:<20} {:>10} {:>10} {:>12} {:>9} {:>9} {:>10} {:>6}\n",
        "scheduling", "load", "in/s", "out/s", "out/core·s", "p50 µs", "p99 µs", "p99.9 µs", "lost"
    );
    for row in rows {
        text += &format!(
            "{:<12} {:<20} {:>10} {:>10} {:>12} {:>9} {:>9} {:>10} {:>6}\n",
            name(row.scheduling),
            row.load,
            row.sent_per_second,
            row.out_per_second,
            row.out_per_core_second,
            row.late_p50_ns / 1000,
            row.late_p99_ns / 1000,
            row.late_p999_ns / 1000,
            row.lost
        );
    }
    text.push('\n');
    let word = |holds| if holds { "holds " } else { "MISSED" };
    for rows in rows.chunks(4) {
        let (scheduling, rate, late) =
            (name(rows[0].scheduling), rows[3].out_per_core_second, rows[1].late_p99_ns);
        text += &format!(
            "{} packets/s on one core, {scheduling}: {rate}, aim {AIM_RATE}\n",
            word(rate >= AIM_RATE)
        );
        text += &format!(
            "{} lateness p99 at {MODEST} packets/s, {scheduling}: {} µs, aim {} µs\n",
            word(late <= AIM_LATE_NS),
            late / 1000,
            AIM_LATE_NS / 1000
        );
    }
    text
}

fn name(scheduling: Option<Scheduling>) -> String {
    scheduling.map_or_else(String::new, |scheduling| format!("{scheduling:?}"))
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

fn measure(load: Load, time: Duration, scheduling: Scheduling) -> Row {
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
    while stats.out_packets.get() + stats.write_failures.get() + tap::dropped(engine.tap().name()).unwrap()
        < sent
    {
        pause(1_000_000);
    }
    let (elapsed, busy) = (started.elapsed(), cpu_time());
    let late = stats.lateness.figures();
    let out = stats.out_packets.get();
    let row = Row {
        scheduling: stats.scheduling.get().copied(),
        load: match load {
            Load::Rate(rate) => format!("{rate} packets/s"),
            Load::Most(held) => format!("most, {held} held"),
        },
        sent_per_second: per_second(sent, elapsed),
        out_per_second: per_second(out, elapsed),
        out_per_core_second: per_second(out, busy),
        late_p50_ns: late.quantile(500).unwrap(),
        late_p99_ns: late.quantile(990).unwrap(),
        late_p999_ns: late.quantile(999).unwrap(),
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
    u64::try_from(Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap()).as_nanos()).unwrap()
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
