//! The kernel programs, run by `BPF_PROG_TEST_RUN`: no interface, no packet on any wire.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests: a panic is how a test fails")]

#[path = "kernel_test_run/delays.rs"]
mod delays;
#[path = "kernel_test_run/differential.rs"]
mod differential;
#[path = "kernel_test_run/fate.rs"]
mod fate;
#[path = "kernel_test_run/matching.rs"]
mod matching;
#[path = "kernel_test_run/models.rs"]
mod models;
#[path = "kernel_test_run/parsing.rs"]
mod parsing;
#[path = "kernel_test_run/protection.rs"]
mod protection;
#[path = "kernel_test_run/rate.rs"]
mod rate;
#[path = "kernel_test_run/remake.rs"]
mod remake;
#[path = "kernel_test_run/stage.rs"]
mod stage;
