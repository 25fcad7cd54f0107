//! edge-operator.

fn main() {}
