//! The installation as users install it, on a cluster of two nodes: node1 takes packets by XDP in the driver, node2 by TC
//! alone. One installation for all stories; each leaves it as it found it.
//!
//! ```text
//!  world      the installation, and asking it            stories: life, exactness, deaths, pods,
//!  traffic    numbered packets, captures at both ends             devices, everything, names, reach, readme, rights, services
//!  probe      a packet every few milliseconds                     leaders: two operators, and what
//!  counters   what an agent's or operator's page counts                    comes between them
//!  operators  the two of them, by their Lease
//!  letters    when an operator sent devices anything
//!  cut        a pod that cannot reach what it needs, a node that masquerades
//!  truth      what devices say truly happened
//! ```

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests end at what they cannot have")]

mod counters;
mod cut;
mod letters;
mod operators;
mod probe;
mod traffic;
mod truth;
mod world;

mod deaths;
mod devices;
mod everything;
mod exactness;
mod leaders;
mod life;
mod names;
mod pods;
mod reach;
mod readme;
mod rights;
mod services;
