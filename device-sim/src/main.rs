//! device-sim.

fn main() {}
