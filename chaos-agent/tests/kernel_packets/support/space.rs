//! Network namespaces and the wires between them. A namespace lives as long as a descriptor or a process of it:
//! nothing here has a name outside, so a killed run leaves nothing to clean up.

use std::fs::File;
use std::io::Write as _;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace.
pub(crate) struct Namespace {
    file: File,
}

/// Forwarding like a node's; no packets but ours: no duplicate address detection, no router solicitation; and room
/// for datagrams that lack a fragment.
const SETTINGS: [(&str, &str); 10] = [
    ("ipv4/ipfrag_high_thresh", "67108864"),
    ("ipv6/ip6frag_high_thresh", "67108864"),
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
];

impl Namespace {
    /// Makes one, with the loopback interface up.
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("the kernel rung needs root");
            current()
        };
        let space = Self { file: thread::spawn(make).join().unwrap() };
        space.run(|| {
            for (name, value) in SETTINGS {
                std::fs::write(Path::new("/proc/sys/net").join(name), value).unwrap();
            }
        });
        space.ip("link set lo up");
        space
    }

    /// Opens one by a path that [`Self::path`] of another process gave.
    pub(crate) fn open(path: &str) -> Self {
        Self { file: File::open(path).unwrap() }
    }

    /// Does something inside; what it opens stays inside. A panic goes on here.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Moves this thread inside, until the guard is dropped.
    pub(crate) fn enter(&self) -> Inside {
        let before = current();
        setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
        Inside { before, not_send: PhantomData }
    }

    /// Lines for `ip -batch`.
    pub(crate) fn ip(&self, lines: &str) {
        let output = self.run(|| {
            let mut ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("iproute2 is needed");
            ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
            ip.wait_with_output().unwrap()
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip said {said}to\n{lines}");
    }

    /// What `tc` says of itself, given these words.
    pub(crate) fn tc(&self, command: &str) -> String {
        let ran = self.run(|| Command::new("tc").args(command.split(' ')).output()).unwrap();
        assert!(ran.status.success(), "tc {command}: {ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    }

    /// A path to it for other processes, while this one holds it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

fn current() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// A thread's stay in a namespace.
pub(crate) struct Inside {
    before: File,
    /// It is about this thread.
    not_send: PhantomData<*const ()>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.not_send;
        let _ = setns(&self.before, CloneFlags::CLONE_NEWNET);
    }
}

/// An end of a wire: an interface in a namespace, with addresses (and the lengths of their prefixes).
pub(crate) struct Plug<'a> {
    pub(crate) space: &'a Namespace,
    pub(crate) interface: &'a str,
    pub(crate) addresses: &'a [(IpAddr, u8)],
}

/// Lays a wire, a veth pair, and puts it up.
pub(crate) fn wire(a: &Plug<'_>, b: &Plug<'_>) {
    a.space.ip(&format!(
        "link add {} type veth peer name {} netns {}\n",
        a.interface,
        b.interface,
        b.space.path()
    ));
    for plug in [a, b] {
        let mut lines = String::new();
        for (ip, length) in plug.addresses {
            lines.push_str(&format!("addr add {ip}/{length} dev {}\n", plug.interface));
        }
        lines.push_str(&format!("link set {} up\n", plug.interface));
        plug.space.ip(&lines);
    }
}
