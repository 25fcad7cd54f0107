//! chaos-agent.

fn main() {}
