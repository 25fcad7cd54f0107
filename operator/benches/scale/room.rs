//! Network namespaces. None has a name outside: each lives as long as its processes, and so do the wires that end in it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

/// Puts this thread into a network namespace of its own, and what it starts from now on.
pub(crate) fn enter_a_new_one() {
    unshare(CloneFlags::CLONE_NEWNET).expect("this benchmark needs root");
    ip("link set lo up");
}

/// A way out that leads nowhere: kube-apiserver does not start without a default route.
pub(crate) fn lay_a_way_out() {
    ip(
        "link add out0 type veth peer name out1\nlink set out0 up\nlink set out1 up\naddr add 192.0.2.1/24 dev out0\n\
        route add default via 192.0.2.2\n",
    );
}

/// Lines for `ip -batch`, in this thread's namespace.
pub(crate) fn ip(lines: &str) {
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("iproute2 is needed");
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = ip.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip said {said}to\n{lines}");
}
